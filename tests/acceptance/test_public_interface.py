"""The documented names, signatures and behaviours that people's scripts rely on."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.errors import HarnessError

NAMES = [
    "Kernel",
    "KernelPolicy",
    "ModelInput",
    "ModelCallOptions",
    "ReplayPolicy",
    "TenantContext",
    "RunHandle",
    "RunStatus",
    "RunProgress",
    "StepModelResult",
    "StepToolResult",
    "SQLiteStore",
    "PostgresStore",
    "MockModelPort",
    "BaseHarness",
    "HarnessContext",
    "IncrementalTaskHarness",
    "TaskUnit",
    "SupervisorHarness",
    "DraftReviewVerifySupervisor",
    "DraftReviewVerifyResult",
    "TestDrivenHarness",
    "AutonomousAgent",
    "ContextBuilder",
    "CompactionStrategy",
    "CodingHarnessTools",
    "ObservabilityTools",
]

FACES = {
    "harness.kernel": "Kernel KernelPolicy ModelInput ModelCallOptions TenantContext RunHandle RunStatus RunProgress",
    "harness.middleware": "PIIScrubberMiddleware QuotaMiddleware CapabilityGuardMiddleware SafetyPolicyMiddleware",
    "harness.middleware.base": "KernelMiddleware ModelInvocation",
    "harness.tools": "CodingHarnessTools ObservabilityTools",
    "harness.store": "SQLiteStore PostgresStore MemoryStore",
}

# method -> the parameters that the documentation names; more may follow, with defaults
KERNEL = {
    "__init__": "store model_port tool_port middleware policy",
    "close": "",
    "start_run": "tenant run_id",
    "load_run": "run_id",
    "step_model": (
        "run_id tenant model input output_schema step_key visible_tool_names model_options replay_policy parent_step_key"
        " retry_failed_step"
    ),
    "step_tool": "run_id tenant tool_name arguments step_key parent_step_key timeout",
    "tool": "requires_capability side_effect tool_version schema_version risk_level on_unknown probe",
    "reconcile_tool": "run_id tenant tool_name",
    "list_tools_for_tenant": "tenant visible_tool_names",
    "describe_capabilities": "tenant visible_tool_names",
    "get_events": "run_id",
    "stream_events": "run_id since_seq follow",
    "get_run_status": "run_id",
    "get_run_progress": "run_id",
    "explain_run": "run_id",
    "list_active_runs": "",
    "pause": "run_id",
    "resume": "run_id human_input",
    "block_run": "run_id",
    "unblock_run": "run_id",
    "cancel_run": "run_id",
    "append_run_summary": "run_id tenant summary_type summary",
    "get_latest_run_summary": "run_id summary_type",
    "checkpoint": "run_id tenant",
    "set_artifact": "run_id tenant key value schema_version",
    "get_artifact": "run_id key",
    "list_artifacts": "run_id",
    "run_workflow": "run_id tenant workflow",
    "fork_run": "run_id at_seq new_run_id",
    "replay_run": "run_id model prompt policy",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_documented_name_is_imported_from_the_package(name: str) -> None:
    """`from harness import NAME`."""
    assert name in harness.__all__
    assert getattr(harness, name) is not None


@pytest.mark.parametrize(("module", "names"), FACES.items())
def test_a_documented_module_has_its_names(module: str, names: str) -> None:
    """Under the documented path."""
    face = importlib.import_module(module)

    assert [name for name in names.split() if not hasattr(face, name)] == []


def test_every_error_class_is_imported_from_the_package() -> None:
    """So that nobody has to know where it lives."""

    def below(kind: type[Any]) -> set[str]:
        return {kind.__name__}.union(*(below(sub) for sub in kind.__subclasses__()))

    importlib.import_module("harness.kernel")
    public = {name for name in below(HarnessError) if not name.startswith("_")}
    declared = {name for name in public if hasattr(importlib.import_module("harness.errors"), name)}

    assert declared - set(harness.__all__) == set()


@pytest.mark.parametrize(("method", "parameters"), KERNEL.items())
def test_a_kernel_method_takes_the_documented_parameters(method: str, parameters: str) -> None:
    """By these names; whatever is there beyond them has a default."""
    signature = inspect.signature(getattr(harness.Kernel, method)).parameters
    documented = parameters.split()

    assert [name for name in documented if name not in signature] == []
    required = [
        name
        for name, parameter in signature.items()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD and name != "self"
    ]
    assert [name for name in required if name not in documented] == []


def test_results_have_the_documented_fields() -> None:
    """Of model and tool steps."""
    model = "run_id seq output usage tool_calls replayed replayed_with_drift forked_from_run_id drift_fields"
    tool = "run_id seq tool_name result_json replayed"

    assert [name for name in model.split() if not hasattr(harness.StepModelResult, name)] == []
    assert [name for name in tool.split() if not hasattr(harness.StepToolResult, name)] == []


@pytest.mark.parametrize(
    "name", ["PIIScrubberMiddleware", "QuotaMiddleware", "CapabilityGuardMiddleware", "SafetyPolicyMiddleware"]
)
def test_built_in_middleware_is_made_without_arguments(name: str) -> None:
    """As the documentation does."""
    assert getattr(importlib.import_module("harness.middleware"), name)() is not None


def test_the_package_loads_nothing_heavy() -> None:
    """`import harness` is a name table; `from harness import Kernel` needs no pydantic, no psycopg, no provider."""
    heavy = ["pydantic", "psycopg", "anthropic", "openai", "httpx", "opentelemetry", "mcp", "pydantic_ai", "rich", "typer"]
    code = f"""
import sys
heavy = set({heavy})
import harness
alone = sorted(heavy & set(sys.modules)) + ["asyncio"] * ("asyncio" in sys.modules)
from harness import Kernel
print(alone, sorted(heavy & set(sys.modules)))
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())

    assert done.stdout.strip() == "[] []"
