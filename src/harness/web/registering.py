"""Registering, switching and silencing checks for people, on top of recovery's registry; gives the row that they see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from harness.errors import Conflict, NotFound
from harness.web import overview

if TYPE_CHECKING:
    from harness.ledger import Store
    from harness.recovery import Declarations, Invariant
    from harness.recovery.judging import Silence
    from harness.web.overview import Check


async def register(store: Store, invariant: Invariant, declarations: Declarations) -> Check:
    """Make a check known; the monitor takes it up at once.

    Raises `DeclarationError` for one that could never work, `Conflict` for a name that is taken.
    """
    from harness.recovery import registry

    known = await overview.check(store, invariant.name)
    if known is not None and known.enabled:
        raise Conflict(f"a check {invariant.name!r} exists already; switch it off first, or choose another name")
    await registry.register(store, invariant, declarations)
    return await _row(store, invariant.name)


async def disable(store: Store, name: str) -> Check:
    """Switch a check off; it stays known, and its history stays. Raises `NotFound`."""
    from harness.recovery import registry

    await registry.disable(store, name)
    return await _row(store, name)


async def enable(store: Store, name: str) -> Check:
    """Switch a check on again. Raises `NotFound`."""
    from harness.ledger import Expect, Write
    from harness.recovery import facts, registry

    known = await registry.declared_check(store, name)
    if known is None or known.removed:
        raise NotFound(f"no check {name!r}; 'harness checks list' shows them")
    stream = facts.check_stream(name)
    head = await store.head(stream)
    fact = msgspec.structs.replace(known, enabled=True)
    await store.append(Write(stream, (facts.draft(fact),)), guards=(Expect(stream, head.seq if head else 0),))
    return await _row(store, name)


async def silence(store: Store, subject: str, *, seconds: float, by: str, reason: str = "") -> Silence:
    """No tickets for a check or a service for a while; zero seconds end a silence. Raises `NotFound`."""
    from harness.recovery import registry

    named = {row.name for row in await overview.checks(store)} | {row.name for row in await overview.services(store)}
    if subject not in named:
        raise NotFound(f"no check or service {subject!r}; known: {', '.join(sorted(named)) or 'none'}")
    return await registry.silence(store, subject, seconds=seconds, by=by, reason=reason)


async def _row(store: Store, name: str) -> Check:
    row = await overview.check(store, name)
    assert row is not None
    return row
