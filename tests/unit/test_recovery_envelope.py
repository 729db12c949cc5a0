"""What the envelope says, rule by rule and for anything an adversary may propose."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.recovery.declarations import Limits
from harness.recovery.envelope import Approval, Limit, PastAction, Situation, decide, digest_of, passes_by
from harness.recovery.facts import OWN_PREFIX, ActionKind, ActionRequested, Level, Origin, Outcome, Verdict

NOW = 1_750_000_000_000_000
MINUTE = 60_000_000
HOUR = 60 * MINUTE

BASE = Situation(
    now_us=NOW,
    action_id="a1",
    kind=ActionKind.RESTART_SERVICE,
    target="web_shop",
    ticket="t1",
    origin=Origin.AGENT,
    level=Level.AUTO,
    limits=Limits(),
    known=True,
)


def past(
    number: int, *, target: str = "web_shop", ticket: str = "t0", ago: int = MINUTE, outcome: Outcome | None = Outcome.SUCCEEDED
) -> PastAction:
    """An action some time ago."""
    return PastAction(action_id=f"p{number}", target=target, ticket=ticket, started_us=NOW - ago, outcome=outcome)


def some(count: int, *, ago: int = MINUTE, **others: str) -> tuple[PastAction, ...]:
    """That many finished actions."""
    return tuple(past(number, ago=ago, **others) for number in range(count))


RUNNING_X, RUNNING_X2 = (past(number, target="x", outcome=None) for number in (101, 102))
RUNNING_Y = past(103, target="y", outcome=None)
ITSELF = replace(past(104, ticket="t1", outcome=None), action_id="a1")
RECENT = (NOW - 3, NOW - 2, NOW - 1)
APPROVED: dict[str, object] = {"level": Level.APPROVE, "approval": Approval.GRANTED}

TABLE: list[tuple[str, dict[str, object], Verdict, str]] = [
    ("automatic", {}, Verdict.ALLOW, ""),
    ("by default only suggested", {"level": Level.SUGGEST}, Verdict.SUGGEST, ""),
    ("off", {"level": Level.OFF}, Verdict.REFUSE, Limit.OFF),
    ("approval needed", {"level": Level.APPROVE}, Verdict.ASK, ""),
    ("approved", {"level": Level.APPROVE, "approval": Approval.GRANTED}, Verdict.ALLOW, ""),
    ("denied", {"level": Level.APPROVE, "approval": Approval.DENIED}, Verdict.REFUSE, Limit.DENIED),
    ("denied though automatic", {"approval": Approval.DENIED}, Verdict.REFUSE, Limit.DENIED),
    ("an approval does not raise a suggestion", {"level": Level.SUGGEST, "approval": Approval.GRANTED}, Verdict.SUGGEST, ""),
    ("own process", {"target": "harness-web"}, Verdict.REFUSE, Limit.OWN_PROCESS),
    ("own process though approved", {"target": "harness-agent", **APPROVED}, Verdict.REFUSE, Limit.OWN_PROCESS),
    ("undeclared target", {"known": False}, Verdict.REFUSE, Limit.UNKNOWN_TARGET),
    ("people only", {"kind": ActionKind.START_SERVICE}, Verdict.REFUSE, Limit.PEOPLE_ONLY),
    ("paused", {"paused": "by me"}, Verdict.REFUSE, Limit.PAUSED),
    ("paused though approved", {"paused": "by me", "approval": Approval.GRANTED}, Verdict.REFUSE, Limit.PAUSED),
    ("a person, though off and paused", {"origin": Origin.PERSON, "level": Level.OFF, "paused": "x"}, Verdict.ALLOW, ""),
    ("a person, undeclared target", {"origin": Origin.PERSON, "known": False}, Verdict.REFUSE, Limit.UNKNOWN_TARGET),
    ("two of three for the incident", {"actions": some(2, ticket="t1")}, Verdict.ALLOW, ""),
    ("three of three for the incident", {"actions": some(3, ticket="t1", ago=9 * HOUR)}, Verdict.REFUSE, Limit.PER_INCIDENT),
    ("itself is not counted", {"actions": (*some(2, ticket="t1"), ITSELF)}, Verdict.ALLOW, ""),
    ("five of six in an hour", {"actions": some(5)}, Verdict.ALLOW, ""),
    ("six of six in an hour", {"actions": some(6)}, Verdict.REFUSE, Limit.PER_TARGET_HOUR),
    ("six, one of them an hour old", {"actions": (*some(5), past(9, ago=HOUR))}, Verdict.ALLOW, ""),
    ("six on another target", {"actions": some(6, target="other")}, Verdict.ALLOW, ""),
    ("the target is being acted on", {"actions": (past(1, outcome=None),)}, Verdict.REFUSE, Limit.TARGET_BUSY),
    ("one other target", {"actions": (RUNNING_X,)}, Verdict.ALLOW, ""),
    ("two actions on one other target", {"actions": (RUNNING_X, RUNNING_X2)}, Verdict.ALLOW, ""),
    ("two other targets", {"actions": (RUNNING_X, RUNNING_Y)}, Verdict.REFUSE, Limit.CONCURRENT_TARGETS),
    ("fixed twice", {"fixes_us": (NOW - MINUTE, NOW - 2)}, Verdict.ALLOW, ""),
    ("fixed three times", {"fixes_us": (NOW - MINUTE, NOW - 2, NOW - 1)}, Verdict.REFUSE, Limit.RECURRENCE),
    ("fixed three times, once long ago", {"fixes_us": (NOW - HOUR, NOW - 2, NOW - 1)}, Verdict.ALLOW, ""),
    ("fixed three times, though approved", {"fixes_us": RECENT, **APPROVED}, Verdict.REFUSE, Limit.RECURRENCE),
    ("two failures", {"failures_us": (NOW - 2, NOW - 1)}, Verdict.ALLOW, ""),
    ("three failures open the breaker", {"failures_us": RECENT}, Verdict.SUGGEST, Limit.BREAKER),
    ("three failures, once long ago", {"failures_us": (NOW - HOUR, NOW - 2, NOW - 1)}, Verdict.ALLOW, ""),
    ("the breaker does not hinder a person's approval", {"failures_us": RECENT, **APPROVED}, Verdict.ALLOW, ""),
]


@pytest.mark.parametrize(("changed", "verdict", "limit"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_each_rule(changed: dict[str, object], verdict: Verdict, limit: str) -> None:
    """Every rule of the envelope, at its border."""
    decision = decide(replace(BASE, **changed))  # type: ignore[arg-type]

    assert (decision.verdict, decision.limit) == (verdict, limit)
    assert decision.reason


@pytest.mark.parametrize("name", [name for name in Limits.__struct_fields__ if not name.endswith("_seconds")])
def test_every_declared_limit_is_read(name: str) -> None:
    """Failure 10: limits were configuration that nobody read. Raising any one of them changes a decision."""
    hindered = {
        "actions_per_incident": {"actions": some(3, ticket="t1")},
        "actions_per_target_hour": {"actions": some(6)},
        "concurrent_targets": {"actions": (RUNNING_X, RUNNING_Y)},
        "recurrences": {"fixes_us": RECENT},
        "breaker_failures": {"failures_us": RECENT},
    }[name]
    raised = msgspec.structs.replace(Limits(), **{name: 100})

    assert decide(replace(BASE, **hindered)).verdict is not Verdict.ALLOW
    assert decide(replace(BASE, **hindered, limits=raised)).verdict is Verdict.ALLOW


def test_only_what_ends_by_itself_is_asked_again() -> None:
    """A pause and a busy target pass; a limit, an approval that is missing and a person's no do not."""
    passing = {name for name, changed, _, _ in TABLE if passes_by(decide(replace(BASE, **changed)))}  # type: ignore[arg-type]

    assert passing == {"paused", "paused though approved", "the target is being acted on", "two other targets"}


