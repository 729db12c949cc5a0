"""A budget at a terminal is kept by what the program writes into its own record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.session_cases import done
from tests.session_rigs import ClaudeTerminal, CodexTerminal, Rehearsed

from harness.sessions.facts import ExitReason

if TYPE_CHECKING:
    from tests.conftest import Hosted


@pytest.mark.parametrize(("kind", "model"), [(ClaudeTerminal, "claude-opus-4-5"), (CodexTerminal, "gpt-5.5")])
async def test_a_budget_at_a_terminal_ends_the_session(hosted: Hosted, kind: type[Rehearsed], model: str) -> None:
    """The turn that crosses it is counted, and the end says what was spent."""
    rig = kind(hosted)
    agent = await rig.begin(max_budget_usd=0.0001, agent_args=("--model", model))

    await done(rig, agent, rig.says("one"))

    ended = await hosted.ended(agent)
    assert ended.exited is not None
    assert ended.exited.reason is ExitReason.TIMEOUT
    assert "the budget of 0.0001 USD is spent" in ended.exited.detail
    assert ended.totals.input_tokens == 100


@pytest.mark.parametrize("kind", [ClaudeTerminal, CodexTerminal])
async def test_a_budget_that_can_be_kept_no_more_ends_the_session(hosted: Hosted, kind: type[Rehearsed]) -> None:
    """A program that keeps no record says nothing of what it uses, and that is neither free nor little."""
    rig = kind(hosted)
    agent = await rig.begin(max_budget_usd=100.0, agent_args=("--store", ""))

    await done(rig, agent, rig.says("one"))

    ended = await hosted.ended(agent)
    assert ended.exited is not None
    assert ended.exited.reason is ExitReason.TIMEOUT
    assert ended.exited.detail == "nobody knows what it uses, so that a budget of 100 USD cannot be kept"
