"""The life of a run and what it leaves: status, pause, cancel, events, artifacts, summaries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import NotFound, PolicyDenied, RunNotActive, Unproven
from harness.kernel import Kernel, MockModelPort, ModelInput, TenantContext
from harness.kernel.lifecycle import RUNS_VIEW
from harness.ledger import MemoryStore, SQLiteStore

Store = MemoryStore | SQLiteStore
TENANT = TenantContext(tenant_id="t")
RUN = "run-1"


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "k.db")
    yield made
    await made.close()


@pytest.fixture
async def kernel(store: Store) -> AsyncIterator[Kernel]:
    async with Kernel(store=store, model_port=MockModelPort(output="x")) as made:
        await made.start_run(tenant=TENANT, run_id=RUN)
        yield made


def ask(kernel: Kernel, key: str, run_id: str = RUN) -> Any:
    prompt = ModelInput.from_prompt(key)
    return kernel.step_model(run_id=run_id, tenant=TENANT, model="m", input=prompt, step_key=key)


async def test_a_paused_run_refuses_steps_and_replays_recorded_ones(kernel: Kernel) -> None:
    """Nothing is executed while a run is paused; what is recorded can still be read, and resume lets it go on."""
    await ask(kernel, "a")
    await kernel.pause(run_id=RUN, tenant=TENANT, reason="look first")

    with pytest.raises(RunNotActive, match=r"paused \(look first\)"):
        await ask(kernel, "b")
    assert (await ask(kernel, "a")).replayed
    await kernel.resume(run_id=RUN, human_input={"go": "on"})

    assert await kernel.get_human_input(run_id=RUN) == {"go": "on"}
    assert not (await ask(kernel, "b")).replayed


async def test_a_pause_by_another_process_takes_effect_before_the_next_step(kernel: Kernel, store: Store) -> None:
    """A status may be changed without the run's lease."""
    await ask(kernel, "a")
    async with Kernel(store=store) as other:
        await other.pause(run_id=RUN)

    with pytest.raises(RunNotActive):
        await ask(kernel, "b")


async def test_a_blocked_run_waits_to_be_unblocked(kernel: Kernel) -> None:
    """Blocking and pausing are different reasons to stop, and each has its own end."""
    await kernel.block_run(run_id=RUN, reason="no quota")

    with pytest.raises(RunNotActive, match="blocked"):
        await kernel.resume(run_id=RUN)
    assert (await kernel.get_run_status(run_id=RUN)).reason == "no quota"
    await kernel.unblock_run(run_id=RUN)

    assert (await kernel.get_run_status(run_id=RUN)).active


@pytest.mark.parametrize(("end", "status"), [("cancel_run", "cancelled"), ("finish_run", "completed")])
async def test_a_run_that_is_over_stays_over(kernel: Kernel, end: str, status: str) -> None:
    """A terminal event ends a run; no step, no other status follows, and its history replays."""
    await ask(kernel, "a")
    await getattr(kernel, end)(run_id=RUN, reason="enough")

    assert (await kernel.get_run_status(run_id=RUN)).status == status
    with pytest.raises(RunNotActive, match="it is over"):
        await ask(kernel, "b")
    with pytest.raises(RunNotActive):
        await kernel.pause(run_id=RUN)
    assert (await ask(kernel, "a")).replayed


async def test_a_run_may_fail(kernel: Kernel) -> None:
    """A run that could not do its work says so."""
    await kernel.finish_run(run_id=RUN, failed=True, reason="gave up")

    status = await kernel.get_run_status(run_id=RUN)
    assert (status.status, status.reason) == ("failed", "gave up")


async def test_two_changes_at_once_are_one_after_the_other(kernel: Kernel) -> None:
    """Of two pauses made at once one is refused, since the run is paused already."""
    done = await asyncio.gather(kernel.pause(run_id=RUN), kernel.pause(run_id=RUN), return_exceptions=True)

    assert sorted(type(result).__name__ for result in done) == ["RunNotActive", "int"]


async def test_only_its_tenant_changes_a_run(kernel: Kernel) -> None:
    """Who names another tenant is refused; an unknown run is named."""
    with pytest.raises(PolicyDenied):
        await kernel.cancel_run(run_id=RUN, tenant=TenantContext(tenant_id="other"))
    with pytest.raises(NotFound, match="ghost"):
        await kernel.cancel_run(run_id="ghost")
    with pytest.raises(NotFound, match="ghost"):
        await kernel.get_run_status(run_id="ghost")


async def test_active_runs_are_listed_by_index(kernel: Kernel, store: Store) -> None:
    """Runs that are not over are listed, the oldest first, by tenant if asked; the view agrees with the events."""
    await kernel.start_run(tenant=TenantContext(tenant_id="other"), run_id="run-2")
    await kernel.start_run(tenant=TENANT, run_id="run-3")
    await kernel.pause(run_id="run-3")

    assert [run.run_id for run in await kernel.list_active_runs()] == [RUN, "run-2", "run-3"]
    await kernel.cancel_run(run_id=RUN)
    assert [run.run_id for run in await kernel.list_active_runs(tenant_id="t")] == ["run-3"]
    assert await store.check(RUNS_VIEW) == []


