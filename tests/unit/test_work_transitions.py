"""The table of an item's states, looked at as a table."""

from __future__ import annotations

import itertools

import pytest

from harness.errors import IllegalTransition
from harness.work import OPEN, RULES, TERMINAL, Role, Status
from harness.work.transitions import STATUS_AFTER, permitted, targets


def arrows(role: Role, *, gated: bool = False) -> set[tuple[Status, Status]]:
    """Every change that a role may make."""
    return {(origin, target) for origin in Status for target in targets(origin, role, gated=gated)}


def test_every_arrow_stands_once() -> None:
    """Two rules for one change could contradict each other."""
    pairs = [(rule.origin, rule.target) for rule in RULES]

    assert len(pairs) == len(set(pairs))


def test_a_type_of_event_leads_to_one_state() -> None:
    """So that the state is known even where the payload was erased."""
    after = {rule.event: {other.target for other in RULES if other.event == rule.event} for rule in RULES}

    assert all(len(states) == 1 for states in after.values())
    assert STATUS_AFTER["item.created"] is Status.PENDING


def test_open_and_terminal_divide_the_states() -> None:
    """Blocked and parked items are open: they keep their fingerprint."""
    assert set(Status) == OPEN | TERMINAL
    assert not OPEN & TERMINAL
    assert {Status.BLOCKED, Status.PARKED, Status.VERIFYING} <= OPEN


def test_only_the_verifier_completes_an_item_with_gates() -> None:
    """Neither its worker nor anybody in a hurry does."""
    completing = {role for role in Role for origin, target in arrows(role, gated=True) if target is Status.COMPLETED}

    assert completing == {Role.VERIFIER}


def test_an_item_without_gates_is_completed_by_its_worker() -> None:
    """Nobody else would look at it."""
    assert (Status.IN_PROGRESS, Status.COMPLETED) in arrows(Role.WORKER)


def test_what_is_completed_stays_completed() -> None:
    """What comes again is a new item."""
    assert not any(rule.origin is Status.COMPLETED for rule in RULES)


def test_only_a_person_reopens_what_is_closed() -> None:
    """Harness does not bring back what somebody gave up."""
    reopening = {role for role in Role for origin, target in arrows(role) if origin in TERMINAL}

    assert reopening == {Role.PERSON}


def test_a_worker_changes_only_what_it_has_claimed() -> None:
    """The one exception is the claim itself."""
    changing = {(origin, target) for origin, target in arrows(Role.WORKER) if origin is not Status.IN_PROGRESS}

    assert changing == {(Status.PENDING, Status.IN_PROGRESS)}


def test_every_open_state_has_a_way_out_without_its_worker() -> None:
    """A worker that is gone keeps no item for ever."""
    for origin in OPEN:
        assert {
            target for role in (Role.PERSON, Role.SYSTEM, Role.VERIFIER) for target in targets(origin, role, gated=True)
        } & TERMINAL


def test_every_state_is_reached_from_pending() -> None:
    """A state that nothing leads to would be a mistake in the table."""
    reached = {Status.PENDING}
    for _ in Status:
        reached |= {rule.target for rule in RULES if rule.origin in reached}

    assert reached == set(Status)


@pytest.mark.parametrize(("origin", "target", "role"), list(itertools.product(Status, Status, Role)))
@pytest.mark.parametrize("gated", [False, True])
def test_asking_agrees_with_the_table(origin: Status, target: Status, role: Role, gated: bool) -> None:
    """What is offered is permitted, and nothing else."""
    offered = target in targets(origin, role, gated=gated)

    if offered:
        assert permitted("x", origin, target, role, gated=gated).target is target
    else:
        with pytest.raises(IllegalTransition):
            permitted("x", origin, target, role, gated=gated)


@pytest.mark.parametrize(
    ("origin", "target", "role", "gated", "words"),
    [
        ("completed", "pending", "person", False, "completed does not lead to pending; as person you may choose nothing"),
        ("verifying", "completed", "worker", True, "takes verifier, not worker"),
        ("in_progress", "completed", "worker", True, "an item with gates is completed by its verifier only"),
        ("parked", "completed", "person", False, "as person you may choose pending, verifying, failed, cancelled"),
    ],
)
def test_a_refusal_says_what_is_allowed(origin: str, target: str, role: str, gated: bool, words: str) -> None:
    """The message names who may do it, or what else may be done."""
    with pytest.raises(IllegalTransition) as refused:
        permitted("t1", Status(origin), Status(target), Role(role), gated=gated)

    assert words in str(refused.value)
    assert str(refused.value).startswith("item t1: ")
