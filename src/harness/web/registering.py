"""Registering, switching and silencing checks while the monitor runs: events that it follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from harness.clock import MICROSECONDS
from harness.errors import Conflict, NotFound
from harness.recovery import facts
from harness.web import overview

if TYPE_CHECKING:
    from harness.ledger import Store
    from harness.recovery import Invariant
    from harness.web.overview import Check


async def register(store: Store, invariant: Invariant, *, by: str) -> Check:
    """Make a check known; the monitor takes it up at once.

    Raises `DeclarationError` for one that could never work, `Conflict` for a name that is taken.
    """
    from harness.recovery.checks import build_check

    build_check(invariant)
    known = await _declared(store, invariant.name)
    if known is not None and known.enabled and not known.removed:
        raise Conflict(f"a check {invariant.name!r} exists already; switch it off first, or choose another name")
    told = {**msgspec.to_builtins(invariant), "origin": "api"}
    return await _write(store, msgspec.convert(told, facts.CheckDeclared), by)


async def switch(store: Store, name: str, *, enabled: bool, by: str) -> Check:
    """Switch a check on or off; it stays known, and its history stays. Raises `NotFound`."""
    known = await _declared(store, name)
    if known is None or known.removed:
        raise NotFound(f"no check {name!r}; 'harness checks list' shows them")
    return await _write(store, msgspec.structs.replace(known, enabled=enabled), by)


async def silence(store: Store, subject: str, *, seconds: float, by: str, reason: str = "") -> facts.CheckSilenced:
    """No tickets for a check or a service for a while; zero seconds end a silence. Raises `NotFound`."""
    from harness.ledger import Write

    named = {row.name for row in await overview.checks(store)} | {row.name for row in await overview.services(store)}
    if subject not in named:
        raise NotFound(f"no check or service {subject!r}; known: {', '.join(sorted(named)) or 'none'}")
    until_us = store.clock.now_us() + round(seconds * MICROSECONDS)
    fact = facts.CheckSilenced(subject=subject, until_us=until_us, reason=reason, by=by)
    await store.append(Write(facts.check_stream(subject), (facts.draft(fact, actor=by),)))
    return fact


async def _declared(store: Store, name: str) -> facts.CheckDeclared | None:
    event = await store.latest(facts.check_stream(name), facts.DECLARED_KEY)
    fact = None if event is None else facts.fact_of(event)
    return fact if isinstance(fact, facts.CheckDeclared) else None


async def _write(store: Store, fact: facts.CheckDeclared, by: str) -> Check:
    from harness.ledger import Expect, Write

    stream = facts.check_stream(fact.name)
    head = await store.head(stream)
    guards = (Expect(stream, head.seq if head else 0),)
    await store.append(Write(stream, (facts.draft(fact, actor=by),)), guards=guards)
    row = await overview.check(store, fact.name)
    assert row is not None
    return row
