"""Forks over all stores: by hand and on drift, by reference to the parent's steps, once, and verified with them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import (
    NotFound,
    OutcomeUnknown,
    ReplayConsistencyError,
    RunExists,
    RunNotActive,
    StepFailed,
    StepRejected,
    Unproven,
    UsageError,
)
from harness.kernel import Kernel, MockModelPort, ModelCallOptions, ModelInput, ModelRequest, ModelResult, TenantContext, Usage
from harness.ledger import MemoryStore, PostgresStore, SQLiteStore

Store = MemoryStore | SQLiteStore | PostgresStore
TENANT = TenantContext(tenant_id="t")
RUN = "run-1"


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    match request.param:
        case "memory":
            made: Store = MemoryStore()
        case "sqlite":
            made = SQLiteStore(tmp_path / "k.db")
        case _:
            made = PostgresStore(request.getfixturevalue("postgres_dsn"))
    yield made
    await made.close()


class Echo:
    """Answers with the prompt; counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def complete(self, request: ModelRequest) -> ModelResult:
        self.asked.append(request.prompt)
        return ModelResult(text=f"{request.model}: {request.prompt}", model="echo", usage=Usage(cost_usd=0.01))


def ask(kernel: Kernel, prompt: str, **more: Any) -> Any:
    return kernel.step_model(**{
        "run_id": RUN, "tenant": TENANT, "model": "m", "input": ModelInput.from_prompt(prompt), **more,
    })  # fmt: skip


def forking(kernel: Kernel, prompt: str, key: str, run_id: str = RUN, **more: Any) -> Any:
    return ask(kernel, prompt, step_key=key, run_id=run_id, replay_policy="fork_on_drift", **more)


async def types(kernel: Kernel, run_id: str = RUN) -> list[str]:
    return [event.event_type for event in await kernel.get_events(run_id=run_id)]


async def recorded(kernel: Kernel, *prompts: str) -> None:
    """A run that asked these, under keys 1, 2, …"""
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    for number, prompt in enumerate(prompts, 1):
        await ask(kernel, prompt, step_key=str(number))


# On drift


async def test_a_changed_step_goes_on_in_a_fork_that_has_what_was_before(store: Store) -> None:
    """The fork begins with the steps before the changed one, and the parent stays what it was but for one note."""
    port = Echo()
    async with Kernel(store=store, model_port=port) as kernel:
        await recorded(kernel, "a", "b", "c")
        before = await types(kernel)

        changed = await forking(kernel, "B", "2")
        first = await ask(kernel, "a", step_key="1", run_id=changed.run_id)
        third = await ask(kernel, "c", step_key="3", run_id=changed.run_id)

        assert changed.run_id.startswith(f"{RUN}::fork::")
        assert len(changed.run_id) == len(f"{RUN}::fork::") + 12
        assert (changed.forked_from_run_id, changed.drift_fields, changed.replayed) == (RUN, ("prompt",), False)
        assert (first.replayed, first.text) == (True, "m: a")
        assert (third.replayed, port.asked) == (False, ["a", "b", "c", "B", "c"])
        assert await types(kernel) == [*before, "run.forked"]
        handle = await kernel.load_run(run_id=changed.run_id)
        assert (handle.forked_from_run_id, handle.root_run) == (RUN, RUN)
        note = (await kernel.get_events(run_id=RUN))[-1].payload
        assert (note["fork"], note["at"], note["step"]) == (changed.run_id, handle.forked_at_seq, "2")
        assert "recorded …'b'…, now …'B'…" in note["difference"]


