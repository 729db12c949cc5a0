"""When what somebody waits for has come: decided by the session's events alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from harness.ledger import Event
from harness.sessions import facts
from harness.sessions.client import Until, Waiting

KEY = "w1@00000001"


def told(*events: tuple[str, msgspec.Struct], until: Until = Until.TASK_COMPLETE) -> Waiting:
    """What is known after these events."""
    waiting = Waiting(KEY, until)
    for seq, (type_, payload) in enumerate(events, 1):
        data = msgspec.json.encode(payload)
        waiting.see(
            Event(
                position=seq, stream=f"session/{KEY}", seq=seq, type=type_, ts=seq, actor="", tenant="", parent=None, key=None,
                schema=1, data=data, salt=b"", stored_digest=None, prev=b"", hash=b"",
            )
        )  # fmt: skip
    return waiting


def queued(id_: str, **values: Any) -> tuple[str, msgspec.Struct]:
    return facts.QUEUED, facts.Queued(message_id=id_, text="x", expires_us=1, **values)


def moved(type_: str, id_: str) -> tuple[str, msgspec.Struct]:
    return type_, facts.Moved(message_id=id_)


def turn(name: str, *ids: str, more: bool = False) -> tuple[str, msgspec.Struct]:
    return facts.TURN_COMPLETED, facts.TurnCompleted(turn=name, outcome="success", message_ids=ids, more=more)


def state(name: str) -> tuple[str, msgspec.Struct]:
    return facts.STATE_CHANGED, facts.StateChanged(state=facts.State(name), source=facts.Source.HOOK, confidence=1.0)


SENT = (queued("m"), moved(facts.WRITTEN, "m"))


@pytest.mark.parametrize(
    ("events", "gives"),
    [
        ((), None),
        ((turn("t1"),), "t1"),  # what it was started for
        ((turn("t1", more=True),), None),  # work goes on
        ((turn("t1"), queued("m")), None),  # from before the message
        ((queued("m"), turn("t1")), None),  # it was under way when the message came
        ((*SENT, turn("t1")), "t1"),
        ((*SENT, turn("t1", "other")), None),
        ((*SENT, turn("t1", "m", more=True)), None),
        ((*SENT, turn("t1", "m")), "t1"),
        ((queued("m"), turn("t1", "m")), "t1"),  # a receipt by the turn's end alone
        ((*SENT, turn("t1", "m"), queued("n")), None),
        ((*SENT, turn("t1", "m"), queued("n"), moved(facts.WITHDRAWN, "n")), "t1"),
        ((*SENT, turn("t1", "m"), queued("n"), moved(facts.EXPIRED, "n")), "t1"),
        ((*SENT, turn("t1", "m"), queued("n", submit=False)), "t1"),  # text without Enter starts nothing
        ((*SENT, queued("n"), moved(facts.WRITTEN, "n"), turn("t1", "m", "n")), "t1"),
        ((turn("t0"), queued("m"), moved(facts.DROPPED, "m")), "t0"),
    ],
)
def test_the_last_messages_turn_completes_the_task(events: tuple[Any, ...], gives: str | None) -> None:
    """No older one, none of another message, none after which work goes on by itself."""
    waiting = told(*events)

    assert (waiting.task.turn if waiting.task else None) == gives
    assert waiting.come == (gives is not None)


def test_a_prompt_with_a_message_on_its_way_is_none() -> None:
    """It is about to be busy."""
    at_prompt = (state("prompt"),)

    assert told(*at_prompt, until=Until.PROMPT).come
    assert not told(*at_prompt, queued("m"), until=Until.PROMPT).come
    assert not told(*at_prompt, *SENT, until=Until.PROMPT).come
    assert told(*at_prompt, *SENT, moved(facts.ACCEPTED, "m"), until=Until.PROMPT).come
    assert not told(*at_prompt, state("busy"), until=Until.PROMPT).come
    assert told(state("busy"), until=Until.BUSY).come


@pytest.mark.parametrize("until", list(Until))
def test_after_the_end_only_the_exit_has_come(until: Until) -> None:
    """Whatever it did before."""
    exited = facts.EXITED, facts.Exited(reason=facts.ExitReason.SUCCESS, code=0)

    waiting = told(state("prompt"), turn("t1"), exited, until=until)

    assert waiting.come == (until is Until.EXIT)
    assert not told(state("prompt"), until=Until.EXIT).come
