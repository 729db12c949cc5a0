"""Tasks, children, drafts and tests: the harnesses that give a session its shape."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import (
    BaseHarness,
    DraftReviewVerifySupervisor,
    HarnessContext,
    IncrementalTaskHarness,
    Kernel,
    MemoryStore,
    MockModelPort,
    ModelUnavailable,
    OutcomeUnknown,
    SQLiteStore,
    StepRejected,
    SupervisorHarness,
    TaskUnit,
    TenantContext,
    TestDrivenHarness,
    UsageError,
)
from harness.kernel import KernelPolicy, ToolExecutionContext
from harness.ledger import Store

TENANT = TenantContext(tenant_id="t")
RUN = "pipeline-1"


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "h.db", durability="process")
    yield store
    await store.close()


@pytest.fixture
async def kernel(store: Store) -> AsyncIterator[Kernel]:
    policy = KernelPolicy(model_attempts=1)
    async with Kernel(store=store, model_port=MockModelPort(text="ok"), policy=policy) as kernel:
        yield kernel


class Pipeline(IncrementalTaskHarness):
    """Three tasks; notes what it does, and fails as often as it is told to."""

    ids: Sequence[str] = ("ingest", "transform", "validate")

    def __init__(self, kernel: Kernel, **more: Any) -> None:
        super().__init__(kernel, TENANT, **more)
        self.did: list[str] = []
        self.raises: list[BaseException] = []

    async def define_tasks(self) -> list[TaskUnit]:
        return [TaskUnit(id=id, description=f"do {id}") for id in self.ids]

    async def work_on(self, task: TaskUnit) -> None:
        self.did.append(task.id)
        if self.raises:
            raise self.raises.pop()


def states(units: Sequence[TaskUnit]) -> dict[str, str]:
    return {unit.id: unit.state for unit in units}


async def test_each_session_does_one_task(kernel: Kernel) -> None:
    """And records what it has done; the run is completed with the last one."""
    harness = Pipeline(kernel)
    for done in range(1, 4):
        result = await harness.run(RUN)

        assert [unit.state for unit in result] == ["done"] * done + ["pending"] * (3 - done)
        assert result == await harness.get_task_progress()
        summary = await kernel.get_latest_run_summary(run_id=RUN, summary_type="task_progress")
        assert [unit["state"] for unit in summary["units"]] == [unit.state for unit in result]
        assert (await kernel.get_run_status(run_id=RUN)).status == ("completed" if done == 3 else "active")

    assert await harness.run(RUN) == result
    assert harness.did == ["ingest", "transform", "validate"]


async def test_a_task_is_in_progress_while_it_is_worked_on(kernel: Kernel) -> None:
    """Anybody can see which one."""
    seen: list[Any] = []

    class Seeing(Pipeline):
        async def work_on(self, task: TaskUnit, context: HarnessContext) -> None:  # type: ignore[override]
            seen.append((task.state, context.session, states(await self.get_task_progress())[task.id]))

    await Seeing(kernel).run(RUN)

    assert seen == [("in_progress", 1, "in_progress")]


@pytest.mark.parametrize(
    "error", [ValueError("bad data"), ModelUnavailable("away"), asyncio.CancelledError(), OutcomeUnknown("?")]
)
async def test_a_task_that_was_interrupted_is_taken_up_again(kernel: Kernel, error: BaseException) -> None:
    """Whatever interrupted it, and before any other task."""
    harness = Pipeline(kernel)
    harness.raises = [error]
    with pytest.raises(type(error)):
        await harness.run(RUN)
    harness.ids = ("new", "ingest", "transform", "validate")

    assert states(await harness.run(RUN))["ingest"] == "done"
    assert harness.did == ["ingest", "ingest"]


async def test_a_failed_task_is_pending_again(kernel: Kernel) -> None:
    """The state is clean before the harness sleeps."""
    harness = Pipeline(kernel)
    harness.raises = [ValueError("bad data")]
    with pytest.raises(ValueError, match="bad data"):
        await harness.run(RUN)

    assert set(states(await harness.get_task_progress(run_id=RUN)).values()) == {"pending"}


async def test_tasks_are_never_deleted_and_new_ones_are_taken_up(kernel: Kernel) -> None:
    """Even by a run that was completed."""
    harness = Pipeline(kernel)
    harness.ids = ("a", "b")
    await harness.run(RUN)
    harness.ids = ("c",)
    for _ in range(2):
        result = await harness.run(RUN)
    assert states(result) == {"a": "done", "b": "done", "c": "done"}
    assert (await kernel.get_run_status(run_id=RUN)).status == "completed"
    harness.ids = ("d",)

    assert states(await harness.run(RUN)) == {"a": "done", "b": "done", "c": "done", "d": "done"}
    assert (await kernel.get_run_status(run_id=RUN)).status == "completed"


async def test_a_key_belongs_to_the_task(kernel: Kernel) -> None:
    """Every task may have a step of the same key, and keeps its answer though the session fails."""
    ran: list[str] = []

    @kernel.tool(side_effect=True)
    async def load(table: str, context: ToolExecutionContext) -> str:
        ran.append(table)
        return table

    class Loading(Pipeline):
        async def work_on(self, task: TaskUnit) -> None:
            await self.run_tool(tool_name="load", arguments={"table": task.id}, step_key="load")
            await super().work_on(task)

    harness = Loading(kernel)
    harness.raises = [ValueError("later")]
    with pytest.raises(ValueError, match="later"):
        await harness.run(RUN)
    for _ in range(3):
        await harness.run(RUN)

    assert ran == ["ingest", "transform", "validate"]


async def test_a_plan_is_made_once(kernel: Kernel) -> None:
    """Steps of `define_tasks` are the run's, so later sessions get the same tasks."""
    calls = 0

    @kernel.tool()
    async def plan() -> list[str]:
        nonlocal calls
        calls += 1
        return [f"{calls}-a", f"{calls}-b"]

    class Planning(Pipeline):
        async def define_tasks(self) -> list[TaskUnit]:
            self.ids = (await self.run_tool(tool_name="plan")).result
            return await super().define_tasks()

    harness = Planning(kernel)
    for _ in range(3):
        result = await harness.run(RUN)

    assert states(result) == {"1-a": "done", "1-b": "done"}
    assert calls == 1


