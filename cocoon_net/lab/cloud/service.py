"""The simulated cloud as a whole: state on disk, the listeners, the admin socket, and who watches the view."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from loguru import logger

from cocoon_net.clock import Clock, SystemClock
from cocoon_net.errors import CocoonError, NodeError, SpecError
from cocoon_net.lab.cloud.admin import Admin
from cocoon_net.lab.cloud.control import Control
from cocoon_net.lab.cloud.disk import Disk, prepare_directory
from cocoon_net.lab.cloud.door import Door, Listener, open_listener
from cocoon_net.lab.cloud.gateway import Gateway
from cocoon_net.lab.cloud.metadata import Metadata
from cocoon_net.lab.cloud.picture import next_link, paint
from cocoon_net.lab.cloud.seed import Seed, build
from cocoon_net.lab.view import View

LOOPBACK: Listener = ("127.0.0.1", 0)

_SOCKET_PATH = 107
"""Bytes that fit into ``sockaddr_un.sun_path`` (unix(7))."""


class Cloud:
    """A running cloud; made by ``start``, ended by ``close`` or by leaving the ``with`` block."""

    def __init__(self, gateway: Gateway, metadata: Metadata, admin_socket: Path, wake: threading.Event) -> None:
        self.gateway = gateway
        self.admin = Admin(admin_socket)
        self.stopped = threading.Event()
        """Set when somebody asked for the end through the admin socket."""
        self._metadata = metadata
        self._wake = wake
        self._closing = False
        self._api_doors: list[Door] = []
        self._metadata_doors: list[Door] = []
        self._admin_door: Door | None = None
        self._painter: threading.Thread | None = None

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        listen: Listener = LOOPBACK,
        metadata: Listener = LOOPBACK,
        seed: Seed | None = None,
        faults: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        on_view: Callable[[View], None] | None = None,
        default_instance: str = "",
        admin_socket: Path | None = None,
        chance: int = 0,
    ) -> Cloud:
        """Start a cloud whose state is in ``directory``; a state that is there goes on, whatever ``seed`` says.

        ``default_instance`` (a node or an id) is whom the metadata service takes a stranger for. ``on_view`` is
        called from one thread of the cloud, never under a lock, first with the whole view and then on each change;
        if it raises a ``CocoonError`` it is called again a second later. ``chance`` seeds random faults.
        Raises ``SpecError``, ``StoreError`` or ``NodeError``.
        """
        clock = clock or SystemClock()
        prepare_directory(directory)
        disk = Disk(directory / "cloud.db")
        world = disk.load() or build(seed or Seed(), clock.now())
        world.faults = world.faults.set(faults or {})
        wake = threading.Event()
        gateway = Gateway(world, disk, clock, chance=chance, changed=wake.set)
        disk.save(world.commit(clock.now()), settings=gateway.world_settings())
        instances = {key: row.id for row in world.instances.all() for key in (row.id, row.node)}
        if default_instance and default_instance not in instances:
            raise SpecError(f"no instance {default_instance}", hint=f"there are {', '.join(instances)}")
        service = Metadata(gateway, instances.get(default_instance, ""))
        cloud = cls(gateway, service, admin_socket or directory / "admin.sock", wake)
        try:
            cloud._open_admin()
            cloud.listen_api(listen)
            cloud.listen_metadata(metadata)
        except CocoonError:
            cloud.close()
            raise
        if on_view is not None:
            cloud._painter = threading.Thread(target=cloud._paint, args=(on_view,), name="painter", daemon=True)
            cloud._painter.start()
        return cloud

    def listen_api(self, listener: Listener) -> tuple[str, int]:
        """Open one more listener of the OpenAPI and return its address."""
        return self._open(listener, self._api_doors, Door(open_listener(listener), self.gateway.answer, "api"))

    def listen_metadata(self, listener: Listener) -> tuple[str, int]:
        """Open one more listener of the metadata service and return its address."""
        door = Door(open_listener(listener), self._metadata.answer, "metadata")
        return self._open(listener, self._metadata_doors, door)

    @property
    def endpoint(self) -> str:
        """Return the URL of the OpenAPI, the SDK's ``Configuration.host``."""
        return "http://{}:{}".format(*self._api_doors[0].address)

    @property
    def metadata_url(self) -> str:
        """Return the URL of the metadata service, without a path."""
        return "http://{}:{}".format(*self._metadata_doors[0].address)

    @property
    def region(self) -> str:
        """Return the region."""
        return self.gateway.world.region

    @property
    def access_key(self) -> str:
        """Return the id of the account's key."""
        return self.admin.credentials()["access_key"]

    @property
    def secret_key(self) -> str:
        """Return the secret of the account's key."""
        return self.admin.credentials()["secret_key"]

    def instance_id(self, node: str) -> str:
        """Return the id of a node of the lab; raises ``SpecError``."""
        for row in self.gateway.world.instances.all():
            if row.node == node:
                return row.id
        raise SpecError(f"the lab has no node {node}")

    def close(self) -> None:
        """Close all listeners, break all connections and close the state."""
        self._closing = True
        self._wake.set()
        if self._painter is not None:
            self._painter.join()
        for door in (*self._api_doors, *self._metadata_doors, *filter(None, [self._admin_door])):
            door.close()
        with contextlib.suppress(FileNotFoundError):
            self.admin.path.unlink()
        self.gateway.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, listener: Listener, doors: list[Door], door: Door) -> tuple[str, int]:
        door.start()
        doors.append(door)
        return door.address

    def _open_admin(self) -> None:
        path = self.admin.path
        if len(bytes(path)) > _SOCKET_PATH:
            raise SpecError(f"the path of the admin socket is too long: {path}", hint="choose a shorter directory")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # A socket that a killed cloud left behind would refuse the name.
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            path.chmod(0o600)
        except OSError as error:
            listener.close()
            raise NodeError(f"cannot open the admin socket {path}: {error.strerror}") from None
        control = Control(self.gateway, self._wake.set, self.stopped)
        self._admin_door = Door(listener, control.answer, "admin")
        self._admin_door.start()

    def _paint(self, on_view: Callable[[View], None]) -> None:
        """Show each change of the view, also those that time alone brings."""
        shown: View | None = None
        while not self._closing:
            self._wake.clear()
            with self.gateway.lock:
                self.gateway.settle()
                now = self.gateway.clock.now()
                view = paint(self.gateway.world, now)
                moments = filter(None, [self.gateway.world.next_due(), next_link(self.gateway.world, now)])
                wait = min(((moment - now).total_seconds() for moment in moments), default=None)
            if view != shown:
                try:
                    on_view(view)
                    shown = view
                except CocoonError as error:
                    logger.error("the fabric could not show the view, trying again: {}", error)
                    wait = 1.0
            self._wake.wait(wait)
