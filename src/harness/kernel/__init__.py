"""One recorded step after another: the kernel. Import from here, not from the modules inside."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.kernel.diffing import ReplayDiff, RunDiff, StepDiff
    from harness.kernel.insight_results import RunExplanation, RunProgress
    from harness.kernel.kernel import Kernel
    from harness.kernel.matching import ReplayPolicy
    from harness.kernel.middleware import CapabilityGuardMiddleware, KernelMiddleware, ModelInvocation
    from harness.kernel.policy import KernelPolicy
    from harness.kernel.ports import (
        Message,
        MockModelPort,
        ModelCallOptions,
        ModelPort,
        ModelRequest,
        ModelResult,
        ScriptedModelPort,
        StreamingModelPort,
        ToolCall,
        ToolDefinition,
        Usage,
    )
    from harness.kernel.results import (
        ModelInput,
        RunHandle,
        RunStatus,
        StepModelResult,
        StepRecord,
        StepToolResult,
    )
    from harness.kernel.rewording import PromptChange
    from harness.kernel.schema_tools import SchemaTool, ToolTraits
    from harness.kernel.sessions import Session
    from harness.kernel.streaming import ModelStream, TextDelta
    from harness.kernel.tenant import TenantContext
    from harness.kernel.tools import Probed, Tool, ToolExecutionContext, ToolRegistry
    from harness.kernel.tracing import Tracing
    from harness.kernel.workflow.context import WorkflowContext
    from harness.kernel.workflow.results import RetryPolicy, Timer, WorkflowResult

_HOME = {
    "CapabilityGuardMiddleware": "middleware",
    "Kernel": "kernel",
    "KernelMiddleware": "middleware",
    "KernelPolicy": "policy",
    "Message": "ports",
    "MockModelPort": "ports",
    "ModelCallOptions": "ports",
    "ModelInput": "results",
    "ModelInvocation": "middleware",
    "ModelPort": "ports",
    "ModelRequest": "ports",
    "ModelResult": "ports",
    "ModelStream": "streaming",
    "Probed": "tools",
    "PromptChange": "rewording",
    "ReplayDiff": "diffing",
    "ReplayPolicy": "matching",
    "RetryPolicy": "workflow.results",
    "RunDiff": "diffing",
    "RunExplanation": "insight_results",
    "RunHandle": "results",
    "RunProgress": "insight_results",
    "RunStatus": "results",
    "SchemaTool": "schema_tools",
    "ScriptedModelPort": "ports",
    "Session": "sessions",
    "StepDiff": "diffing",
    "StepModelResult": "results",
    "StepRecord": "results",
    "StepToolResult": "results",
    "StreamingModelPort": "ports",
    "TenantContext": "tenant",
    "TextDelta": "streaming",
    "Timer": "workflow.results",
    "Tool": "tools",
    "ToolCall": "ports",
    "ToolDefinition": "ports",
    "ToolExecutionContext": "tools",
    "ToolRegistry": "tools",
    "ToolTraits": "schema_tools",
    "Tracing": "tracing",
    "Usage": "ports",
    "WorkflowContext": "workflow.context",
    "WorkflowResult": "workflow.results",
}

__all__ = [
    "CapabilityGuardMiddleware",
    "Kernel",
    "KernelMiddleware",
    "KernelPolicy",
    "Message",
    "MockModelPort",
    "ModelCallOptions",
    "ModelInput",
    "ModelInvocation",
    "ModelPort",
    "ModelRequest",
    "ModelResult",
    "ModelStream",
    "Probed",
    "PromptChange",
    "ReplayDiff",
    "ReplayPolicy",
    "RetryPolicy",
    "RunDiff",
    "RunExplanation",
    "RunHandle",
    "RunProgress",
    "RunStatus",
    "SchemaTool",
    "ScriptedModelPort",
    "Session",
    "StepDiff",
    "StepModelResult",
    "StepRecord",
    "StepToolResult",
    "StreamingModelPort",
    "TenantContext",
    "TextDelta",
    "Timer",
    "Tool",
    "ToolCall",
    "ToolDefinition",
    "ToolExecutionContext",
    "ToolRegistry",
    "ToolTraits",
    "Tracing",
    "Usage",
    "WorkflowContext",
    "WorkflowResult",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
