"""The daemon as a process: started, killed, stopped, started again, beside another, and in the Go tool's place."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cocoon_net import unix_http
from cocoon_net.errors import Locked, SpecError
from cocoon_net.lab.patience import eventually
from cocoon_net.locks import locked
from cocoon_net.site import Site
from cocoon_net.supervisor import daemon
from cocoon_net.supervisor.daemon import DaemonOptions, serve
from cocoon_net.supervisor.presence import alone, daemon_owner, reload_running

ROOT = Path(__file__).parents[2]
FIRST, LAST = 2, 141
GO_LEASES = 40
MAC = "02:00:00:00:00:{:02x}"


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@dataclass
class Node:
    """A namespace that looks like a node on which a Go cocoon-net has been serving."""

    name: str
    home: Path
    daemons: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def site(self) -> Site:
        return Site(self.home / "state", self.home / "cni", self.home / "run")

    def ip(self, *words: str) -> str:
        return run("ip", "-n", self.name, *words)

    def command(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, sys.executable, "-m", "cocoon_net", *words]

    def environment(self, **more: str) -> dict[str, str]:
        places = {
            "COCOON_NET_STATE_DIR": str(self.site.state_dir),
            "COCOON_NET_RUN_DIR": str(self.site.run_dir),
            "COCOON_NET_CNI_CONF_DIR": str(self.site.cni_conf_dir),
        }
        return {**os.environ, **places, "PYTHONPATH": str(ROOT), **more}

    def start(self, *flags: str, wait: bool = True, **more: str) -> subprocess.Popen[str]:
        log = (self.home / "log").open("w")
        process = subprocess.Popen(
            self.command("daemon", "--metrics-addr", "", *flags), env=self.environment(**more), stderr=log, text=True
        )
        log.close()
        self.daemons.append(process)
        if wait:
            eventually(lambda: "serving:" in self.log() or process.poll() is not None)
            assert process.poll() is None, self.log()
        return process

    def once(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), env=self.environment(), capture_output=True, text=True, timeout=20, check=False
        )

    def log(self) -> str:
        return (self.home / "log").read_text()

    def ask(self, method: str, target: str) -> tuple[int, Any]:
        status, body = unix_http.ask(self.site.control_socket, method, target)
        return status, json.loads(body) if body else None

    def routes(self) -> set[str]:
        return {line.split()[0] for line in self.ip("route", "show", "proto", "174").splitlines()}

    def lease_file(self) -> dict[str, str]:
        return {row["mac"]: row["ip"] for row in json.loads(self.site.lease_file.read_text())}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(f"cnd{os.getpid()}", tmp_path)
    for directory in ("state", "cni", "run"):
        (tmp_path / directory).mkdir()
    run("ip", "netns", "add", node.name)
    try:
        node.ip("link", "set", "lo", "up")
        for number in range(3):
            node.ip("link", "add", f"eth{number}", "type", "veth", "peer", "name", f"peer{number}")
        node.ip("link", "set", "eth0", "up")
        bridge(node)
        yield node
    finally:
        for process in node.daemons:
            if process.poll() is None:
                process.kill()
            process.wait()
        run("ip", "netns", "del", node.name)


def bridge(node: Node) -> None:
    node.ip("link", "add", "cni0", "type", "bridge")
    node.ip("addr", "add", "172.20.100.1/24", "dev", "cni0")
    node.ip("link", "set", "cni0", "up")


@pytest.fixture
def go(node: Node) -> Node:
    """The state directory as the Go cocoon-net leaves it."""
    pool = {
        "platform": "volcengine",
        "nodeName": "node-1",
        "subnet": "172.20.100.0/24",
        "gateway": "172.20.100.1",
        "primaryNIC": "eth0",
        "secondaryNICs": ["eth1", "eth2"],
        "ips": [f"172.20.100.{i}" for i in range(FIRST, LAST + 1)],
        "eniIDs": ["eni-a", "eni-b"],
        "subnetID": "subnet-x",
        "dnsServers": ["100.96.0.2"],
        "updatedAt": "2026-05-01T10:00:00.123456789Z",
    }
    leases = [
        {"mac": MAC.format(i), "ip": f"172.20.100.{i}", "expiry": "2099-01-01T00:00:00.123456789Z"}
        for i in range(FIRST, FIRST + GO_LEASES)
    ]
    node.site.pool_file.write_text(json.dumps(pool, indent=2))
    node.site.lease_file.write_text(json.dumps(leases))
    return node


@pytest.fixture
def guest(go: Node) -> Iterator[str]:
    """A network namespace that is plugged in as ``tap0``, with ``eth0`` up."""
    name = f"{go.name}g"
    run("ip", "netns", "add", name)
    go.ip("link", "add", "tap0", "type", "veth", "peer", "name", "eth0", "netns", name)
    go.ip("link", "set", "tap0", "master", "cni0", "up")
    run("ip", "-n", name, "link", "set", "eth0", "up")
    yield name
    run("ip", "netns", "del", name)


def expected_leases() -> dict[str, str]:
    return {MAC.format(i): f"172.20.100.{i}" for i in range(FIRST, FIRST + GO_LEASES)}


# Without a node


def test_a_daemon_without_a_pool_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        serve(Site(tmp_path / "state", run_dir=tmp_path), DaemonOptions())
    assert "no pool" in caught.value.message and "cocoon-net init" in caught.value.hint
    assert not (tmp_path / "cocoon-net.pid").exists()
    assert daemon_owner(Site(tmp_path / "state")) is None


def test_a_bad_metrics_address_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="HOST:PORT"):
        serve(Site(tmp_path / "state", run_dir=tmp_path), DaemonOptions(metrics_address="9092"))
    assert not (tmp_path / "state").exists()


def test_no_cycles_are_searched_for_while_it_comes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searching: list[bool] = []

    def look(*places: object) -> None:
        searching.append(gc.isenabled())
        raise SpecError("enough")

    monkeypatch.setattr(daemon, "_pool", look)
    with pytest.raises(SpecError, match="enough"):
        serve(Site(tmp_path / "state", run_dir=tmp_path), DaemonOptions())
    assert searching == [False] and gc.isenabled()


def test_beside_another_daemon_it_is_locked_out(tmp_path: Path) -> None:
    site = Site(tmp_path / "state", run_dir=tmp_path)
    with alone(site):
        owner = daemon_owner(site)
        assert owner is not None and f"pid {os.getpid()}" in owner
        with pytest.raises(Locked) as caught:
            serve(site, DaemonOptions())
    assert caught.value.exit_code == 75
    assert daemon_owner(site) is None


def test_nobody_is_told_to_reload_where_no_daemon_lives(tmp_path: Path) -> None:
    site = Site(tmp_path / "state", run_dir=tmp_path)
    assert reload_running(site) is False
    site.state_dir.mkdir()
    # What a killed daemon leaves: its line, and no lock. The process of that number is somebody else.
    (site.state_dir / "daemon.lock").write_text(json.dumps({"owner": "daemon", "pid": os.getpid()}))
    assert reload_running(site) is False


# Taking over


@pytest.mark.root
def test_a_go_node_is_taken_over_as_it_stands(go: Node) -> None:
    before = go.site.pool_file.read_bytes()
    mac = json.loads(go.ip("-j", "link", "show", "cni0"))[0]["address"]
    rules = run("ip", "netns", "exec", go.name, "iptables-save")
    go.start()
    assert go.routes() == set(expected_leases().values())
    assert go.lease_file() == expected_leases()
    assert go.site.pool_file.read_bytes() == before
    assert json.loads(go.ip("-j", "link", "show", "cni0"))[0]["address"] == mac
    assert run("ip", "netns", "exec", go.name, "iptables-save") == rules
    status, answer = go.ask("GET", "/v1/leases")
    assert status == 200 and len(answer["leases"]) == GO_LEASES
    _, answer = go.ask("GET", "/v1/status")
    assert answer["nics"] == {"expected": 2, "present": 2}
    assert answer["leases"]["free"] == LAST - FIRST + 1 - GO_LEASES
    assert "took over from the Go cocoon-net" in go.log()


@pytest.mark.root
def test_after_a_reboot_a_taken_over_node_is_set_up_by_us(go: Node) -> None:
    first = go.start()
    first.terminate()
    first.wait(5)
    go.ip("link", "del", "cni0")
    go.ip("link", "set", "eth1", "down")
    go.start()
    shown = json.loads(go.ip("-j", "addr", "show", "cni0"))[0]
    assert shown["addr_info"][0]["local"] == "172.20.100.1"
    assert "UP" in json.loads(go.ip("-j", "link", "show", "eth1"))[0]["flags"]
    assert "COCOON-NET-FORWARD" in run("ip", "netns", "exec", go.name, "iptables-save")
    assert go.routes() == set(expected_leases().values())
    assert go.lease_file() == expected_leases()


@pytest.mark.root
def test_a_pool_file_that_cannot_be_used_is_not_half_taken_over(go: Node) -> None:
    go.site.pool_file.write_text('{"platform": "gke", "nodeName": "", "subnet": "172.20.100.0/24"}')
    done = go.once("daemon")
    assert done.returncode == 78, done.stderr
    assert "pool.json" in done.stderr
    with contextlib.closing(sqlite3.connect(go.site.database)) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (0,)


@pytest.mark.root
def test_leases_that_cannot_be_read_are_not_forgotten(go: Node) -> None:
    go.site.lease_file.write_text('[{"mac": ')
    done = go.once("daemon")
    assert done.returncode == 74, done.stderr
    assert "leases" in done.stderr
    go.site.lease_file.write_text("null")
    go.start()
    assert go.lease_file() == {}


@pytest.mark.root
def test_a_go_daemon_that_lives_is_not_taken_over(go: Node) -> None:
    shutil.copy("/usr/bin/sleep", go.home / "cocoon-net")
    living = subprocess.Popen([str(go.home / "cocoon-net"), "60"])
    try:
        go.site.pid_file.write_text(f"{living.pid}\n")
        done = go.once("daemon", "--metrics-addr", "")
        assert done.returncode == 75, done.stderr
        assert f"pid {living.pid}" in done.stderr and "systemctl stop" in done.stderr
        assert go.site.pid_file.read_text() == f"{living.pid}\n"
    finally:
        living.kill()
        living.wait()
    go.start()
    assert go.lease_file() == expected_leases()


@pytest.mark.root
def test_a_takeover_that_never_served_is_done_again_from_the_files(go: Node) -> None:
    hold = "import socket,sys; s=socket.socket(type=socket.SOCK_DGRAM); s.bind(('',67)); print(); sys.stdin.read()"
    server = subprocess.Popen(
        ["ip", "netns", "exec", go.name, sys.executable, "-c", hold],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None and server.stdout.readline()
        before = go.site.lease_file.read_bytes()
        done = go.once("daemon", "--metrics-addr", "")
        assert done.returncode == 71, done.stderr
        assert "port 67" in done.stderr
        assert go.site.lease_file.read_bytes() == before
    finally:
        server.communicate("")
    # The Go tool has gone on meanwhile: one guest left, another came.
    rows = [{"mac": MAC.format(200), "ip": "172.20.100.77", "expiry": "2099-01-01T00:00:00Z"}]
    go.site.lease_file.write_text(json.dumps(rows))
    go.start()
    assert go.lease_file() == {MAC.format(200): "172.20.100.77"}
    assert go.routes() == {"172.20.100.77"}


@pytest.mark.root
def test_it_refuses_when_no_secondary_link_is_there(go: Node) -> None:
    for name in ("eth1", "eth2"):
        go.ip("link", "del", name)
    done = go.once("daemon")
    assert done.returncode == 71, done.stderr
    assert "none of the 2 secondary links" in done.stderr


@pytest.mark.root
def test_it_serves_and_warns_when_one_link_is_missing(go: Node) -> None:
    go.ip("link", "del", "eth2")
    go.start()
    assert "eni-2 (eth2) is missing" in go.log()
    assert go.ask("GET", "/v1/status")[1]["nics"] == {"expected": 2, "present": 1}


# Living and dying


@pytest.mark.root
def test_a_killed_daemon_starts_again_with_every_lease(go: Node) -> None:
    first = go.start()
    assert go.ask("DELETE", f"/v1/leases/{MAC.format(5)}")[0] == 204
    first.kill()
    first.wait()
    assert go.site.pid_file.exists() and go.site.control_socket.exists()
    left = expected_leases()
    del left[MAC.format(5)]
    go.start()  # beside a stale PID file, a stale socket and a lock whose owner is dead
    assert go.lease_file() == left
    assert go.routes() == set(left.values())
    assert len(go.ask("GET", "/v1/leases")[1]["leases"]) == GO_LEASES - 1


@pytest.mark.root
def test_sigterm_ends_it_within_a_second_and_nothing_is_lost(go: Node) -> None:
    process = go.start()
    pid = int(go.site.pid_file.read_text())
    assert go.site.pid_file.read_text() == f"{pid}\n"
    assert go.site.pid_file.stat().st_mode & 0o777 == 0o644
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    assert process.wait(5) == 0
    assert time.monotonic() - began < 1.0
    assert not go.site.pid_file.exists() and not go.site.control_socket.exists()
    assert go.routes() == set(expected_leases().values())  # guests live on without us
    assert go.lease_file() == expected_leases()
    assert daemon_owner(go.site) is None


@pytest.mark.root
def test_a_second_daemon_is_refused_and_the_first_lives_on(go: Node) -> None:
    go.start()
    done = go.once("daemon", "--metrics-addr", "")
    assert done.returncode == 75, done.stderr
    assert "already" in done.stderr and str(int(go.site.pid_file.read_text())) in done.stderr
    assert go.ask("GET", "/v1/status")[0] == 200
    assert go.site.pid_file.exists()


@pytest.mark.root
def test_a_foreign_pid_file_is_no_lock(go: Node) -> None:
    go.site.pid_file.write_text("1\n")
    go.start()
    assert go.site.pid_file.read_text() != "1\n"


@pytest.mark.root
def test_a_foreign_file_at_the_sockets_place_is_refused_and_kept(go: Node) -> None:
    go.site.control_socket.parent.mkdir()
    go.site.control_socket.write_text("precious")
    done = go.once("daemon", "--metrics-addr", "")
    assert done.returncode == 77, done.stderr
    assert "not a socket" in done.stderr
    assert go.site.control_socket.read_text() == "precious"
    assert not go.site.pid_file.exists()


@pytest.mark.root
def test_without_a_control_socket_there_is_none(go: Node) -> None:
    go.start("--control-socket", "")
    assert not go.site.control_socket.exists()


@pytest.mark.root
def test_a_taken_metrics_port_does_not_keep_it_from_serving(go: Node) -> None:
    blocker = subprocess.Popen(
        [
            "ip", "netns", "exec", go.name, sys.executable, "-c",
            "import socket,sys; s=socket.create_server(('',9092)); print('up',flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert blocker.stdout is not None and blocker.stdout.readline() == "up\n"
        go.start("--metrics-addr", ":9092")
        assert "no metrics: :9092" in go.log()
    finally:
        blocker.communicate("")


@pytest.mark.root
def test_systemd_hears_when_it_is_ready_reads_again_and_stops(go: Node, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        process = go.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        heard = [manager.recv(4096).decode() for _ in range(2)]
        assert heard == [
            "STATUS=reconciling",
            "READY=1\nSTATUS=serving: 140 addresses of 172.20.100.0/24",
        ]
        process.send_signal(signal.SIGHUP)
        began, over = (manager.recv(4096).decode() for _ in range(2))
        assert began.startswith("RELOADING=1\nMONOTONIC_USEC=") and began.endswith("\nSTATUS=reloading")
        assert over == heard[-1], "it names the pool again"
        process.terminate()
        assert manager.recv(4096).decode() == "STOPPING=1\nSTATUS=draining: SIGTERM"
        process.wait(5)


@pytest.mark.root
def test_a_rerun_init_is_picked_up_without_a_restart(go: Node) -> None:
    process = go.start()
    with contextlib.closing(sqlite3.connect(go.site.database)) as database, database:
        (text,) = database.execute("SELECT record FROM pool").fetchone()
        pool = json.loads(text)
        pool["addresses"] = [*pool["addresses"], "172.20.100.200"]
        database.execute("UPDATE pool SET record = ?", [json.dumps(pool)])
    assert reload_running(go.site) is True
    eventually(lambda: "read again: 141 addresses" in go.log())
    assert go.ask("GET", "/v1/status")[1]["pool"] == 141
    assert process.poll() is None


@pytest.mark.root
def test_settings_of_dhcp_are_read_at_the_start_and_at_a_reload_or_not_at_all(go: Node, guest: str) -> None:
    settings = go.site.state_dir / "dhcp.toml"

    def told() -> str:
        show = ("busybox", "udhcpc", "-fqn", "-i", "eth0", "-O", "domain", "-s", str(script))
        return run("ip", "netns", "exec", guest, *show)

    script = go.home / "script"
    script.write_text('#!/bin/sh\n[ "$1" = bound ] && echo "lease=$lease domain=$domain" || :\n')
    script.chmod(0o755)
    settings.write_text('lease-time = "2h"\nspeed = 1\ncooling-time = 5\n')
    refused = go.start(wait=False)
    assert refused.wait(10) == os.EX_CONFIG
    assert "dhcp.toml: speed: not known" in go.log() and "dhcp.toml: cooling-time: 5 is not a time" in go.log()

    settings.write_text('lease-time = "2h"\n')
    process = go.start()
    assert "lease=7200 domain=\n" in told()
    settings.write_text('lease-time = "1h"\ndomain = "vms.example.org"\n')
    process.send_signal(signal.SIGHUP)
    eventually(lambda: "was read again" in go.log())
    assert "lease=3600 domain=vms.example.org" in told()
    settings.write_text('lease-time = "never"\n')
    process.send_signal(signal.SIGHUP)
    eventually(lambda: "was not read again" in go.log())
    assert "lease=3600 domain=vms.example.org" in told(), "it goes on with what it had"


@pytest.mark.root
def test_a_real_client_leases_and_gives_back(go: Node, guest: str, tmp_path: Path) -> None:
    run("ip", "-n", guest, "link", "set", "eth0", "address", "02:00:00:00:01:01")
    go.start("--metrics-addr", "127.0.0.1:9092")
    run("ip", "netns", "exec", guest, "busybox", "udhcpc", "-f", "-q", "-n", "-i", "eth0", "-s", "/bin/true")
    address = go.lease_file()["02:00:00:00:01:01"]
    assert address in go.routes() and address not in expected_leases().values()
    text = run(
        "ip", "netns", "exec", go.name, sys.executable, "-c",
        "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9092/metrics').read().decode())",
    )  # fmt: skip
    assert 'cocoon_net_dhcp_lease_total{result="ok"} 1.0' in text
    assert f"cocoon_net_dhcp_lease_active {GO_LEASES + 1}.0" in text
    assert 'cocoon_net_secondary_nics{state="present"} 2.0' in text
    assert go.ask("DELETE", "/v1/leases/02-00-00-00-01-01")[0] == 204
    assert "02:00:00:00:01:01" not in go.lease_file()
    assert address not in go.routes()
    eventually(lambda: "lease released" in go.log())


FETCH = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 9092, timeout=5)
try:
    connection.request("GET", sys.argv[2])
    reply = connection.getresponse()
    print(reply.status, reply.read().decode())
except (http.client.HTTPException, OSError) as error:
    print("nothing:", type(error).__name__)
"""