async def test_the_same_change_leads_to_the_same_fork(store: Store) -> None:
    """Asked again, here or by another kernel, the fork answers, and nothing is written anywhere."""
    port = Echo()
    async with Kernel(store=store, model_port=port) as kernel:
        await recorded(kernel, "a", "b")
        first = await forking(kernel, "B", "2")
    async with Kernel(store=store) as kernel:
        before = await store.tail()

        again = await forking(kernel, "B", "2")

        assert (again.run_id, again.text, again.replayed) == (first.run_id, first.text, True)
        assert (again.forked_from_run_id, again.drift_fields) == (RUN, ("prompt",))
        assert await store.tail() == before
    async with Kernel(store=store, model_port=port) as kernel:
        other = await forking(kernel, "B!", "2")

        assert other.run_id != first.run_id


async def test_the_same_input_is_no_drift(store: Store) -> None:
    """What was recorded comes back from the run itself."""
    async with Kernel(store=store, model_port=Echo()) as kernel:
        await recorded(kernel, "a")
        same = await forking(kernel, "a", "1")

        assert (same.run_id, same.replayed, same.forked_from_run_id) == (RUN, True, None)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"model": "n"}, ("model",)),
        ({"model_options": ModelCallOptions(seed=7)}, ("options.seed",)),
        ({"output_schema": {"type": "object"}}, ("output_schema",)),
        ({"visible_tool_names": ["look"]}, ("visible_tool_names",)),
    ],
)
async def test_whatever_changed_is_named(store: Store, change: dict[str, Any], fields: tuple[str, ...]) -> None:
    """Every input of a model step leads to a fork, and the fork says which it was."""
    async with Kernel(store=store, model_port=MockModelPort(output={"x": 1})) as kernel:
        await recorded(kernel, "a")
        changed = await forking(kernel, "a", "1", **change)

        assert changed.drift_fields == fields
        assert changed.run_id != RUN


async def test_a_changed_tool_forks_and_an_added_one_does_not(store: Store) -> None:
    """The signatures of the tools that a step saw are inputs of it; a tool that it did not see is none."""
    async with Kernel(store=store, model_port=Echo()) as kernel:
        kernel.tool(name="look")(lambda: "seen")
        await recorded(kernel, "a")
    async with Kernel(store=store, model_port=Echo()) as kernel:
        kernel.tool(name="look", tool_version="2.0.0")(lambda: "seen")
        changed = await forking(kernel, "a", "1")
        kernel.tool(name="listen")(lambda: "heard")
        again = await forking(kernel, "a", "1")

        assert changed.drift_fields == ("tools.look",)
        assert (again.run_id, again.replayed) == (changed.run_id, True)


async def test_a_difference_of_shapes_is_shown_inside_them(store: Store) -> None:
    """Of a changed schema and a changed tool the place is shown where they differ, not a digest."""
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    async with Kernel(store=store, model_port=MockModelPort(output={"x": 1})) as kernel:
        kernel.tool(name="look", description="Looks.")(lambda: "seen")
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        await ask(kernel, "a", step_key="1", output_schema=schema)
    async with Kernel(store=store) as kernel:
        kernel.tool(name="look", description="Looks far.")(lambda: "seen")
        other = {**schema, "properties": {"x": {"type": "number"}}}
        with pytest.raises(ReplayConsistencyError) as caught:
            await ask(kernel, "a", step_key="1", output_schema=other)

    assert caught.value.fields == ("output_schema", "tools.look")
    assert caught.value.difference == (
        "output_schema.properties.x.type: recorded 'integer', now 'number'; "
        "tools.look.description: recorded 'Looks.', now 'Looks far.'"
    )


async def test_two_kernels_note_one_drift_once(store: Store) -> None:
    """A drift that another kernel has noted meanwhile is not noted again."""
    async with Kernel(store=store, model_port=Echo()) as kernel:
        await recorded(kernel, "a")
    async with Kernel(store=store) as one, Kernel(store=store) as two:
        drift = {"step_key": "1", "replay_policy": "allow_prompt_drift"}
        await one.load_run(run_id=RUN)
        await two.load_run(run_id=RUN)
        await asyncio.gather(*(ask(kernel, "A", **drift) for kernel in (one, two)))
        await ask(two, "A", **drift)

        assert (await types(one)).count("step.drifted") == 1


