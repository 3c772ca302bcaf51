"""Our iptables rules: one look by ``iptables-save``, one change by ``iptables-restore``, each table at once.

``--noflush`` leaves the chains of others alone; a table is one transaction, so no packet meets half a ruleset. Of what
the Go cocoon-net put into FORWARD and POSTROUTING themselves only the drop rules carry a mark, their comment: ours
replace those. The others are left where they are and noted in the journal (``go_rules``).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network

from cocoon_net.engine.model import Call, Change, Context, Seen, Verb, Via
from cocoon_net.errors import CocoonError, InvariantError, NodeError, NodeTransient, Refused
from cocoon_net.formats import iptables
from cocoon_net.records import BRIDGE, Link, Ruleset

KEY = "iptables"

LOCK_WITHIN = 5
"""Seconds that iptables waits for the lock of another iptables (``-w``); the nf_tables variant needs none."""

RUN_WITHIN = 20.0
"""Seconds for one command, the lock included; reading a table of 50,000 rules takes about one."""

_BUSY = 4
"""iptables' exit code when the kernel or the lock was busy (RESOURCE_PROBLEM), and when it may not."""


class Firewall:
    """One key, ``iptables``: there when one of our chains is."""

    def observe(self, cx: Context) -> Seen:
        """Read all rules once. Raises Refused, NodeError where iptables is missing or cannot."""
        found = iptables.parse(save())
        return {} if found is None else {KEY: found}

    def calls(self, change: Change, cx: Context) -> tuple[Call, ...]:
        """Both tables by one restore."""
        match change.want:
            case Ruleset() as want:
                what = (
                    f"{len(want.filter_rules)} rules in {iptables.FORWARD}, {len(want.nat_rules)} in "
                    f"{iptables.POSTROUTING}, jumped to from the head of FORWARD and of POSTROUTING"
                )
            case _:
                what = f"{iptables.FORWARD} and {iptables.POSTROUTING} removed, with the jumps to them"
        return (Call(Via.KERNEL, f"iptables-restore --noflush: {what}"),)

    def apply(self, change: Change, token: str, cx: Context) -> Mapping[str, str]:
        """Put our chains and jumps right, or remove them, by one restore. Raises Refused, NodeError."""
        want = None if change.verb is Verb.DELETE else change.want
        if not isinstance(want, Ruleset | None):
            raise InvariantError(f"firewall cannot apply {want!r}")
        found = save()
        text = iptables.restore(want, found)
        if text:
            _run("iptables-restore", "--noflush", "-w", str(LOCK_WITHIN), given=text)
        links = [record.name for record in cx.records("links").values() if isinstance(record, Link)]
        left = go_rules(found, cx.spec.subnet, links)
        return {"left alone": "; ".join(left)} if left else {}


def save() -> str:
    """Return what ``iptables-save`` says, the rules of others included. Raises Refused, NodeError."""
    return _run("iptables-save")


def go_rules(saved: str, subnet: IPv4Network, links: Sequence[str]) -> tuple[str, ...]:
    """Return the rules that the Go cocoon-net appends and cannot mark, as ``iptables-save`` says them. Pure."""
    written = {f"-A FORWARD -i {BRIDGE} -o {BRIDGE} -j ACCEPT"}
    for link in links:
        written |= {f"-A FORWARD -i {link} -o {BRIDGE} -j ACCEPT", f"-A FORWARD -i {BRIDGE} -o {link} -j ACCEPT"}
    written.add(f"-A POSTROUTING -s {subnet} ! -o {BRIDGE} -j MASQUERADE")
    return tuple(line for line in saved.splitlines() if line in written)


def _run(program: str, *arguments: str, given: str = "") -> str:
    """Run one of iptables' programs and return what it says; ``given`` is its input."""
    wanted = "read the iptables rules" if program == "iptables-save" else "change our iptables rules"
    try:
        done = subprocess.run(
            [program, *arguments],
            input=given,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=RUN_WITHIN,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise NodeError(
            f"cannot {wanted}: there is no {program} in the PATH",
            hint="install the Debian package iptables, or keep the rules yourself (daemon: --skip-iptables)",
            code="NoIptables",
        ) from None
    except PermissionError as error:
        raise Refused(f"cannot {wanted}: {program} may not be run", hint="run as root") from error
    except subprocess.TimeoutExpired:
        message = f"cannot {wanted}: {program} did not end within {RUN_WITHIN:g} s"
        raise NodeTransient(message, hint="`pgrep -a iptables` shows who has the lock; it is tried again") from None
    if done.returncode:
        raise _refusal(wanted, program, done.returncode, done.stderr)
    return done.stdout


def _refusal(wanted: str, program: str, code: int, said: str) -> CocoonError:
    words = " ".join(said.split()) or "it said nothing"
    message = f"cannot {wanted}: {program} ended with {code}: {words}"
    if "Permission denied" in said or "you must be root" in said:
        return Refused(message, hint="run as root, or give the service the capability CAP_NET_ADMIN")
    if code == _BUSY or "does a matching rule exist" in said:  # somebody changed the rules between our look and now
        hint = "somebody else changes the rules just now (`pgrep -a iptables`); it is tried again"
        return NodeTransient(message, hint=hint, code=f"iptables-{code}")
    return NodeError(message, hint="`iptables-save` shows what is there", code=f"iptables-{code}")
