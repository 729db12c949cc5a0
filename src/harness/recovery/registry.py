"""Which checks there are: those of `harness.toml` and those added while running; and what is silenced.

Everything is refused here, when it is registered, that could never work. Owns `check.declared` and `check.silenced`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from harness.clock import MICROSECONDS
from harness.errors import Conflict, DeclarationError, LedgerError, NotFound
from harness.ledger import Event, Expect, Store, Write
from harness.recovery.checks import Check, build_check
from harness.recovery.declarations import Declarations, Invariant, infer_target
from harness.recovery.facts import DECLARED_KEY, SILENCE_KEY, CheckDeclared, CheckSilenced, check_stream, draft
from harness.recovery.judging import Silence

_TRIES = 50
T = TypeVar("T")


def build_checks(invariants: Iterable[Invariant]) -> tuple[Check, ...]:
    """All invariants as checks. Raises `DeclarationError` that names every one that could never work."""
    built: list[Check] = []
    problems: list[str] = []
    for invariant in invariants:
        try:
            built.append(build_check(invariant))
        except DeclarationError as error:
            problems.append(str(error))
    if problems:
        raise DeclarationError("; ".join(problems))
    return tuple(built)


def declared(invariant: Invariant, *, origin: str, removed: bool = False) -> CheckDeclared:
    """The invariant as the ledger keeps it."""
    told = {**msgspec.to_builtins(invariant), "origin": origin, "removed": removed}
    return msgspec.convert(told, CheckDeclared)


def invariant_of(fact: CheckDeclared) -> Invariant:
    """The declaration as it came from the ledger. Raises `DeclarationError` if it is of another shape."""
    known = {name: value for name, value in msgspec.to_builtins(fact).items() if name in Invariant.__struct_fields__}
    try:
        return msgspec.convert(known, Invariant)
    except msgspec.ValidationError as error:
        raise DeclarationError(f"check {fact.name}: {error}") from error


async def register(store: Store, invariant: Invariant, declarations: Declarations) -> Check:
    """Add a check, or change one that was added. A running monitor takes it up at once.

    Raises `DeclarationError` if it could never work, or if `harness.toml` declares one of this name.
    """
    if any(other.name == invariant.name for other in declarations.invariants):
        raise DeclarationError(f"check {invariant.name} is declared in harness.toml; change it there")
    invariant = msgspec.structs.replace(invariant, target=infer_target(invariant, declarations.services))
    check = build_check(invariant)
    await _declare(store, declared(invariant, origin="api"))
    return check


async def disable(store: Store, name: str) -> None:
    """Look no more, and keep the check's history. Raises `NotFound`."""
    fact = await declared_check(store, name)
    if fact is None or fact.removed:
        raise NotFound(f"no check {name!r} is declared")
    await _declare(store, msgspec.structs.replace(fact, enabled=False))


async def _declare(store: Store, fact: CheckDeclared) -> bool:
    stream = check_stream(fact.name)
    for _ in range(_TRIES):
        head = await store.head(stream)
        if await declared_check(store, fact.name) == fact:
            return False
        try:
            await store.append(Write(stream, (draft(fact),)), guards=(Expect(stream, head.seq if head else 0),))
        except Conflict:
            continue
        return True
    raise Conflict(f"check {fact.name} is declared again and again; try again", name=stream)


async def declared_check(store: Store, name: str) -> CheckDeclared | None:
    """How a check is declared now."""
    event = await store.latest(check_stream(name), DECLARED_KEY)
    return None if event is None else _read(event, CheckDeclared)


async def declared_checks(store: Store) -> list[CheckDeclared]:
    """Every check that is declared and not removed, disabled ones too, by name."""
    found = [await declared_check(store, head.stream.partition("/")[2]) for head in await store.heads("check/")]
    return [fact for fact in found if fact is not None and not fact.removed]


async def synchronise(store: Store, declarations: Declarations) -> list[Invariant]:
    """Record what `harness.toml` says now, and give everything that is declared. Called by the monitor when it starts.

    One that was switched off over the API stays off until the file changes what it says of it.
    """
    known = {fact.name: fact for fact in await declared_checks(store)}
    invariants: list[Invariant] = []
    for invariant in declarations.invariants:
        fact, old = declared(invariant, origin="file"), known.pop(invariant.name, None)
        if old is not None and not old.enabled and msgspec.structs.replace(old, enabled=fact.enabled) == fact:
            invariants.append(msgspec.structs.replace(invariant, enabled=False))
            continue
        await _declare(store, fact)
        invariants.append(invariant)
    for fact in known.values():
        if fact.origin == "file":
            await _declare(store, msgspec.structs.replace(fact, removed=True))
        else:
            invariants.append(invariant_of(fact))
    return invariants


async def silence(store: Store, subject: str, *, seconds: float, by: str, reason: str = "") -> Silence:
    """No tickets for this check or target for so long; 0 ends a silence. Looking goes on."""
    until_us = store.clock.now_us() + round(seconds * MICROSECONDS)
    fact = CheckSilenced(subject=subject, until_us=until_us, reason=reason, by=by)
    await store.append(Write(check_stream(subject), (draft(fact),)))
    return Silence(subject=subject, until_us=until_us, reason=reason)


async def silences(store: Store, subjects: Sequence[str]) -> list[Silence]:
    """The newest silence of each subject, whether it still lasts or not."""
    events = [await store.latest(check_stream(subject), SILENCE_KEY) for subject in subjects]
    facts = [_read(event, CheckSilenced) for event in events if event is not None]
    return [silence_of(fact) for fact in facts if fact is not None]


def silence_of(fact: CheckSilenced) -> Silence:
    """The event's payload as a silence."""
    return Silence(subject=fact.subject, until_us=fact.until_us, reason=fact.reason)


def _read(event: Event, shape: type[T]) -> T | None:
    """The payload, or None: anybody can write to a stream, and nonsense there must blind nobody."""
    try:
        return None if event.erased else event.load(shape)
    except LedgerError:
        return None