async def test_steps_without_a_key_go_on_being_counted_in_the_fork(store: Store) -> None:
    """A program that goes on with the result's run gets its next place there, in this pass and in the next ones."""
    port = Echo()

    async def program(kernel: Kernel, second: str) -> list[tuple[str, bool]]:
        run_id, told = RUN, []
        for prompt in ("a", second, "c"):
            step = await ask(kernel, prompt, run_id=run_id, replay_policy="fork_on_drift")
            run_id = step.run_id
            told.append((step.text, step.replayed))
        return told

    async with Kernel(store=store, model_port=port) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        await program(kernel, "b")
        await kernel.load_run(run_id=RUN)
        forked = await program(kernel, "B")
        await kernel.load_run(run_id=RUN)
        again = await program(kernel, "B")

    assert forked == [("m: a", True), ("m: B", False), ("m: c", False)]
    assert again == [("m: a", True), ("m: B", True), ("m: c", True)]
    assert port.asked == ["a", "b", "c", "B", "c"]


async def test_gathered_steps_fork_after_all_that_had_ended(store: Store) -> None:
    """What ended before the changed step did is in the fork, though it was begun later."""
    first, second = asyncio.Event(), asyncio.Event()

    class Turns:
        async def complete(self, request: ModelRequest) -> ModelResult:
            await (first if request.prompt == "slow" else second).wait()
            return ModelResult(text=request.prompt)

    async with Kernel(store=store, model_port=Turns()) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        slow = asyncio.ensure_future(ask(kernel, "slow", step_key="slow"))
        fast = asyncio.ensure_future(ask(kernel, "fast", step_key="fast"))
        second.set()
        await fast
        first.set()
        await slow
    async with Kernel(store=store, model_port=Echo()) as kernel:
        forked = await forking(kernel, "slow!", "slow")
        kept = await ask(kernel, "fast", step_key="fast", run_id=forked.run_id)

        assert (kept.replayed, kept.text) == (True, "fast")


async def test_two_kernels_fork_once(store: Store) -> None:
    """Whoever is faster makes the fork and asks; the other one gets its answer."""
    port = Echo()
    async with Kernel(store=store, model_port=port) as kernel:
        await recorded(kernel, "a")
    async with Kernel(store=store, model_port=port) as one, Kernel(store=store, model_port=port) as two:
        results = await asyncio.gather(*(forking(kernel, "A", "1") for kernel in (one, two, one, two)))

        assert len({result.run_id for result in results}) == 1
        assert port.asked == ["a", "A"]
        assert (await types(one)).count("run.forked") == 1


@pytest.mark.parametrize("status", ["paused", "blocked", "cancelled"])
async def test_a_stopped_run_is_not_gone_on_with_by_forking(store: Store, status: str) -> None:
    """Who stopped a run did not mean that it goes on under another name; a fork that a person asks for is active."""
    async with Kernel(store=store, model_port=Echo()) as kernel:
        await recorded(kernel, "a")
        await {"paused": kernel.pause, "blocked": kernel.block_run, "cancelled": kernel.cancel_run}[status](run_id=RUN)
        with pytest.raises(RunNotActive, match=status):
            await forking(kernel, "A", "1")

        fork = await kernel.fork_run(run_id=RUN, at_seq=2)
        assert (await kernel.get_run_status(run_id=fork.run_id)).active


# By hand


async def test_a_fork_has_the_steps_up_to_its_place_and_no_others(store: Store) -> None:
    """Steps before the place replay, those after it are executed anew, and the parent is left alone."""
    port = Echo()
    async with Kernel(store=store, model_port=port) as kernel:
        await recorded(kernel, "a", "b")
        fork = await kernel.fork_run(run_id=RUN, at_seq=2, new_run_id="other")
        before = await types(kernel)

        first = await ask(kernel, "a", step_key="1", run_id="other")
        second = await ask(kernel, "b", step_key="2", run_id="other")

        assert (fork.run_id, fork.forked_from_run_id, fork.forked_at_seq) == ("other", RUN, 2)
        assert (first.replayed, second.replayed) == (True, False)
        assert await types(kernel) == before
        assert await types(kernel, "other") == ["run.started", "step.completed"]


