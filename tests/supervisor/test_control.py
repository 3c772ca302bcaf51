"""The control socket, over real AF_UNIX HTTP."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from cocoon_net.dhcp.wire import REQUEST, Packet
from cocoon_net.errors import NodeError, Refused, SpecError, StoreError
from cocoon_net.events import LeaseReleased
from cocoon_net.supervisor.control import ControlSocket, parse_mac, routes
from cocoon_net.supervisor.feed import Feed
from cocoon_net.unix_http import UnixConnection

MAC = "02:42:ac:11:00:02"


class Table:
    """Stands for the daemon's desk: what was released, and a disk that may be full."""

    def __init__(self) -> None:
        self.released: list[str] = []
        self.full = False
        self.kept: dict[str, str] = {}

    def leases(self, everything: bool) -> list[dict[str, Any]]:
        bound = [{"mac": MAC, "ip": "10.0.0.9"}]
        return [*bound, {"mac": MAC, "ip": "10.0.0.10"}] if everything else bound

    def client(self, mac: str) -> dict[str, Any]:
        return {"mac": mac, "leases": [], "reservation": self.kept.get(mac)}

    def trace(self, mac: str, since: int) -> dict[str, Any]:
        return {"mac": mac, "since": since}

    def reservations(self) -> list[dict[str, Any]]:
        return [{"mac": mac, "ip": ip} for mac, ip in self.kept.items()]

    def reserve(self, mac: str, address: str, hostname: str, options: dict[int, bytes] | None) -> dict[str, Any]:
        if address in self.kept.values():
            raise SpecError(f"{address} is reserved for another", hint="give it up")
        self.kept[mac] = address
        return {
            "mac": mac,
            "ip": address,
            "hostname": hostname,
            "options": {code: [*value] for code, value in (options or {}).items()},
        }

    def unreserve(self, mac: str) -> object:
        return self.kept.pop(mac, None)

    def release(self, mac: str) -> None:
        if self.full:
            raise StoreError("the lease cannot be written: disk full", hint="make room")
        self.released.append(mac)


class Shown:
    """Stands for the daemon's dashboard."""

    def __init__(self) -> None:
        self.feed = Feed()

    def status(self) -> dict[str, Any]:
        return {"pid": 7}

    def view(self) -> dict[str, Any]:
        return {"phase": "serving"}

    def findings(self) -> list[dict[str, Any]]:
        return [{"kind": "link-down"}]


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def control(tmp_path: Path, table: Table) -> Iterator[ControlSocket]:
    served = ControlSocket(tmp_path / "run" / "control.sock", routes(table, Shown()))
    served.start()
    yield served
    served.stop()


def ask(path: Path, method: str, target: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = UnixConnection(path)
    try:
        connection.request(method, target, body=body)
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "spelling", [MAC, MAC.upper(), "02-42-ac-11-00-02", "0242.ac11.0002", "02%3A42%3Aac%3A11%3A00%3A02"]
)
def test_a_lease_is_released_and_again(control: ControlSocket, table: Table, spelling: str) -> None:
    for _ in range(2):
        status, headers, body = ask(control.path, "DELETE", f"/v1/leases/{spelling}")
        assert (status, body) == (204, b"")
        assert "Content-Length" not in headers  # RFC 9110 §8.6
    assert table.released == [MAC, MAC]


@pytest.mark.parametrize(
    "text", ["nonsense", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "02:42-ac:11:00:02", "0242ac110002"]
)
def test_what_is_no_mac_is_400(control: ControlSocket, table: Table, text: str) -> None:
    status, _, body = ask(control.path, "DELETE", f"/v1/leases/{text}")
    assert status == 400 and text in json.loads(body)["error"]
    assert table.released == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "OPTIONS", "PURGE"])
def test_another_method_on_a_lease_is_405_and_says_which(control: ControlSocket, table: Table, method: str) -> None:
    status, headers, _ = ask(control.path, method, f"/v1/leases/{MAC}")
    assert (status, headers["Allow"]) == (405, "DELETE")
    assert table.released == []


