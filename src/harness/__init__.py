"""Runs AI agents nobody is watching, and can prove afterwards what they did.

The documented names are imported from here; each loads only what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.agents import (
        AutonomousAgent,
        BaseHarness,
        CompactionStrategy,
        ContextBuilder,
        DraftReviewVerifyResult,
        DraftReviewVerifySupervisor,
        HarnessContext,
        IncrementalTaskHarness,
        Skill,
        SubAgent,
        SupervisorHarness,
        TaskUnit,
        TestDrivenHarness,
    )
    from harness.agents.bundles import CodingHarnessTools, ObservabilityTools
    from harness.errors import (
        ApprovalRequired,
        BudgetExceeded,
        Busy,
        CapabilityDenied,
        Conflict,
        DeclarationError,
        DependencyCycle,
        Duplicate,
        Fenced,
        HarnessError,
        IllegalTransition,
        ItemExists,
        KernelError,
        KeyTaken,
        LeaseHeld,
        LedgerError,
        ModelError,
        ModelMalformed,
        ModelUnavailable,
        NotFound,
        OutcomeUnknown,
        PolicyDenied,
        ProcessError,
        Refused,
        ReplayConsistencyError,
        RunExists,
        RunNotActive,
        SettingsError,
        StepFailed,
        StepRejected,
        StoreUnavailable,
        ToolRejected,
        Unproven,
        UsageError,
        WorkError,
    )
    from harness.kernel import (
        Kernel,
        KernelPolicy,
        MockModelPort,
        ModelCallOptions,
        ModelInput,
        ReplayPolicy,
        RetryPolicy,
        RunHandle,
        RunProgress,
        RunStatus,
        StepModelResult,
        StepToolResult,
        TenantContext,
        WorkflowContext,
        WorkflowResult,
    )
    from harness.ledger import MemoryStore, PostgresStore, SQLiteStore

_KERNEL = (
    "Kernel", "KernelPolicy", "MockModelPort", "ModelCallOptions", "ModelInput", "ReplayPolicy", "RunHandle", "RunStatus",
    "StepModelResult", "StepToolResult", "TenantContext", "RetryPolicy", "RunProgress", "WorkflowContext", "WorkflowResult",
)  # fmt: skip
_AGENTS = (
    "AutonomousAgent", "BaseHarness", "CompactionStrategy", "ContextBuilder", "Skill", "SubAgent",
    "DraftReviewVerifyResult", "DraftReviewVerifySupervisor", "HarnessContext",
    "IncrementalTaskHarness", "SupervisorHarness", "TaskUnit", "TestDrivenHarness",
)  # fmt: skip
_HOME = {
    **dict.fromkeys(_AGENTS, "agents"),
    "CodingHarnessTools": "agents.bundles",
    "ObservabilityTools": "agents.bundles",
    "MemoryStore": "ledger",
    "PostgresStore": "ledger",
    "SQLiteStore": "ledger",
    **dict.fromkeys(_KERNEL, "kernel"),
}

__all__ = [
    "ApprovalRequired",
    "AutonomousAgent",
    "BaseHarness",
    "BudgetExceeded",
    "Busy",
    "CapabilityDenied",
    "CodingHarnessTools",
    "CompactionStrategy",
    "Conflict",
    "ContextBuilder",
    "DeclarationError",
    "DependencyCycle",
    "DraftReviewVerifyResult",
    "DraftReviewVerifySupervisor",
    "Duplicate",
    "Fenced",
    "HarnessContext",
    "HarnessError",
    "IllegalTransition",
    "IncrementalTaskHarness",
    "ItemExists",
    "Kernel",
    "KernelError",
    "KernelPolicy",
    "KeyTaken",
    "LeaseHeld",
    "LedgerError",
    "MemoryStore",
    "MockModelPort",
    "ModelCallOptions",
    "ModelError",
    "ModelInput",
    "ModelMalformed",
    "ModelUnavailable",
    "NotFound",
    "ObservabilityTools",
    "OutcomeUnknown",
    "PolicyDenied",
    "PostgresStore",
    "ProcessError",
    "Refused",
    "ReplayConsistencyError",
    "ReplayPolicy",
    "RetryPolicy",
    "RunExists",
    "RunHandle",
    "RunNotActive",
    "RunProgress",
    "RunStatus",
    "SQLiteStore",
    "SettingsError",
    "Skill",
    "StepFailed",
    "StepModelResult",
    "StepRejected",
    "StepToolResult",
    "StoreUnavailable",
    "SubAgent",
    "SupervisorHarness",
    "TaskUnit",
    "TenantContext",
    "TestDrivenHarness",
    "ToolRejected",
    "Unproven",
    "UsageError",
    "WorkError",
    "WorkflowContext",
    "WorkflowResult",
]


def __getattr__(name: str) -> object:
    if name in __all__:  # what has no other home is an error class
        return getattr(import_module(f"harness.{_HOME.get(name, 'errors')}"), name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
