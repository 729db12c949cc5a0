"""Quotas of runs in the ledger: counters that a call reserves from before it is made and settles with its end.

A reservation is an event of the run with guards on every counter that it touches, so it is taken whole or refused, by
whichever process. The end of the step carries the difference to what was used. Nobody has to clean up after a crash:
what was reserved and never settled stays counted, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from harness.errors import BudgetExceeded, Refused
from harness.kernel.middleware.quota import Quota
from harness.kernel.records import Record
from harness.kernel.runs import RunState, stream_of
from harness.kernel.tenant import TenantContext
from harness.ledger import Draft, Guard, Reserve

if TYPE_CHECKING:
    from harness.kernel.steps import Steps

RESERVED = "quota.reserved"
SETTLED = "quota.settled"
_MICRO = 1_000_000

Dimension = Literal["usd", "tokens", "calls", "seconds"]
_SCALE: dict[Dimension, int] = {"usd": _MICRO, "tokens": 1, "calls": 1, "seconds": _MICRO}  # of a limit to its counter
_NOTHING: dict[Dimension, int] = {"usd": 0, "tokens": 0, "calls": 0, "seconds": 0}


class QuotaReserved(Record, frozen=True, kw_only=True):
    step: str
    amounts: dict[str, int]  # by counter; micro-USD, tokens, calls, microseconds


class QuotaSettled(Record, frozen=True, kw_only=True):
    step: str
    differences: dict[str, int]  # by counter: used less reserved


@dataclass(frozen=True, slots=True)
class _Counted:
    """One counter that a call touches."""

    name: str
    dimension: Dimension
    limit: int
    quota: Quota


@dataclass(slots=True)
class Held:
    """What is reserved for one call."""

    step: str
    amounts: dict[str, tuple[Dimension, int]]
    began_us: int
    over: bool = False


class Quotas:
    """The quotas of one kernel."""

    def __init__(self, steps: Steps, quotas: Sequence[Quota] = ()) -> None:
        self._steps = steps
        self._quotas = tuple(quotas)
        self._began: dict[str, int] = {}  # when each tree's first run was started

    def concern(self, tenant: TenantContext) -> bool:
        """Whether anything limits this tenant's calls, besides its budget."""
        return bool(self._quotas) or tenant.counted

    async def reserve(
        self, run: RunState, tenant: TenantContext, step: str, *, micro_usd: int = 0, tokens: int = 0, seconds: float | None
    ) -> Held | None:
        """Set aside what one call may use. Raises `BudgetExceeded`. `seconds` is the call's timeout."""
        quotas = (*self._quotas, *tenant_quotas(tenant))
        now_us = self._steps.store.clock.now_us()
        for each in quotas:
            if each.elapsed_seconds is not None:
                await self._check_elapsed(run, each.elapsed_seconds, now_us)
        asked: dict[Dimension, int] = {"usd": micro_usd, "tokens": tokens, "calls": 1, "seconds": 0}
        counted = list(_counted(quotas, run, now_us))
        amounts: dict[str, tuple[Dimension, int]] = {}
        guards: list[Guard] = []
        for each in counted:
            amount = asked[each.dimension]
            if each.dimension == "seconds":
                amount = min(each.limit, round((each.quota.call_seconds if seconds is None else seconds) * _MICRO))
            before = amounts.get(each.name, ("calls", 0))[1]
            guards.append(Reserve(each.name, max(0, amount - before), each.limit))
            amounts[each.name] = (each.dimension, max(amount, before))
        if not guards:
            return None
        draft = self._draft(run, RESERVED, QuotaReserved(step=step, amounts={n: a for n, (_, a) in amounts.items()}))
        try:
            await self._steps.write(run, draft, guards=guards)
        except Refused as error:
            raise BudgetExceeded(_refusal(run, error, next(each for each in counted if each.name == error.counter))) from error
        return Held(step, amounts, now_us)

    async def _check_elapsed(self, run: RunState, limit: float, now_us: int) -> None:
        began = self._began.get(run.root_run)
        if began is None:
            first = await self._steps.store.event(stream_of(run.root_run), 1)
            began = self._began[run.root_run] = now_us if first is None else first.ts
        if now_us - began > limit * _MICRO:
            raise BudgetExceeded(
                f"the tree of run {run.root_run!r} began {(now_us - began) / _MICRO:.0f} s ago, and may last {limit:g} s"
            )

    def settle(
        self, run: RunState, held: Held | None, *, micro_usd: int = 0, tokens: int = 0, made: bool = True
    ) -> tuple[list[Draft], list[Guard]]:
        """What the end of a call must carry: its event and guards. `made` of False: the call was not made."""
        if held is None or held.over:
            return [], []
        held.over = True
        used = dict(_NOTHING)
        if made:
            elapsed_us = max(0, self._steps.store.clock.now_us() - held.began_us)
            used = {"usd": micro_usd, "tokens": tokens, "calls": 1, "seconds": elapsed_us}
        differences = {name: used[dimension] - amount for name, (dimension, amount) in held.amounts.items()}
        changed = {name: difference for name, difference in differences.items() if difference}
        if not changed:
            return [], []
        draft = self._draft(run, SETTLED, QuotaSettled(step=held.step, differences=changed))
        return [draft], [Reserve(name, difference) for name, difference in changed.items()]

    async def free(self, run: RunState, held: Held | None) -> None:
        """The call is not made."""
        drafts, guards = self.settle(run, held, made=False)
        if drafts:
            await self._steps.write(run, *drafts, guards=guards)

    def _draft(self, run: RunState, type_: str, payload: Record) -> Draft:
        return Draft(type=type_, payload=payload, tenant=run.tenant_id)


def tenant_quotas(tenant: TenantContext) -> tuple[Quota, ...]:
    """The limits that a tenant brings along, besides its budget."""
    if not tenant.counted:
        return ()
    return (Quota(per="tenant", tokens=tenant.token_limit, calls=tenant.call_limit, seconds=tenant.wall_seconds_limit),)


def _counted(quotas: Sequence[Quota], run: RunState, now_us: int) -> Iterator[_Counted]:
    for each in quotas:
        place = f"tenant/{quote(run.tenant_id, safe='')}"
        if each.per == "tree":
            place += f"/run/{quote(run.root_run, safe='')}"
        if each.window_seconds is not None:
            place += f"/{each.window_seconds:g}s/{now_us // round(each.window_seconds * _MICRO)}"
        for dimension, scale in _SCALE.items():
            limit = getattr(each, dimension)
            if limit is not None:
                yield _Counted(f"quota/{place}/{dimension}", dimension, round(limit * scale), each)


def _refusal(run: RunState, error: Refused, counted: _Counted) -> str:
    whose = f"tenant {run.tenant_id!r}" if counted.quota.per == "tenant" else f"the tree of run {run.root_run!r}"
    window = counted.quota.window_seconds
    often = "" if window is None else f" in {window:g} s"

    def told(amount: int) -> str:
        match counted.dimension:
            case "usd":
                return f"${amount / _MICRO:g}"
            case "seconds":
                return f"{amount / _MICRO:g} s of calls"
            case dimension:
                return f"{amount} {dimension}"

    return (
        f"the quota of {whose} is {told(error.limit)}{often}; {told(error.reserved)} are used or reserved,"
        f" and {told(error.amount)} more do not fit"
    )