def test_a_release_that_cannot_be_written_is_500(control: ControlSocket, table: Table) -> None:
    table.full = True
    status, _, body = ask(control.path, "DELETE", f"/v1/leases/{MAC}")
    assert status == 500
    assert json.loads(body) == {"error": "the lease cannot be written: disk full", "hint": "make room"}
    table.full = False
    assert ask(control.path, "DELETE", f"/v1/leases/{MAC}")[0] == 204


def test_a_request_with_a_body_is_answered_too(control: ControlSocket) -> None:
    assert ask(control.path, "DELETE", f"/v1/leases/{MAC}", body=b"x" * 4096)[0] == 204


def test_our_own_paths(control: ControlSocket) -> None:
    assert json.loads(ask(control.path, "GET", "/v1/leases")[2]) == {"leases": [{"mac": MAC, "ip": "10.0.0.9"}]}
    assert json.loads(ask(control.path, "GET", "/v1/status")[2]) == {"pid": 7}
    assert ask(control.path, "DELETE", "/v1/leases")[0] == 405
    assert ask(control.path, "GET", "/v1/leases/")[0] == 404
    assert ask(control.path, "GET", "/")[0] == 404
    assert len(json.loads(ask(control.path, "GET", "/v1/leases?state=all")[2])["leases"]) == 2
    assert json.loads(ask(control.path, "GET", f"/v1/clients/{MAC}")[2])["mac"] == MAC
    assert json.loads(ask(control.path, "GET", f"/v1/trace/{MAC.upper()}?since=12")[2]) == {"mac": MAC, "since": 12}
    assert ask(control.path, "GET", f"/v1/trace/{MAC}?since=x")[0] == 400
    assert ask(control.path, "GET", "/v1/clients/nonsense")[0] == 400
    assert ask(control.path, "DELETE", f"/v1/trace/{MAC}")[1]["Allow"] == "GET, HEAD"


def test_reservations_are_made_read_and_given_up(control: ControlSocket, table: Table) -> None:
    status, _, body = ask(control.path, "PUT", f"/v1/reservations/{MAC}/10.0.0.9?hostname=win11-0&options=43:0104")
    told = {"mac": MAC, "ip": "10.0.0.9", "hostname": "win11-0", "options": {"43": [1, 4]}}
    assert (status, json.loads(body)) == (200, told)
    for broken in ("43", "43:xx", "53:01", "x:01", "43:"):
        assert ask(control.path, "PUT", f"/v1/reservations/{MAC}/10.0.0.9?options={broken}")[0] == 400
    assert json.loads(ask(control.path, "GET", "/v1/reservations")[2]) == {
        "reservations": [{"mac": MAC, "ip": "10.0.0.9"}]
    }
    status, _, body = ask(control.path, "PUT", "/v1/reservations/02:42:ac:11:00:03/10.0.0.9")
    assert (status, json.loads(body)["hint"]) == (409, "give it up")
    for _ in range(2):
        assert ask(control.path, "DELETE", f"/v1/reservations/{MAC}")[0] == 204
    assert ask(control.path, "POST", "/v1/reservations")[1]["Allow"] == "GET, HEAD"
    assert ask(control.path, "GET", f"/v1/reservations/{MAC}/10.0.0.9")[1]["Allow"] == "PUT"


def test_fifty_callers_at_once_in_time(control: ControlSocket, table: Table) -> None:
    statuses: list[int] = []

    def call() -> None:
        for _ in range(20):  # beyond the room the listener hangs up, as it may; the contract's client asks again
            try:
                statuses.append(ask(control.path, "DELETE", f"/v1/leases/{MAC}")[0])
                return
            except (http.client.HTTPException, OSError):
                time.sleep(0.05)

    callers = [threading.Thread(target=call) for _ in range(50)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert statuses == [204] * 50


def test_it_is_for_root_alone(control: ControlSocket) -> None:
    assert stat.S_IMODE(control.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(control.path.parent.stat().st_mode) == 0o750


def test_it_stops_at_once_and_takes_its_socket_along(tmp_path: Path) -> None:
    served = ControlSocket(tmp_path / "control.sock", routes(Table(), Shown()))
    served.start()
    began = time.monotonic()
    served.stop()
    assert time.monotonic() - began < 0.3
    assert not served.path.exists()


def test_it_leaves_another_ones_socket_when_it_stops(tmp_path: Path) -> None:
    served = ControlSocket(tmp_path / "control.sock", routes(Table(), Shown()))
    served.start()
    served.path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(served.path))
        served.stop()
        assert served.path.exists()


def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    served = ControlSocket(path, routes(Table(), Shown()))
    served.start()
    assert ask(path, "GET", "/v1/status")[0] == 200
    served.stop()


def test_a_living_socket_is_refused(control: ControlSocket) -> None:
    with pytest.raises(Refused, match="another cocoon-net runs"):
        ControlSocket(control.path, routes(Table(), Shown()))
    assert ask(control.path, "GET", "/v1/status")[0] == 200


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_a_foreign_file_is_refused_and_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "control.sock"
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="not a socket"):
        ControlSocket(path, routes(Table(), Shown()))
    assert os.path.lexists(path)


