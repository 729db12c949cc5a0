"""One recorded step after another: the kernel. Import from here, not from the modules inside.

The functions are for the rooms above, which read runs and record for other frameworks. Events are in
`harness.kernel.records`, which may be imported as a module; `middleware` and `providers` have doors of their own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.kernel.causes import Cause, causes_of, step_place
    from harness.kernel.diffing import ReplayDiff, RunDiff, StepDiff
    from harness.kernel.encoding import to_json
    from harness.kernel.foreign_methods import ForeignRequest
    from harness.kernel.identity import Scope, at_scope, current_scope
    from harness.kernel.inherited import events_before
    from harness.kernel.insight_results import RunExplanation, RunProgress
    from harness.kernel.kernel import Kernel
    from harness.kernel.lifecycle import RUNS_VIEW
    from harness.kernel.matching import ReplayPolicy, digest_of
    from harness.kernel.middleware import CapabilityGuardMiddleware, KernelMiddleware, ModelInvocation
    from harness.kernel.policy import KernelPolicy
    from harness.kernel.ports import (
        JSONSchema,
        Message,
        MockModelPort,
        ModelCallOptions,
        ModelPort,
        ModelRequest,
        ModelResult,
        Native,
        OutputSchema,
        ScriptedModelPort,
        StopReason,
        StreamingModelPort,
        ToolCall,
        ToolDefinition,
        Usage,
    )
    from harness.kernel.progress import PROGRESS_VIEW
    from harness.kernel.results import (
        ModelInput,
        RunHandle,
        RunStatus,
        StepModelResult,
        StepRecord,
        StepToolResult,
    )
    from harness.kernel.rewording import PromptChange
    from harness.kernel.runs import stream_of
    from harness.kernel.schema_tools import SchemaTool, ToolTraits
    from harness.kernel.sessions import Session
    from harness.kernel.story import Story, story_of
    from harness.kernel.streaming import ModelStream, TextDelta
    from harness.kernel.tenant import TenantContext
    from harness.kernel.tools import Probed, Tool, ToolExecutionContext, ToolRegistry
    from harness.kernel.tracing import Tracing
    from harness.kernel.workflow.context import WorkflowContext
    from harness.kernel.workflow.results import RetryPolicy, Timer, WorkflowResult

_HOME = {
    "CapabilityGuardMiddleware": "middleware",
    "Cause": "causes",
    "ForeignRequest": "foreign_methods",
    "JSONSchema": "ports",
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
    "Native": "ports",
    "OutputSchema": "ports",
    "PROGRESS_VIEW": "progress",
    "Probed": "tools",
    "PromptChange": "rewording",
    "RUNS_VIEW": "lifecycle",
    "ReplayDiff": "diffing",
    "ReplayPolicy": "matching",
    "RetryPolicy": "workflow.results",
    "RunDiff": "diffing",
    "RunExplanation": "insight_results",
    "RunHandle": "results",
    "RunProgress": "insight_results",
    "RunStatus": "results",
    "SchemaTool": "schema_tools",
    "Scope": "identity",
    "ScriptedModelPort": "ports",
    "Session": "sessions",
    "StepDiff": "diffing",
    "StepModelResult": "results",
    "StepRecord": "results",
    "StepToolResult": "results",
    "StopReason": "ports",
    "Story": "story",
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
    "at_scope": "identity",
    "causes_of": "causes",
    "current_scope": "identity",
    "digest_of": "matching",
    "events_before": "inherited",
    "step_place": "causes",
    "story_of": "story",
    "stream_of": "runs",
    "to_json": "encoding",
}

__all__ = [
    "PROGRESS_VIEW",
    "RUNS_VIEW",
    "CapabilityGuardMiddleware",
    "Cause",
    "ForeignRequest",
    "JSONSchema",
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
    "Native",
    "OutputSchema",
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
    "Scope",
    "ScriptedModelPort",
    "Session",
    "StepDiff",
    "StepModelResult",
    "StepRecord",
    "StepToolResult",
    "StopReason",
    "Story",
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
    "at_scope",
    "causes_of",
    "current_scope",
    "digest_of",
    "events_before",
    "step_place",
    "story_of",
    "stream_of",
    "to_json",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
