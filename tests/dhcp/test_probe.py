"""The probe on a real bridge: our server, a rogue one, nobody; and nothing is left of it, whatever death it dies."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cocoon_net import records
from cocoon_net.dhcp import frame, wire
from cocoon_net.dhcp.book import Book
from cocoon_net.dhcp.server import Server

pytestmark = pytest.mark.root

OURS, ROGUE = "02:00:5e:00:00:01", "02:00:5e:10:00:66"
YIADDR = 0xAC1464C8  # 172.20.100.200


def probe(node: Any, *words: str) -> tuple[int, str, str]:
    line = ["ip", "netns", "exec", node.name, sys.executable, "-m", "cocoon_net", "probe", "--timeout", "1.2", *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=30)
    assert "cnprobe" not in node.ip("link"), "its port is gone"
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def rogue(node: Any) -> Iterator[str]:
    """A guest that plays DHCP server: whoever asks is offered .200 by .66."""
    guest = node.add_guest(ROGUE)
    node.ip("link", "set", f"p{guest[-8:]}", "type", "bridge_slave", "isolated", "off")
    stop = threading.Event()

    def serve() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as sock:
            sock.bind(("eth0", 0x0800))
            sock.settimeout(0.1)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    asked = wire.decode(frame.unwrap(sock.recv(2048)) or b"")
                    if not isinstance(asked, wire.Packet) or asked.op != wire.REQUEST:
                        continue
                    options = {53: b"\x02", 54: bytes((172, 20, 100, 66)), 51: b"\x00\x00\x0e\x10"}
                    offer = wire.encode(asked._replace(op=wire.REPLY, yiaddr=YIADDR, options=options))
                    mac = bytes.fromhex(ROGUE.replace(":", ""))
                    sock.send(frame.wrap(offer, mac, frame.EVERYBODY, YIADDR - 134, 0xFFFFFFFF))

    thread = node.start(guest, serve)
    yield guest
    stop.set()
    thread.join()
    assert thread.error is None


def test_our_server_alone_is_fine_and_its_offer_is_shown(
    node: Any, book: Book, pool: records.Pool, serving: Any, tmp_path: Path
) -> None:
    from scapy.layers.dhcp import DHCP
    from scapy.utils import rdpcap

    with serving(node, Server(book, pool)) as server:
        code, out, err = probe(node, "--pcap", str(tmp_path / "dhcp.pcap"))
        assert code == 0, err
        assert f"OFFER 172.20.100.10 from 172.20.100.1 ({OURS}, ours) after " in out
        assert "    router                 172.20.100.1\n" in out
        assert "    name_server            8.8.8.8, 1.1.1.1\n" in out
        assert out.endswith("only our server answers on cni0\n")
        assert server.leases() == [], "it takes nothing"
        packets = [packet for packet in rdpcap(str(tmp_path / "dhcp.pcap")) if DHCP in packet]
        kinds = [option[1] for packet in packets for option in packet[DHCP].options if option[0] == "message-type"]
        assert kinds[:2] == [1, 2], "DISCOVER, OFFER"
        code, out, _ = probe(node, "--json", "--mac", "02-00-5E-00-00-99")
        found = json.loads(out)
        assert (code, found["client"], found["answered"], found["rogues"]) == (0, "02:00:5e:00:00:99", True, [])


def test_a_rogue_server_is_found_beside_ours_and_without_it(
    node: Any, book: Book, pool: records.Pool, serving: Any, rogue: Any
) -> None:
    with serving(node, Server(book, pool)):
        code, out, err = probe(node)
        assert code == 1
        assert "OFFER 172.20.100.200 from 172.20.100.66 (02:00:5e:10:00:66, NOT OURS)" in out
        assert f"({OURS}, ours)" in out
        assert "a server that is not ours answers: 172.20.100.66 from 02:00:5e:10:00:66" in err
    code, out, err = probe(node, "--json")
    assert code == 1 and json.loads(out)["answered"] is False


def test_nobody_and_no_bridge_are_told(node: Any) -> None:
    code, _, err = probe(node)
    assert code == 1 and "no server answered" in err and "cocoon-net lease trace" in err
    node.ip("link", "del", "cni0")
    code, _, err = probe(node)
    assert code == 71 and "cni0 is not there" in err
    code, _, err = probe(node, "--link", "lo")
    assert code == 71 and "not a bridge" in err


def test_sigkill_leaves_no_port_behind(node: Any, eventually: Callable[..., Any]) -> None:
    line = ["ip", "netns", "exec", node.name, sys.executable, "-m", "cocoon_net", "probe", "--timeout", "30"]
    process = subprocess.Popen(line)
    eventually(lambda: "cnprobe" in node.ip("link"), 10)
    process.send_signal(signal.SIGKILL)
    process.wait()
    eventually(lambda: "cnprobe" not in node.ip("link"))