async def test_a_fork_of_a_fork_has_both_beginnings(store: Store) -> None:
    """What a fork inherited, its fork inherits, also in another process."""
    async with Kernel(store=store, model_port=Echo()) as kernel:
        await recorded(kernel, "a", "b")
        await kernel.fork_run(run_id=RUN, at_seq=2, new_run_id="f1")
        await ask(kernel, "c", step_key="c", run_id="f1")
        await kernel.fork_run(run_id="f1", at_seq=2, new_run_id="f2")
    async with Kernel(store=store) as kernel:
        assert (await ask(kernel, "a", step_key="1", run_id="f2")).text == "m: a"
        assert (await ask(kernel, "c", step_key="c", run_id="f2")).text == "m: c"
        with pytest.raises(UsageError, match="no model port"):
            await ask(kernel, "b", step_key="2", run_id="f2")
        found = await store.verify_run_chain("f2")
        assert (found.ok, found.streams) == (True, 3)


async def test_drift_from_an_inherited_step_forks_where_it_was_recorded(store: Store) -> None:
    """Up to there fork and parent are the same run, so the same change leads to the same fork from both."""
    async with Kernel(store=store, model_port=Echo()) as kernel:
        await recorded(kernel, "a", "b")
        await kernel.fork_run(run_id=RUN, at_seq=3, new_run_id="f1")

        one = await forking(kernel, "B", "2", run_id="f1")
        other = await forking(kernel, "B", "2")

        assert (one.run_id, one.forked_from_run_id) == (other.run_id, RUN)
        assert other.replayed


@pytest.mark.parametrize("at_seq", [0, -1, 99, "2", 2.0, None, True])
async def test_a_place_that_the_run_does_not_have_is_refused(store: Store, at_seq: Any) -> None:
    """Nothing is written for a bad `at_seq`."""
    async with Kernel(store=store, model_port=Echo()) as kernel:
        await recorded(kernel, "a")
        before = await store.tail()
        with pytest.raises(UsageError, match=f"run '{RUN}'"):
            await kernel.fork_run(run_id=RUN, at_seq=at_seq)

        assert await store.tail() == before


async def test_unknown_runs_and_taken_ids_are_named(store: Store) -> None:
    """An unknown run, a taken id, an id that no run may have."""
    async with Kernel(store=store, model_port=Echo()) as kernel:
        await recorded(kernel, "a")
        with pytest.raises(NotFound, match="no run 'nobody'"):
            await kernel.fork_run(run_id="nobody", at_seq=1)
        with pytest.raises(RunExists, match="'run-1' exists"):
            await kernel.fork_run(run_id=RUN, at_seq=1, new_run_id=RUN)
        with pytest.raises(UsageError, match="a space or control"):
            await kernel.fork_run(run_id=RUN, at_seq=1, new_run_id="a b")
        assert (await types(kernel)).count("run.forked") == 0


async def test_a_long_name_leaves_room_for_the_fork(store: Store) -> None:
    """The id of a run may be as long as it may be, and still it can be forked, again and again."""
    async with Kernel(store=store, model_port=Echo()) as kernel:
        name = "ä" * 175
        await kernel.start_run(tenant=TENANT, run_id=name)
        for _ in range(3):
            name = (await kernel.fork_run(run_id=name, at_seq=1)).run_id
            assert len(name.encode()) <= 350


