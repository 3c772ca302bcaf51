#!/bin/bash
# Runs in the machine that scripts/systemd-test boots, once per boot, and says what is so there.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
program=/opt/cocoon-net/bin/cocoon-net unit=cocoon-net.service state=/var/lib/cocoon/net

say() { echo "fact: $*"; }
so() { # so TEXT COMMAND...: what the command finds
  local text=$1
  shift
  if "$@" >/tmp/said 2>&1; then say "ok      $text"; else say "NOT SO  $text: $(tail -c 600 /tmp/said | tr '\n' ' ')" && return 1; fi
}
within() { # within SECONDS COMMAND...
  local until=$((SECONDS + $1))
  shift
  while ! "$@"; do [ $SECONDS -lt $until ] || return 1; sleep 0.3; done
}
show() { systemctl show --value --property="$1" $unit; }
is() { [ "$(show "$1")" = "$2" ] || { show "$1"; journalctl -u $unit -o cat -n 8; false; }; }
repaired() { # repaired "BREAK" "SHOW"
  local right
  right=$(eval "$2") && [ -n "$right" ] && eval "$1" && within 60 eval "[ \"\$($2)\" = '$right' ]" || { echo "wanted $right"; eval "$2"; false; }
}
insists() { # in the service's sandbox a process gives way to other sessions, too, and gets a share after all
  local line settings=()
  while read -r line; do settings+=(-p "$line"); done < <(grep -E '^(CapabilityBoundingSet|NoNewPrivileges|LimitNICE|SystemCall\w+)=' /etc/systemd/system/$unit)
  systemd-run --quiet --wait --pipe "${settings[@]}" /opt/cocoon-net/bin/python -c '
import os, subprocess, sys, time
from pathlib import Path
from cocoon_net.supervisor.priority import SLICE, give_way, insist, priority
with subprocess.Popen(["sleep", "20"], start_new_session=True) as one:
    share = Path(f"/proc/{one.pid}/autogroup")
    def found():
        return *priority(one.pid), *(share.read_text().split()[-1:] if share.exists() else [])
    give_way(one.pid)
    modest = found()
    time.sleep(0.2)
    insist(one.pid, 10)
    left = found()
    one.kill()
slices = SLICE if priority(0).slice else 0.0  # Linux before 6.12 has none
right = (os.SCHED_IDLE, 0, slices, *["19"][: len(modest) - 3]), (os.SCHED_OTHER, 10, slices, *["10"][: len(left) - 3])
sys.exit(0 if (modest, left) == right else f"policy, niceness, slice and share are {modest}, then {left}")'
}
another() { [ "$(show SubState)" = running ] && [ "$(show MainPID)" != "$1" ]; }
finish() {
  say "done: $(uname -r), $(systemctl --version | head -n 1)"
  systemctl poweroff
  exit
}

if [ -e /booted ]; then
  so "after a reboot the service serves by itself" within 60 is SubState running
  so "the bridge is back" ip -4 address show cni0
  so "the rules are back" iptables -C FORWARD -j COCOON-NET-FORWARD
  so "the lease is back, with its route" sh -c 'ip route show 172.20.100.2 | grep -q cni0 && grep -q 02:00:00:00:00:02 '$state/leases.json
  so "at the first try" is NRestarts 0
  finish
fi
touch /booted

so "neither bridge nor nf_tables is loaded before" sh -c '! lsmod | grep -qE "^(bridge|nf_tables|iptable_filter) "'
so "install puts the unit in place" $program install
so "the unit is enabled" systemctl enable $unit
so "it starts" systemctl start $unit
so "it serves" is SubState running || finish
so "its status says so" sh -c "systemctl status $unit | grep 'Status: \"serving: 30 addresses'"
so "the kernel loaded bridge and nf_tables for it" sh -c 'lsmod | grep -q "^bridge " && lsmod | grep -q "^nf_tables "'
so "it may not load any" sh -c "grep CapBnd: /proc/$(show MainPID)/status | grep -q 0000000000003400"
so "systemd-analyze counts less than 3.0" systemd-analyze security --threshold=29 $unit
so "its PID file is there" sh -c '[ "$(cat /run/cocoon-net.pid)" = '"$(show MainPID)"' ]'
so "an audit gives way to other sessions, and gets a share of the processor when it takes long" insists
so "it took the Go lease over" sh -c 'ip route show 172.20.100.2 | grep -q cni0'

ip netns add guest
ip link add plug type veth peer name eth0 netns guest address 02:00:00:00:00:03
ip link set plug master cni0 up
ip -n guest link set eth0 up
so "a guest leases an address" ip netns exec guest udhcpc -f -q -n -t 20 -T 1 -i eth0 -s /bin/true
so "its route is there" sh -c 'ip route show proto 174 | grep -v "^172.20.100.2 "'

so "a route is repaired" repaired "ip route del 172.20.100.2" "ip route show 172.20.100.2"
so "a chain is repaired" repaired "iptables -F COCOON-NET-FORWARD" "iptables -S COCOON-NET-FORWARD"
so "rp_filter is repaired" repaired "sysctl -qw net.ipv4.conf.cni0.rp_filter=1" "sysctl -n net.ipv4.conf.cni0.rp_filter"
so "the bridge's address is repaired" repaired "ip address del 172.20.100.1/24 dev cni0" "ip -o -4 address show cni0 | cut -d' ' -f2-9"

pid=$(show MainPID)
kill -KILL "$pid"
so "killed it is back" within 60 another "$pid"
so "with its leases" sh -c "grep -q 02:00:00:00:00:03 $state/leases.json"
mkdir -p /etc/systemd/system/$unit.d
printf '[Service]\nWatchdogSec=10\nTimeoutStopSec=2\n' >/etc/systemd/system/$unit.d/test.conf
systemctl daemon-reload
systemctl restart $unit
pid=$(show MainPID)
kill -STOP "$pid"
so "hanging it is ended and back" within 90 another "$pid"
rm -r /etc/systemd/system/$unit.d
systemctl daemon-reload
so "it stops" systemctl stop $unit
so "and ended by itself" is Result success
systemctl reboot
