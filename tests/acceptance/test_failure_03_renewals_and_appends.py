"""Failure 3: lease renewals and appends share a connection and break each other."""

from __future__ import annotations

import asyncio
from pathlib import Path

from harness import Kernel, KernelPolicy, ModelInput, SQLiteStore, StepModelResult, TenantContext
from harness.errors import Conflict, Fenced
from harness.kernel import ModelRequest, ModelResult
from harness.ledger import Acquire, Draft, Write

TENANT = TenantContext(tenant_id="t")


class Patient:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()

    async def complete(self, request: ModelRequest) -> ModelResult:
        self.begun += 1
        if request.prompt.startswith("long"):
            await asyncio.wait_for(self.may_end.wait(), 60)
        return ModelResult(text=request.prompt)


def ask(kernel: Kernel, run_id: str, prompt: str) -> asyncio.Future[StepModelResult]:
    """A step of this prompt, as a task."""
    return asyncio.ensure_future(
        kernel.step_model(run_id=run_id, tenant=TENANT, model="m", input=ModelInput.from_prompt(prompt), step_key=prompt)
    )


async def test_calls_that_outlast_the_lease_keep_it_while_others_write(tmp_path: Path) -> None:
    """Long calls, many renewals and a stream of appends through one store: every event is there, nobody is fenced."""
    port = Patient()
    async with SQLiteStore(tmp_path / "h.db") as store:
        async with Kernel(store=store, model_port=port, policy=KernelPolicy(lease_seconds=0.3)) as kernel:
            for run_id in ("long", "busy"):
                await kernel.start_run(tenant=TENANT, run_id=run_id)
            long = [ask(kernel, "long", f"long {number}") for number in range(3)]
            first = await store.lease("run/long")
            number = 0
            while (
                (lease := await store.lease("run/long")) is None
                or first is None
                or lease.expires_us < first.expires_us + 900_000
            ):
                await asyncio.gather(*(ask(kernel, "busy", f"short {number + more}") for more in range(8)))
                number += 8
            port.may_end.set()
            answers = await asyncio.wait_for(asyncio.gather(*long), 30)
            busy = [event for event in await kernel.get_events(run_id="busy") if event.event_type == "step.completed"]

        assert [answer.text for answer in answers] == ["long 0", "long 1", "long 2"]
        assert len(busy) == number
        assert lease.token == 1  # it was lengthened, never taken anew
        assert await store.verify()


async def test_renewals_and_appends_of_one_store_at_once_all_take_effect(tmp_path: Path) -> None:
    """A renewal that is refused takes no append with it, and an append that is refused no renewal."""
    async with SQLiteStore(tmp_path / "h.db") as store:
        note = Draft(type="a.b", payload={})
        await store.append(Write("item/0", (note,)), guards=[Acquire("lease", "me", 1, 60.0)])
        work = []
        for number in range(1, 41):
            work += [
                store.renew("lease", 1, 60.0 + number),
                store.append(Write(f"item/{number}", (note,))),
                store.renew("lease", 7, 60.0),
                store.append(Write("item/0", (note,)), guards=[Acquire("lease", "me", 1, 60.0)]),
            ]
        results = await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 60)
        lease = await store.lease("lease")

        assert [type(result) for result in results[2::4]] == [Fenced] * 40
        assert [type(result) for result in results[3::4]] == [Conflict] * 40
        assert not [result for result in (*results[0::4], *results[1::4]) if isinstance(result, BaseException)]
        assert lease == results[-4]
        assert len(await store.heads("item/")) == 41
        assert await store.verify()