def test_a_path_that_cannot_be_bound_is_told(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="cannot be made"):
        ControlSocket(tmp_path / ("x" * 120), routes(Table(), Shown()))


def test_macs_are_read_like_the_go_tool_reads_them() -> None:
    assert parse_mac(" 02:42:AC:11:00:02 ") == MAC
    assert parse_mac("02:42:ac:11:00:02:00:01") is None


def test_other_hardware_is_read_as_leases_list_it() -> None:
    packet = Packet(REQUEST, 7, b"\x02\x42\xac\x11\x00\x02", {}, htype=6)
    name = packet.hardware.hex(":")
    assert name == f"06:{MAC}{':00' * 10}"
    assert parse_mac(name.upper()) == name
    assert parse_mac(f"{name}:00") is None and parse_mac(name.replace(":", "-")) is None


def test_what_is_shown_is_read_and_never_written(control: ControlSocket) -> None:
    for path, answer in (
        ("/v1/view", {"phase": "serving"}),
        ("/v1/findings", {"findings": [{"kind": "link-down"}]}),
    ):
        status, _, body = ask(control.path, "GET", path)
        assert status == 200 and json.loads(body) == answer
        status, headers, _ = ask(control.path, "DELETE", path)
        assert status == 405 and headers["Allow"] == "GET, HEAD"
    assert ask(control.path, "POST", "/v1/events")[0] == 405


Listener = tuple[Shown, Path, http.client.HTTPResponse]
"""What is shown, the socket's path, and a stream of events that is being read."""


@pytest.fixture
def listener(tmp_path: Path, table: Table) -> Iterator[Listener]:
    shown = Shown()
    served = ControlSocket(tmp_path / "control.sock", routes(table, shown))
    served.start()
    connection = UnixConnection(served.path)
    connection.request("GET", "/v1/events")
    yield shown, served.path, connection.getresponse()
    connection.close()
    served.stop()


def test_events_are_lines_of_json_until_the_daemon_stops(listener: Listener) -> None:
    shown, _, reply = listener
    assert reply.status == 200 and reply.getheader("Content-Type") == "application/x-ndjson"
    shown.feed.publish(LeaseReleased(datetime(2026, 1, 1, tzinfo=UTC), IPv4Address("10.0.0.9"), MAC, "client"))
    line = b""
    while not line.strip():
        line = reply.readline()
    assert json.loads(line)["event"] == "LeaseReleased"
    shown.feed.close()
    assert json.loads(reply.read().strip().splitlines()[-1]) == {
        "event": "End",
        "why": "the service stops",
    }


def test_a_slow_reader_is_dropped_and_told_so_and_holds_nobody_up(listener: Listener) -> None:
    shown, path, reply = listener
    assert reply.readline() == b"\n"
    event = LeaseReleased(datetime(2026, 1, 1, tzinfo=UTC), IPv4Address("10.0.0.9"), MAC, "client" * 500)
    began = time.monotonic()
    for _ in range(2_000):  # 6 MB: more than the socket holds
        shown.feed.publish(event)
    assert time.monotonic() - began < 2
    assert ask(path, "GET", "/v1/status")[0] == 200
    lines = reply.read().strip().splitlines()
    assert len(lines) < 2_000
    assert json.loads(lines[-1]) == {"event": "End", "why": "dropped: 500 events were not read in time"}
