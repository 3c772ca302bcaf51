"""Every way in which cocoon-net can say no, and the exit code a machine can act on.

::

    CocoonError
    ├─ SpecError, WorkflowError   78 CONFIG       what was asked is wrong; all problems listed
    ├─ Refused                    77 NOPERM       not root, no capability, credentials denied
    ├─ WorldError                 (step, key)
    │  ├─ Unsupported             73 CANTCREAT    it differs in a way that we will not change
    │  ├─ CloudError              69 UNAVAILABLE
    │  │  ├─ CloudQuota           73 CANTCREAT    a limit of the account, the instance or the subnet
    │  │  ├─ CloudGone            69 UNAVAILABLE  the object asked for does not exist
    │  │  └─ CloudTransient       75 TEMPFAIL     retryable
    │  │     └─ CloudThrottled, CloudNotAsked     asked too often; not even asked, for we are to stop
    │  └─ NodeError               71 OSERR
    │     └─ NodeTransient        75 TEMPFAIL     retryable
    ├─ StoreError                 74 IOERR        the database or a state file cannot be read or written
    │  └─ Damaged                 74 IOERR        the database; the next command that acts or serves mends it
    ├─ NotSettled, Locked         75 TEMPFAIL     parked: the same command goes on / another cocoon-net is acting
    ├─ DriftFound                  1              plan or audit found differences, like diff
    └─ InvariantError             70 SOFTWARE     a bug; the only one printed with a traceback

A signal outside of a run is no error of ours: 130, as shells have it; a run that it stops is NotSettled.
The message says what was wanted and what was seen; ``hint`` says what to do next. Exit codes are the
names of ``sysexits.h`` as ``os`` spells them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar


class CocoonError(Exception):
    """The root: a message for the person awake at night, an exit code for the machine."""

    exit_code: ClassVar[int] = os.EX_SOFTWARE
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def told(self) -> str:
        """The message and what to do next, for one line of a log; ``cli.main`` prints them as two."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class SpecError(CocoonError):
    """What the operator asked for is wrong; ``problems`` lists all of it at once."""

    exit_code = os.EX_CONFIG

    def __init__(self, problems: Sequence[str] | str, *, hint: str = "") -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems), hint=hint)


class WorkflowError(SpecError):
    """A workflow file is wrong; ``problems`` lists all of it at once."""


class Refused(CocoonError):
    """We may not: not root, a capability is missing, or the cloud denied the credentials."""

    exit_code = os.EX_NOPERM


class WorldError(CocoonError):
    """The world said no. ``step`` and ``key`` are filled in by the runner, ``request_id`` by the cloud client."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str = "",
        request_id: str = "",
        step: str = "",
        key: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.request_id = request_id
        self.step = step
        self.key = key


class Unsupported(WorldError):
    """Something is there and differs in a way that we will not change, e.g. a subnet in another zone."""

    exit_code = os.EX_CANTCREAT


class CloudError(WorldError):
    """The cloud refused or failed a call, and asking again would not help."""

    exit_code = os.EX_UNAVAILABLE


class CloudQuota(CloudError):
    """A quota of the account, a limit of the instance type, or a subnet without free addresses."""

    exit_code = os.EX_CANTCREAT


class CloudGone(CloudError):
    """The object named in the call does not exist (any more)."""


class CloudTransient(CloudError):
    """Busy, timed out or broken on the way: look again, then ask again."""

    exit_code = os.EX_TEMPFAIL
    retryable = True


class CloudThrottled(CloudTransient):
    """The cloud refused a call only because it comes too often; it was not carried out."""


class CloudNotAsked(CloudTransient):
    """We were asked to stop before a call's turn came: it was not made."""


class NodeError(WorldError):
    """The kernel or a file of this node refused."""

    exit_code = os.EX_OSERR


class NodeTransient(NodeError):
    """The kernel was busy or something was in between: look again."""

    exit_code = os.EX_TEMPFAIL
    retryable = True


class StoreError(CocoonError):
    """The database or a state file cannot be read or written."""

    exit_code = os.EX_IOERR


class Damaged(StoreError):
    """The database is no database, misses parts, or holds rows that cannot be read."""


class NotSettled(CocoonError):
    """The run is parked: the world did not come to rest in time. The same command goes on with it."""

    exit_code = os.EX_TEMPFAIL


class Locked(CocoonError):
    """Another cocoon-net is acting on this node; ``owner`` is what it wrote of itself."""

    exit_code = os.EX_TEMPFAIL

    def __init__(self, message: str, *, hint: str = "", owner: str = "") -> None:
        super().__init__(message, hint=hint)
        self.owner = owner


class DriftFound(CocoonError):
    """A plan or an audit found differences."""

    exit_code = 1


class InvariantError(CocoonError):
    """A bug of ours; printed with a traceback."""

    exit_code = os.EX_SOFTWARE
