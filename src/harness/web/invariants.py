"""`/api/invariants`: what shall be true, and whether it is."""

from __future__ import annotations

from fastapi import APIRouter

from harness.errors import NotFound
from harness.recovery import Invariant
from harness.web import overview, registering
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
    return await registering.register(here.store, Invariant(**new.model_dump()), here.declarations)


@router.delete("/{name}")
async def disable_invariant(here: Here, name: str) -> Check:
    """Switch a check off. It stays known, and its history stays; registering it again switches it on."""
    return await registering.disable(here.store, name)


@router.post("/{name}/enable")
async def enable_invariant(here: Here, name: str) -> Check:
    """Switch a check on again."""
    return await registering.enable(here.store, name)
