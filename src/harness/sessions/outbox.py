"""Which message goes to the agent now, if any. Pure: it decides from the record, the state and the time.

Messages go first in, first out, one turn at a time, and only into a state that is known. A steering or interrupting one may
go past those that wait for the prompt. Where the state is unknown nothing is sent but what its sender has forced.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from harness.sessions.facts import MessageStatus, Placing, State
from harness.sessions.record import Message, Session


class Deliver(msgspec.Struct, frozen=True):
    """Write this message now; `placing` as it is to be said, which for a steering one at the prompt is `queue`."""

    message: Message
    placing: Placing


class InterruptFirst(msgspec.Struct, frozen=True):
    """End the turn under way, so that this message can be delivered at the prompt."""

    message: Message


class Hold(msgspec.Struct, frozen=True):
    """Nothing can be sent now; `reason` says why, for a sender who waits."""

    reason: str


Next = Deliver | InterruptFirst | Hold

_FORCIBLE = frozenset({State.PROMPT, State.BUSY, State.UNKNOWN, State.LIMITED})


def expired(session: Session, now_us: int) -> list[Message]:
    """The messages whose time is over before they were written."""
    return [message for message in session.pending if message.expires_us <= now_us]


def next_expiry_us(session: Session) -> int | None:
    """When the next message expires."""
    return min((message.expires_us for message in session.pending), default=None)


def next_message(
    session: Session, *, state: State, can: Collection[str], interrupted: Collection[str] = (), typing: bool = False
) -> Next:
    """What to do for the messages that wait.

    `interrupted` are ids of messages for which the turn was interrupted already; `typing`: a person is at the terminal
    in the middle of a line.
    """
    waiting = session.pending
    if not waiting:
        return Hold("nothing waits")
    if session.stop is not None or not session.live:
        return Hold("the session is ending")
    in_flight = any(message.status is MessageStatus.WRITTEN for message in session.messages.values())
    if in_flight:
        return Hold("the receipt of the message before is awaited")
    if "messages" not in can:
        return Hold("the program takes no messages after its first")
    first = _overtaking(waiting, state, can, interrupted)
    if first is not None:
        return first
    message = waiting[0]
    if message.forced and state in _FORCIBLE:
        placing = Placing.STEER if state is State.BUSY and "steer" in can else Placing.QUEUE
        return Deliver(message, placing)
    if typing:
        return Hold("a person is typing")
    if state is not State.PROMPT:
        return Hold(f"the agent is {state}")
    if any(message.status is MessageStatus.ACCEPTED for message in session.messages.values()):
        return Hold("the turn of the message before is not over")
    return Deliver(message, Placing.QUEUE)


def _overtaking(
    waiting: list[Message], state: State, can: Collection[str], interrupted: Collection[str]
) -> Deliver | InterruptFirst | None:
    """A message that need not wait for the prompt."""
    if state is not State.BUSY:
        return None
    for message in waiting:
        if message.placing is Placing.STEER and "steer" in can:
            return Deliver(message, Placing.STEER)
        if message.placing is Placing.INTERRUPT and "interrupt" in can and message.id not in interrupted:
            return InterruptFirst(message)
    return None
