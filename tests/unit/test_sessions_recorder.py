"""What a host keeps of its session in memory and in `session.json`, however long it lives."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from harness.ledger import MemoryStore, Reserve
from harness.sessions import Folder, facts
from harness.sessions.facts import MessageStatus
from harness.sessions.host.recorder import Recorder, draft, moved
from harness.sessions.summary_file import document

KEY = "w1@00000000"


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """Of a run whose folder nobody has made."""
    return Recorder(MemoryStore(), Folder(home=tmp_path, key=KEY))


async def test_what_is_over_is_forgotten_and_what_is_open_is_not(recorder: Recorder) -> None:
    """A thousand messages and approvals leave some dozens of each; the oldest of all still waits."""
    session = recorder.session
    for number in range(1000):
        id_ = f"m{number}"
        message = facts.Queued(message_id=id_, text="x", expires_us=1)
        await recorder.append(draft(facts.QUEUED, message), guards=(Reserve(facts.inbox_counter(KEY), 1, None),))
        asked = facts.ApprovalRequested(request=f"r{number}", tool="Bash")
        decided = facts.ApprovalDecided(request=asked.request, decision="allow", by="policy")
        await recorder.append(
            draft(facts.APPROVAL_REQUESTED, asked), *[draft(facts.APPROVAL_DECIDED, decided)] if number else ()
        )
        if number:
            drafts, guards = moved(session, id_, facts.DROPPED)
            await recorder.append(*drafts, guards=guards)

    assert len(session.messages) <= 130
    assert len(session.approvals) <= 130
    assert [message.id for message in session.pending] == ["m0"]
    assert [approval.request for approval in session.open_approvals] == ["r0"]
    assert "m999" in session.messages
    assert document(session)["messages"] == {**dict.fromkeys(MessageStatus, 0), "queued": 1, "dropped": 999}
    assert await recorder.store.reserved(facts.inbox_counter(KEY)) == 1


async def test_session_json_is_written_at_once_and_then_once_a_second(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message changes the state more than once, and each file costs as much as the message."""
    written: list[int] = []
    monkeypatch.setattr("harness.sessions.host.recorder.write_summary", lambda _folder, session: written.append(session.seq))

    for _ in range(100):
        recorder.save_soon()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert len(written) == 1
    recorder.save()  # at the end, whatever was planned
    assert len(written) == 2
    assert recorder._saving is None
