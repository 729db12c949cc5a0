"""What every transport must do, or honestly refuse: one suite, run over rehearsed and over real programs.

Each case branches on what the transport says that it `can`, and asserts the other branch too: what cannot be done is
refused, held or nowhere on record. `rig` is the fixture of the module that takes these tests in.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.session_rigs import comes_true

from harness.errors import NotFound, UsageError
from harness.sessions import Launched, facts
from harness.sessions.facts import ExitReason, MessageStatus, Placing, State
from harness.sessions.record import Message, Session, folded

if TYPE_CHECKING:
    from tests.session_rigs import Rig

    from harness.ledger import Event

LINES = "first line, with 'quotes' and \"more\"\n  second line: ünïcödé ✓ $HOME `date` \\n\n\nlast line says one"
TERM = 30.0


async def until(rig: Rig, agent: Launched, holds: Callable[[Session], object]) -> Session:
    """The session once this holds of it as it is now, by its events."""
    session = await now(rig, agent)
    async with asyncio.timeout(rig.hosted.PATIENCE_SECONDS):
        async with contextlib.aclosing(rig.hosted.sessions.follow(agent.key, after=session.seq)) as feed:
            while not holds(session):
                session.fold(await anext(feed))
    return session


async def at(rig: Rig, agent: Launched, *states: State) -> Session:
    return await until(rig, agent, lambda session: session.state in states)


async def send(rig: Rig, agent: Launched, text: str, **how: Any) -> str:
    return await rig.hosted.sessions.send(agent.key, text, ttl_seconds=600, **how)


async def final(rig: Rig, agent: Launched, id_: str, *statuses: MessageStatus) -> Message:
    """The message once it is final, or stands at one of these."""
    async with asyncio.timeout(rig.hosted.PATIENCE_SECONDS):
        return await rig.hosted.sessions.message(agent.key, id_, until=statuses or facts.FINAL_STATUSES)


async def done(rig: Rig, agent: Launched, text: str, **how: Any) -> Message:
    return await final(rig, agent, await send(rig, agent, text, **how))


async def told(rig: Rig, agent: Launched, *types: str) -> list[Event]:
    return [event for event in await rig.hosted.events(agent) if event.type in types]


async def loaded(rig: Rig, agent: Launched, type_: str, shape: type[Any]) -> list[Any]:
    return [event.load(shape) for event in await told(rig, agent, type_)]


async def now(rig: Rig, agent: Launched) -> Session:
    return folded(agent.key, await rig.hosted.events(agent))


async def test_it_comes_to_its_prompt_or_says_that_it_takes_no_messages(rig: Rig) -> None:
    """Whatever takes messages waits at a prompt; what was given its one prompt never does, and refuses every message."""
    if "messages" in await rig.can():
        agent = await rig.begin()

        session = await at(rig, agent, State.PROMPT)

        assert session.state_source
        return
    agent = await rig.begin(context=rig.holds("one"))
    await rig.held("one")
    await at(rig, agent, State.BUSY)

    refused = await done(rig, agent, rig.says("two"))
    rig.release("one")
    ended = await rig.hosted.ended(agent)

    assert (refused.status, refused.reason) == (
        MessageStatus.FAILED, "a session of mode once takes no messages after its first",
    )  # fmt: skip
    assert rig.heard(rig.says("two")) == 0
    changes = await loaded(rig, agent, facts.STATE_CHANGED, facts.StateChanged)
    assert State.PROMPT not in [change.state for change in changes]
    assert ended.exited is not None
    assert (ended.exited.code, ended.exited.reason) == (0, ExitReason.SUCCESS)


async def test_a_message_is_accepted_and_done_and_came_once(rig: Rig) -> None:
    """Its stages are on record once and in order, and its turn names it."""
    if "messages" not in await rig.can():
        agent = await rig.begin(context=rig.says("one"))
        ended = await rig.hosted.ended(agent)
        assert ended.exited is not None
        assert (ended.exited.code, rig.heard(rig.says("one"))) == (0, 1)
        return
    agent = await rig.begin()

    message = await done(rig, agent, rig.says("one"))

    stages = await told(rig, agent, facts.QUEUED, facts.WRITTEN, facts.ACCEPTED, facts.COMPLETED)
    (turn,) = await loaded(rig, agent, facts.TURN_COMPLETED, facts.TurnCompleted)
    (began,) = await loaded(rig, agent, facts.TURN_STARTED, facts.TurnStarted)
    assert message.status is MessageStatus.DONE
    assert [event.type for event in stages] == [facts.QUEUED, facts.WRITTEN, facts.ACCEPTED, facts.COMPLETED]
    assert (turn.message_ids, turn.outcome, turn.turn) == ((message.id,), "success", began.turn)
    assert rig.heard(rig.says("one")) == 1


async def test_many_lines_come_as_they_were_sent(rig: Rig) -> None:
    """One message, however many lines; to a program that reads lines they are several."""
    if "messages" not in await rig.can():
        agent = await rig.begin(context=LINES)
        await rig.hosted.ended(agent)
    else:
        agent = await rig.begin()
        await done(rig, agent, LINES)
    if rig.takes_lines:
        assert rig.heard(LINES) == 1
    else:
        await comes_true(lambda: rig.heard("last line says one"))
        assert [rig.heard(line) for line in LINES.split("\n") if line] == [1, 1, 1]


async def test_a_tool_call_is_on_record(rig: Rig) -> None:
    """With its name and how it ended, in the turn that made it; a transport that does not see tools tells none."""
    if "messages" in await rig.can():
        agent = await rig.begin()
        await done(rig, agent, rig.works("one"))
    else:
        agent = await rig.begin(context=rig.works("one"))
        await rig.hosted.ended(agent)

    items = await loaded(rig, agent, facts.ITEM_COMPLETED, facts.ItemCompleted)
    tools = [item for item in items if item.kind == "tool"]
    if not rig.tells_tools:
        assert tools == []
        return
    assert [(tool.name, tool.ok) for tool in tools] == [("Bash", True)]
    (turn,) = await loaded(rig, agent, facts.TURN_COMPLETED, facts.TurnCompleted)
    assert (tools[0].turn, bool(tools[0].call)) == (turn.turn, True)


async def test_leave_is_asked_for_given_and_denied(rig: Rig) -> None:
    """A person decides, and the agent goes on either way; a program that can ask nobody does not do it."""
    if "approve" not in await rig.can():
        await _nobody_is_asked(rig)
        return
    agent = await rig.begin(approvals={"deadline_seconds": 60.0})
    for word, allow in (("one", True), ("two", False)):
        id_ = await send(rig, agent, rig.asks(word))
        session = await until(rig, agent, lambda session: session.open_approvals and session.state is State.BLOCKED)
        (approval,) = session.open_approvals
        assert session.state_detail == "permission"
        assert not rig.did(word)

        await rig.hosted.sessions.decide(agent.key, approval.request, allow=allow, by="anna", reason="as it pleases")
        message = await final(rig, agent, id_)

        assert message.status is MessageStatus.DONE
        assert rig.did(word) is allow
        await at(rig, agent, State.PROMPT)
    decided = await loaded(rig, agent, facts.APPROVAL_DECIDED, facts.ApprovalDecided)
    assert [(each.decision, each.by) for each in decided] == [("allow", "anna"), ("deny", "anna")]


async def _nobody_is_asked(rig: Rig) -> None:
    talks = "messages" in await rig.can()
    agent = await rig.begin(**({} if talks else {"context": rig.asks("one")}))
    if talks:  # it asks on its terminal: a person there has to look
        await final(rig, agent, await send(rig, agent, rig.asks("one")), MessageStatus.ACCEPTED, MessageStatus.DONE)
        with pytest.raises(NotFound, match="asked for no approval"):
            await rig.hosted.sessions.decide(agent.key, "any", allow=True, by="anna")
    else:
        await rig.hosted.ended(agent)
    assert await told(rig, agent, facts.APPROVAL_REQUESTED) == []
    assert not rig.did("one")


async def test_an_interruption_ends_the_turn_and_the_session_goes_on(rig: Rig) -> None:
    """The next message is a turn like any other; what cannot be interrupted says so and ends its turn."""
    if "interrupt" not in await rig.can():
        agent = await rig.begin(context=rig.holds("one"))
        await rig.held("one")
        await rig.hosted.sessions.interrupt(agent.key, by="anna")
        noted = (await rig.hosted.until(agent, facts.NOTED)).load(facts.Noted)
        rig.release("one")
        ended = await rig.hosted.ended(agent)
        assert (noted.kind, noted.text) == ("interrupt", "there was nothing to interrupt")
        assert ended.exited is not None
        assert ended.exited.reason is ExitReason.SUCCESS
        return
    agent = await rig.begin()
    first = await send(rig, agent, rig.holds("one"))
    await rig.held("one")
    await at(rig, agent, State.BUSY)

    await rig.hosted.sessions.interrupt(agent.key, by="anna")
    cut = await final(rig, agent, first)
    second = await done(rig, agent, rig.says("two"))

    turns = await loaded(rig, agent, facts.TURN_COMPLETED, facts.TurnCompleted)
    assert not cut.open
    assert second.status is MessageStatus.DONE
    assert [turn.outcome for turn in turns] == (["interrupted", "success"] if rig.tells_turns else ["success", "success"])
    assert rig.heard(rig.says("two")) == 1


async def test_messages_wait_for_the_prompt_and_keep_their_order(rig: Rig) -> None:
    """While it works they are queued; then each is a turn of its own."""
    if "messages" not in await rig.can():
        return  # see the first case
    agent = await rig.begin()
    ids = [await send(rig, agent, rig.holds("one"))]
    await rig.held("one")
    await at(rig, agent, State.BUSY)
    ids += [await send(rig, agent, rig.says(word)) for word in ("two", "three", "four")]
    session = await until(rig, agent, lambda session: len(session.messages) == 4)
    assert [session.messages[id_].status for id_ in ids[1:]] == [MessageStatus.QUEUED] * 3

    rig.release("one")
    messages = [await final(rig, agent, id_) for id_ in ids]

    turns = await loaded(rig, agent, facts.TURN_COMPLETED, facts.TurnCompleted)
    assert [message.status for message in messages] == [MessageStatus.DONE] * 4
    assert [turn.message_ids for turn in turns] == [(id_,) for id_ in ids]
    assert [rig.heard(rig.says(word)) for word in ("two", "three", "four")] == [1, 1, 1]


async def test_a_steering_message_joins_the_turn_or_waits(rig: Rig) -> None:
    """It is with the program while that works, and its turn is the one under way; else it waits for the prompt."""
    can = await rig.can()
    if "messages" not in can:
        return  # see the first case
    agent = await rig.begin()
    first = await send(rig, agent, rig.holds("one"))
    await rig.held("one")
    await at(rig, agent, State.BUSY)

    steering = await send(rig, agent, rig.says("two"), placing=Placing.STEER)
    if "steer" in can:
        assert (await final(rig, agent, steering, MessageStatus.ACCEPTED)).status is MessageStatus.ACCEPTED
    else:
        session = await until(rig, agent, lambda session: steering in session.messages)
        assert session.messages[steering].status is MessageStatus.QUEUED
    rig.release("one")
    messages = [await final(rig, agent, id_) for id_ in (first, steering)]

    turns = await loaded(rig, agent, facts.TURN_COMPLETED, facts.TurnCompleted)
    assert [message.status for message in messages] == [MessageStatus.DONE] * 2
    assert [turn.message_ids for turn in turns] == ([(first, steering)] if "steer" in can else [(first,), (steering,)])
    assert rig.heard(rig.says("two")) == 1


def has_used(tokens: int) -> Callable[[Session], bool]:
    return lambda session: session.totals.input_tokens >= tokens


async def test_usage_is_recorded_as_what_came_in_addition(rig: Rig) -> None:
    """Over two turns the differences make up the vendor's own count; a transport that cannot tell records nothing."""
    can = await rig.can()
    if "messages" in can:
        agent = await rig.begin()
        for number, word in enumerate(("one", "two"), 1):
            await done(rig, agent, rig.says(word))
            if "usage" in can:  # at a terminal it is read from the program's own record, which may be written a little later
                await until(rig, agent, has_used(100 * number))
    else:
        agent = await rig.begin(context=rig.says("one"))
        await rig.hosted.ended(agent)

    usages = await loaded(rig, agent, facts.USAGE, facts.Usage)
    if "usage" not in can:
        assert usages == []
        return
    turns = 2 if "messages" in can else 1
    assert [usage.input_tokens for usage in usages] == [100] * turns
    assert [usage.total_input_tokens for usage in usages] == [100, 200][:turns]
    assert all(usage.output_tokens > 0 for usage in usages)
    session = await now(rig, agent)
    assert session.totals.input_tokens == 100 * turns
    assert session.totals.output_tokens == usages[-1].total_output_tokens == usages[-1].at_output


