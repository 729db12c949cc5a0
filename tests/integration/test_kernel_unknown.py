"""Side effects whose outcome is unknown: each policy, and settling by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.errors import (
    CapabilityDenied,
    NotFound,
    OutcomeUnknown,
    ReplayConsistencyError,
    StepFailed,
    StepRejected,
    UsageError,
)
from harness.kernel import Kernel, TenantContext, ToolExecutionContext
from harness.kernel.records import StepStarted, raw
from harness.ledger import Draft, MemoryStore, SQLiteStore, Write
from harness.ledger.gate import Gate
from harness.people import Questions

Store = MemoryStore | SQLiteStore
TENANT = TenantContext(tenant_id="t")
RUN = "run-1"


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "k.db")
    yield made
    await made.close()


class Bank:
    """Where the money goes; knows which keys it has seen."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.paid: dict[str, int] = {}
        self.answer: Any = None  # of the probe

    def kernel(self, store: Store, on_unknown: str = "ask", **more: Any) -> Kernel:
        kernel = Kernel(store=store)
        probe = self.probe if on_unknown == "probe" or more.pop("probe", False) else None

        @kernel.tool(side_effect=True, on_unknown=on_unknown, probe=probe, **more)  # type: ignore[arg-type]
        async def pay(amount: int, context: ToolExecutionContext) -> dict[str, int]:
            self.calls.append((context.idempotency_key, context.attempt))
            self.paid[context.idempotency_key] = amount
            return {"paid": amount}

        return kernel

    def probe(self, context: ToolExecutionContext) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"paid": self.paid[context.idempotency_key]} if self.answer == "look" else self.answer


def pay(kernel: Kernel, amount: int = 5, **more: Any) -> Any:
    return kernel.step_tool(
        **{"run_id": RUN, "tenant": TENANT, "tool_name": "pay", "arguments": {"amount": amount}, "step_key": "pay", **more}
    )


async def crashed(store: Store, kernel: Kernel) -> str:
    """A run whose process was killed after the intent; gives the idempotency key of the intent."""
    await kernel.start_run(tenant=TENANT, run_id=RUN)
    await pay(kernel, step_key="model")
    first = await store.latest(f"run/{RUN}", "model")
    assert first is not None
    intent = next(e for e in await store.read(f"run/{RUN}") if e.type == "step.started").load(StepStarted)
    key = "0123456789abcdef0123456789abcdef"
    lost = msgspec.structs.replace(intent, arguments=raw(b'{"amount":5}'), idempotency_key=key)
    await kernel.close()
    await store.append(Write(f"run/{RUN}", (Draft(type="step.started", payload=lost, key="pay", tenant="t"),)))
    return key


async def types(store: Store) -> list[str]:
    return [event.type for event in await store.read(f"run/{RUN}")][3:]


async def test_asking_raises_and_records_once(store: Store) -> None:
    """The default: nothing is run, a person is asked one question, and the step stays unknown."""
    bank = Bank()
    await crashed(store, bank.kernel(store))
    bank.calls.clear()

    for _ in range(2):
        kernel = bank.kernel(store)
        with pytest.raises(OutcomeUnknown, match="answer question q-"):
            await pay(kernel)
        with pytest.raises(OutcomeUnknown):
            await pay(kernel)
        await kernel.close()

    assert bank.calls == []
    assert (await types(store)).count("step.unknown") == 1
    (question,) = await Questions(store).pending(kind="reconcile")
    assert 'pay({"amount":5})' in question.text


@pytest.mark.parametrize(("choice", "result"), [("completed", None), ("retry", {"paid": 5})])
async def test_a_person_says_what_happened(store: Store, choice: str, result: Any) -> None:
    """The answer is acted on when the step is asked for again, and recorded with its end."""
    bank = Bank()
    key = await crashed(store, bank.kernel(store))
    bank.calls.clear()
    kernel = bank.kernel(store)
    with pytest.raises(OutcomeUnknown):
        await pay(kernel)
    questions = Questions(store)
    (question,) = await questions.pending()
    await questions.answer(question.id, choice, by="ann", digest=question.digest)

    assert (await pay(kernel)).result == result
    assert (await pay(kernel)).replayed
    assert bank.calls == ([(key, 2)] if choice == "retry" else [])
    assert (await questions.get(question.id)).used_by == f"run/{RUN}#pay"


