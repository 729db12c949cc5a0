"""What a failure is about, what it is called, and which ticket it belongs to; what the services' phases mean."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.ledger import Event, MemoryStore, Write
from harness.processes import Identity
from harness.recovery import facts
from harness.recovery.board import Board
from harness.recovery.checks import Sample, build_check
from harness.recovery.declarations import Invariant
from harness.recovery.facts import CheckResult
from harness.recovery.failures import Failure, OpenTicket, Severity, home_of
from harness.recovery.judging import Silence
from harness.recovery.picture import Life, Phase, apply
from harness.work import Status

SECOND = 1_000_000


def failure(severity: Severity = Severity.DOWN, **fields: Any) -> Failure:
    given: dict[str, Any] = {
        "subject": "api", "target": "api", "root": "api_healthy", "kind": "http", "observed": "503", "detected_us": 1,
        **fields,
    }  # fmt: skip
    return Failure(severity=severity, **given)


def opened(status: Status, severity: Severity) -> OpenTicket:
    return OpenTicket("t", status, severity, failure(severity).fingerprint)


def test_the_fingerprint_of_a_service_does_not_depend_on_who_noticed() -> None:
    """The same outage noticed by another check is the same; a worse one, another target or label is another."""
    base = failure()

    assert failure(root="api_quick", kind="latency").fingerprint == base.fingerprint
    assert failure(Severity.DEGRADED).fingerprint != base.fingerprint
    assert failure(target="web", subject="web").fingerprint != base.fingerprint
    assert failure(labels={"env": "prod"}).fingerprint != base.fingerprint
    assert base.fingerprint == "down:*:api:"


def test_the_fingerprint_of_a_check_without_a_service_is_its_own() -> None:
    """Kind and name of the check count where no service is known."""
    alone = failure(target="", subject="dns", root="dns", kind="tcp")

    assert alone.fingerprint == "tcp:dns::"


@given(
    st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3), st.text(min_size=1, max_size=4), st.text(max_size=4)
)
def test_different_failures_never_share_a_fingerprint(labels: dict[str, str], target: str, other: str) -> None:
    """No part can pretend to be another by the characters in it."""
    one = failure(target=target, labels=labels)
    two = failure(target=other or "x", labels={})

    assert (one.fingerprint == two.fingerprint) == (target == (other or "x") and not labels)


@pytest.mark.parametrize(
    ("status", "severity", "joins"),
    [
        (Status.PENDING, Severity.DEGRADED, True),
        (Status.IN_PROGRESS, Severity.DEGRADED, True),
        (Status.VERIFYING, Severity.BLIND, True),
        (Status.BLOCKED, Severity.DOWN, True),
        (Status.PARKED, Severity.DOWN, True),
        (Status.BLOCKED, Severity.DEGRADED, False),
        (Status.PARKED, Severity.BLIND, False),
    ],
)
def test_failure_3_one_failure_suppresses_another_only_if_somebody_will_act(
    status: Status, severity: Severity, joins: bool
) -> None:
    """A service that is down joins what is worked on, and what is as bad; never a lesser one that waits for a person."""
    assert (home_of(failure(Severity.DOWN), [opened(status, severity)]) is not None) is joins


def test_the_ticket_of_the_same_fingerprint_comes_first() -> None:
    """Among several open tickets of a subject the same failure goes to its own."""
    lesser = OpenTicket("lesser", Status.PENDING, Severity.DEGRADED, failure(Severity.DEGRADED).fingerprint)
    same = OpenTicket("same", Status.BLOCKED, Severity.DOWN, failure().fingerprint)

    assert home_of(failure(), [lesser, same]) == same
    assert home_of(failure(), []) is None


async def event(fact: facts.Fact, ts: int = 5 * SECOND, stream: str = "service/api") -> Event:
    draft = msgspec.structs.replace(facts.draft(fact), ts=ts)
    return (await MemoryStore().append(Write(stream, (draft,)))).first


def declared(restart: str) -> facts.ServiceDeclared:
    return facts.ServiceDeclared(name="api", command=("x",), restart=restart, ready="tcp:127.0.0.1:1")


@pytest.mark.parametrize(
    ("restart", "fact", "phase"),
    [
        ("agent", facts.ServiceExited(epoch=1, pid=1, code=None, signal=9, ran_seconds=1), Phase.DOWN),
        ("agent", facts.ServiceExited(epoch=1, pid=1, code=0, signal=None, ran_seconds=1), Phase.DOWN),
        ("always", facts.ServiceExited(epoch=1, pid=1, code=1, signal=None, ran_seconds=1), Phase.COMING),
        ("on-failure", facts.ServiceExited(epoch=1, pid=1, code=1, signal=None, ran_seconds=1), Phase.COMING),
        ("on-failure", facts.ServiceExited(epoch=1, pid=1, code=0, signal=None, ran_seconds=1), Phase.RESTING),
        ("never", facts.ServiceExited(epoch=1, pid=1, code=0, signal=None, ran_seconds=1), Phase.RESTING),
        ("never", facts.ServiceExited(epoch=1, pid=1, code=2, signal=None, ran_seconds=1), Phase.DOWN),
        ("always", facts.ServiceGaveUp(epoch=1, restarts=5, window_seconds=300, reason="r"), Phase.DOWN),
        ("agent", facts.ServiceBlocked(epoch=1, kind="port_taken", reason="r"), Phase.DOWN),
        ("agent", facts.ServiceBlocked(epoch=1, kind="dependency", reason="r"), Phase.COMING),
        ("agent", facts.ServiceStopped(epoch=1, pid=1, needed="term", ended=1), Phase.RESTING),
        ("agent", facts.ServiceStarting(epoch=1, tag="t", reason="r"), Phase.COMING),
        ("agent", facts.ServiceNotReady(epoch=1, pid=1, seconds=30, reason="r"), Phase.UP),
        ("agent", facts.ServiceReady(epoch=1, pid=1, seconds=1), Phase.UP),
    ],
)
async def test_what_the_supervisor_says_decides_whether_a_failure_counts(restart: str, fact: facts.Fact, phase: Phase) -> None:
    """An exit is hard evidence only if nobody but an action will start it again; a stop on purpose is none."""
    life = apply(apply(Life(name="api"), await event(declared(restart))), await event(fact))

    assert life.phase is phase
    assert life.state == fact.TYPE


async def test_a_process_that_is_gone_is_not_running_whatever_was_said() -> None:
    """The process table has the last word: the supervisor that would report the exit may be dead itself."""
    me = Identity.of(os.getpid())
    started = facts.ServiceStarted(epoch=1, pid=me.pid, started=me.started, tag="t")
    gone = facts.ServiceStarted(epoch=1, pid=me.pid, started=me.started - 1, tag="t")

    assert apply(Life(name="api"), await event(started)).evidence()["running"] is True
    assert apply(Life(name="api"), await event(gone)).evidence()["running"] is False
    assert Life(name="api").evidence() == {}


def board(*names: str, **fields: Any) -> Board:
    made = Board()
    made.set_checks(
        build_check(Invariant(name=name, query="http://127.0.0.1:1/", target="api", **fields)) for name in names
    )  # fmt: skip
    return made


def see(made: Board, name: str, result: CheckResult, at: float, *, answered: bool = True) -> None:
    check = made.checks[name].check
    sample = Sample(
        check=name, target="api", result=result, detail=f"{name} {result}", started_us=round(at * SECOND) - 10,
        ended_us=round(at * SECOND), took_ms=1.0, answered=answered,
    )  # fmt: skip
    made.saw(check, made.excused(check, sample))


def test_two_failing_checks_of_a_service_are_one_failure() -> None:
    """The first that failed is the root, the worst makes the severity, and the first bad look is the detection."""
    made = board("a", "b")
    for at in (1.0, 1.5):
        see(made, "b", CheckResult.FAIL, at)
        see(made, "a", CheckResult.FAIL, at + 0.1, answered=False)

    found = made.failure("api")

    assert found is not None
    assert (found.root, found.severity, found.detected_us) == ("b", Severity.DOWN, SECOND)
    assert found.checks == ("b", "a")


def test_one_bad_look_is_no_failure_but_makes_uneasy() -> None:
    """A soft failure only makes the subject's checks look more often."""
    made = board("a")
    see(made, "a", CheckResult.PASS, 1.0)
    see(made, "a", CheckResult.FAIL, 1.5)

    assert made.failure("api") is None
    assert made.uneasy("api", round(1.5 * SECOND))
    see(made, "a", CheckResult.PASS, 2.0)
    assert not made.uneasy("api", round(2.0 * SECOND))