async def test_events_are_read_and_followed(kernel: Kernel) -> None:
    """A follower gets what is there and what comes, once each, from the place it asks for."""
    await ask(kernel, "a")
    events = [(event.seq, event.event_type) for event in await kernel.get_events(run_id=RUN)]
    assert [(e.seq, e.event_type) async for e in kernel.stream_events(run_id=RUN)] == events
    seen: list[int] = []

    async def follow() -> None:
        async for event in kernel.stream_events(run_id=RUN, since_seq=1, follow=True):
            seen.append(event.seq)
            if event.seq == 4:
                return

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0)
    await ask(kernel, "b")
    await ask(kernel, "c")
    await asyncio.wait_for(following, 5)

    assert seen == [2, 3, 4]
    with pytest.raises(NotFound):
        await kernel.get_events(run_id="ghost")


async def test_failure_13_a_subscriber_that_takes_steps_does_not_deadlock(kernel: Kernel) -> None:
    """Who follows a run may write to it while it follows."""
    async with asyncio.timeout(10):
        await ask(kernel, "0")
        async for event in kernel.stream_events(run_id=RUN, follow=True):
            if event.seq == 5:
                break
            await ask(kernel, f"{event.seq}")

    assert (await kernel.get_run_status(run_id=RUN)).last_seq >= 5


async def test_artifacts_have_versions_and_a_latest(kernel: Kernel) -> None:
    """The newest value comes back; a missing key is None; keys are listed."""
    first = await kernel.set_artifact(run_id=RUN, tenant=TENANT, key="plan", value={"phase": 1})
    second = await kernel.set_artifact(run_id=RUN, tenant=TENANT, key="plan", value=[1, None, "ü"], schema_version="2")

    assert second > first
    assert await kernel.get_artifact(run_id=RUN, key="plan") == [1, None, "ü"]
    assert await kernel.get_artifact(run_id=RUN, key="ghost") is None
    assert await kernel.list_artifacts(run_id=RUN) == ("plan",)
    assert [event.key for event in await kernel.get_events(run_id=RUN)][1:] == ["artifact::plan"] * 2


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", float("nan"), {"a": float("inf")}, lambda: None])
async def test_what_is_no_json_is_no_artifact(kernel: Kernel, value: Any) -> None:
    """A TypeError, and nothing recorded."""
    with pytest.raises(TypeError, match="no JSON"):
        await kernel.set_artifact(run_id=RUN, tenant=TENANT, key="k", value=value)

    assert await kernel.get_artifact(run_id=RUN, key="k") is None


async def test_an_artifact_of_another_tenant_or_of_no_run_is_refused(kernel: Kernel) -> None:
    """Only its tenant writes to a run that exists."""
    with pytest.raises(PolicyDenied):
        await kernel.set_artifact(run_id=RUN, tenant=TenantContext(tenant_id="other"), key="k", value=1)
    with pytest.raises(NotFound):
        await kernel.set_artifact(run_id="ghost", tenant=TENANT, key="k", value=1)


async def test_an_erased_artifact_is_gone(kernel: Kernel, store: Store) -> None:
    """Erasing the newest version leaves no value."""
    seq = await kernel.set_artifact(run_id=RUN, tenant=TENANT, key="k", value="private")
    await store.erase(f"run/{RUN}", seq, reason="private")

    assert await kernel.get_artifact(run_id=RUN, key="k") is None


async def test_failure_9_an_artifact_or_status_that_was_changed_is_not_given(tmp_path: Path) -> None:
    """Reading one value verifies it, without reading the run."""
    import sqlite3

    path = tmp_path / "k.db"
    async with SQLiteStore(path) as store, Kernel(store=store) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        await kernel.set_artifact(run_id=RUN, tenant=TENANT, key="k", value="honest")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE events SET data = replace(replace(data, 'honest', 'forged'), 'holder', 'holden')")
    connection.commit()
    connection.close()

    async with SQLiteStore(path) as store:
        kernel = Kernel(store=store)
        with pytest.raises(Unproven, match="#2"):
            await kernel.get_artifact(run_id=RUN, key="k")
        with pytest.raises(Unproven, match="#1"):
            await kernel.get_run_status(run_id=RUN)


async def test_summaries_are_appended_and_the_newest_found(kernel: Kernel) -> None:
    """Each type of summary has its own newest one."""
    for number in (1, 2):
        await kernel.append_run_summary(run_id=RUN, tenant=TENANT, summary_type="task_progress", summary={"n": number})

    assert await kernel.get_latest_run_summary(run_id=RUN, summary_type="task_progress") == {"n": 2}
    assert await kernel.get_latest_run_summary(run_id=RUN, summary_type="other") is None


async def test_failure_14_replaying_and_closing_write_nothing(kernel: Kernel, store: Store) -> None:
    """A session that only replays leaves the ledger as it found it."""
    for key in "abc":
        await ask(kernel, key)
    before = await store.tail()

    async with Kernel(store=store, model_port=MockModelPort(output="y")) as other:
        await other.load_run(run_id=RUN)
        assert [(await ask(other, key)).output for key in "abc"] == ["x", "x", "x"]
        await other.get_run_status(run_id=RUN)
        await other.get_steps(run_id=RUN)

    assert await store.tail() == before
