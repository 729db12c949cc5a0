"""Rules for what tools may do, beyond who may call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from harness.errors import UsageError
from harness.kernel.middleware.base import SAFETY, KernelMiddleware
from harness.kernel.middleware.policies import ToolPolicy
from harness.kernel.tools import Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetyPolicy:
    """A policy for each tool by name; else by its risk level; else the default; else none."""

    tools: Mapping[str, ToolPolicy] = field(default_factory=dict[str, ToolPolicy])
    by_risk: Mapping[str, ToolPolicy] = field(default_factory=dict[str, ToolPolicy])
    default: ToolPolicy | None = None

    def __post_init__(self) -> None:
        for name, policy in (*self.tools.items(), *self.by_risk.items(), ("default", self.default or ToolPolicy())):
            if not isinstance(policy, ToolPolicy):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise UsageError(f"the policy of {name!r} is a ToolPolicy, not {type(policy).__name__}")
            _ = policy.approvals

    def of(self, tool: Tool) -> ToolPolicy | None:
        """What is asked of a call of this tool."""
        return self.tools.get(tool.name) or self.by_risk.get(tool.risk_level) or self.default

    def __bool__(self) -> bool:
        return bool(self.tools) or bool(self.by_risk) or self.default is not None


class SafetyPolicyMiddleware(KernelMiddleware):
    """Decides about each call of a tool that has a policy, after its arguments were checked and before it is run.

    Every decision is an event of the run, `policy.decided`. What is refused raises `PolicyDenied`; what a person has still
    to say yes to raises `ApprovalRequired`, with the id of the question. Replay decides nothing anew. Without a policy it
    lets everything pass.
    """

    rank: ClassVar[int] = SAFETY

    def __init__(self, policy: SafetyPolicy | Mapping[str, ToolPolicy] | None = None) -> None:
        if isinstance(policy, Mapping):
            policy = SafetyPolicy(tools=policy)
        if policy is not None and not isinstance(policy, SafetyPolicy):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"a safety policy is a SafetyPolicy or maps tools to ToolPolicy, not {type(policy).__name__}")
        self.policy = policy or SafetyPolicy()