@pytest.mark.parametrize(
    ("outcome", "answer"), [("completed", "completed"), ("failed", "failed"), ("probe", "completed"), ("retry", "retry")]
)
async def test_reconciling_closes_the_question(store: Store, outcome: Any, answer: str) -> None:
    """What was settled by hand is not asked of people any more, and their list says how it ended."""
    bank = Bank()
    await crashed(store, bank.kernel(store))
    kernel = bank.kernel(store)
    with pytest.raises(OutcomeUnknown):
        await pay(kernel)
    (asked,) = await Questions(store).pending()
    await kernel.close()
    bank.answer = True
    kernel = bank.kernel(store, on_unknown="probe")

    await kernel.reconcile_tool(
        run_id=RUN, tenant=TENANT, tool_name="pay", step_key="pay", outcome=outcome, by="ann",
        **({"result": 5} if outcome == "completed" else {"message": "refunded"} if outcome == "failed" else {}),
    )  # fmt: skip

    assert await Questions(store).pending() == []
    question = await Questions(store).get(asked.id)
    assert (question.answer, question.used_by) == (answer, f"run/{RUN}#pay")


async def test_an_unknown_step_does_not_tell_an_older_refusal(store: Store) -> None:
    """A step that was refused, then begun and cut off, is told as that."""
    kernel = Kernel(store=store)

    @kernel.tool(side_effect=True, name="pay")
    async def lost(amount: int) -> str:
        raise OutcomeUnknown("the line went dead")

    await kernel.start_run(tenant=TENANT, run_id=RUN)
    with pytest.raises(StepRejected):
        await pay(kernel, amount="much")  # type: ignore[arg-type]
    with pytest.raises(OutcomeUnknown):
        await pay(kernel)

    (step,) = await kernel.get_steps(run_id=RUN)
    assert (step.state, step.error) == ("unknown", "")
    assert "the line went dead" in step.message


async def test_a_person_says_that_it_failed(store: Store) -> None:
    """The step fails with the person's words, for good."""
    bank = Bank()
    await crashed(store, bank.kernel(store))
    kernel = bank.kernel(store)
    with pytest.raises(OutcomeUnknown):
        await pay(kernel)
    questions = Questions(store)
    (question,) = await questions.pending()
    await questions.answer(question.id, "failed", by="ann", digest=question.digest, note="the bank was closed")

    for _ in range(2):
        with pytest.raises(StepFailed, match="the bank was closed"):
            await pay(kernel)


async def test_retrying_uses_the_same_key(store: Store) -> None:
    """A tool that is idempotent is run again with the key of the first attempt, and both attempts are on record."""
    bank = Bank()
    key = await crashed(store, bank.kernel(store))
    bank.calls.clear()

    result = await pay(bank.kernel(store, "retry"))

    assert bank.calls == [(key, 2)]
    assert result.attempt == 2
    assert await types(store) == ["step.started", "run.acquired", "step.unknown", "step.started", "step.completed"]


@pytest.mark.parametrize(("answer", "result", "calls"), [("look", {"paid": 5}, 0), (True, None, 0), (False, {"paid": 5}, 1)])
async def test_probing_finds_out(store: Store, answer: Any, result: Any, calls: int) -> None:
    """What the probe finds is recorded; only a clear no runs the tool again."""
    bank = Bank()
    key = await crashed(store, bank.kernel(store))
    bank.calls.clear()
    bank.paid[key] = 5
    bank.answer = answer

    settled = await pay(bank.kernel(store, "probe"))

    assert settled.result == result
    assert len(bank.calls) == calls


