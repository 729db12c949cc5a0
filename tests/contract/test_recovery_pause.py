"""Pausing recovery, in this process and in others, and what the envelope counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec
import pytest

from harness.errors import NotFound, PolicyDenied, UsageError
from harness.ledger import MemoryStore, PostgresStore, SQLiteStore, Store, Write
from harness.people import Questions
from harness.recovery import approvals
from harness.recovery.declarations import Declarations, Envelope, Limits, Service, TargetEnvelope
from harness.recovery.envelope import Approval, digest_of
from harness.recovery.facts import (
    CONTROL,
    ActionCompleted,
    ActionKind,
    ActionRequested,
    ActionStarted,
    Fact,
    IncidentAttemptFailed,
    IncidentOpened,
    IncidentVerified,
    Level,
    Outcome,
    Verdict,
    draft,
    incident_stream,
    service_stream,
)
from harness.recovery.history import approval_of, judge_request
from harness.recovery.pause import pause, paused_reason, unpause, wait_unpaused


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Each of the stores."""
    opened: Store
    match request.param:
        case "memory":
            opened = MemoryStore()
        case "sqlite":
            opened = await SQLiteStore.open(tmp_path / "harness.db", actor="test")
        case _:
            opened = await PostgresStore.open(request.getfixturevalue("postgres_schema"), actor="test")
    yield opened
    await opened.close()


def declared(**limits: int) -> Declarations:
    """A service that may be restarted on its own, within limits."""
    envelope = Envelope(
        targets={"web": TargetEnvelope(levels={ActionKind.RESTART_SERVICE: Level.AUTO}, limits=Limits(**limits))},
    )
    return Declarations(services=(Service(name="web", command=("true",)),), envelope=envelope)


def request(action_id: str = "a", *, ticket: str = "t", fingerprint: str = "f", target: str = "web") -> ActionRequested:
    """A proposal to restart it."""
    return ActionRequested(
        action_id=action_id,
        kind=ActionKind.RESTART_SERVICE,
        target=target,
        requested_by="agent",
        ticket=ticket,
        fingerprint=fingerprint,
    )


async def write(store: Store, stream: str, *facts: Fact) -> None:
    """Append facts."""
    await store.append(Write(stream, tuple(draft(fact) for fact in facts)))


async def acted(store: Store, action_id: str, *, ticket: str = "t", outcome: Outcome | None = Outcome.SUCCEEDED) -> None:
    """An action on the service that was begun, and perhaps ended."""
    kind, target = ActionKind.RESTART_SERVICE, "web"
    await write(
        store, service_stream("web"), ActionStarted(action_id=action_id, kind=kind, target=target, epoch=1, ticket=ticket)
    )
    if outcome is not None:
        done = ActionCompleted(
            action_id=action_id, kind=kind, target=target, outcome=outcome, detail="", epoch=2, ticket=ticket
        )
        await write(store, service_stream("web"), done)


async def test_nothing_is_paused_at_first(store: Store) -> None:
    """Unpausing what was never paused writes nothing."""
    assert await paused_reason(store) is None
    assert await unpause(store, by="me") is None
    assert await store.head(CONTROL) is None


async def test_a_pause_is_told_with_who_and_why(store: Store) -> None:
    """Pausing twice is one event; unpausing ends it; erasing its words does not."""
    first = await pause(store, by="me", reason="deploying")

    assert (await pause(store, by="you")).seq == first.seq
    assert (await paused_reason(store) or "").endswith(", deploying")
    await store.erase(CONTROL, first.seq, reason="test")
    assert await paused_reason(store) is not None
    await unpause(store, by="me")
    assert await paused_reason(store) is None


async def test_a_pause_refuses_what_was_automatic(store: Store) -> None:
    """The envelope sees the pause with the next question."""
    before = await judge_request(store, declared(), request())
    await pause(store, by="me")
    after = await judge_request(store, declared(), request())

    assert (before.verdict, after.verdict, after.limit) == (Verdict.ALLOW, Verdict.REFUSE, "paused")


async def test_a_pause_survives_a_restart_and_is_seen_by_other_processes(tmp_path: Path) -> None:
    """Another store on the same file sees it at once, and one that is opened later too; unpausing wakes who waits."""
    one = await SQLiteStore.open(tmp_path / "harness.db", actor="one")
    two = await SQLiteStore.open(tmp_path / "harness.db", actor="two")
    await pause(one, by="me")
    with anyio.fail_after(1):
        assert await paused_reason(two) is not None
        async with anyio.create_task_group() as group:
            group.start_soon(wait_unpaused, two)
            await unpause(one, by="me")
            await pause(one, by="me")
            await unpause(one, by="me")
    await pause(one, by="me")
    await one.close()
    await two.close()

    later = await SQLiteStore.open(tmp_path / "harness.db", actor="later")
    assert await paused_reason(later) is not None
    await later.close()