async def test_a_side_effect_without_an_end_stays_unknown_in_the_fork(store: Store) -> None:
    """Even a tool that may be retried is not run again: in the parent it may be at work just now."""
    paid: list[int] = []
    begun, going_on = asyncio.Event(), asyncio.Event()

    async def pay(amount: int) -> str:
        paid.append(amount)
        assert len(paid) == 1
        begun.set()
        async with asyncio.timeout(20):
            await going_on.wait()
        return "paid"

    async with Kernel(store=store) as kernel:
        kernel.tool(side_effect=True, on_unknown="retry")(pay)
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        step: dict[str, Any] = {"tenant": TENANT, "tool_name": "pay", "arguments": {"amount": 5}, "step_key": "pay"}
        running = asyncio.ensure_future(kernel.step_tool(run_id=RUN, **step))
        await begun.wait()
        await kernel.fork_run(run_id=RUN, at_seq=2, new_run_id="fork")
        for _ in range(2):
            with pytest.raises(OutcomeUnknown, match="as run/run-1#2, before the fork"):
                await kernel.step_tool(run_id="fork", **step)
        going_on.set()
        await running
    async with Kernel(store=store) as kernel:
        kernel.tool(side_effect=True, on_unknown="retry")(pay)
        with pytest.raises(OutcomeUnknown):
            await kernel.step_tool(run_id="fork", **step)

        settled = await kernel.reconcile_tool(
            run_id="fork", tenant=TENANT, tool_name="pay", outcome="completed", result="paid", by="ann"
        )
        again = await kernel.step_tool(run_id="fork", **step)

        assert settled is not None
        assert (again.result, again.replayed, paid) == ("paid", True, [5])


async def test_a_side_effect_after_the_place_is_done_anew(store: Store) -> None:
    """It is another run's, with a key of its own; a model call that had no end is made in the fork."""
    keys: list[str] = []

    async def pay(harness_context: Any) -> str:
        keys.append(harness_context.idempotency_key)
        return "paid"

    async with Kernel(store=store, model_port=Echo()) as kernel:
        kernel.tool(side_effect=True)(pay)
        await recorded(kernel, "a")
        await kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="pay")
        await kernel.fork_run(run_id=RUN, at_seq=2, new_run_id="fork")
        await kernel.step_tool(run_id="fork", tenant=TENANT, tool_name="pay")

        assert len(set(keys)) == 2


async def test_what_was_erased_in_the_parent_is_over_in_the_fork(store: Store) -> None:
    """An erased result cannot be replayed and is not asked for again; an erased beginning leaves the fork a fork."""
    async with Kernel(store=store, model_port=Echo()) as kernel:
        await recorded(kernel, "a", "b")
        await kernel.fork_run(run_id=RUN, at_seq=3, new_run_id="fork")
    await store.erase(f"run/{RUN}", 2, reason="personal data")
    await store.erase("run/fork", 1, reason="personal data")
    async with Kernel(store=store) as kernel:
        with pytest.raises(StepFailed, match="was erased"):
            await ask(kernel, "a", step_key="1", run_id="fork")
        assert (await ask(kernel, "b", step_key="2", run_id="fork")).replayed
        assert await store.verify_run_chain("fork")