async def test_both_methods_may_be_synchronous(kernel: Kernel) -> None:
    """What blocks holds up nobody."""
    where: list[Any] = []

    class Plain(IncrementalTaskHarness):
        def define_tasks(self) -> list[TaskUnit]:  # type: ignore[override]
            return [TaskUnit(id="a", description="a")]

        def work_on(self, task: TaskUnit) -> None:  # type: ignore[override]
            where.append(threading.current_thread())

    assert states(await Plain(kernel, TENANT).run(RUN)) == {"a": "done"}
    assert where != [threading.current_thread()]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "Broken.define_tasks gives a sequence of TaskUnit, not None"),
        ([TaskUnit(id="a", description="x")] * 2, "two tasks with the id 'a'"),
        ([{"id": "a", "description": "x"}], "which is no TaskUnit"),
    ],
)
async def test_a_broken_definition_is_told_and_nothing_is_written(kernel: Kernel, given: Any, says: str) -> None:
    """There is no session then."""

    class Broken(IncrementalTaskHarness):
        async def define_tasks(self) -> Any:
            return given

    with pytest.raises(UsageError, match=says):
        await Broken(kernel, TENANT).run(RUN)

    assert [event.type for event in await kernel.get_events(run_id=RUN)] == ["run.started"]


async def test_a_harness_without_its_methods_says_which(kernel: Kernel) -> None:
    """Both are needed."""

    class OnlyTasks(IncrementalTaskHarness):
        async def define_tasks(self) -> list[TaskUnit]:
            return [TaskUnit(id="a", description="x")]

    with pytest.raises(UsageError, match="IncrementalTaskHarness has no tasks: override"):
        await IncrementalTaskHarness(kernel, TENANT).run(RUN)
    with pytest.raises(UsageError, match="OnlyTasks cannot work: override"):
        await OnlyTasks(kernel, TENANT).run(RUN)


async def test_a_task_whose_id_would_not_be_recorded_is_refused(store: Store) -> None:
    """With personal data kept out of the ledger, such a task would be a new one in each session."""
    from harness.middleware import PIIScrubberMiddleware

    async with Kernel(store=store, middleware=[PIIScrubberMiddleware()]) as kernel:
        harness = Pipeline(kernel)
        harness.ids = ("write to ann@example.com",)
        with pytest.raises(UsageError, match="choose another id"):
            await harness.run(RUN)


# Children