@pytest.mark.root
def test_on_every_address_the_metrics_are_for_operators_and_never_for_a_guest(go: Node, guest: str) -> None:
    run("ip", "-n", guest, "addr", "add", "172.20.100.77/24", "dev", "eth0")
    run("ip", "-n", guest, "route", "add", "default", "via", "172.20.100.1")
    go.ip("addr", "add", "10.9.0.5/24", "dev", "eth0")
    go.start("--metrics-addr", ":9092")

    def fetch(where: str, host: str, path: str) -> str:
        return run("ip", "netns", "exec", where, sys.executable, "-c", FETCH, host, path)

    for host in ("127.0.0.1", "10.9.0.5"):
        assert fetch(go.name, host, "/healthz").startswith("200 ok")
    for host in ("172.20.100.1", "10.9.0.5"):
        assert fetch(guest, host, "/metrics").startswith("nothing:"), host
    assert fetch(go.name, "127.0.0.1", "/readyz").startswith("200 ok")
    seen = json.loads(fetch(go.name, "127.0.0.1", "/view.json").partition(" ")[2])
    assert seen["phase"] == "serving" and seen["pool"]["states"]["bound"] == GO_LEASES
    assert [(one["key"], one["link"], one["state"]) for one in seen["enis"]] == [
        ("eni-1", "eth1", "down"),
        ("eni-2", "eth2", "down"),
    ]
    assert go.ask("GET", "/v1/view")[1]["blocks"] == seen["blocks"]
    assert go.ask("GET", "/v1/findings") == (200, {"findings": []})
    with locked(go.site.run_lock, what="a test", owner="init"):  # so that nobody puts it right
        go.ip("link", "del", "cni0")
        eventually(lambda: fetch(go.name, "127.0.0.1", "/readyz").startswith("503 the bridge cni0 is not there"))
    eventually(lambda: fetch(go.name, "127.0.0.1", "/readyz").startswith("200 ok"))
    eventually(lambda: "master cni0" in go.ip("link", "show", "tap0"))  # plugged in again, just after the bridge


