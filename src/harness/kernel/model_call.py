"""Asking a model: attempt by attempt, within the budget, each attempt and its end recorded."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from harness.errors import (
    BudgetExceeded,
    HarnessError,
    ModelError,
    ModelMalformed,
    ModelUnavailable,
    StepFailed,
    StepRejected,
    UsageError,
)
from harness.kernel import matching, records, replay
from harness.kernel.encoding import to_json
from harness.kernel.middleware import Stack
from harness.kernel.outputs import OutputType, read_answer
from harness.kernel.ports import Message, ModelCallOptions, ModelPort, ModelRequest, ModelResult, OutputSchema, Usage
from harness.kernel.quotas import Held
from harness.kernel.records import Answer, ModelInputs, Reason, Recorded, StepEnded, StepStarted
from harness.kernel.results import StepModelResult, newest_prompt
from harness.kernel.runs import Entry, RunState
from harness.kernel.steps import Announcement, Steps
from harness.kernel.tenant import TenantContext
from harness.kernel.toolsets import Toolset
from harness.kernel.workflow.waiting import wait_until
from harness.ledger import Draft, Event, Guard
from harness.spend import Price, cost_micro_usd, estimate_micro_usd, price_of

if TYPE_CHECKING:
    from harness.kernel.streaming import Sink

_PROBABLE_MICRO_USD = 1  # what a call is thought to cost that nobody has a price for


@dataclass(slots=True, kw_only=True)
class Ask:
    """One call of `step_model`."""

    tenant: TenantContext
    step: str
    model: str
    messages: tuple[Message, ...]
    schema: OutputSchema | None
    expected: OutputType
    options: ModelCallOptions
    toolset: Toolset
    visible: tuple[str, ...] | None
    policy: str
    retry_failed: bool
    parent: str | None = None
    port: ModelPort | None = None  # asked instead of the kernel's
    core: str = ""
    input: str = ""
    sink: Sink | None = None  # who reads the answer while it comes

    def hash(self) -> None:
        """Compute the hashes of the inputs."""
        self.core = matching.core_hash(
            model=self.model, options=self.options, output_schema=self.expected.digest, visible=self.visible
        )
        self.input = matching.model_input_hash(self.core, self.messages)

    def inputs(self) -> ModelInputs:
        """What is recorded of them."""
        return ModelInputs(
            model=self.model, messages=self.messages, options=self.options, output_schema=self.expected.digest,
            tools=self.toolset.digest, visible=self.visible,
        )  # fmt: skip


class Caller:
    """What all executions of one kernel share: the port, the hooks, what calls have cost."""

    def __init__(self, steps: Steps, port: ModelPort | None, stack: Stack) -> None:
        self.steps = steps
        self.stack = stack
        self._port = port
        self._prices: dict[str, Price | None] = {}
        self._dearest: dict[str, int] = {}  # call of each model so far, micro-USD

    def check(self, ask: Ask) -> None:
        """Raise `UsageError` if nobody can be asked."""
        if self._port is None and ask.port is None:
            raise UsageError("this kernel has no model port; give Kernel(model_port=…) one")

    async def reject(self, run: RunState, ask: Ask, error: Exception) -> None:
        """Record a refusal."""
        await self.steps.reject(
            run, ask.step, kind="model", name=ask.model, input_hash=ask.input, reason=reason_of(error), error=error
        )

    def cost(self, model: str, usage: Usage) -> int:
        """What a call cost, in micro-USD; 0 if nobody knows."""
        if usage.cost_usd is not None:
            cost = math.ceil(round(usage.cost_usd * 1_000_000, 3))
        else:
            price = self._price(model)
            cost = 0 if price is None else cost_micro_usd(
                price, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens,
                cache_read_tokens=usage.cache_read_tokens, cache_write_tokens=usage.cache_write_tokens,
            )  # fmt: skip
        if cost > self._dearest.get(model, 0):
            self._dearest[model] = cost
        return cost

    def _price(self, model: str) -> Price | None:
        if model not in self._prices:
            self._prices[model] = price_of(model, self.steps.policy.prices)
        return self._prices[model]

    def expect(self, model: str, cost: int) -> None:
        """A call of this model may cost as much as another one did, if it has no price. In micro-USD."""
        self._dearest[model] = max(cost, self._dearest.get(model, 0))

    def estimate(self, ask: Ask) -> int:
        """What a call may cost: by its price, else as much as the dearest call so far, and never nothing."""
        price = self._price(ask.model)
        if price is None:
            return self._dearest.get(ask.model, _PROBABLE_MICRO_USD)
        characters = sum(len(message.text) for message in ask.messages)
        longest = ask.options.max_tokens or self.steps.policy.estimated_output_tokens
        return max(1, estimate_micro_usd(price, prompt_characters=characters, max_output_tokens=longest))

    def most_tokens(self, ask: Ask) -> int:
        """How many tokens a call may take, about: three characters each, and the longest answer allowed."""
        characters = sum(len(message.text) for message in ask.messages)
        return math.ceil(characters / 3) + (ask.options.max_tokens or self.steps.policy.estimated_output_tokens)

    async def complete(self, run: RunState, ask: Ask) -> ModelResult:
        """Ask the model once."""
        port = ask.port or self._port
        assert port is not None
        request = ModelRequest(
            model=ask.model, messages=ask.messages, allowed_tools=ask.toolset.definitions, output_schema=ask.schema,
            options=ask.options, run_id=run.run_id,
        )  # fmt: skip
        call = port.complete(request) if ask.sink is None else ask.sink.draw(port, request, ask.step)
        if ask.options.timeout is None:
            return await call
        with anyio.move_on_after(ask.options.timeout):
            return await call
        raise ModelUnavailable(f"{ask.model} gave no answer within {ask.options.timeout:g} s")


def result_of(
    run_id: str, step: str, seq: int, ended: Recorded, answer: Answer, restore: Callable[[bytes], Any] | None,
    *, output: Any = None, drift: tuple[str, ...] = (),
) -> StepModelResult:  # fmt: skip
    """What the caller gets: a recorded answer that `restore` reads, or a fresh one with its output."""
    if restore is not None and (data := bytes(answer.output)):
        output = restore(data)
    return StepModelResult(
        run_id=run_id, seq=seq, output=output, text=records.text_of(answer), usage=answer.usage, tool_calls=answer.tool_calls,
        stop_reason=answer.stop_reason, model=answer.model, native=answer.native, step=step, attempt=ended.attempt,
        cost_usd=ended.cost / 1_000_000, replayed=restore is not None, replayed_with_drift=bool(drift), drift_fields=drift,
    )  # fmt: skip


def reason_of(error: Exception) -> Reason:
    """Why a model was not asked."""
    if isinstance(error, UsageError):
        return "arguments"
    return "budget" if isinstance(error, BudgetExceeded) else "middleware"


def answer_of(result: ModelResult, raw: bytes | None) -> Answer:
    """What is recorded of a model's answer; `raw` is its output as JSON."""
    same = raw is not None and result.text.encode(errors="replace") == raw
    return Answer(
        output=records.raw(raw), text="" if same else result.text, text_is_output=same, tool_calls=result.tool_calls,
        usage=result.usage, stop_reason=result.stop_reason, model=result.model, native=result.native,
    )  # fmt: skip


