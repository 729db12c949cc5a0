"""Failure 1: two model steps gathered in one run; on replay B gets A's answer, and A is paid for again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from harness import Kernel, ModelInput, SQLiteStore, StepModelResult, TenantContext
from harness.kernel import ModelRequest, ModelResult, Usage

TENANT = TenantContext(tenant_id="t")
PROMPTS = ("slow one", "quick", "slow two")


class Unequal:
    """The first question of a gathering is answered last; `turned` turns that round, `stuck` leaves it unanswered."""

    def __init__(self, *, turned: bool = False, stuck: bool = False) -> None:
        self.turned = turned
        self.stuck = stuck
        self.asked: list[str] = []
        self._last = asyncio.Event()

    async def complete(self, request: ModelRequest) -> ModelResult:
        self.asked.append(request.prompt)
        if request.prompt.startswith("slow") != self.turned:
            await asyncio.wait_for(self._last.wait(), 30)
        else:
            await asyncio.sleep(0)
            if not self.stuck:
                self._last.set()
        return ModelResult(text=f"to {request.prompt}", usage=Usage(cost_usd=0.01))


async def gathered(kernel: Kernel) -> list[StepModelResult]:
    """Three steps without a key at once, as tasks whose order nobody promises."""
    return await asyncio.gather(
        *(kernel.step_model(run_id="r", tenant=TENANT, model="m", input=ModelInput.from_prompt(prompt)) for prompt in PROMPTS)
    )


async def test_each_gathered_step_gets_its_own_answer_again(tmp_path: Path) -> None:
    """Whatever order they end in, the steps are those of the calls, and nothing is asked or paid for twice."""
    first, second = Unequal(), Unequal(turned=True)
    async with SQLiteStore(tmp_path / "h.db") as store, Kernel(store=store, model_port=first) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")
        before = await gathered(kernel)
    async with SQLiteStore(tmp_path / "h.db") as store, Kernel(store=store, model_port=second) as kernel:
        await kernel.load_run(run_id="r")
        after = await gathered(kernel)
        events = await kernel.get_events(run_id="r")

    assert [answer.text for answer in before] == [f"to {prompt}" for prompt in PROMPTS]
    assert [(answer.text, answer.seq) for answer in after] == [(answer.text, answer.seq) for answer in before]
    assert all(answer.replayed for answer in after)
    assert (len(first.asked), second.asked) == (3, [])
    assert [event.event_type for event in events].count("step.completed") == 3


async def test_a_gathering_that_was_cut_off_asks_only_what_was_not_answered(tmp_path: Path) -> None:
    """The answered step of a gathering that a kill interrupted is not asked again, and the others get their own."""
    async with SQLiteStore(tmp_path / "h.db") as store, Kernel(store=store, model_port=Unequal(stuck=True)) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")
        calls = [
            asyncio.ensure_future(kernel.step_model(run_id="r", tenant=TENANT, model="m", input=ModelInput.from_prompt(prompt)))
            for prompt in PROMPTS
        ]
        quick = await asyncio.wait_for(calls[1], 30)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    again = Unequal(turned=True)
    async with SQLiteStore(tmp_path / "h.db") as store, Kernel(store=store, model_port=again) as kernel:
        await kernel.load_run(run_id="r")
        after = await gathered(kernel)

    assert [answer.text for answer in after] == [f"to {prompt}" for prompt in PROMPTS]
    assert after[1].seq == quick.seq
    assert "quick" not in again.asked