def asked(**changed: object) -> str:
    """The digest of a request that differs in some ways from the one that was shown."""
    shown = ActionRequested(
        action_id="a", kind=ActionKind.SET_CONFIG, target="web", arguments={"key": "a", "value": 1}, requested_by="agent"
    )
    return digest_of(msgspec.structs.replace(shown, **changed))


def test_an_approval_is_bound_to_every_argument() -> None:
    """Another action, kind, target, key or value is another approval; order, reason and deadline are not."""
    same = {asked(), asked(arguments={"value": 1, "key": "a"}), asked(reason="other words", deadline_us=5)}
    others = {
        asked(action_id="b"),
        asked(kind=ActionKind.REVERT_CONFIG),
        asked(target="wed"),
        asked(arguments={"key": "b", "value": 1}),
        asked(arguments={"key": "a", "value": 2}),
        asked(arguments={"key": "a", "value": True}),
        asked(arguments={"key": "a", "value": "1"}),
        asked(arguments={"key": "a"}),
    }

    assert len(same) == 1
    assert len(same | others) == 9


times = st.lists(st.integers(NOW - 3 * HOUR, NOW), max_size=8).map(tuple)
actions = st.lists(
    st.builds(
        PastAction,
        action_id=st.sampled_from(["a1", *"bcdefghijk"]),
        target=st.sampled_from(["web_shop", "db", "cache"]),
        ticket=st.sampled_from(["t1", "t2"]),
        started_us=st.integers(NOW - 3 * HOUR, NOW),
        outcome=st.none() | st.sampled_from(Outcome),
    ),
    max_size=12,
).map(tuple)
situations = st.builds(
    Situation,
    now_us=st.just(NOW),
    action_id=st.just("a1"),
    kind=st.sampled_from(ActionKind),
    target=st.sampled_from(["web_shop", "db", "harness-web", "harness-agent"]),
    ticket=st.sampled_from(["t1", "t2"]),
    origin=st.just(Origin.AGENT),
    level=st.sampled_from(Level),
    limits=st.builds(
        Limits, actions_per_incident=st.integers(1, 5), recurrences=st.integers(1, 5), breaker_failures=st.integers(1, 5)
    ),
    known=st.booleans(),
    paused=st.none() | st.just("by me"),
    approval=st.sampled_from(Approval),
    actions=actions,
    fixes_us=times,
    failures_us=times,
)


