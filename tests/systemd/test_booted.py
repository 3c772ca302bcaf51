"""The unit in a real systemd: it starts, is reloaded, killed, hangs, stops, and repairs in spite of its sandbox.

One machine for all of it, booted once by tests/systemd/machine.py; each story begins with a service that serves.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from cocoon_net.errors import NodeError
from cocoon_net.lab import guests
from cocoon_net.lab import lab as labs
from cocoon_net.lab.cloud import Admin
from cocoon_net.lab.guests import Guest
from cocoon_net.lab.lab import Shape
from tests.systemd.machine import PROGRAM, STATE, UNIT, Machine, booted, eventually, nspawn

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("systemctl") is None, reason="there is no systemd"),
]

INIT = (
    *("init", "--platform", "volcengine", "--node-name", "cocoon-pool"),
    *("--subnet", "172.20.100.0/24", "--pool-size", "30"),
)
MAC = "02:00:00:00:00:07"
CONFLIST = "/etc/cni/net.d/30-cocoon-dhcp.conflist"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted node that was provisioned, with the unit in place and one guest with a lease."""
    try:
        program = nspawn()
    except NodeError as error:
        pytest.skip(f"there is no systemd-nspawn, and Debian's package systemd-container cannot be had: {error}")
    place = tmp_path_factory.getbasetemp() / "b"
    place.mkdir()
    lab = labs.open_lab(f"b{os.getpid() % 100000}", place / "lab")
    try:
        labs.up(lab, Shape(nodes=1), {})
        with booted(lab, place, program) as machine:
            settings = [*machine.settings(), "COCOON_NET_AUDIT_EVERY=2"]
            machine.write("/etc/default/cocoon-net", "\n".join(settings), "0600")
            machine.run(PROGRAM, "install")
            machine.product(*INIT, "--start")
            (lab.directory / "node1/cni/30-cocoon-dhcp.conflist").write_text(machine.read(CONFLIST))
            guests.add(lab, Guest("alice", "node1", "udhcpc", MAC, "alice"))
            yield machine
    finally:
        labs.down(lab)


@pytest.fixture
def node(machine: Machine) -> Iterator[Machine]:
    """The node, serving; whatever a story adds to the unit is taken away after it."""
    machine.run("systemctl", "start", UNIT)
    yield machine
    machine.run("rm", "-rf", f"/etc/systemd/system/{UNIT}.d")
    machine.run("systemctl", "daemon-reload")


def leases(node: Machine) -> dict[str, str]:
    return {row["mac"]: row["ip"] for row in json.loads(node.read(f"{STATE}/leases.json"))}


def reaches(node: Machine, address: str) -> bool:
    return node.run("ping", "-c", "1", "-W", "1", address, check=False).returncode == 0


def served_again(node: Machine, since: int) -> int:
    """Wait for another process that serves, and return its PID."""
    eventually(lambda: node.show("SubState") == "running" and node.pid not in (0, since), why=node.journal)
    return node.pid


def written(node: Machine, pid: int, path: str) -> bool:
    """Whether a file can be written where a process is; it gets what it has."""
    line = f"exec 2>/dev/null; cat {path} >/tmp/x && cat /tmp/x >{path}"
    return node.run("nsenter", "--target", str(pid), "--mount", "sh", "-c", line, check=False).returncode == 0


def drop_in(node: Machine, *lines: str) -> None:
    node.write(f"/etc/systemd/system/{UNIT}.d/test.conf", "\n".join(("[Service]", *lines, "")))
    node.run("systemctl", "daemon-reload")


def cloud(node: Machine, action: str, **params: object) -> None:
    """Call the lab's cloud as somebody with the console would."""
    words = [f"{key}={value}" for key, value in params.items()]
    line = [sys.executable, "-m", "cocoon_net", "lab", "call", "--name", node.lab.name, "node1", action, *words]
    subprocess.run(line, env={**os.environ, "COCOON_NET_LAB_DIR": str(node.lab.base)}, check=True, capture_output=True)


def interfaces(node: Machine) -> dict[str, dict[str, Any]]:
    """Return our interfaces as the cloud has them, by our key."""
    rows = [(dict(row["tags"]), row) for row in Admin(node.lab.admin_socket).state()["interfaces"]]
    return {tags["cocoon-net:key"]: row for tags, row in rows if "cocoon-net:key" in tags}


