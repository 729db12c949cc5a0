"""What is recorded of sessions in a run's stream, and what the newest record means for the next pass. Pure.

A session is a numbered stretch of work on a run. It lasts until its work is done or has failed by its own verdict; a
pass over it that is cut short in any other way is followed by another pass over the same session.

| newest record           | what happened                            | the next pass                                      |
|-------------------------|------------------------------------------|----------------------------------------------------|
| none                    | nothing yet                              | begins session 1                                   |
| `session.started` n,    | a kill                                   | goes on with n: finished steps are replayed        |
| `session.resumed` n     |                                          |                                                    |
| `session.interrupted` n | a cancellation, or the kernel could not  | goes on with n, and tries again what had failed    |
|                         | go on (budget, model away, paused, …)    |                                                    |
| `session.ended` n       | its work is done                         | begins n + 1                                       |
| `session.ended` n,      | its own code raised                      | begins n + 1, and tries again what had failed      |
| failed                  |                                          | under a key                                        |
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from harness.kernel.records import Record
from harness.ledger import Event

SESSION_STARTED: Final = "session.started"
SESSION_RESUMED: Final = "session.resumed"
SESSION_INTERRUPTED: Final = "session.interrupted"
SESSION_ENDED: Final = "session.ended"

CHILD_LINKED: Final = "child.linked"

SESSION_KEY: Final = "session"  # the key of them all, so that the newest is found without reading the others

Outcome = Literal["completed", "failed"]


class SessionRecord(Record, frozen=True, kw_only=True):
    """The payload of each of them; what a type has no use for is left out."""

    number: int
    by: str = ""  # what works in it: the class of a harness
    cause: str = ""  # what asked for it; asking again for the same gives the same session
    holder: str = ""
    initialized: bool = False  # whether the run's first stage is over
    outcome: Outcome | None = None
    error: str = ""  # class name of what cut it short or made it fail
    message: str = ""


class ChildLinked(Record, frozen=True, kw_only=True):
    """Another run is this run's child."""

    run_id: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the next pass over a run is."""

    number: int
    resumes: bool = False  # an earlier pass over this session was cut short
    retries: bool = False  # the last pass met an error, so recorded failures are tried again
    replays: bool = False  # the session is over: its steps are replayed, and nothing is recorded
    initialized: bool = False


def planned(newest: SessionRecord | None, type_: str, over: int | None = None, *, fresh: bool = False) -> Plan:
    """What the newest record, of this type, means for the next pass.

    `over` is the session that was completed for the same cause. `fresh` does not go on with what was cut short.
    """
    if over is not None:
        return Plan(number=over, replays=True, initialized=True)
    if newest is None:
        return Plan(number=1)
    retries = bool(newest.error)
    if type_ != SESSION_ENDED and not fresh:
        return Plan(number=newest.number, resumes=True, retries=retries, initialized=newest.initialized)
    return Plan(number=newest.number + 1, retries=retries, initialized=newest.initialized)


def record_of(event: Event, sessions_before: int) -> SessionRecord:
    """The payload of a session's event; of an erased one what its place says."""
    if event.erased:
        return SessionRecord(number=max(1, sessions_before), initialized=True)
    return event.load(SessionRecord)
