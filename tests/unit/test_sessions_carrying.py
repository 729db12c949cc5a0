"""Which messages a run that continues another one says again: none that may have been heard."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.sessions import facts
from harness.sessions.closing import NEVER_SENT
from harness.sessions.facts import MessageStatus, Mode
from harness.sessions.host.carrying import carried
from harness.sessions.record import Message, Session


def before(mode: Mode, record: Path | None, status: MessageStatus, reason: str = "") -> Session:
    session = Session(key="w1@0f3a9c21", mode=mode, vendor_transcript="" if record is None else str(record))
    session.messages["id-of-m"] = Message(
        id="id-of-m", text="go on", status=status, reason=reason, placing=facts.Placing.QUEUE, origin=facts.Origin(),
        queued_us=0, expires_us=100,
    )  # fmt: skip
    return session


@pytest.mark.parametrize(
    ("mode", "written", "again"),
    [
        (Mode.STREAM, '{"uuid":"another"}\n', True),
        (Mode.APP_SERVER, '{"clientId":"another"}\n', True),
        (Mode.STREAM, '{"uuid":"id-of-m"}\n', False),
        (Mode.STREAM, None, False),
        (Mode.PTY, '{"text":"another"}\n', False),  # what was typed is on record without its id, or a moment later
    ],
)
def test_one_that_was_on_its_way_is_said_again_if_it_is_known_not_to_have_come(
    tmp_path: Path, mode: Mode, written: str | None, again: bool
) -> None:
    record = None
    if written is not None:
        record = tmp_path / "record.jsonl"
        record.write_text(written)

    found = carried(before(mode, record, MessageStatus.UNKNOWN), now_us=0)

    assert [message.id for message in found] == (["id-of-m"] if again else [])


@pytest.mark.parametrize("mode", [Mode.STREAM, Mode.PTY])
def test_one_that_was_never_sent_is_said_while_its_time_lasts(mode: Mode) -> None:
    session = before(mode, None, MessageStatus.DROPPED, NEVER_SENT)

    assert [message.id for message in carried(session, now_us=99)] == ["id-of-m"]
    assert carried(session, now_us=100) == []
    assert carried(before(mode, None, MessageStatus.DROPPED, "somebody dropped it"), now_us=0) == []
