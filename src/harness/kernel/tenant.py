"""For whom a step is done, and which tools that allows. Pure: one decision serves listing, explaining and calling."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from harness.errors import UsageError
from harness.kernel.bounds import check_limit, is_number


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantContext:
    """Who pays and who may do what. The limits are the tenant's, over all runs of it together. None: no limit."""

    tenant_id: str
    capabilities: frozenset[str] = frozenset()
    budget_usd_limit: float | None = None
    token_limit: int | None = None  # of model calls
    call_limit: int | None = None  # of models and tools
    wall_seconds_limit: float | None = None  # of all calls together; those at the same time count each

    def __post_init__(self) -> None:
        if not _is_name(self.tenant_id):
            raise UsageError(f"a tenant's id is a printable name, not {self.tenant_id!r}")
        if isinstance(self.capabilities, str):
            raise UsageError(f"capabilities are a set of names, not the text {self.capabilities!r}")
        object.__setattr__(self, "capabilities", frozenset(self.capabilities))
        if self.budget_usd_limit is not None and not (is_number(self.budget_usd_limit) and self.budget_usd_limit >= 0):
            raise UsageError(f"a budget is 0 USD or more, not {self.budget_usd_limit!r}")
        for name in ("token_limit", "call_limit", "wall_seconds_limit"):
            check_limit(name, getattr(self, name))

    @property
    def counted(self) -> bool:
        """Whether anything but money is limited."""
        return self.token_limit is not None or self.call_limit is not None or self.wall_seconds_limit is not None

    @property
    def limit_micro_usd(self) -> int | None:
        """The budget in millionths of a dollar."""
        return None if self.budget_usd_limit is None else round(self.budget_usd_limit * 1_000_000)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


class ToolDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a tenant may see and call a tool, and why."""

    tool_name: str
    required_capability: str | None
    decision: Literal["allowed", "filtered"]
    reason: Literal["no_capability_required", "capability_granted", "capability_missing", "not_visible"]

    @property
    def allowed(self) -> bool:
        return self.decision == "allowed"


class Guarded(Protocol):
    """What the decision needs of a tool: a `Tool` or a `ToolDefinition`."""

    @property
    def name(self) -> str: ...

    @property
    def requires_capability(self) -> str | None: ...


def decide(definition: Guarded, tenant: TenantContext, visible: Collection[str] | None = None) -> ToolDecision:
    """The one decision about one tool. `visible` of None hides nothing."""
    required = definition.requires_capability
    if visible is not None and definition.name not in visible:
        reason = "not_visible"
    elif required is None:
        reason = "no_capability_required"
    elif required in tenant.capabilities:
        reason = "capability_granted"
    else:
        reason = "capability_missing"
    decision = "filtered" if reason in {"not_visible", "capability_missing"} else "allowed"
    return ToolDecision(tool_name=definition.name, required_capability=required, decision=decision, reason=reason)
