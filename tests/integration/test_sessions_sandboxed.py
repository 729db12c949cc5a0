"""Sessions looked at from within a sandbox, where none of their processes are to be seen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from tests.session_rigs import comes_true

from harness.sessions import ids, session_gone

if TYPE_CHECKING:
    from tests.conftest import Hosted


@pytest.mark.parametrize("view", ["another", ""])
async def test_a_session_is_alive_for_as_long_as_its_host_holds_its_folder(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    """Pids tell nothing there: who went by them would record a living session as lost. A dead one is still found out."""
    launched = await hosted.launch("sleep", "1000", mode="once")
    name, boot, _ = ids.machine().split("/")
    monkeypatch.setattr(ids, "machine", lambda: f"{name}/{boot}/{view}")

    seen = await hosted.sessions.get(launched.key)

    assert seen.live
    assert not session_gone(hosted.store, seen)
    for pid in (launched.guard_pid, launched.host_pid):  # its agent goes on, and holds nothing
        os.kill(pid, 9)
    await comes_true(lambda: session_gone(hosted.store, seen))
    ended = await hosted.ended(launched)
    assert ended.exited is not None
    assert (ended.exited.reason, ended.exited.by) == ("lost", "test")


async def test_an_earlier_start_of_the_machine_has_left_nothing(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a session from before a restart nothing can run, whoever looks."""
    launched = await hosted.launch("sleep", "1000", mode="once")
    session = await hosted.sessions.get(launched.key)
    name = ids.machine().partition("/")[0]

    monkeypatch.setattr(ids, "machine", lambda: f"{name}/later/1")

    assert session_gone(hosted.store, session)
