"""A node that boots: Debian's systemd as PID 1, by systemd-nspawn, in the network namespace of a lab's node.

Its root is an overlay over this machine's, so that it has the same programs, and what it writes is gone with it. The
product is in ``/opt/cocoon-net``, a virtual environment of its own. Where there is no systemd-nspawn, Debian's package
is unpacked into the lab's cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cocoon_net import unix_http
from cocoon_net.lab import machine as machines
from cocoon_net.lab import namespace, package, patience, vm
from cocoon_net.lab.lab import Lab

ROOT = Path(__file__).parents[2]
PROGRAM = "/opt/cocoon-net/bin/cocoon-net"
UNIT = "cocoon-net.service"
STATE = "/var/lib/cocoon/net"

eventually = partial(patience.eventually, seconds=60.0)
"""A boot, or a service that is started again, takes its time."""

_UNWANTED = (
    # They would write settings of the whole machine, wait for consoles, or are of no use to the test.
    *(
        "systemd-sysctl.service",
        "systemd-modules-load.service",
        "systemd-udevd.service",
        "systemd-udev-trigger.service",
    ),
    *("systemd-logind.service", "systemd-update-utmp.service", "systemd-random-seed.service", "getty.target"),
    *("timers.target", "dev-hugepages.mount", "dev-mqueue.mount", "systemd-sysusers.service", "modprobe@.service"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-timesyncd.service", "cron.service"),
)

_BOOT = """\
set -e
mount -t tmpfs tmpfs "$PLACE"
mkdir "$PLACE/upper" "$PLACE/work" "$PLACE/root"
cp -a "$SEED/." "$PLACE/upper"
mount -t overlay overlay -o "lowerdir=/,upperdir=$PLACE/upper,workdir=$PLACE/work" "$PLACE/root"
rm -rf "$PLACE"/root/etc/systemd/system/*.wants "$PLACE/root/var/lib/cocoon" "$PLACE/root/etc/cni"
spawn() {
  echo 0 >"$GROUP/cgroup.procs"
  exec "$NSPAWN" --quiet --boot --notify-ready=yes --register=no --keep-unit --link-journal=no \\
    --directory="$PLACE/root" --machine="$NAME" --network-namespace-path="$SPACE" --capability=CAP_NET_ADMIN \\
    --resolv-conf=off --timezone=off --bind-ro="$SOURCE:/opt/source" --bind-ro="$LIBRARIES:/opt/libraries"
}
set +e
trap 'kill -TERM $child' TERM
code=133
while [ $code = 133 ]; do # that is how it asks to be booted again
  (spawn) &
  child=$!
  wait $child
  code=$?
done
wait $child
"""


def nspawn() -> Path:
    """Return the program, of this machine or of the unpacked package. Raises NodeError where it cannot be had."""
    if found := shutil.which("systemd-nspawn"):
        return Path(found)
    # It shares a library with this machine's systemd, so it has to be of the same version.
    said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    kept = vm.CACHE / f"systemd-container-{said.split()[1]}"
    program = kept / "usr/bin/systemd-nspawn"
    if not program.exists():
        vm.CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=vm.CACHE) as place:
            package.unpack("systemd-container", Path(place))
            shutil.copytree(Path(place) / "usr", kept / "usr", dirs_exist_ok=True)
    return program


class Machine:
    """node1 of a lab of its own, booted."""

    def __init__(self, lab: Lab, channel: socket.socket, console: Path) -> None:
        self.lab, self._channel, self._console = lab, channel, console
        self.leader = _leader(channel, console)
        """The PID of its init, as this machine has it."""

    def run(self, *words: str, check: bool = True, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in the booted system, as its root."""
        enter = ("nsenter", "--target", str(self.leader), "--all", "--root", "--wdns=/", "--")
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            [*enter, *words], input=text, capture_output=True, text=True, timeout=60, env=environment, check=False
        )
        assert done.returncode == 0 or not check, f"{words}: {done.returncode} {done.stdout}{done.stderr}"
        return done

    def product(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run cocoon-net with the settings of the node's service."""
        return self.run("env", *self.settings(), PROGRAM, *words, check=check)

    def settings(self) -> list[str]:
        """Return what this node has to be told that a live one has not: where the cloud is, and whose."""
        kept = machines.environment(self.lab, "node1", {})
        return [f"{name}={value}" for name, value in kept.items() if name.startswith("VOLCENGINE_")]

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        self.run("install", "-D", "-m", mode, "/dev/stdin", path, text=text)

    def read(self, path: str) -> str:
        return self.run("cat", path).stdout

    def show(self, name: str) -> str:
        """Return a property of our unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", UNIT).stdout.strip()

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    def reboot(self) -> None:
        """Boot again: processes and /run are gone, disk and network namespace are not."""
        self.run("systemctl", "reboot")
        self.leader = _leader(self._channel, self._console)

    def journal(self, since: str = "") -> str:
        """Return what our unit said, and what systemd said of it; ``since`` is a cursor."""
        after = ("--after-cursor", since) if since else ()
        return self.run("journalctl", "--unit", UNIT, "--output=cat", "--no-pager", *after).stdout

    def cursor(self) -> str:
        """Return where the journal ends now."""
        last = self.run("journalctl", "--quiet", "--show-cursor", "--lines=1").stdout.splitlines()[-1]
        return last.removeprefix("-- cursor: ")

    def ask(self, target: str) -> Any:
        """GET from the control socket, and return what it says."""
        _, said = unix_http.ask(Path(f"/proc/{self.leader}/root/run/cocoon-net/control.sock"), "GET", target)
        return json.loads(said)


@contextlib.contextmanager
def booted(lab: Lab, place: Path, program: Path) -> Iterator[Machine]:
    """Boot node1 of a lab that is up by systemd-nspawn, ``program``, and end it."""
    seed = place / "seed"
    _sow(seed)
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(_group(lab.name))
        (place / "mnt").mkdir()
        console = place / "console.log"
        channel = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        channel.bind(str(place / "ready"))
        channel.settimeout(60)
        environment = {
            "PATH": os.environ["PATH"],
            "NOTIFY_SOCKET": str(place / "ready"),
            "GROUP": str(group),
            "PLACE": str(place / "mnt"),
            "SEED": str(seed),
            "NSPAWN": str(program),
            "NAME": lab.name,
            "SPACE": str(namespace.RUN / lab.namespace("node1")),
            "SOURCE": str(ROOT),
            "LIBRARIES": sysconfig.get_path("purelib"),
            # All of /proc/sys can be written, as on a live node: what cannot be is the unit's doing.
            "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1",
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        }
        # It ends with us, also when we are killed.
        line = ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private", "sh", "-c", _BOOT]
        with console.open("w") as out:
            spawn = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)
        try:
            yield Machine(lab, channel, console)
        finally:
            _end(spawn, group)


def _leader(channel: socket.socket, console: Path) -> int:
    """Return the PID of the booted system's init, once it says that it is up."""
    leader = 0
    while True:
        try:
            told = dict(line.split("=", 1) for line in channel.recv(4096).decode().splitlines() if "=" in line)
        except TimeoutError:
            raise AssertionError(f"it did not boot: {console.read_text()}") from None
        leader = int(told.get("X_NSPAWN_LEADER_PID", leader))
        if told.get("READY") == "1" and leader:
            return leader


def _end(spawn: subprocess.Popen[bytes], group: Path) -> None:
    spawn.terminate()
    try:
        spawn.wait(15)
    except subprocess.TimeoutExpired:
        spawn.kill()
        spawn.wait()
    deadline = time.monotonic() + 5
    while (left := _members(group)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _members(group: Path) -> list[int]:
    return [int(pid) for file in group.rglob("cgroup.procs") for pid in file.read_text().split()]


@contextlib.contextmanager
def _group(name: str) -> Iterator[Path]:
    """Make a control group (v2) for the booted system, beside what this machine has."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    top = next(Path(words[1]) for words in lines if words[2] == "cgroup2")
    group = top / f"cocoon-net-{name}"
    group.mkdir()
    try:
        yield group
    finally:
        for path in sorted(group.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        group.rmdir()


def _sow(seed: Path) -> None:
    """Lay out what the root has beside this machine's files."""
    units = seed / "etc/systemd/system"
    units.mkdir(parents=True)
    for name in _UNWANTED:
        (units / name).symlink_to("/dev/null")
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    home = seed / "opt/cocoon-net"
    for name in ("source", "libraries"):
        (seed / "opt" / name).mkdir(parents=True)
    subprocess.run([os.path.realpath(sys.executable), "-m", "venv", "--without-pip", home], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "cocoon-net.pth").write_text("/opt/source\n/opt/libraries\n")
    script = home / "bin/cocoon-net"
    script.write_text("#!/opt/cocoon-net/bin/python\nfrom cocoon_net.cli.main import main\nmain()\n")
    script.chmod(0o755)