class Manager(SupervisorHarness):
    """Lets a pipeline of its own do one session for each of its own."""

    async def step(self, *, context: HarnessContext) -> Any:
        return await self.run_child(
            harness=Pipeline(self.kernel), run_id=f"{context.run_id}::child", tenant=context.tenant, model=context.model
        )


async def test_a_child_is_linked_from_its_parent(kernel: Kernel) -> None:
    """In both ledgers, once."""
    manager = Manager(kernel, TENANT)
    for _ in range(2):
        await manager.run("boss")

    child = (await kernel.load_run(run_id="boss::child")).parent_run
    links = [event for event in await kernel.get_events(run_id="boss") if event.type == "child.linked"]
    assert child == "boss"
    assert [link.payload["run_id"] for link in links] == ["boss::child"]


async def test_a_parent_that_is_gone_on_with_gets_the_same_session_of_its_child(kernel: Kernel) -> None:
    """A child does not run ahead because its parent was killed."""

    class Dying(Manager):
        async def step(self, *, context: HarnessContext) -> Any:
            result = await super().step(context=context)
            if not context.resumed:
                raise asyncio.CancelledError
            return result

    manager = Dying(kernel, TENANT)
    with pytest.raises(asyncio.CancelledError):
        await manager.run("boss")

    assert states(await manager.run("boss")) == {"ingest": "done", "transform": "pending", "validate": "pending"}


async def test_a_parent_may_drive_its_child_session_after_session(kernel: Kernel) -> None:
    """And when it goes on after a cancellation, each call gives what it gave, and the child goes on from there."""
    seen: list[list[int]] = []

    class Driving(SupervisorHarness):
        async def step(self, *, context: HarnessContext) -> list[int]:
            seen.append([])
            for call in range(4):
                units = await self.run_child(harness=Pipeline(self.kernel), run_id="child")
                seen[-1].append(list(states(units).values()).count("done"))
                if call == 1 and not context.resumed:
                    raise asyncio.CancelledError
            return seen[-1]

    driving = Driving(kernel, TENANT)
    with pytest.raises(asyncio.CancelledError):
        await driving.run("boss")

    assert await driving.run("boss") == [1, 2, 3, 3]
    assert seen == [[1, 2], [1, 2, 3, 3]]
    ends = [event for event in await kernel.get_events(run_id="child") if event.type == "session.ended"]
    assert [end.payload["number"] for end in ends] == [1, 2, 3]


async def test_a_childs_failure_is_the_parents_to_handle(kernel: Kernel) -> None:
    """Caught, the parent's session goes on."""

    class Failing(Pipeline):
        async def work_on(self, task: TaskUnit) -> None:
            raise ValueError("bad child")

    class Lenient(SupervisorHarness):
        async def step(self, *, context: HarnessContext) -> str:
            try:
                await self.run_child(harness=Failing(self.kernel), run_id="child")
            except ValueError as error:
                return f"the child failed: {error}"
            raise AssertionError

    assert await Lenient(kernel, TENANT).run("boss") == "the child failed: bad child"
    assert (await kernel.get_run_status(run_id="boss")).status == "completed"


async def test_children_may_work_at_the_same_time(kernel: Kernel) -> None:
    """Each in its own run and scope."""

    class Asking(BaseHarness[str]):
        async def step(self, *, context: HarnessContext) -> str:
            return (await self.run_model(prompt=context.input["about"])).run_id

    class Swarm(SupervisorHarness):
        async def step(self, *, context: HarnessContext) -> list[str]:
            asking = Asking(self.kernel)
            return await asyncio.gather(*(self.run_child(asking, run_id=f"c{n}", input={"about": f"{n}"}) for n in range(4)))

    assert await Swarm(kernel, TENANT).run("boss") == ["c0", "c1", "c2", "c3"]


async def test_run_child_refuses_what_is_no_child(kernel: Kernel) -> None:
    """Something else, or in another ledger."""

    class Wrong(SupervisorHarness):
        async def step(self, *, context: HarnessContext) -> Any:
            return await self.run_child(harness=child, run_id="c")  # type: ignore[arg-type]

    child: Any = "pipeline"
    with pytest.raises(UsageError, match="a child is a harness, not str"):
        await Wrong(kernel, TENANT).run("boss")
    child = Pipeline(Kernel(store=MemoryStore()))
    with pytest.raises(UsageError, match="must be in the same ledger"):
        await Wrong(kernel, TENANT).run("boss")


