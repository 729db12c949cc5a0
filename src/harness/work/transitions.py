"""Which state of an item may follow which, and who may say so: one table. No I/O.

What is not a change of state (notes, recurrences, dependencies, edits) is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from harness.errors import IllegalTransition


class Status(StrEnum):
    """An item is in exactly one of these, always."""

    PENDING = "pending"  # to be done; *ready* once everything it depends on is completed
    IN_PROGRESS = "in_progress"  # a holder has claimed it
    VERIFYING = "verifying"  # its worker says it is done; somebody else looks
    COMPLETED = "completed"
    FAILED = "failed"
    BLOCKED = "blocked"  # something outside must happen first
    PARKED = "parked"  # put aside; somebody must take it up again
    CANCELLED = "cancelled"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
"""Closed: the fingerprint is free again."""

OPEN = frozenset(Status) - TERMINAL
"""Everything else, blocked and parked included: an open item keeps its fingerprint."""

BROKEN = frozenset({Status.FAILED, Status.CANCELLED})
"""What depends on an item in one of these cannot go on."""


class Role(StrEnum):
    """In which capacity somebody changes an item."""

    WORKER = "worker"  # holds the claim
    VERIFIER = "verifier"  # looked at the result with its own eyes
    PERSON = "person"  # a human, or a command in a human's name
    SYSTEM = "system"  # Harness by its own rules: dependencies, limits, coordinators, monitors


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One arrow: from which state to which, who may take it, and the event that records it."""

    origin: Status
    target: Status
    event: str  # each type leads to one state, so that a state can be told from types alone
    roles: frozenset[Role]
    ungated: bool = False  # only for an item without gates: nobody else will look at it


def _rule(origin: Status, target: Status, event: str, *roles: Role, ungated: bool = False) -> Rule:
    return Rule(origin=origin, target=target, event=f"item.{event}", roles=frozenset(roles), ungated=ungated)


_S, _R = Status, Role

RULES: tuple[Rule, ...] = (
    _rule(_S.PENDING, _S.IN_PROGRESS, "claimed", _R.WORKER),
    _rule(_S.PENDING, _S.VERIFYING, "submitted", _R.VERIFIER, _R.PERSON, _R.SYSTEM),  # it may have healed by itself
    _rule(_S.PENDING, _S.COMPLETED, "completed", _R.PERSON, ungated=True),
    _rule(_S.PENDING, _S.FAILED, "failed", _R.PERSON, _R.SYSTEM),
    _rule(_S.PENDING, _S.BLOCKED, "blocked", _R.PERSON, _R.SYSTEM),
    _rule(_S.PENDING, _S.PARKED, "parked", _R.PERSON, _R.SYSTEM),
    _rule(_S.PENDING, _S.CANCELLED, "cancelled", _R.PERSON, _R.SYSTEM),
    #
    _rule(_S.IN_PROGRESS, _S.IN_PROGRESS, "claimed", _R.WORKER),  # taken over, or taken anew by the same holder
    _rule(_S.IN_PROGRESS, _S.PENDING, "released", _R.WORKER, _R.PERSON, _R.SYSTEM),
    _rule(_S.IN_PROGRESS, _S.VERIFYING, "submitted", _R.WORKER),
    _rule(_S.IN_PROGRESS, _S.COMPLETED, "completed", _R.WORKER, ungated=True),
    _rule(_S.IN_PROGRESS, _S.FAILED, "failed", _R.WORKER, _R.PERSON, _R.SYSTEM),
    _rule(_S.IN_PROGRESS, _S.BLOCKED, "blocked", _R.WORKER, _R.PERSON, _R.SYSTEM),
    _rule(_S.IN_PROGRESS, _S.PARKED, "parked", _R.WORKER, _R.PERSON, _R.SYSTEM),
    _rule(_S.IN_PROGRESS, _S.CANCELLED, "cancelled", _R.PERSON, _R.SYSTEM),
    #
    _rule(_S.VERIFYING, _S.COMPLETED, "completed", _R.VERIFIER),
    _rule(_S.VERIFYING, _S.PENDING, "rejected", _R.VERIFIER, _R.PERSON),
    _rule(_S.VERIFYING, _S.FAILED, "failed", _R.VERIFIER, _R.PERSON),
    _rule(_S.VERIFYING, _S.BLOCKED, "blocked", _R.VERIFIER, _R.PERSON, _R.SYSTEM),
    _rule(_S.VERIFYING, _S.PARKED, "parked", _R.VERIFIER, _R.PERSON, _R.SYSTEM),
    _rule(_S.VERIFYING, _S.CANCELLED, "cancelled", _R.PERSON),
    #
    _rule(_S.BLOCKED, _S.PENDING, "unblocked", _R.VERIFIER, _R.PERSON, _R.SYSTEM),
    _rule(_S.BLOCKED, _S.VERIFYING, "submitted", _R.VERIFIER, _R.PERSON, _R.SYSTEM),
    _rule(_S.BLOCKED, _S.FAILED, "failed", _R.VERIFIER, _R.PERSON, _R.SYSTEM),
    _rule(_S.BLOCKED, _S.PARKED, "parked", _R.PERSON, _R.SYSTEM),
    _rule(_S.BLOCKED, _S.CANCELLED, "cancelled", _R.PERSON, _R.SYSTEM),
    #
    _rule(_S.PARKED, _S.PENDING, "unparked", _R.PERSON, _R.SYSTEM),
    _rule(_S.PARKED, _S.VERIFYING, "submitted", _R.VERIFIER, _R.PERSON, _R.SYSTEM),
    _rule(_S.PARKED, _S.FAILED, "failed", _R.PERSON, _R.SYSTEM),
    _rule(_S.PARKED, _S.CANCELLED, "cancelled", _R.PERSON, _R.SYSTEM),
    #
    _rule(_S.FAILED, _S.PENDING, "reopened", _R.PERSON),
    _rule(_S.CANCELLED, _S.PENDING, "reopened", _R.PERSON),
)

_BY_ARROW = {(rule.origin, rule.target): rule for rule in RULES}

STATUS_AFTER: dict[str, Status] = {"item.created": Status.PENDING} | {rule.event: rule.target for rule in RULES}
"""The state that an event of this type leads to. Types that are not here change no state."""


def targets(origin: Status, role: Role, *, gated: bool) -> tuple[Status, ...]:
    """Where an item in `origin` may go when `role` says so."""
    return tuple(rule.target for rule in RULES if rule.origin is origin and role in rule.roles and not (gated and rule.ungated))


def permitted(item_id: str, origin: Status, target: Status, role: Role, *, gated: bool) -> Rule:
    """The rule for this change. Raises `IllegalTransition`, which names who may do what instead."""
    rule = _BY_ARROW.get((origin, target))
    if rule is not None and role in rule.roles and not (gated and rule.ungated):
        return rule
    if rule is None:
        why = f"{origin} does not lead to {target}"
    elif role not in rule.roles:
        why = f"from {origin} to {target} takes {' or '.join(sorted(rule.roles))}, not {role}"
    else:
        why = "an item with gates is completed by its verifier only, so hand it to verifying"
    choices = ", ".join(dict.fromkeys(targets(origin, role, gated=gated))) or "nothing"
    raise IllegalTransition(f"item {item_id}: {why}; as {role} you may choose {choices}")