async def test_an_erased_intent_is_never_taken_for_nothing(store: Store) -> None:
    """Whether a tool with a side effect was run, nobody knows: so it is not run, in the run or in a fork of it."""
    begun = asyncio.Event()

    async def pay() -> str:
        assert not begun.is_set()
        begun.set()
        await asyncio.Event().wait()
        return "paid"

    async with Kernel(store=store) as kernel:
        kernel.tool(side_effect=True, on_unknown="retry")(pay)
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        running = asyncio.ensure_future(kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="pay", step_key="pay"))
        await begun.wait()
        await store.erase(f"run/{RUN}", 2, reason="personal data")
        await kernel.fork_run(run_id=RUN, at_seq=2, new_run_id="fork")
        with pytest.raises(OutcomeUnknown, match="erased"):
            await kernel.step_tool(run_id="fork", tenant=TENANT, tool_name="pay", step_key="pay")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_fork_has_the_artifacts_of_its_beginning(store: Store) -> None:
    """As they were at the fork point, through forks of forks, until it sets its own; the parent keeps its own."""

    async def keep(kernel: Kernel, run_id: str, key: str, value: object) -> int:
        return await kernel.set_artifact(run_id=run_id, tenant=TENANT, key=key, value=value)

    async with Kernel(store=store, model_port=Echo()) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        await keep(kernel, RUN, "plan", "old")
        at = await keep(kernel, RUN, "other", 1)
        await kernel.fork_run(run_id=RUN, at_seq=at, new_run_id="fork")
        await keep(kernel, RUN, "plan", "new")
        await keep(kernel, RUN, "later", 2)
        await keep(kernel, "fork", "other", 3)
        await kernel.fork_run(run_id="fork", at_seq=1, new_run_id="fork-of-fork")

        for run_id, expected in (
            (RUN, {"plan": "new", "other": 1, "later": 2}),
            ("fork", {"plan": "old", "other": 3}),
            ("fork-of-fork", {"plan": "old", "other": 1}),
        ):
            keys = await kernel.list_artifacts(run_id=run_id)
            assert {key: await kernel.get_artifact(run_id=run_id, key=key) for key in keys} == expected
            assert await kernel.get_artifact(run_id=run_id, key="never") is None


async def test_an_artifact_that_was_erased_in_the_parent_is_gone_in_the_fork(store: Store) -> None:
    """An erased payload has no second place where it could be read."""
    async with Kernel(store=store) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        at = await kernel.set_artifact(run_id=RUN, tenant=TENANT, key="address", value="ann@example.com")
        await kernel.fork_run(run_id=RUN, at_seq=at, new_run_id="fork")
        await store.erase(f"run/{RUN}", at, reason="personal data")

        assert await kernel.get_artifact(run_id="fork", key="address") is None


async def test_a_forks_steps_are_listed_with_those_it_inherits(store: Store) -> None:
    """Each says where it was recorded."""
    async with Kernel(store=store, model_port=Echo()) as kernel:
        await recorded(kernel, "a", "b")
        await kernel.fork_run(run_id=RUN, at_seq=2, new_run_id="fork")
        await ask(kernel, "c", step_key="2", run_id="fork")

        steps = await kernel.get_steps(run_id="fork")

        assert [(step.step, step.text, step.inherited_from) for step in steps] == [("1", "m: a", RUN), ("2", "m: c", None)]


async def test_declared_steps_that_a_fork_inherits_are_done(store: Store) -> None:
    """A fork that has come to its end does not say that half of it is missing."""

    async def workflow(context: Any) -> None:
        for name in ("a", "b"):
            await context.step(name=name, action=lambda: 1)

    async with Kernel(store=store) as kernel:
        await kernel.run_workflow(run_id=RUN, tenant=TENANT, workflow=workflow, steps=["a", "b"])
        first = await store.latest(f"run/{RUN}", "a#1")
        assert first is not None
        await kernel.fork_run(run_id=RUN, at_seq=first.seq, new_run_id="fork")
        await kernel.run_workflow(run_id="fork", tenant=TENANT, workflow=workflow, steps=["a", "b"])

        progress = await kernel.get_run_progress(run_id="fork")

        assert (progress.status, progress.percent, progress.pending_tasks) == ("completed", 100.0, ())


