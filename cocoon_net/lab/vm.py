"""A real VM on a node: a Debian cloud kernel under QEMU's emulation, on a tap in ``cni0``.

Its initramfs is a static busybox with the modules of a virtio network card; it leases an address with udhcpc and
listens on TCP 3389. Kernel and busybox come from Debian's packages, unpacked into a cache and not installed.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from cocoon_net.errors import NodeError
from cocoon_net.lab import lab as labs
from cocoon_net.lab import machine, package
from cocoon_net.lab.lab import Lab
from cocoon_net.lab.task import Task, end

CACHE = Path("/var/cache/cocoon-net-lab")

_TAP = "btvm0"
_MAC = "02:c0:c0:00:00:01"
_KERNEL = "linux-image-cloud-amd64"
_MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
)
"""In the order in which they need each other."""

_PATIENCE = 90.0
"""Seconds from power-on to the lease; about 5 on a quiet machine."""

_INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t devtmpfs none /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
for module in MODULES; do insmod "/modules/$module.ko"; done
# The firmware left escape codes on the line.
echo
echo "vm: $(uname -sr), card $(cat /sys/class/net/eth0/address)"
ip link set lo up
ip link set eth0 up
udhcpc -f -q -i eth0 -s /udhcpc-script -n -t 20 -T 1 || poweroff -f
echo "vm: address $(ip -o -4 address show eth0 | awk '{print $4}') $(ip route | head -n 1)"
while :; do nc -l -p 3389 </dev/null; done
"""

_SCRIPT = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address replace "$ip/$mask" dev "$interface"
for gateway in $router; do ip route replace default via "$gateway"; done
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a VM did: the lines of its console, its address, seconds from power-on to the lease."""

    console: tuple[str, ...]
    address: IPv4Address
    seconds: float


def boot(
    lab: Lab, node: str, say: Callable[[str], None], meet: Callable[[Verdict], None], cache: Path = CACHE
) -> Verdict:
    """Boot the VM on a node, let ``meet`` try it while it runs, switch it off and return what it did.

    Raises ``NodeError`` if something that it needs is missing or if it gets no lease.
    """
    labs.require_programs({"qemu-system-x86_64": "qemu-system-x86", "cpio": "cpio"})
    kernel, initramfs = prepare(cache, say)
    console = lab.directory / node / "vm-console.log"
    console.unlink(missing_ok=True)
    task: Task | None = None
    try:
        _ip(lab, node, "tuntap", "add", "dev", _TAP, "mode", "tap")
        _ip(lab, node, "link", "set", _TAP, "master", "cni0", "up")
        began = time.monotonic()
        task = machine.spawn(lab, node, _command(kernel, initramfs), console)
        address = _await_lease(task, console, began + _PATIENCE)
        verdict = Verdict(tuple(_lines(console)), address, time.monotonic() - began)
        meet(verdict)
        return verdict
    finally:
        if task is not None:
            end([task])
        with contextlib.suppress(NodeError):
            _ip(lab, node, "link", "del", _TAP)


def prepare(cache: Path, say: Callable[[str], None]) -> tuple[Path, Path]:
    """Return kernel and initramfs, made on the first call (a download of about 30 MB)."""
    kernel, initramfs = cache / "vmlinuz", cache / "initramfs"
    if kernel.exists() and initramfs.exists():
        return kernel, initramfs
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as text:
        root = Path(text)
        image = package.depends(_KERNEL)
        say(f"unpacking {image} and busybox-static into {cache}, once")
        for name in (image, "busybox-static"):
            package.unpack(name, root)
        _make_initramfs(root, cache / "initramfs.new")
        (kernel_file,) = (root / "boot").glob("vmlinuz-*")
        shutil.copyfile(kernel_file, cache / "vmlinuz.new")
    (cache / "initramfs.new").replace(initramfs)
    (cache / "vmlinuz.new").replace(kernel)
    return kernel, initramfs


def _make_initramfs(unpacked: Path, target: Path) -> None:
    """Pack an initramfs in cpio's ``newc`` format (kernel doc driver-api/early-userspace/buffer-format)."""
    tree = unpacked / "tree"
    for folder in ("bin", "modules"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(unpacked / "bin" / "busybox", tree / "bin" / "busybox")
    for module in _MODULES:
        found = list((unpacked / "lib" / "modules").rglob(f"{module}.ko"))
        if len(found) != 1:
            raise NodeError(f"the package {_KERNEL} has {len(found)} modules {module}.ko, wanted one")
        shutil.copy(found[0], tree / "modules")
    for name, text in (("init", _INIT.replace("MODULES", " ".join(_MODULES))), ("udhcpc-script", _SCRIPT)):
        (tree / name).write_text(text)
        (tree / name).chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    with target.open("wb") as archive:
        subprocess.run(
            ["cpio", "--create", "--format=newc", "--quiet", "--owner=+0:+0"],
            cwd=tree,
            input=names.encode(),
            stdout=archive,
            check=True,
        )


def _command(kernel: Path, initramfs: Path) -> list[str]:
    processor = ["-M", "q35", "-accel", "tcg", "-m", "192", "-nographic", "-no-reboot", "-nodefaults"]
    system = ["-kernel", str(kernel), "-initrd", str(initramfs), "-append", "console=ttyS0 quiet panic=-1"]
    network = ["-netdev", f"tap,id=lan,ifname={_TAP},script=no,downscript=no"]
    card = ["-device", f"virtio-net-pci,netdev=lan,mac={_MAC},romfile="]
    return ["qemu-system-x86_64", *processor, *system, *network, *card, "-serial", "stdio", "-monitor", "none"]


def _await_lease(task: Task, console: Path, deadline: float) -> IPv4Address:
    while time.monotonic() < deadline and task.alive:
        if found := re.search(r"^vm: address ([\d.]+)/", "\n".join(_lines(console)), re.MULTILINE):
            return IPv4Address(found[1])
        time.sleep(0.05)
    raise NodeError(
        f"the VM got no lease: {'; '.join(_lines(console)[-3:]) or 'its console is empty'}", hint=f"see {console}"
    )


def _lines(console: Path) -> list[str]:
    """Return what the VM's own programs said, without the noise of the firmware."""
    text = console.read_text(errors="replace") if console.exists() else ""
    return [line.rstrip() for line in text.splitlines() if line.startswith(("vm: ", "udhcpc: "))]


def _ip(lab: Lab, node: str, *words: str) -> None:
    done = machine.run(lab, node, ["ip", *words])
    if done.code != 0:
        raise NodeError(f"ip {' '.join(words)} on {node}: {done.errors.strip()}")
