#!/usr/bin/env python3
"""Boot Debian with the service on it, twice, and have it say what works: a line per fact, an exit code for all.

The root file system is made from this machine's installed packages, the kernel is Debian's cloud kernel, whose bridge,
netfilter and the rest are modules: whether the service gets them loaded without the right to load any is among the
facts. There is no cloud: the state directory is one that a Go cocoon-net left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cocoon_net.errors import CocoonError
from cocoon_net.lab import package

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = shlex.split(
    "systemd-sysv dbus iptables iproute2 python3 python3-venv procps udhcpc busybox util-linux bash dash coreutils"
    " mount login passwd iputils-ping netbase sed grep gawk findutils hostname init-system-helpers e2fsprogs"
)
BESIDES = ("etc/alternatives", "etc/passwd", "etc/group", "etc/shadow", "etc/ld.so.cache", "etc/nsswitch.conf")
"""What no package lists and the root needs."""

NOT_NEEDED = ("mypy*", "ruff*", "hypothesis*", "pytest*", "_pytest", "pip*", "setuptools*", "hatchling*", "*.so.debug")

FIRST_TO_LOAD = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk")
BOOTS = 2
PATIENCE = 300.0
"""Seconds for one boot; about 110 and 40 on two cores."""

INITRAMFS = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev /root
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t proc none /proc
for module in MODULES; do /bin/busybox insmod "/modules/$module.ko"; done
while [ ! -e /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount --move /dev /root/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /sbin/init
"""

FACTS = """\
[Unit]
Description=What is so here
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/opt/facts
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
"""

LINKS = """\
[Unit]
Description=The interfaces that a cloud shows this machine, with the same MACs at each boot
Before=network-online.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for n in 0 1; do ip link add eth$$n address 02:e0:00:00:00:0$$n type veth peer name fabric$$n; \
  ip link set eth$$n up; ip link set fabric$$n up; done'
"""