class Execution:
    """One step being executed: attempts until one ends it."""

    def __init__(self, caller: Caller, run: RunState, ask: Ask, entry: Entry | None) -> None:
        self._caller = caller
        self._steps = caller.steps
        self._run = run
        self._ask = ask
        self._attempt, self._not_before_us = (0, 0) if entry is None else _attempts(run, ask, entry)
        self._prefix = b""  # digest of the conversation, if it is one
        self._inputs: ModelInputs  # of the present attempt
        self._reserved = 0  # for it
        self._announcement: Announcement | None = None  # of it, if its call waits
        self._pending: list[Draft] = []  # to be written before the next event of this step
        self._held: Held | None = None  # of quotas, for the present attempt
        self._result: ModelResult | None = None  # of the present attempt
        if entry is not None and entry.type == records.STEP_STARTED:
            lost = self._steps.purse.settle_lost(run, ask.step)
            interrupted = records.StepInterrupted(attempt=entry.attempt, reason="crash", cost=lost)
            self._pending.append(self._steps.draft(run, records.STEP_INTERRUPTED, interrupted, ask.step))

    async def run(self) -> StepModelResult:
        """Attempts, until one ends the step."""
        self._caller.check(self._ask)
        last = self._attempt + self._steps.policy.model_attempts
        while True:
            if self._not_before_us:
                await self._wait()
            self._attempt += 1
            result = await self._once(may_retry=self._attempt < last)
            if result is not None:
                return result

    async def _wait(self) -> None:
        clock = self._steps.store.clock
        if self._not_before_us > clock.now_us():
            await wait_until(self._steps, self._run, self._not_before_us)

    async def _once(self, *, may_retry: bool) -> StepModelResult | None:
        run, ask, stack = self._run, self._ask, self._caller.stack
        self._announcement = None
        self._reserved = await self._admit()
        self._inputs = ask.inputs() if len(ask.messages) < 2 else self._shortened(ask.inputs())
        if ask.toolset.digest not in run.toolsets:
            self._note_toolset()
        if ask.expected.digest and ask.expected.digest not in run.schemas:
            schema = records.raw(to_json(ask.expected.schema))
            self._inputs = msgspec.structs.replace(self._inputs, schema=schema)
        result: ModelResult | None = None
        try:
            call = self._caller.complete(run, ask)
            try:
                awaited = call.send(None)
            except StopIteration as end:
                answered: ModelResult = end.value
                result = answered
            else:
                self._announcement = Announcement(self._steps, run, self._announced)
                result = await self._announcement.during(call, awaited)
            self._result = result
            output, raw = read_answer(result, ask.expected)
            if stack.watches_models:
                await stack.after_model(
                    run_id=run.run_id, tenant=ask.tenant, model=ask.model, step=ask.step, usage=result.usage, output=output,
                    text=result.text, tool_calls=result.tool_calls,
                )  # fmt: skip
            answer = answer_of(result, raw)
            if stack.scrubbing is not None:
                answer, output = await self._scrubbed(answer, output)
        except UsageError as error:  # the port cannot do what is asked of it, and has done nothing
            self._over()
            self._steps.purse.settle(run, reserved=self._reserved, cost=0)
            await self._steps.quotas.free(run, self._held)
            await self._caller.reject(run, ask, error)
            raise
        except Exception as error:
            cost = 0 if result is None else self._caller.cost(ask.model, result.usage)
            if may_retry and isinstance(error, ModelUnavailable):
                await self._retry(error, cost)
                return None
            await self._end(records.STEP_FAILED, cost, error=error)
            if isinstance(error, ModelError):
                raise
            raise StepFailed(replay.failure_text(ask.model, type(error).__name__, str(error))) from error
        except BaseException:
            self._interrupt()
            raise
        cost = self._caller.cost(ask.model, result.usage) if result.usage.cost_usd != 0 else 0
        seq, ended = await self._end(records.STEP_COMPLETED, cost, answer=answer)
        return result_of(run.run_id, ask.step, seq, ended, answer, None, output=output)

    async def _admit(self) -> int:
        """Everything that may refuse the call. Gives what was reserved for it."""
        run, ask, stack = self._run, self._ask, self._caller.stack
        self._held = self._result = None
        reserved = 0
        counted = self._steps.quotas.concern(ask.tenant)
        if ask.tenant.budget_usd_limit is None and not stack.admits_models and not counted:
            return 0
        try:
            if ask.tenant.budget_usd_limit is not None:
                reserved = await self._steps.purse.reserve(run, ask.tenant, self._caller.estimate(ask))
            if counted:
                self._held = await self._steps.quotas.reserve(
                    run, ask.tenant, ask.step, micro_usd=self._caller.estimate(ask), tokens=self._caller.most_tokens(ask),
                    seconds=ask.options.timeout,
                )  # fmt: skip
            if stack.admits_models:
                await stack.before_model(
                    run_id=run.run_id, tenant=ask.tenant, model=ask.model, step=ask.step, prompt=newest_prompt(ask.messages),
                    reserved_usd=reserved / 1_000_000,
                )  # fmt: skip
        except Exception as error:
            self._steps.purse.settle(run, reserved=reserved, cost=0)
            await self._steps.quotas.free(run, self._held)
            if not isinstance(error, HarnessError) or isinstance(error, StepRejected):
                await self._caller.reject(run, ask, error)
            raise
        return reserved

    # What is written

    def _draft(self, type_: str, payload: records.Record) -> Draft:
        return self._steps.draft(self._run, type_, payload, self._ask.step, self._ask.parent)

    def _over(self) -> bool:
        """The present call is over. Gives whether it was announced."""
        return self._announcement is not None and self._announcement.close()

    def _announced(self) -> list[Draft]:
        """The announcement of the present attempt, after whatever is still to be written before it."""
        ask = self._ask
        started = StepStarted(
            kind="model", name=ask.model, input=ask.input, core=ask.core, attempt=self._attempt, model=self._inputs,
            reserved=self._reserved,
        )  # fmt: skip
        return [*self._pending, self._draft(records.STEP_STARTED, started)]

    def _note_toolset(self) -> None:
        toolset = self._ask.toolset
        if toolset.digest:
            self._run.toolsets[toolset.digest] = dict(toolset.signatures)
            recorded = records.ToolsetRecorded(
                digest=toolset.digest, tools=dict(toolset.signatures), definitions=toolset.definitions
            )
            self._steps.submit(self._run, self._steps.draft(self._run, records.TOOLSET_RECORDED, recorded, None))

    def _shortened(self, inputs: ModelInputs) -> ModelInputs:
        """The inputs of a conversation without its beginning, if an earlier event of this run holds that."""
        digests = matching.prefix_digests(inputs.messages)
        self._prefix = digests[-1]
        for index in range(len(digests) - 1, -1, -1):
            base = self._run.prefixes.get(digests[index])
            if base is not None:
                keep = index + 1
                return msgspec.structs.replace(inputs, messages=inputs.messages[keep:], base=base, keep=keep)
        return inputs

    def _settled(self, held: Held) -> tuple[list[Draft], list[Guard]]:
        """What the end of the present attempt says of quotas."""
        usage = Usage() if self._result is None else self._result.usage
        cost = 0 if self._result is None else self._caller.cost(self._ask.model, usage)
        return self._steps.quotas.settle(self._run, held, micro_usd=cost, tokens=usage.total_tokens)

    async def _write(self, drafts: list[Draft], guards: tuple[Guard, ...]) -> Event:
        """Write the end of an attempt, after whatever is still to be written before it. Gives the last event."""
        announcement = None if self._announcement is None else self._announcement.written
        before = self._pending if announcement is None else []
        if self._held is not None:
            settled, more = self._settled(self._held)
            before, guards = [*before, *settled], (*guards, *more)
        appended = await self._steps.write(self._run, *before, *drafts, guards=guards)
        self._pending = []
        if self._inputs.schema is not records.NOTHING:
            self._run.schemas.add(self._inputs.output_schema)
        if self._prefix:
            inputs = appended.events[len(before)] if announcement is None else (await announcement).last
            self._run.prefixes[self._prefix] = inputs.seq
        return appended.last

    async def _end(
        self, type_: str, cost: int, *, answer: Answer | None = None, error: Exception | None = None
    ) -> tuple[int, StepEnded]:
        """Settle, and record the end of the step. Gives its sequence."""
        ask = self._ask
        announced = self._announcement is not None and self._announcement.close()
        overdraft, guards = 0, ()
        if cost or self._reserved:
            overdraft, guards = self._steps.purse.settle(self._run, reserved=self._reserved, cost=cost)
        ended = StepEnded(
            kind="model", name=ask.model, input=ask.input, core=ask.core, attempt=self._attempt, tools=ask.toolset.digest,
            answer=answer, error="" if error is None else type(error).__name__,
            message="" if error is None else await self._words(error),
            cost=cost, overdraft=overdraft,
            started=None if announced else StepStarted(kind="model", name=ask.model, model=self._inputs),
        )  # fmt: skip
        draft = Draft(type=type_, payload=ended, key=ask.step, parent=ask.parent, tenant=self._run.tenant_id)
        event = await self._write([draft], guards)
        self._run.steps[ask.step] = Entry(type_, event.seq, event.data)
        return event.seq, ended

    async def _scrubbed(self, answer: Answer, output: Any) -> tuple[Answer, Any]:
        """The answer as it may be recorded, and what the caller gets for it, now as on replay."""
        assert self._caller.stack.scrubbing is not None
        scrubbed = await self._caller.stack.scrubbing.answer(self._run.tenant_id, answer)
        if scrubbed.output == answer.output:
            return scrubbed, output
        try:
            return scrubbed, self._ask.expected.restore(bytes(scrubbed.output))
        except ValueError as error:
            told = "the answer holds what may not be recorded, and its schema has no room for a placeholder there"
            raise ModelMalformed(told) from error

    async def _words(self, error: Exception) -> str:
        """What may be recorded of an error."""
        scrubbing = self._caller.stack.scrubbing
        return str(error) if scrubbing is None else await scrubbing.text(self._run.tenant_id, str(error))

    async def _retry(self, error: ModelUnavailable, cost: int) -> None:
        announced = self._over()
        overdraft, guards = self._steps.purse.settle(self._run, reserved=self._reserved, cost=cost)
        seconds = self._steps.policy.retry_seconds(self._attempt, error.retry_after_seconds)
        self._not_before_us = self._steps.store.clock.now_us() + round(seconds * 1_000_000)
        retried = records.StepRetried(
            attempt=self._attempt, error=type(error).__name__, message=await self._words(error), next_at_us=self._not_before_us,
            cost=cost, overdraft=overdraft,
        )  # fmt: skip
        started = [] if announced else self._announced()[len(self._pending) :]
        event = await self._write([*started, self._draft(records.STEP_RETRIED, retried)], guards)
        self._run.steps[self._ask.step] = Entry(event.type, event.seq, event.data, None, self._attempt)

    def _interrupt(self) -> None:
        """The call is being cancelled: say so without waiting."""
        announced = self._over()
        cost = self._reserved
        overdraft, guards = self._steps.purse.settle(self._run, reserved=cost, cost=cost)
        interrupted = records.StepInterrupted(attempt=self._attempt, reason="cancelled", cost=cost, overdraft=overdraft)
        drafts = [] if announced else self._announced()
        self._run.steps[self._ask.step] = Entry(records.STEP_INTERRUPTED, self._run.seen, None, None, self._attempt)
        with contextlib.suppress(HarnessError):
            self._steps.submit(self._run, *drafts, self._draft(records.STEP_INTERRUPTED, interrupted), guards=guards)


def _attempts(run: RunState, ask: Ask, entry: Entry | None) -> tuple[int, int]:
    """How many attempts were made before, and when the next one may be made."""
    if entry is None or entry.data is None:
        return (entry.attempt if entry else 0), 0
    match entry.type:
        case records.STEP_RETRIED:
            retried = msgspec.json.decode(entry.data, type=records.StepRetried)
            return retried.attempt, retried.next_at_us
        case records.STEP_FAILED:
            return replay.recorded_end(run, ask.step, entry).attempt, 0
        case _:
            return entry.attempt, 0
