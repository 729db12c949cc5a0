"""How much the runs of a tenant, or one tree of runs, may use: dollars, tokens, calls, time. Declarations only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from harness.errors import UsageError
from harness.kernel.bounds import check_limit, check_seconds
from harness.kernel.middleware.base import QUOTA, KernelMiddleware


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """One limit, or several that count alike. What is reserved for a call counts until the call has ended.

    `per` says what is counted together: the runs of a tree (a run, its children, their children, and forks of any of them)
    or all runs of the tenant. With `window_seconds` each window of that length, from a full multiple of it in UTC, is
    counted by itself. A model call reserves what it may cost at most, and its `timeout` or `call_seconds`.
    """

    per: Literal["tree", "tenant"] = "tree"
    usd: float | None = None
    tokens: int | None = None  # of model calls: input, output and cached ones
    calls: int | None = None  # of models and tools
    seconds: float | None = None  # the time of all calls together; those at the same time count each
    elapsed_seconds: float | None = None  # since the first run of the tree began
    window_seconds: float | None = None
    call_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.per not in ("tree", "tenant"):
            raise UsageError(f"a quota is per 'tree' or per 'tenant', not per {self.per!r}")
        limits = {name: getattr(self, name) for name in ("usd", "tokens", "calls", "seconds", "elapsed_seconds")}
        if all(limit is None for limit in limits.values()):
            raise UsageError("a quota limits at least one of usd, tokens, calls, seconds, elapsed_seconds")
        for name, limit in limits.items():
            check_limit(f"a quota's {name}", limit)
        for name in ("window_seconds", "call_seconds"):
            value = getattr(self, name)
            if value is not None:
                check_seconds(f"a quota's {name}", value)
        if self.elapsed_seconds is not None and (self.per != "tree" or self.window_seconds is not None):
            raise UsageError("elapsed_seconds are counted per tree and without a window: give them a quota of their own")


class QuotaMiddleware(KernelMiddleware):
    """Limits on what runs use, reserved before each call and settled after it, over all processes of one ledger.

    Without arguments it stands for what the kernel does anyway: the limits of the `TenantContext`. Each `Quota` given adds
    one. A call that does not fit is refused with `BudgetExceeded`, and the refusal is recorded. A call whose end nobody
    recorded, since its process was killed, counts as what was reserved for it.
    """

    rank: ClassVar[int] = QUOTA

    def __init__(self, *quotas: Quota) -> None:
        for quota in quotas:
            if not isinstance(quota, Quota):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise UsageError(f"QuotaMiddleware takes Quota objects, not {type(quota).__name__}")
        self.quotas = quotas
