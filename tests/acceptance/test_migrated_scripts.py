"""A script that was written for Artana runs after one `sed`, and does the same again and again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SWARM = """
import asyncio

from artana import (
    ArtanaKernel,
    IncrementalTaskHarness,
    MockModelPort,
    SQLiteStore,
    SupervisorHarness,
    TaskUnit,
    TenantContext,
)


class ResearchHarness(IncrementalTaskHarness):

    async def define_tasks(self):
        return [TaskUnit(id="fact", description="Provide a historical fact")]

    async def work_on(self, task: TaskUnit):
        print("Research task executed:", task.id)


class SwarmSupervisor(SupervisorHarness):
    async def step(self, *, context):
        child = ResearchHarness(kernel=self.kernel, tenant=context.tenant)
        return await self.run_child(
            harness=child, run_id=f"{context.run_id}::research", tenant=context.tenant, model=context.model
        )


async def main():
    kernel = ArtanaKernel(store=SQLiteStore("swarm.db"), model_port=MockModelPort(output={"message": "unused"}))
    tenant = TenantContext(tenant_id="manager", capabilities=frozenset(), budget_usd_limit=5.0)
    supervisor = SwarmSupervisor(kernel=kernel, tenant=tenant)
    result = await supervisor.run(run_id="swarm_run_01")
    print("Child task states:", result)
    await kernel.close()


asyncio.run(main())
"""

PIPELINE = """
import asyncio

from artana import ArtanaKernel, IncrementalTaskHarness, MockModelPort, SQLiteStore, TaskUnit, TenantContext
from artana.kernel import ReplayPolicy
from artana.middleware import CapabilityGuardMiddleware, PIIScrubberMiddleware, QuotaMiddleware
from artana.middleware.base import KernelMiddleware, ModelInvocation
from artana.store import SQLiteStore as Store
from artana.tools import CodingHarnessTools, ObservabilityTools


class BlockKeywordMiddleware(KernelMiddleware):

    async def prepare_model(self, invocation: ModelInvocation):
        if "forbidden" in invocation.prompt.lower():
            raise ValueError("Blocked keyword detected.")
        return invocation

    async def before_model(self, **kwargs): return None
    async def after_model(self, **kwargs): return None
    async def prepare_tool_request(self, **kwargs): return kwargs["arguments_json"]
    async def prepare_tool_result(self, **kwargs): return kwargs["result_json"]


class DataPipelineHarness(IncrementalTaskHarness):

    async def define_tasks(self):
        return [
            TaskUnit(id="ingest", description="Ingest data"),
            TaskUnit(id="transform", description="Transform data"),
            TaskUnit(id="validate", description="Validate results"),
        ]

    async def work_on(self, task: TaskUnit):
        print("Executing:", task.id)


async def main():
    kernel = ArtanaKernel(
        store=SQLiteStore("pipeline.db"),
        model_port=MockModelPort(output={"message": "unused"}),
        middleware=[
            BlockKeywordMiddleware(),
            CapabilityGuardMiddleware(),
            QuotaMiddleware(),
            PIIScrubberMiddleware(),
        ],
    )
    tenant = TenantContext(tenant_id="pipeline_team", capabilities=frozenset(), budget_usd_limit=5.0)
    harness = DataPipelineHarness(kernel=kernel, tenant=tenant, replay_policy="allow_prompt_drift")
    progress = await harness.run("pipeline_run_001")
    print("Progress snapshot:", progress)
    await harness.set_artifact(key="schema_version", value={"v": 2})
    assert await harness.get_artifact(key="schema_version") == {"v": 2}
    view = await kernel.describe_capabilities(tenant=tenant)
    assert view["final_allowed_tools"] == [tool.name for tool in kernel.list_tools_for_tenant(tenant=tenant)]
    events = await kernel.get_events(run_id="pipeline_run_001")
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[0].event_type == "run.started"
    await kernel.close()
    store = Store("pipeline.db")
    assert await store.verify_run_chain("pipeline_run_001")
    await store.close()


asyncio.run(main())
"""

FACT = "Child task states: (TaskUnit(id='fact', description='Provide a historical fact', state='done'),)\n"


def snapshot(done: int) -> str:
    described = {"ingest": "Ingest data", "transform": "Transform data", "validate": "Validate results"}
    units = [
        f"TaskUnit(id={id!r}, description={text!r}, state='{'done' if number < done else 'pending'}')"
        for number, (id, text) in enumerate(described.items())
    ]
    return f"Progress snapshot: ({', '.join(units)})\n"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("script", "printed"),
    [
        (SWARM, [f"Research task executed: fact\n{FACT}", FACT, FACT]),
        (
            PIPELINE,
            [
                *(f"Executing: {id}\n{snapshot(done)}" for done, id in enumerate(("ingest", "transform", "validate"), 1)),
                *(snapshot(3), snapshot(3)),
            ],
        ),
    ],
    ids=["swarm", "pipeline"],
)
def test_a_migrated_script_does_the_same_again_and_again(tmp_path: Path, script: str, printed: list[str]) -> None:
    """Each run is a process of its own, on the file that the one before left."""
    (tmp_path / "old.py").write_text(script)
    sed = ["sed", "s/from artana/from harness/; s/ArtanaKernel/Kernel/", "old.py"]
    migrated = subprocess.run(sed, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True).stdout
    environment = {**os.environ, "HOME": str(tmp_path)}

    for expected in printed:
        done = subprocess.run(
            [sys.executable, "-c", migrated], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
        )

        assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")