STORM = """
import os, socket
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
out.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
out.bind(("", 68))
for number in range(8_000):
    junk = os.urandom(300)
    mac = os.urandom(6)
    ask = b"\\1\\1\\6\\0" + junk[:4] + bytes(20) + mac + bytes(202) + b"\\x63\\x82\\x53\\x63\\x35\\1\\1\\xff"
    out.sendto(junk if number % 2 else ask, ("255.255.255.255", 67))
"""


@pytest.mark.root
def test_a_storm_of_rubbish_and_of_questions_is_a_bounded_number_of_lines(go: Node, guest: str) -> None:
    run("ip", "-n", guest, "addr", "add", "169.254.7.7/16", "dev", "eth0")
    go.start("--messages-per-second", "0", "--addresses-per-port", "0")
    before = len(go.log().splitlines())
    run("ip", "netns", "exec", guest, sys.executable, "-c", STORM)
    eventually(lambda: go.ask("GET", "/v1/status")[1]["leases"]["offered"] == LAST - FIRST + 1 - GO_LEASES)
    time.sleep(0.5)
    assert len(go.log().splitlines()) - before < 20


@pytest.mark.root
def test_whoever_listens_does_not_keep_it_from_stopping(go: Node) -> None:
    process = go.start()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        listener.connect(str(go.site.control_socket))
        listener.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        heard = listener.makefile("rb")
        assert b"200" in heard.readline()
        assert go.ask("DELETE", f"/v1/leases/{MAC.format(5)}")[0] == 204
        while b"LeaseReleased" not in (line := heard.readline()):
            assert line, "the stream ended"
        began = time.monotonic()
        process.terminate()
        process.wait(5)
        assert time.monotonic() - began < 2
        assert b"the service stops" in heard.read()