@pytest.mark.parametrize(("answer", "said"), [(None, "cannot tell"), (RuntimeError("bank away"), "bank away")])
async def test_a_probe_that_does_not_know_leaves_it_unknown(store: Store, answer: Any, said: str) -> None:
    """A probe that fails or cannot tell is no permission to run again."""
    bank = Bank()
    await crashed(store, bank.kernel(store))
    bank.calls.clear()
    bank.answer = answer
    kernel = bank.kernel(store, "probe")

    for _ in range(2):
        with pytest.raises(OutcomeUnknown, match=said):
            await pay(kernel)

    assert bank.calls == []
    assert (await types(store)).count("step.unknown") == 1


async def test_failing_takes_unknown_for_failed(store: Store) -> None:
    """With on_unknown='fail' the step is over."""
    bank = Bank()
    await crashed(store, bank.kernel(store))
    kernel = bank.kernel(store, "fail")

    for _ in range(2):
        with pytest.raises(StepFailed, match="outcome is unknown"):
            await pay(kernel)


async def test_a_cancelled_side_effect_is_unknown(store: Store) -> None:
    """Cancelling in the middle of an effect says nothing about it, so nobody repeats it."""
    kernel = Kernel(store=store)
    begun = asyncio.Event()
    calls: list[str] = []

    @kernel.tool(side_effect=True, timeout=None)
    async def pay(amount: int) -> None:
        calls.append("pay")
        begun.set()
        await asyncio.sleep(60)

    await kernel.start_run(tenant=TENANT, run_id=RUN)
    step = asyncio.ensure_future(globals()["pay"](kernel))
    await begun.wait()
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step

    with pytest.raises(OutcomeUnknown):
        await globals()["pay"](kernel)
    assert calls == ["pay"]
    unknown = [event for event in await store.read(f"run/{RUN}") if event.type == "step.unknown"]
    assert unknown[0].payload["reason"] == "cancelled"


async def test_a_side_effect_that_is_cancelled_before_its_intent_is_written_does_not_begin(tmp_path: Path) -> None:
    """Then it is known that nothing happened, and the step is executed when it is asked for again."""
    async with SQLiteStore(tmp_path / "k.db") as store:
        bank = Bank()
        kernel = bank.kernel(store)
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        gate = Gate(store.path)
        gate.enter()
        step = asyncio.ensure_future(pay(kernel))
        await asyncio.sleep(0.01)  # it waits at the gate
        step.cancel()
        await asyncio.sleep(0)
        gate.leave()
        gate.close()
        with pytest.raises(asyncio.CancelledError):
            await step
        assert bank.calls == []

        await pay(kernel)
        assert [attempt for _, attempt in bank.calls] == [2]
        types = [event.type for event in await store.read(f"run/{RUN}")]
        assert types == ["run.started", "step.started", "step.interrupted", "step.started", "step.completed"]


@pytest.mark.parametrize("side_effect", [True, False])
async def test_a_timeout_is_unknown_only_for_a_side_effect(store: Store, side_effect: bool) -> None:
    """A pure tool that takes too long has failed; what a side effect did meanwhile nobody knows."""
    kernel = Kernel(store=store)

    @kernel.tool(side_effect=side_effect, timeout=0.01)
    async def slow() -> None:
        await asyncio.sleep(60)

    await kernel.start_run(tenant=TENANT, run_id=RUN)

    with pytest.raises(OutcomeUnknown if side_effect else StepFailed, match=r"no end within 0\.01 s"):
        await kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="slow")


async def test_a_tool_may_say_itself_that_it_does_not_know(store: Store) -> None:
    """OutcomeUnknown raised by a tool is an unknown outcome, not a failure."""
    kernel = Kernel(store=store)

    @kernel.tool(side_effect=True)
    async def send() -> None:
        raise OutcomeUnknown("connection lost after sending")

    await kernel.start_run(tenant=TENANT, run_id=RUN)

    with pytest.raises(OutcomeUnknown, match="connection lost"):
        await kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="send", step_key="s")
    settled = await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="send", outcome="completed", result="sent")
    assert settled is not None
    assert settled.result == "sent"


