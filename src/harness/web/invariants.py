"""`/api/invariants`: what shall be true, and whether it is."""

from __future__ import annotations

from fastapi import APIRouter

from harness.errors import Conflict, NotFound
from harness.ledger import Expect, Write
from harness.recovery import Invariant, facts
from harness.recovery.checks import build_check
from harness.web import overview
from harness.web.context import Here
from harness.web.overview import Check
from harness.web.schemas import NewInvariant

router = APIRouter(prefix="/api/invariants", tags=["invariants"])


@router.get("")
async def list_invariants(here: Here) -> list[Check]:
    """Every declared check with its last result."""
    return await overview.checks(here.store)


@router.get("/{name}")
async def show_invariant(here: Here, name: str) -> Check:
    """One check with its last result."""
    found = await overview.check(here.store, name)
    if found is None:
        raise NotFound(f"no invariant {name!r}")
    return found


@router.post("", status_code=201)
async def add_invariant(here: Here, new: NewInvariant) -> Check:
    """Register a check; the monitor takes it up at once. A condition that makes no sense is refused."""
    return await declare(here, _declared(new), expect_new=True)


@router.delete("/{name}")
async def disable_invariant(here: Here, name: str) -> Check:
    """Switch a check off. It stays known, and its history stays; registering it again switches it on."""
    found = await show_invariant(here, name)
    return await declare(here, _again(found, enabled=False))


@router.post("/{name}/enable")
async def enable_invariant(here: Here, name: str) -> Check:
    """Switch a check on again."""
    found = await show_invariant(here, name)
    return await declare(here, _again(found, enabled=True))


def _declared(new: NewInvariant) -> facts.CheckDeclared:
    return facts.CheckDeclared(
        name=new.name,
        query=new.query,
        condition=new.condition,
        target=new.target,
        description=new.description,
        enabled=new.enabled,
        interval_seconds=new.interval_seconds,
    )


def _again(found: Check, *, enabled: bool) -> facts.CheckDeclared:
    return facts.CheckDeclared(
        name=found.name,
        query=found.query,
        condition=found.condition,
        target=found.target,
        description=found.description,
        enabled=enabled,
        interval_seconds=found.interval_seconds,
    )


def _invariant(declared: facts.CheckDeclared) -> Invariant:
    return Invariant(
        name=declared.name,
        query=declared.query,
        condition=declared.condition,
        target=declared.target,
        description=declared.description,
        enabled=declared.enabled,
        interval_seconds=declared.interval_seconds,
    )


async def declare(here: Here, declared: facts.CheckDeclared, *, expect_new: bool = False) -> Check:
    """Write a check's declaration, if it makes sense. Raises `DeclarationError`, `Conflict` for a name that is taken."""
    build_check(_invariant(declared))
    stream = facts.check_stream(declared.name)
    known = await overview.check(here.store, declared.name)
    if expect_new and known is not None and known.enabled:
        raise Conflict(f"an invariant {declared.name!r} exists; delete it first, or choose another name")
    head = await here.store.head(stream)
    guards = (Expect(stream, head.seq if head else 0),)
    await here.store.append(Write(stream, (facts.draft(declared, actor=here.actor),)), guards=guards)
    return await show_invariant(here, declared.name)