@pytest.mark.parametrize("victim", ["agent", "host"])
async def test_what_was_killed_goes_on_as_the_same_session(rig: Rig, victim: str) -> None:
    """kill -9 of either leaves nothing behind, and the run that follows knows what was said; else it is refused."""
    can = await rig.can()
    talks = "messages" in can
    agent = await rig.begin(id="w1", **({} if talks else {"context": rig.holds("one")}))
    if talks:
        await done(rig, agent, rig.says("one"))
    else:
        await rig.held("one")
    said = rig.says("one") if talks else "holds one"
    await rig.saved(said)
    before = await until(rig, agent, lambda session: session.vendor_session or "resume" not in can)
    os.kill({"agent": before.pid, "host": agent.host_pid}[victim], signal.SIGKILL)
    ended = await rig.hosted.ended(agent)
    assert ended.exited is not None
    if victim == "agent":
        assert (ended.exited.reason, ended.exited.signal) == (ExitReason.KILLED, 9)
    else:
        assert ended.exited.reason is ExitReason.LOST
    if "resume" not in can:
        assert ended.vendor_session == ""
        with pytest.raises(UsageError, match="cannot continue a session"):
            await rig.begin(id="w1", follows=agent.key, vendor_session="11111111-2222-4333-8444-555555555555")
        return
    assert ended.vendor_session

    rig.release("one")
    resumed = {"follows": agent.key, "vendor_session": ended.vendor_session}
    again = await rig.begin(id="w1", **resumed, **({} if talks else {"context": rig.says("two")}))
    if talks:
        assert (await done(rig, again, rig.says("two"))).status is MessageStatus.DONE
    else:
        after = await rig.hosted.ended(again)
        assert after.exited is not None
        assert after.exited.reason is ExitReason.SUCCESS

    session = await now(rig, again)
    assert session.vendor_session in ("", ended.vendor_session)
    assert rig.heard(rig.says("two")) == 1
    assert rig.remembers(ended.vendor_session, said)
    if "usage" in can and talks:
        session = await until(rig, again, has_used(100))
        assert session.totals.input_tokens == 100