async def test_actions_of_one_incident_are_counted(store: Store) -> None:
    """Failure 10: the limit per incident counts what was done, by whichever process."""
    limits = declared(actions_per_incident=2)
    await acted(store, "one")
    first = await judge_request(store, limits, request())
    await acted(store, "two")

    assert first.verdict is Verdict.ALLOW
    assert (await judge_request(store, limits, request())).limit == "actions_per_incident"
    assert (await judge_request(store, limits, request("two"))).verdict is Verdict.ALLOW


async def test_a_running_action_keeps_the_target(store: Store) -> None:
    """Until it is completed, nobody else acts there."""
    await acted(store, "one", ticket="other", outcome=None)

    assert (await judge_request(store, declared(), request())).limit == "target_busy"
    assert (await judge_request(store, declared(), request("one"))).verdict is Verdict.ALLOW


async def test_verified_fixes_of_one_fingerprint_are_counted(store: Store) -> None:
    """The same failure, fixed again and again, goes to a person; another fingerprint does not."""
    for number in range(3):
        ticket = f"t{number}"
        opened = IncidentOpened(ticket=ticket, fingerprint="f", check="c", target="web")
        await write(store, incident_stream(ticket), opened, IncidentVerified(ticket=ticket))

    assert (await judge_request(store, declared(), request())).limit == "recurrence"
    assert (await judge_request(store, declared(), request(fingerprint="g"))).verdict is Verdict.ALLOW


async def test_failures_open_the_breaker(store: Store) -> None:
    """An action that failed and an attempt that did not heal both count, and the same one only once."""
    limits = declared(breaker_failures=3, actions_per_incident=100)
    await acted(store, "one", outcome=Outcome.FAILED)
    await acted(store, "two", outcome=Outcome.UNKNOWN)
    await write(store, incident_stream("t"), IncidentAttemptFailed(ticket="t", attempt=1, reason="", action_id="two"))
    before = await judge_request(store, limits, request())
    await acted(store, "three")
    await write(store, incident_stream("t"), IncidentAttemptFailed(ticket="t", attempt=2, reason=""))

    assert before.verdict is Verdict.ALLOW
    after = await judge_request(store, limits, request())
    assert (after.verdict, after.limit) == (Verdict.SUGGEST, "breaker")


async def granted(store: Store, asked: ActionRequested, *, approved: bool = True) -> ActionRequested:
    """The request with its question, which a person has answered."""
    question = await approvals.ask(store, asked)
    await approvals.answer(store, asked.ticket, approved=approved, by="me", question=question.id)
    return msgspec.structs.replace(asked, question=question.id)


async def test_a_yes_allows_this_action_only(store: Store) -> None:
    """Another ticket, other arguments, another proposal, a question that nobody knows: no approval."""
    asked = await granted(store, request())
    replace = msgspec.structs.replace

    assert await approval_of(store, asked) is Approval.GRANTED
    assert await approval_of(store, replace(asked, action_id="a.2")) is Approval.GRANTED
    assert await approval_of(store, replace(asked, action_id="b")) is Approval.NONE
    assert await approval_of(store, replace(asked, ticket="t2")) is Approval.NONE
    assert await approval_of(store, replace(asked, arguments={"key": "a"})) is Approval.NONE
    assert await approval_of(store, replace(asked, question="q-none-1")) is Approval.NONE
    assert await approval_of(store, replace(asked, question="")) is Approval.NONE
    assert await approval_of(store, await granted(store, request("c"), approved=False)) is Approval.DENIED


async def test_a_yes_is_used_once(store: Store) -> None:
    """What acted on it may act on it again, as after a crash; nothing else may."""
    asked = await granted(store, request())
    await approvals.use(store, asked)
    await approvals.use(store, asked)
    other = await granted(store, request("other"))
    await Questions(store).use(other.question, by="a thief", digest=digest_of(other))

    assert await approval_of(store, asked) is Approval.GRANTED
    assert await approval_of(store, other) is Approval.NONE
    with pytest.raises(PolicyDenied):
        await approvals.use(store, other)


async def test_an_answer_needs_a_question(store: Store) -> None:
    """None, or several without saying which one, is a clear error."""
    with pytest.raises(NotFound, match="nothing waits"):
        await approvals.answer(store, "t", approved=True, by="me")
    first = await approvals.ask(store, request())
    await approvals.ask(store, request("b"))

    assert (await approvals.ask(store, request())).id == first.id
    with pytest.raises(UsageError, match="say which one"):
        await approvals.answer(store, "t", approved=True, by="me")