def test_it_is_started_when_it_serves_and_not_before(node: Machine) -> None:
    node.run("systemctl", "stop", UNIT)
    node.run("systemctl", "start", UNIT)
    assert "%cni0:67 " in node.run("ss", "-lun").stdout
    assert [row["mac"] for row in node.ask("/v1/leases")["leases"]] == [MAC]
    assert node.show("StatusText") == "serving: 30 addresses of 172.20.100.0/24"
    assert 'Status: "serving: 30 addresses' in node.run("systemctl", "status", UNIT).stdout


def test_it_may_do_three_things_and_write_what_it_repairs(node: Machine) -> None:
    status = dict(line.split(":\t", 1) for line in node.read(f"/proc/{node.pid}/status").splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1 << 10 | 1 << 12 | 1 << 13  # capabilities(7)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")

    repaired = (CONFLIST, f"{STATE}/leases.json", "/proc/sys/net/ipv4/ip_forward", "/run/cocoon-net.pid")
    assert [path for path in repaired if not written(node, node.pid, path)] == []
    others = ("/etc/hostname", "/usr/bin/true", PROGRAM, "/proc/sys/kernel/panic", "/sys/kernel/profiling")
    assert [path for path in others if written(node, node.pid, path)] == []


def test_it_may_write_run_also_where_systemd_takes_that_away(node: Machine) -> None:
    """As systemd 252 does not, beside these two: they make /run one of the mounts that strict leaves alone."""
    drop_in(node, "ProtectKernelTunables=no", "ProtectControlGroups=no")
    node.run("systemctl", "restart", UNIT)
    assert written(node, node.pid, "/run/cocoon-net.pid")
    assert not written(node, node.pid, "/etc/hostname")


DAMAGES = {
    "route": ("ip route del ADDRESS", "ip route show ADDRESS"),
    "chain": ("iptables -F COCOON-NET-FORWARD", "iptables -S COCOON-NET-FORWARD"),
    "jump": ("iptables -D FORWARD 1", "iptables -S FORWARD"),
    "rp_filter": ("sysctl -qw net.ipv4.conf.cni0.rp_filter=1", "sysctl net.ipv4.conf.cni0.rp_filter"),
    "forwarding": ("sysctl -qw net.ipv4.ip_forward=0", "sysctl net.ipv4.ip_forward"),
    "bridge": ("ip address del 172.20.100.1/24 dev cni0", "ip -o -4 address show cni0"),
    "link": ("ip link set eth1 down", "ip -br link show eth1"),
    "conflist": (f"echo nothing >{CONFLIST}", f"cat {CONFLIST}"),
    "no conflist": (f"rm {CONFLIST}", f"cat {CONFLIST}"),
    "leases.json": (f"echo '[]' >{STATE}/leases.json", f"cat {STATE}/leases.json"),
    "pool.json": (f"rm {STATE}/pool.json", f"grep -v updatedAt {STATE}/pool.json"),
}
"""What is broken: what somebody types, and what shows that it is right again."""


@pytest.mark.parametrize("what", DAMAGES)
def test_its_sandbox_lets_it_repair(node: Machine, what: str) -> None:
    address = leases(node)[MAC]
    damage, look = (words.replace("ADDRESS", address) for words in DAMAGES[what])

    def seen() -> str:
        return node.run("sh", "-c", look, check=False).stdout

    right = seen()
    assert right
    node.run("sh", "-c", damage)
    eventually(lambda: seen() == right, why=lambda: f"{right}\nis\n{seen()}\n{node.journal()}")
    assert reaches(node, address)


def test_its_audits_see_cloud_and_node(node: Machine) -> None:
    def found() -> set[tuple[str, str]]:
        return {(row["kind"], row["key"]) for row in node.ask("/v1/findings")["findings"]}

    def addresses() -> set[str]:
        return set(interfaces(node)["eni-1"]["secondaries"])

    eventually(lambda: found() == set(), why=lambda: f"{found()} {node.journal()}")
    ours, before = interfaces(node)["eni-1"]["id"], addresses()
    cloud(node, "AssignPrivateIpAddresses", NetworkInterfaceId=ours, SecondaryPrivateIpAddressCount=1)
    (added,) = addresses() - before
    eventually(lambda: found() == {("address-added", added)}, why=lambda: f"{found()} {node.journal()}")
    cloud(node, "UnassignPrivateIpAddresses", NetworkInterfaceId=ours, PrivateIpAddress=f'["{added}"]')
    eventually(lambda: found() == set(), why=lambda: f"{found()} {node.journal()}")


def test_killed_it_is_back_with_its_leases_and_its_directory(node: Machine) -> None:
    had, address, directory = node.pid, leases(node)[MAC], node.run("stat", "-c", "%i", "/run/cocoon-net").stdout
    node.run("kill", "-KILL", str(had))
    served_again(node, had)
    assert leases(node)[MAC] == address and reaches(node, address)
    assert node.run("stat", "-c", "%i", "/run/cocoon-net").stdout == directory


def test_hanging_it_is_ended_and_started_again(node: Machine) -> None:
    assert node.show("WatchdogUSec") == "1min"
    drop_in(node, "WatchdogSec=2", "TimeoutStopSec=1", "RestartSec=1")
    node.run("systemctl", "restart", UNIT)
    hung, before, address = node.pid, node.cursor(), leases(node)[MAC]
    node.run("kill", "-STOP", str(hung))
    eventually(lambda: "Watchdog timeout" in node.journal(before), why=node.journal)
    served_again(node, hung)
    assert leases(node)[MAC] == address and reaches(node, address)


def test_serving_it_is_not_taken_for_hanging(node: Machine) -> None:
    drop_in(node, "WatchdogSec=5")
    node.run("systemctl", "restart", UNIT)
    pid, first = node.pid, node.show("WatchdogTimestampMonotonic")
    eventually(lambda: int(node.show("WatchdogTimestampMonotonic")) > int(first) + 6_000_000, why=node.journal)
    assert (node.pid, node.show("NRestarts")) == (pid, "0")


def test_reloaded_it_reads_its_settings_again(node: Machine) -> None:
    pid, before = node.pid, node.cursor()
    node.write(f"{STATE}/dhcp.toml", 'lease-time = "soon"\n')
    node.run("systemctl", "reload", UNIT)
    eventually(lambda: "dhcp.toml" in node.journal(before), why=node.journal)
    node.run("rm", f"{STATE}/dhcp.toml")
    node.run("systemctl", "reload", UNIT)
    eventually(lambda: "was read again: 30 addresses" in node.journal(before), why=node.journal)
    assert (node.pid, node.show("ActiveState"), node.show("SubState")) == (pid, "active", "running")


def test_stopped_it_ends_by_itself_and_keeps_what_it_promised(node: Machine) -> None:
    address = leases(node)[MAC]
    node.run("systemctl", "stop", UNIT)
    assert (node.show("Result"), node.show("ExecMainStatus"), node.show("ActiveState")) == ("success", "0", "inactive")
    assert leases(node)[MAC] == address and reaches(node, address)
    assert node.run("test", "-e", "/run/cocoon-net", check=False).returncode == 1
    began, ended = (int(node.show(f"{name}TimestampMonotonic")) for name in ("ActiveExit", "ExecMainExit"))
    print(f"stopped within {(ended - began) / 1000:.0f} ms")


def test_what_may_pass_is_tried_again_until_it_has(node: Machine) -> None:
    node.run("systemctl", "stop", UNIT)
    drop_in(node, "RestartSec=200ms")
    node.run("systemd-run", "--unit=other", "--", "nc", "-lu", "-s", "172.20.100.1", "-p", "67")
    eventually(lambda: "67" in node.run("ss", "-lun").stdout)
    assert node.run("systemctl", "start", UNIT, check=False).returncode != 0
    assert node.show("ExecMainStatus") == "71"
    eventually(lambda: int(node.show("NRestarts")) > 1, why=node.journal)
    node.run("systemctl", "stop", "other")
    eventually(lambda: node.show("SubState") == "running", why=node.journal)


def test_what_only_the_operator_can_cure_is_not(node: Machine) -> None:
    node.run("systemctl", "stop", UNIT)
    drop_in(node, "RestartSec=200ms")
    node.write(f"{STATE}/dhcp.toml", 'lease-time = "soon"\n')
    assert node.run("systemctl", "start", UNIT, check=False).returncode != 0
    assert (node.show("ActiveState"), node.show("ExecMainStatus"), node.show("NRestarts")) == ("failed", "78", "0")
    assert "dhcp.toml" in node.journal()
    node.run("rm", f"{STATE}/dhcp.toml")
    node.run("systemctl", "start", UNIT)


def test_installing_again_changes_nothing(node: Machine) -> None:
    place = f"/etc/systemd/system/{UNIT}"
    before = node.run("stat", "-c", "%i %Y %a", place).stdout
    assert node.run(PROGRAM, "install").stdout.splitlines()[0] == "nothing to do"
    assert node.run("stat", "-c", "%i %Y %a", place).stdout == before
    assert before.split()[-1] == "644"
    assert node.run(PROGRAM, "install", "--print").stdout == node.read(place)
    assert node.show("NeedDaemonReload") == "no"


def test_an_edited_unit_is_kept_until_told_otherwise_and_a_drop_in_for_good(node: Machine) -> None:
    place = f"/etc/systemd/system/{UNIT}"
    good = node.read(place)
    drop_in(node, "RestartSec=7")
    node.write(place, good.replace("RestartSec=5", "RestartSec=1"))
    refused = node.run(PROGRAM, "install", check=False)
    assert refused.returncode == 73 and "was edited, and stays" in refused.stderr and "drop-in" in refused.stderr
    assert "RestartSec=1" in node.read(place)
    assert f"kept aside: {place}." in node.run(PROGRAM, "install", "--force").stdout
    assert node.read(place) == good
    assert "RestartSec=1" in node.run("sh", "-c", f"cat {place}.2*").stdout
    assert (node.show("NeedDaemonReload"), node.show("RestartUSec")) == ("no", "7s")
    node.run("sh", "-c", f"rm {place}.2*")


def test_a_unit_of_before_is_brought_up_to_date(node: Machine) -> None:
    place = f"/etc/systemd/system/{UNIT}"
    good = node.read(place)
    _head, _, body = good.partition("\n")
    old = body.replace("RestartSec=5", "RestartSec=9")
    stamp = hashlib.sha256(old.encode()).hexdigest()[:16]
    node.write(place, f"# cocoon-net install, version 0.0.9, {stamp}: as it was\n{old}")
    node.run("systemctl", "daemon-reload")
    assert node.show("RestartUSec") == "9s"
    assert f"wrote {place}" in node.run(PROGRAM, "install").stdout
    assert (node.read(place), node.show("RestartUSec")) == (good, "5s")


def test_bash_completes_commands_and_flags(node: Machine) -> None:
    def completed(*words: str) -> str:
        line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _cocoon_net_completion {PROGRAM}"
        script = f'. /usr/local/share/bash-completion/completions/cocoon-net; {line}; echo "${{COMPREPLY[@]}}"'
        return node.run("bash", "-c", script).stdout.strip()

    assert completed("cocoon-net", "tear") == "teardown"
    assert completed("cocoon-net", "init", "--pool") == "--pool-size"
    assert node.run("stat", "-c", "%a", "/usr/local/share/bash-completion/completions").stdout == "755\n"


def test_init_reloads_the_service_that_serves(node: Machine) -> None:
    pid, before = node.pid, node.cursor()
    said = node.product(*INIT, "--start").stderr
    assert f"{UNIT} was told to take the new pool" in said and "cocoon-net daemon" not in said
    eventually(lambda: "was read again: 30 addresses" in node.journal(before), why=node.journal)
    assert node.pid == pid


def test_init_starts_nothing_beside_a_daemon_of_somebodys_hand(node: Machine) -> None:
    node.run("systemctl", "stop", UNIT)
    node.run("systemd-run", "--unit=byhand", "--", PROGRAM, "daemon")
    eventually(lambda: "%cni0:67 " in node.run("ss", "-lun").stdout)
    refused = node.product(*INIT, "--start", check=False)
    assert refused.returncode == 78 and "a daemon serves this node that systemd did not start" in refused.stderr
    node.run("systemctl", "stop", "byhand")


def test_init_says_what_the_service_does_not_see(node: Machine) -> None:
    said = node.run("env", *node.settings(), "COCOON_NET_LOG_LEVEL=debug", PROGRAM, *INIT, "--start").stderr
    assert "the service does not see COCOON_NET_LOG_LEVEL of this shell" in said
    refused = node.product(*INIT, "--start", "--state-dir", "/srv/other", check=False)
    assert refused.returncode == 78 and "would not see this state dir, /srv/other" in refused.stderr


def test_a_node_that_is_adopted_is_served_by_one_command(node: Machine) -> None:
    address = leases(node)[MAC]
    node.run("systemctl", "disable", "--now", UNIT)
    node.run("mv", STATE, "/srv/kept")
    try:
        said = node.product("adopt", *INIT[1:], "--start").stderr
        assert f"{UNIT} is started: serving: 30 addresses of 172.20.100.0/24" in said
        assert (node.show("ActiveState"), node.show("UnitFileState")) == ("active", "enabled")
    finally:
        node.run("systemctl", "stop", UNIT)
        node.run("sh", "-c", f"rm -rf {STATE} && mv /srv/kept {STATE}")
    node.run("systemctl", "enable", "--now", UNIT)
    assert leases(node)[MAC] == address and reaches(node, address)


def test_a_node_is_provisioned_and_served_by_one_command_or_the_cloud_is_not_asked(node: Machine) -> None:
    place = f"/etc/systemd/system/{UNIT}"
    node.run("systemctl", "disable", "--now", UNIT)
    node.product("teardown")
    node.run("mv", place, "/etc/unit")
    node.run("systemctl", "daemon-reload")
    refused = node.product(*INIT, "--start", check=False)
    assert refused.returncode == 78 and "`cocoon-net install` first" in refused.stderr
    node.run("ln", "-s", "/dev/null", place)
    node.run("systemctl", "daemon-reload")
    refused = node.product(*INIT, "--start", check=False)
    assert refused.returncode == 78 and "is masked" in refused.stderr
    assert interfaces(node) == {}

    node.run("rm", place)
    node.run(PROGRAM, "install")
    said = node.product(*INIT, "--start").stderr
    assert f"{UNIT} is started: serving: 30 addresses of 172.20.100.0/24" in said
    assert set(interfaces(node)) == {"eni-1", "eni-2"}
    assert (node.show("ActiveState"), node.show("UnitFileState")) == ("active", "enabled")


def test_a_service_that_does_not_start_is_an_error_of_the_command(node: Machine) -> None:
    node.run("systemctl", "stop", UNIT)
    node.write(f"{STATE}/dhcp.toml", 'lease-time = "soon"\n')
    failed = node.product(*INIT, "--start", check=False)
    assert failed.returncode == 71 and "journalctl" in failed.stderr, failed.stderr
    node.run("rm", f"{STATE}/dhcp.toml")


def test_after_a_reboot_the_node_is_as_it_was(node: Machine) -> None:
    def kernel() -> str:
        rules = node.run("sh", "-c", "iptables-save | grep -v '^[:#]'").stdout
        return rules + node.run("ip", "-o", "-4", "address", "show", "cni0").stdout.partition("inet ")[2]

    node.product("lease", "reserve", MAC, "172.20.100.9")
    before = kernel()
    node.run("systemctl", "stop", UNIT)
    node.run("sh", "-c", "ip link del cni0; iptables -F; iptables -X; iptables -t nat -F; iptables -t nat -X")
    node.reboot()
    eventually(lambda: node.show("SubState") == "running", why=node.journal)
    assert kernel() == before
    assert node.ask("/v1/reservations")["reservations"][0]["mac"] == MAC


def test_roots_own_manager_runs_it_in_the_same_sandbox(node: Machine) -> None:
    node.run("systemctl", "stop", UNIT)
    node.run("systemctl", "start", "user@0.service")
    mine = ("env", "HOME=/root", "XDG_RUNTIME_DIR=/run/user/0")
    said = node.run(*mine, PROGRAM, "install", "--user-unit").stdout
    assert "wrote /root/.config/systemd/user/cocoon-net.service" in said and "read its units again" in said
    node.run(*mine, "systemctl", "--user", "start", UNIT)
    pid = int(node.run(*mine, "systemctl", "--user", "show", "--value", "--property=MainPID", UNIT).stdout)
    status = dict(line.split(":\t", 1) for line in node.read(f"/proc/{pid}/status").splitlines() if ":\t" in line)
    assert (int(status["CapEff"], 16), status["Seccomp"]) == (1 << 10 | 1 << 12 | 1 << 13, "2")
    assert written(node, pid, CONFLIST) and not written(node, pid, "/proc/sys/kernel/panic")
    node.run(*mine, "systemctl", "--user", "stop", UNIT)


def test_the_services_audits_are_in_no_commands_way(node: Machine) -> None:
    codes = [node.product(*INIT, check=False).returncode for _ in range(8)]
    assert codes == [0] * 8