async def test_failures_of_the_provider_are_tried_again_and_then_told(rig: Rig) -> None:
    """What the program tries again is noted, and the turn is good in the end; a refused request is a failed turn."""
    retries, refused = rig.retries("one"), rig.refused("two")
    if "messages" not in await rig.can():
        if retries is not None:
            agent = await rig.begin(context=retries)
            ended = await rig.hosted.ended(agent)
            assert ended.exited is not None
            assert (ended.exited.code, await told(rig, agent, facts.RETRIED) != []) == (0, True)
        if refused is not None:
            agent = await rig.begin(context=refused)
            ended = await rig.hosted.ended(agent)
            (turn,) = await loaded(rig, agent, facts.TURN_COMPLETED, facts.TurnCompleted)
            assert ended.exited is not None
            assert (ended.exited.code, ended.exited.reason, turn.outcome) == (1, ExitReason.FAILURE, "error")
            assert "that is not possible" in turn.error
        return
    agent = await rig.begin()
    if retries is not None:
        assert (await done(rig, agent, retries)).status is MessageStatus.DONE
        assert ("retried" in rig.unsaid) is (await told(rig, agent, facts.RETRIED) == [])
    if refused is not None:
        message = await done(rig, agent, refused)
        turns = await loaded(rig, agent, facts.TURN_COMPLETED, facts.TurnCompleted)
        assert (message.status, message.reason, turns[-1].outcome) == (MessageStatus.DONE, "error", "error")
        assert "that is not possible" in turns[-1].error
        assert (await done(rig, agent, rig.says("three"))).status is MessageStatus.DONE