def test_an_old_failure_does_not_keep_checks_in_a_hurry() -> None:
    """After a minute of failing, the checks go back to their own clocks."""
    made = board("a")
    for at in (1.0, 1.5, 70.0):
        see(made, "a", CheckResult.FAIL, at)

    assert made.failure("api") is not None
    assert not made.uneasy("api", round(70.0 * SECOND))


def test_labels_and_priority_come_from_the_declaration() -> None:
    """The ticket is as urgent as the most urgent check that fails."""
    made = board("a", labels={"env": "prod"}, priority="critical")
    for at in (1.0, 1.5):
        see(made, "a", CheckResult.FAIL, at)

    found = made.failure("api")

    assert found is not None
    assert found.priority == "critical"
    assert found.fingerprint.endswith(":api:env=prod")


def test_a_silenced_check_does_not_silence_another() -> None:
    """A silence of one failing check counts only while no other one fails; a death is covered by the target's only."""
    made = board("a", "b")
    made.silences["a"] = Silence(subject="a", until_us=100 * SECOND, reason="")
    for at in (1.0, 1.5):
        see(made, "a", CheckResult.FAIL, at)
    assert made.silence_of("api", 2 * SECOND)

    for at in (2.0, 2.5):
        see(made, "b", CheckResult.FAIL, at)
    assert not made.silence_of("api", 3 * SECOND)


async def test_a_restored_state_needs_a_fresh_look() -> None:
    """What an earlier monitor saw is not what is: a failing state opens nothing before this one has looked."""
    made = board("a")
    changed = facts.CheckChanged(name="a", result=CheckResult.FAIL, hard=True)
    made.restore("a", await event(changed, stream="check/a"))
    assert made.failure("api") is None

    see(made, "a", CheckResult.FAIL, 9.0)
    found = made.failure("api")

    assert found is not None
    assert found.ref == "check/a#1"
