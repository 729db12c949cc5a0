"""A tenant's budget in the ledger: one counter for all its runs, reserved before and settled after.

Runs take slices of it (`slices`); what has no run reserves here, call by call. Owns the stream `tenant/ID`.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from harness.errors import BudgetExceeded, KeyTaken, Refused
from harness.ledger import Draft, Guard, Reserve, Store, Unique, Write

RESERVED = "spend.reserved"
SETTLED = "spend.settled"


class SpendReserved(msgspec.Struct, frozen=True, kw_only=True):
    amount: int
    what: str
    limit: int | None = None


class SpendSettled(msgspec.Struct, frozen=True, kw_only=True):
    reservation: str
    reserved: int
    cost: int


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """Money set aside; `ref` names the event that did it."""

    ref: str
    tenant_id: str
    amount: int


def counter(tenant_id: str) -> str:
    """The ledger's counter for everything a tenant has reserved or spent."""
    return f"spend/{quote(tenant_id, safe='')}"


def stream(tenant_id: str) -> str:
    """The tenant's stream."""
    return f"tenant/{quote(tenant_id, safe='')}"


def reserving(tenant_id: str, amount: int, limit: int | None) -> Guard:
    """The guard that sets `amount` aside within an append, or refuses it."""
    return Reserve(counter(tenant_id), amount, limit)


def budget_exceeded(tenant_id: str, error: Refused) -> BudgetExceeded:
    """A refused reservation in words of money."""
    return BudgetExceeded(
        f"the budget of tenant {tenant_id!r} is {usd(error.limit)}; {usd(error.reserved)} are spent or reserved,"
        f" and {usd(error.amount)} more do not fit"
    )


def usd(micro: int) -> str:
    """An amount for people."""
    text = f"{micro / 1_000_000:.6f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"${whole}.{cents:0<2}"


class Budgets:
    """Budgets of tenants. All amounts are micro-USD."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def used(self, tenant_id: str) -> int:
        """What all runs and calls of the tenant have spent or set aside."""
        return await self._store.reserved(counter(tenant_id))

    async def reserve(self, tenant_id: str, amount: int, *, limit: int | None, what: str) -> Reservation:
        """Set money aside before a call. Raises `BudgetExceeded`."""
        event = Draft(type=RESERVED, payload=SpendReserved(amount=amount, what=what, limit=limit), tenant=tenant_id)
        try:
            appended = await self._store.append(
                Write(stream(tenant_id), (event,)), guards=[reserving(tenant_id, amount, limit)]
            )
        except Refused as error:
            raise budget_exceeded(tenant_id, error) from error
        return Reservation(ref=appended.first.ref, tenant_id=tenant_id, amount=amount)

    async def settle(self, reservation: Reservation, cost: int) -> None:
        """Count what it really cost and free the rest. A second time changes nothing, so it is safe after a crash."""
        settled = SpendSettled(reservation=reservation.ref, reserved=reservation.amount, cost=cost)
        tenant = reservation.tenant_id
        event = Draft(type=SETTLED, payload=settled, parent=reservation.ref, tenant=tenant)
        guards = [Unique(f"settled/{reservation.ref}"), reserving(tenant, cost - reservation.amount, None)]
        try:
            await self._store.append(Write(stream(tenant), (event,)), guards=guards)
        except KeyTaken:
            return