def main() -> int:
    """Make the disk, boot it, print the facts, and return 1 if one of them is not so."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave disk, kernel and console in DIR")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="systemd-test-")))
        place.mkdir(parents=True, exist_ok=True)
        try:
            version, unpacked = unpack(place)
            disk = make_disk(place, version, unpacked)
            initramfs = make_initramfs(place, unpacked)
        except CocoonError as error:
            print(f"error: {error.message}\nhint:  {error.hint}", file=sys.stderr)
            return error.exit_code
        facts = list(boot(place, unpacked / f"boot/vmlinuz-{version}", initramfs, disk))
    wrong = [fact for fact in facts if fact.startswith("NOT SO")]
    whole = bool(facts) and facts[-1].startswith("done")
    right = sum(fact.startswith("ok") for fact in facts)
    print(f"{right} facts, {len(wrong)} not so{'' if whole else ', and the end is missing'}")
    return 1 if wrong or not whole else 0


def unpack(place: Path) -> tuple[str, Path]:
    """Unpack Debian's kernel and busybox; return the kernel's version and where they are."""
    root = place / "unpacked"
    if not root.exists():
        root.mkdir()
        for name in (package.depends("linux-image-cloud-amd64"), "busybox-static", "kmod"):
            package.unpack(name, root)
    (modules,) = (root / "lib/modules").iterdir()
    return modules.name, root


def make_disk(place: Path, version: str, unpacked: Path) -> Path:
    """Lay the root file system out and make an ext4 image of it."""
    tree, disk = place / "tree", place / "disk"
    shutil.rmtree(tree, ignore_errors=True)
    for name in (
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "root",
        "opt/source",
    ):
        (tree / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    names = "\0".join(sorted({*files(), *besides()}))
    reader = subprocess.Popen(
        ["tar", "-c", "-C", "/", "--no-recursion", "--null", "-T", "-", "--ignore-failed-read", "--warning=none"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    writer = subprocess.Popen(["tar", "-x", "-C", tree, "--keep-directory-symlink"], stdin=reader.stdout)
    assert reader.stdin is not None
    reader.stdin.write(names.encode())
    reader.stdin.close()
    if writer.wait():
        raise SystemExit("tar could not lay the root out")
    shutil.copytree(unpacked / "lib/modules" / version, tree / "usr/lib/modules" / version)
    for folder in ("bin", "sbin"):
        for path in (unpacked / folder).iterdir():
            if (path.readlink().name if path.is_symlink() else path.name) == "kmod":
                shutil.copy2(path, tree / folder, follow_symlinks=False)
    subprocess.run(["depmod", "-b", tree, version], executable=unpacked / "bin/kmod", check=True)
    lay_out_product(tree)
    with disk.open("wb") as file:
        file.truncate(1 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", tree, disk], check=True)
    return disk


def files() -> Iterator[str]:
    """Yield the paths of all files of the packages, and of those that they depend on, as tar wants them."""
    line = ["apt-cache", "depends", "--recurse", "--installed", *(f"--no-{kind}" for kind in (
        "recommends", "suggests", "conflicts", "breaks", "replaces", "enhances",
    )), *PACKAGES]  # fmt: skip
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    names = sorted({name for name in said.splitlines() if name[:1].isalnum()})
    for name in names:
        listed = subprocess.run(["dpkg", "-L", name], capture_output=True, text=True, check=False).stdout
        for path in listed.splitlines():
            if path.startswith("/") and not path.startswith(("/usr/share/doc", "/usr/share/man", "/usr/share/locale")):
                yield path[1:] or "."


def besides() -> Iterator[str]:
    """Yield the paths of what no package lists: alternatives, accounts, links."""
    for name in BESIDES:
        path = Path("/", name)
        yield name
        if path.is_dir():
            yield from (str(each)[1:] for each in path.rglob("*"))
    yield from (
        str(each)[1:] for folder in ("/usr/bin", "/usr/sbin") for each in Path(folder).iterdir() if each.is_symlink()
    )


def lay_out_product(tree: Path) -> None:
    """Put the product, its libraries, the state of a Go cocoon-net and the facts to find out in place."""
    shutil.copytree(ROOT / "cocoon_net", tree / "opt/source/cocoon_net")
    for name in ("systemd", "workflows"):
        shutil.copytree(ROOT / name, tree / "opt/source" / name)
    libraries = Path(sysconfig.get_path("purelib"))
    shutil.copytree(libraries, tree / "opt/libraries", ignore=shutil.ignore_patterns(*NOT_NEEDED))
    home = tree / "opt/cocoon-net"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", home], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "cocoon-net.pth").write_text("/opt/source\n/opt/libraries\n")
    program = home / "bin/cocoon-net"
    program.write_text("#!/opt/cocoon-net/bin/python\nfrom cocoon_net.cli.main import main\nmain()\n")
    facts = tree / "opt/facts"
    shutil.copy(ROOT / "scripts/systemd_facts.sh", facts)
    for path in (program, facts):
        path.chmod(0o755)
    units = tree / "etc/systemd/system"
    units.mkdir(parents=True, exist_ok=True)
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for name, text in (("facts", FACTS), ("links", LINKS)):
        (units / f"{name}.service").write_text(text)
        (wants / f"{name}.service").symlink_to(f"../{name}.service")
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for name in ("getty.target", "systemd-logind.service", "systemd-timesyncd.service", "timers.target"):
        (units / name).symlink_to("/dev/null")
    for name, text in (("fstab", "/dev/vda / ext4 defaults 0 0\n"), ("hostname", "node\n"), ("machine-id", "")):
        (tree / "etc" / name).write_text(text)
    state = tree / "var/lib/cocoon/net"
    state.mkdir(parents=True, mode=0o750)
    (state / "pool.json").write_text(json.dumps({
        "platform": "volcengine", "nodeName": "node-1", "subnet": "172.20.100.0/24", "gateway": "172.20.100.1",
        "primaryNIC": "eth0", "secondaryNICs": ["eth1"], "ips": [f"172.20.100.{host}" for host in range(2, 32)],
        "eniIDs": ["eni-a"], "subnetID": "subnet-x", "dnsServers": ["100.96.0.2"], "updatedAt": "2026-05-01T10:00:00Z",
    }))  # fmt: skip
    (state / "leases.json").write_text(
        json.dumps([{"mac": "02:00:00:00:00:02", "ip": "172.20.100.2", "expiry": "2099-01-01T00:00:00Z"}])
    )


def make_initramfs(place: Path, unpacked: Path) -> Path:
    """Make the initramfs that finds the disk."""
    tree, target = place / "initramfs.tree", place / "initramfs"
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("bin", "modules"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(unpacked / "bin/busybox", tree / "bin/busybox")
    for module in FIRST_TO_LOAD:
        (found,) = (unpacked / "lib/modules").rglob(f"{module}.ko")
        shutil.copy(found, tree / "modules")
    init = tree / "init"
    init.write_text(INITRAMFS.replace("MODULES", " ".join(FIRST_TO_LOAD)))
    init.chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    with target.open("wb") as archive:
        line = ["cpio", "--create", "--format=newc", "--quiet", "--owner=+0:+0"]
        subprocess.run(line, cwd=tree, input=names.encode(), stdout=archive, check=True)
    return target


def boot(place: Path, kernel: Path, initramfs: Path, disk: Path) -> Iterator[str]:
    """Boot, and yield and print each fact as the machine says it, until it switches itself off."""
    line = shlex.split("qemu-system-x86_64 -M q35 -accel tcg -smp 2 -m 1024 -nographic -nodefaults -no-reboot")
    line += ["-kernel", str(kernel), "-initrd", str(initramfs), "-serial", "stdio", "-monitor", "none"]
    line += ["-append", "console=ttyS0 quiet panic=-1 systemd.show_status=0"]
    line += ["-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"]
    began = time.monotonic()
    with (place / "console.log").open("w") as console:
        for _ in range(BOOTS):  # QEMU ends where the machine asks to be booted again
            bounded = ["timeout", f"{PATIENCE:g}", *line]
            with subprocess.Popen(
                bounded, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, errors="replace"
            ) as machine:
                assert machine.stdout is not None
                for said in machine.stdout:
                    console.write(said)
                    console.flush()
                    _, mark, fact = said.rstrip().partition("fact: ")
                    if mark:
                        print(f"{time.monotonic() - began:5.0f} s  {fact}", flush=True)
                        yield fact
                        if fact.startswith("done"):
                            return


if __name__ == "__main__":
    sys.exit(main())
