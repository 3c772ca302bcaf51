"""Run the command line in this process and die by SIGKILL at one moment of the journal.

    die.py "before conclude enis" run init --resume

Moments: ``before`` or ``after`` a method of the journal, in a state. The process is the real one, the death is the
kernel's: no handler runs, nothing is flushed. ``DIE_BY=SIGSTOP`` makes it fall asleep there instead.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from cocoon_net.cli.main import run
from cocoon_net.engine.journal import Journal

BY = signal.Signals[os.environ.get("DIE_BY", "SIGKILL")]
MOMENTS = ("enter", "intend", "conclude", "settle")


def arm(moment: str) -> None:
    """Wrap the journal so that the process dies at ``moment``."""
    here = ""

    def reach(what: str) -> None:
        if what == moment:
            os.kill(os.getpid(), BY)

    def wrap(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(self: Journal, *args: Any, **kwargs: Any) -> Any:
            nonlocal here
            if name == "enter":
                here = args[1]
            reach(f"before {name} {here}")
            result = original(self, *args, **kwargs)
            reach(f"after {name} {here}")
            return result

        return wrapped

    for name in MOMENTS:
        setattr(Journal, name, wrap(name, getattr(Journal, name)))


if __name__ == "__main__":
    arm(sys.argv[1])
    sys.exit(run(sys.argv[2:]))