@given(situations)
def test_what_is_allowed_to_an_agent_breaks_no_limit(situation: Situation) -> None:
    """Whatever happened before, an allowed action is declared, not paused, within its level and under every limit."""
    decision = decide(situation)

    if decision.verdict is not Verdict.ALLOW:
        return
    assert situation.known
    assert situation.paused is None
    assert not situation.target.startswith(OWN_PREFIX)
    assert situation.level is Level.AUTO or (situation.level is Level.APPROVE and situation.approval is Approval.GRANTED)
    assert situation.approval is not Approval.DENIED
    others = [action for action in situation.actions if action.action_id != "a1"]
    assert sum(action.ticket == situation.ticket for action in others) < situation.limits.actions_per_incident
    assert not any(action.outcome is None and action.target == situation.target for action in others)


@given(situations, st.integers(NOW - HOUR + 1, NOW), st.sampled_from(["actions", "fixes_us", "failures_us"]))
def test_more_history_never_allows_more(situation: Situation, at_us: int, where: str) -> None:
    """One more action, recurrence or failure can only make the envelope stricter."""
    more = (
        {
            "actions": (
                *situation.actions,
                PastAction(action_id="z", target=situation.target, ticket=situation.ticket, started_us=at_us),
            )
        }
        if where == "actions"
        else {where: (*getattr(situation, where), at_us)}
    )

    if decide(situation).verdict is not Verdict.ALLOW:
        assert decide(replace(situation, **more)).verdict is not Verdict.ALLOW
