"""Signals and a process that is to stop: the first is noted, the second ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from cocoon_net.stop import Stop

WAITS = """
import time
from cocoon_net.stop import Stop
stop = Stop()
with stop.on_signals():
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_only_noted_and_the_handlers_come_back(number: signal.Signals) -> None:
    given = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests under nohup(1) ignores SIGHUP
    try:
        stop = Stop()
        with stop.on_signals():
            os.kill(os.getpid(), number)
            assert stop.asked == number.name
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, given)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = Stop()
        with stop.on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.asked == ""
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_second_signal_ends_the_process_with_75() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGTERM)
            assert b"once more stops at once" in process.stderr.readline()
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert b"pending in the journal" in process.stderr.readline()
            assert process.wait(5) == os.EX_TEMPFAIL
        finally:
            process.kill()