async def test_failure_7_a_known_outcome_can_be_recorded(store: Store) -> None:
    """By hand: the result is recorded without running anything, also by a kernel that does not know the tool."""
    bank = Bank()
    await crashed(store, bank.kernel(store))
    bank.calls.clear()
    plain = Kernel(store=store)

    settled = await plain.reconcile_tool(
        run_id=RUN, tenant=TENANT, tool_name="pay", arguments={"amount": 5}, outcome="completed", result={"paid": 5}, by="ann"
    )

    assert settled is not None
    assert settled.result == {"paid": 5}
    replayed = await pay(bank.kernel(store))
    assert (replayed.result, replayed.replayed) == ({"paid": 5}, True)
    assert bank.calls == []
    end = (await store.read(f"run/{RUN}"))[-1]
    assert end.payload["reconciled"] == "ann"


async def test_failure_7_reconciling_offers_every_way(store: Store) -> None:
    """Failed, probed, or run again with the same key; without a word: probed if it can be, else run again."""
    bank = Bank()
    key = await crashed(store, bank.kernel(store))
    bank.calls.clear()
    kernel = bank.kernel(store, probe=True)
    bank.answer = None
    for outcome in (None, "probe"):
        with pytest.raises(OutcomeUnknown, match="cannot tell"):
            await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="pay", step_key="pay", outcome=outcome)  # type: ignore[arg-type]

    settled = await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="pay", step_key="pay", outcome="retry")

    assert settled is not None
    assert bank.calls == [(key, 2)]


async def test_failure_7_reconciling_a_failure(store: Store) -> None:
    """A person may record that it did not happen; without a probe nobody can probe."""
    bank = Bank()
    await crashed(store, bank.kernel(store))
    kernel = bank.kernel(store)

    with pytest.raises(UsageError, match="no probe"):
        await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="pay", outcome="probe")
    assert await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="pay", outcome="failed", message="refunded") is None
    with pytest.raises(StepFailed, match="refunded"):
        await pay(kernel)


@pytest.mark.parametrize("outcome", ["done", "", True, ["completed"]])
async def test_an_outcome_that_there_is_not_settles_nothing(store: Store, outcome: Any) -> None:
    """A mistyped outcome is refused: silence would look as if it had been recorded."""
    bank = Bank()
    await crashed(store, bank.kernel(store))
    kernel = bank.kernel(store)
    before = await store.read(f"run/{RUN}")

    with pytest.raises(UsageError, match="outcome is one of completed, failed, probe, retry, or None"):
        await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="pay", step_key="pay", outcome=outcome)

    assert await store.read(f"run/{RUN}") == before


async def test_only_the_unknown_can_be_reconciled(store: Store) -> None:
    """A step whose outcome is known, and one that nobody began, are refused."""
    bank = Bank()
    await crashed(store, bank.kernel(store))
    kernel = bank.kernel(store)

    with pytest.raises(StepRejected, match="is completed, not unknown"):
        await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="pay", step_key="model", outcome="retry")
    with pytest.raises(NotFound, match="none"):
        await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="pay", arguments={"amount": 6}, outcome="retry")
    with pytest.raises(StepRejected, match="no side effect"):
        await kernel.reconcile_tool(run_id=RUN, tenant=TENANT, tool_name="pay", step_key="ghost", outcome="retry")


async def test_an_intent_is_not_forgotten_by_other_arguments_or_a_lost_capability(store: Store) -> None:
    """An unknown effect stays unknown until it is settled, whatever the step is asked with meanwhile."""
    bank = Bank()
    await crashed(store, bank.kernel(store))
    bank.calls.clear()
    kernel = bank.kernel(store, "retry", requires_capability="money")

    with pytest.raises(ReplayConsistencyError, match=r"arguments\.amount: recorded 5, now 6"):
        await pay(kernel, 6)
    with pytest.raises(CapabilityDenied):
        await pay(kernel)
    rich = TenantContext(tenant_id="t", capabilities=frozenset({"money"}))

    assert (await pay(kernel, tenant=rich)).attempt == 2
    assert len(bank.calls) == 1