class Fixed(BaseHarness[Any]):
    """Gives one answer, and remembers what it was shown."""

    def __init__(self, kernel: Kernel, answer: Any) -> None:
        super().__init__(kernel)
        self.answer = answer
        self.shown: Any = None

    async def step(self, *, context: HarnessContext) -> Any:
        self.shown = {**context.input}
        self.shown["kept"] = {key: await self.get_artifact(key=key) for key in context.input}
        return self.answer


@pytest.mark.parametrize(("answer", "approved"), [(True, True), ({"status": "ok"}, True), ("no", False), ("yes", False)])
async def test_draft_review_verify(kernel: Kernel, answer: Any, approved: bool) -> None:
    """The draft reaches the reviewer, both reach the verifier, and only an explicit yes approves."""
    drafter, reviewer, verifier = Fixed(kernel, "a draft"), Fixed(kernel, {"points": 3}), Fixed(kernel, answer)

    supervisor = DraftReviewVerifySupervisor(
        kernel=kernel, tenant=TENANT, drafter=drafter, reviewer=reviewer, verifier=verifier
    )
    result = await supervisor.run(run_id="drv")

    assert (result.draft, result.review, result.verify) == ("a draft", {"points": 3}, answer)
    assert result.approved is approved
    assert reviewer.shown == {"draft": "a draft", "kept": {"draft": "a draft"}}
    both = {"draft": "a draft", "review": {"points": 3}}
    assert verifier.shown == {**both, "kept": both}
    verdict = await kernel.get_latest_run_summary(run_id="drv", summary_type="review_verdict")
    assert verdict["approved"] is approved


# Tests


class Fixing(TestDrivenHarness):
    async def define_tasks(self) -> list[TaskUnit]:
        return [TaskUnit(id="add", description="Make add() right")]


def register_tests(kernel: Kernel, folder: Path) -> None:
    """A tool that really runs a script."""

    @kernel.tool()
    async def run_tests(argv: list[str] | None = None) -> dict[str, Any]:
        run = await asyncio.create_subprocess_exec(
            *(argv or [sys.executable, "check.py"]),
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await run.communicate()
        return {"exit_code": run.returncode, "passed": run.returncode == 0, "output": output.decode()}


async def test_a_task_is_done_when_its_tests_pass(kernel: Kernel, tmp_path: Path) -> None:
    """A bug that was fixed passes in the next session, with tests that were really run again."""
    register_tests(kernel, tmp_path)
    (tmp_path / "code.py").write_text("def add(a, b): return a - b\n")
    (tmp_path / "check.py").write_text("exec(open('code.py').read())\nassert add(2, 2) == 4, 'add is wrong'\n")
    harness = Fixing(kernel, TENANT)

    assert states(await harness.run(RUN)) == {"add": "pending"}
    failed = await harness.last_test_run("add")
    assert failed is not None
    assert "add is wrong" in failed.output
    assert states(await harness.run(RUN)) == {"add": "pending"}
    (tmp_path / "code.py").write_text("def add(a, b): return a + b\n")

    assert states(await harness.run(RUN)) == {"add": "done"}
    assert (await kernel.get_run_status(run_id=RUN)).status == "completed"


async def test_verify_and_commit_decides_within_work_on(kernel: Kernel, tmp_path: Path) -> None:
    """No other tests are run for the task then."""
    register_tests(kernel, tmp_path)
    verdicts: list[bool] = []

    class Committing(Fixing):
        async def work_on(self, task: TaskUnit) -> None:
            verdicts.append(await self.verify_and_commit(task_id=task.id, test_command=f"{sys.executable} -c 'exit(0)'"))

    assert states(await Committing(kernel, TENANT).run(RUN)) == {"add": "done"}
    assert verdicts == [True]


async def test_a_missing_or_foreign_test_tool_is_told(kernel: Kernel) -> None:
    """The task stays to be done."""
    harness = Fixing(kernel, TENANT)
    with pytest.raises(StepRejected, match="no tool is named 'run_tests'"):
        await harness.run(RUN)
    kernel.tool(name="run_tests")(lambda: "all fine")

    with pytest.raises(UsageError, match="does not say whether the tests passed: 'all fine'"):
        await harness.run(RUN)

    assert states(await harness.get_task_progress())["add"] != "done"
    with pytest.raises(UsageError, match="test_argv is a list of words"):
        Fixing(kernel, TENANT, test_argv="pytest -q")