async def test_a_usage_limit_is_told_with_its_end(rig: Rig) -> None:
    """The session is limited until then, and what is sent meanwhile waits."""
    text = rig.limited("one")
    if text is None:
        return
    if "messages" not in await rig.can():
        agent = await rig.begin(context=text)
        ended = await rig.hosted.ended(agent)
        (turn,) = await loaded(rig, agent, facts.TURN_COMPLETED, facts.TurnCompleted)
        assert ended.exited is not None
        assert (turn.outcome, ended.exited.code, ended.exited.reason) == ("limit", 1, ExitReason.FAILURE)
        return
    agent = await rig.begin()
    await done(rig, agent, text)

    outcome, state = rig.when_limited
    session = await at(rig, agent, state)
    (turn,) = await loaded(rig, agent, facts.TURN_COMPLETED, facts.TurnCompleted)
    assert turn.outcome == outcome
    if state is State.PROMPT:
        return
    waiting = await send(rig, agent, rig.says("two"))
    assert ("limit's end" in rig.unsaid) is (session.until_us is None)
    assert (await now(rig, agent)).messages[waiting].status is MessageStatus.QUEUED


async def test_a_stop_is_the_programs_own_exit_where_it_has_one(rig: Rig) -> None:
    """Never a failure, with the code that the program gives."""
    if "messages" in await rig.can():
        agent = await rig.begin()
        await done(rig, agent, rig.says("one"))
        await at(rig, agent, State.PROMPT)
    else:
        agent = await rig.begin(context=rig.holds("one"))
        await rig.held("one")

    await rig.hosted.sessions.stop(agent.key, by="anna", timeout_seconds=TERM)
    ended = await rig.hosted.ended(agent)

    assert ended.exited is not None
    assert (ended.exited.reason, ended.exited.needed) == (ExitReason.STOPPED, rig.leaves)
    assert rig.left in (ended.exited.code, ended.exited.signal)


async def test_the_exit_code_is_the_programs_own(rig: Rig) -> None:
    """Of one that ends by itself, whatever anybody wanted."""
    ending = rig.exits("one")
    if ending is None:
        return
    text, code = ending
    if "messages" in await rig.can():
        agent = await rig.begin()
        await send(rig, agent, text)
    else:
        agent = await rig.begin(context=text)
    rig.release("one")

    ended = await rig.hosted.ended(agent)

    assert ended.exited is not None
    assert (ended.exited.code, ended.exited.reason) == (code, ExitReason.FAILURE if code else ExitReason.SUCCESS)


def all_cases() -> dict[str, Any]:
    """The tests of this module, for a module that takes them in."""
    return {name: value for name, value in globals().items() if name.startswith("test_")}
