"""What a lab is: a name, a directory, a shape; and how it comes up and goes down.

::

    DIR/NAME/            one lab; its process holds the cloud and the fabric
      lab.json           the shape
      process.json       the process, by PID and start time
      account.json       the key pair and region of the lab's account
      lab.log
      cloud/             the state of the cloud, its admin socket
      node1/{state,cni,run}/   what `cocoon-net` on that node sees as its directories
      guests/NAME/       one guest

Everything a lab makes is derived from its name: the namespaces ``NAME-vpc``, ``NAME-node1``, ``NAME-host`` and
``NAME-GUEST``, and links that are in no other namespace than these.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network
from pathlib import Path

from cocoon_net.errors import Locked, NodeError, SpecError, StoreError
from cocoon_net.lab import namespace
from cocoon_net.lab.task import Task, end, look

DIRECTORY = Path("/var/lib/cocoon-net-lab")
_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
_GUEST = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_MOST_NODES = 9
_VPC = IPv4Network("172.20.0.0/16")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a lab is built with, and keeps."""

    nodes: int = 2
    vpc_cidr: IPv4Network = _VPC
    strict_source: bool = False

    def problems(self) -> list[str]:
        """Return what is wrong with it, an empty list if nothing."""
        found = []
        if not 1 <= self.nodes <= _MOST_NODES:
            found.append(f"nodes: wanted 1 to {_MOST_NODES}, got {self.nodes}")
        if not 8 <= self.vpc_cidr.prefixlen <= 19:
            found.append(f"vpc-cidr: wanted a prefix from /8 to /19, got {self.vpc_cidr}: its hosts take a /20")
        return found

    def text(self) -> str:
        """Return the shape as JSON."""
        return json.dumps({**asdict(self), "vpc_cidr": str(self.vpc_cidr)})

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read a shape back from ``text``."""
        values = json.loads(text)
        return cls(values["nodes"], IPv4Network(values["vpc_cidr"]), values["strict_source"])


@dataclass(frozen=True, slots=True)
class Lab:
    """One lab, whether it is up or not. ``base``: the directory that holds all labs."""

    name: str
    base: Path = DIRECTORY

    @property
    def directory(self) -> Path:
        """Return where it keeps everything."""
        return self.base / self.name

    @property
    def log(self) -> Path:
        """Return the log of its process."""
        return self.directory / "lab.log"

    @property
    def admin_socket(self) -> Path:
        """Return the admin socket of its cloud."""
        return self.directory / "cloud" / "admin.sock"

    @property
    def guests(self) -> Path:
        """Return the directory of the guests."""
        return self.directory / "guests"

    @property
    def mark(self) -> str:
        """Return the mark of its namespaces."""
        return f"cocoon-net-lab {self.directory}"

    def namespace(self, machine: str) -> str:
        """Return the namespace of ``vpc``, a node, ``host`` or a guest."""
        return f"{self.name}-{machine}"

    def machines(self) -> list[str]:
        """Return ``vpc``, the nodes, ``host`` and the guests."""
        guests = [path.name for path in sorted(self.guests.iterdir())] if self.guests.is_dir() else []
        return ["vpc", *self.nodes(), "host", *guests]

    def nodes(self) -> list[str]:
        """Return the names of the nodes; none if the lab was never built."""
        shape = self.shape()
        return [] if shape is None else [f"node{number + 1}" for number in range(shape.nodes)]

    def shape(self) -> Shape | None:
        """Return what it was built with, None if it was not."""
        text = self.read("lab.json")
        return None if text is None else Shape.parse(text)

    def process(self) -> Task | None:
        """Return its process, None if it does not run."""
        text = self.read("process.json")
        task = None if text is None else Task(**json.loads(text))
        return task if task is not None and task.alive else None

    def read(self, name: str) -> str | None:
        """Return a file of the directory, None if there is none."""
        try:
            return (self.directory / name).read_text()
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        """Replace a file of the directory, readable by the owner only."""
        path = self.directory / name
        new = path.with_name(f".{path.name}.new")
        new.touch(mode=0o600)
        new.write_text(text)
        new.replace(path)


def open_lab(name: str, base: Path) -> Lab:
    """Return a lab by name; raises ``SpecError`` for a name from which no namespace can be named."""
    if not _NAME.fullmatch(name):
        raise SpecError(f"lab name {name!r}: wanted a small letter and up to 11 small letters or digits")
    return Lab(name, base.absolute())


def shape_of(nodes: int | None, vpc_cidr: str | None, *, strict_source: bool) -> Shape:
    """Return the shape that was asked for in text; raises ``SpecError`` that lists all problems."""
    problems = []
    cidr = _VPC
    try:
        cidr = IPv4Network(vpc_cidr or _VPC)
    except ValueError as error:
        problems.append(f"vpc-cidr: {error}")
    shape = Shape(Shape().nodes if nodes is None else nodes, cidr, strict_source)
    if problems := [*problems, *shape.problems()]:
        raise SpecError(problems)
    return shape


def check_guest_name(lab: Lab, name: str) -> None:
    """Raise ``SpecError`` if a guest cannot be called so."""
    if not _GUEST.fullmatch(name) or name in ("vpc", "host", *lab.nodes()):
        raise SpecError(f"guest name {name!r}: wanted up to 40 small letters, digits and -, and no machine of the lab")


def up(lab: Lab, shape: Shape | None, faults: Mapping[str, str]) -> bool:
    """Build the lab, or what is missing of it; returns False if it was up already.

    ``shape``: None takes the one the lab has, or the default. Returns when nodes and API are there.
    Raises ``SpecError`` for a wrong knob or if the lab has another shape, ``NodeError`` if it cannot start.
    """
    from cocoon_net.lab import process
    from cocoon_net.lab.cloud import Admin, Faults

    namespace.require_root()
    Faults().set(faults)
    require_programs({"nft": "nftables"})
    with locked(lab):
        before = lab.shape()
        if before is not None and shape not in (None, before):
            raise SpecError(
                f"the lab {lab.name} is there with {before.text()}",
                hint=f"`cocoon-net lab down --name {lab.name}` first, or leave those options out",
            )
        if before is None:
            lab.write("lab.json", (shape or Shape()).text())
        for node in lab.nodes():
            for part in ("state", "cni", "run"):
                (lab.directory / node / part).mkdir(parents=True, exist_ok=True, mode=0o750)
        running = lab.process()
        namespace.create(lab.namespace("vpc"), lab.mark)
        if running is not None:
            if running.pid in namespace.members([lab.namespace("vpc")]):
                with contextlib.suppress(NodeError):
                    Admin(lab.admin_socket, timeout=3.0).set_faults(faults)
                    return False
            # Its namespace was taken away from under it, or it does not answer.
            end([running])
        process.start(lab, faults)
    return True


def down(lab: Lab, *, keep: bool = False) -> list[str]:
    """Remove all of a lab, however much of it there is; returns the names of the namespaces removed.

    ``keep``: leave the directory, so that the next ``up`` goes on with the same cloud and nodes.
    """
    namespace.require_root()
    if not lab.directory.is_dir() and not _spaces(lab):
        return []
    with locked(lab):
        if running := lab.process():
            end([running])
        spaces = _spaces(lab)
        # A daemon may have started something while it was asked to end.
        for _ in range(5):
            family = _ancestors()
            tasks = [task for pid in namespace.members(spaces) if pid not in family and (task := look(pid))]
            if not tasks:
                break
            end(tasks)
        for space in spaces:
            namespace.delete(space)
        (lab.directory / "process.json").unlink(missing_ok=True)
        shutil.rmtree(lab.guests if keep else lab.directory, ignore_errors=True)
    if not keep:
        with contextlib.suppress(OSError):
            # Only if it was the last lab in there.
            lab.base.rmdir()
    return spaces


def require_programs(packages: Mapping[str, str]) -> None:
    """Raise ``NodeError`` for programs that are missing. ``packages``: program or path -> its Debian package."""
    where = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = {program: package for program, package in packages.items() if not shutil.which(program, path=where)}
    if missing:
        raise NodeError(
            f"missing on this machine: {', '.join(missing)}",
            hint=f"apt-get install {' '.join(sorted(set(missing.values())))}",
        )


def _spaces(lab: Lab) -> list[str]:
    """Return the names of the lab's namespaces; a name without a namespace behind it is what a killed ``up`` left."""
    ours = [name for name in namespace.names() if name.startswith(f"{lab.name}-")]
    return [name for name in ours if not namespace.exists(name) or namespace.mark_of(name) == lab.mark]


def _ancestors() -> set[int]:
    """Return this process and those above it: a ``down`` from a shell inside the lab must live to finish."""
    family, pid = set(), os.getpid()
    while pid > 0:
        family.add(pid)
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
    return family


@contextlib.contextmanager
def locked(lab: Lab) -> Iterator[None]:
    """Hold the lab's directory, made if missing, so that one ``up`` or ``down`` acts on it at a time."""
    try:
        while True:
            lab.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
            fd = os.open(lab.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(FileNotFoundError):
                    # Whoever held it before us may have removed it.
                    if lab.directory.stat().st_ino == os.fstat(fd).st_ino:
                        yield
                        return
            finally:
                os.close(fd)
    except BlockingIOError:
        raise Locked(f"another command is building or removing the lab {lab.name}", hint="wait for it") from None
    except PermissionError as error:
        raise StoreError(f"cannot use the lab's directory: {error}", hint="choose another --dir") from None