async def test_money_of_the_beginning_is_not_counted_twice(store: Store) -> None:
    """The fork spends from the same budget, and what its beginning cost was paid by the parent."""
    tenant = TenantContext(tenant_id="t", budget_usd_limit=0.05)
    async with Kernel(store=store, model_port=Echo()) as kernel:
        await kernel.start_run(tenant=tenant, run_id=RUN)
        for number in range(3):
            await ask(kernel, str(number), step_key=str(number), tenant=tenant)
        fork = await kernel.fork_run(run_id=RUN, at_seq=(await kernel.get_run_status(run_id=RUN)).last_seq)
        for number in range(4):
            await ask(kernel, str(number), step_key=str(number), tenant=tenant, run_id=fork.run_id)
        await ask(kernel, "x", step_key="x", tenant=tenant, run_id=fork.run_id)
        with pytest.raises(StepRejected, match=r"budget of tenant 't' is \$0\.05"):
            await ask(kernel, "y", step_key="y", tenant=tenant, run_id=fork.run_id)


async def test_a_fork_shares_the_root_of_its_tree(store: Store) -> None:
    """A fork of a child counts to the quotas of the whole tree."""
    async with Kernel(store=store) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="root")
        await kernel.start_run(tenant=TENANT, run_id="child", parent_run="root")
        fork = await kernel.fork_run(run_id="child", at_seq=1)

        assert fork.root_run == "root"


async def test_strict_replay_in_a_fork_tells_the_inherited_difference(store: Store) -> None:
    """An inherited step knows what it was asked, though that is recorded in another run."""
    async with Kernel(store=store, model_port=Echo()) as kernel:
        await recorded(kernel, "how full?")
        await kernel.fork_run(run_id=RUN, at_seq=2, new_run_id="fork")
        with pytest.raises(ReplayConsistencyError, match="recorded …'how full\\?'") as caught:
            await ask(kernel, "how empty?", step_key="1", run_id="fork")
        assert caught.value.fields == ("prompt",)


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
async def test_a_fork_of_a_changed_history_is_not_loaded(tmp_path: Path, damage: str) -> None:
    """What a fork inherits is verified with it: a changed payload, a cut tail, a parent that is gone."""
    path = tmp_path / "k.db"
    async with SQLiteStore(path) as store, Kernel(store=store, model_port=Echo()) as kernel:
        await recorded(kernel, "a", "b")
        await kernel.fork_run(run_id=RUN, at_seq=3, new_run_id="fork")
    stream = f"(SELECT id FROM streams WHERE name = 'run/{RUN}')"
    with sqlite3.connect(path) as connection:
        if damage == "changed":
            connection.execute(f"UPDATE events SET data = replace(data, 'm: a', 'm: z') WHERE stream = {stream} AND seq = 2")
        else:
            connection.execute(f"DELETE FROM events WHERE stream = {stream} AND seq >= ?", (3 if damage == "cut" else 0,))
    connection.close()
    async with SQLiteStore(path) as store, Kernel(store=store) as kernel:
        found = await store.verify_run_chain("fork")
        assert not found
        assert {problem.stream for problem in found.problems} == {f"run/{RUN}"}
        with pytest.raises(Unproven, match="is a fork, and what it inherits does not verify") as caught:
            await kernel.load_run(run_id="fork")
        assert caught.value.stream == f"run/{RUN}"


async def test_a_parent_that_was_written_anew_is_not_the_one_that_was_forked(tmp_path: Path) -> None:
    """A history with valid hashes of its own is another history: the fork remembers the hash of its place."""
    real, forged = tmp_path / "real.db", tmp_path / "forged.db"
    async with SQLiteStore(real) as store, Kernel(store=store, model_port=Echo()) as kernel:
        await recorded(kernel, "a")
        await kernel.fork_run(run_id=RUN, at_seq=2, new_run_id="fork")
        fork = await store.read("run/fork")
    async with SQLiteStore(forged) as store:
        async with Kernel(store=store, model_port=MockModelPort(text="lies")) as kernel:
            await recorded(kernel, "a")
        await store.restore(fork)
        assert await store.verify()
        assert not await store.verify_run_chain("fork")
        async with Kernel(store=store) as kernel:
            with pytest.raises(Unproven, match="rewritten"):
                await kernel.load_run(run_id="fork")
