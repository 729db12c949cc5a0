"""A model step: recall it if it is the one that was recorded, else execute it."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from harness.errors import KeyTaken, ReplayConsistencyError, RunNotActive
from harness.kernel import matching, records, replay
from harness.kernel.matching import Match
from harness.kernel.middleware import ModelInvocation
from harness.kernel.model_call import Ask, Caller, Execution, reason_of, result_of
from harness.kernel.outputs import OutputType
from harness.kernel.ports import Message
from harness.kernel.records import Answer, Recorded, StepEnded
from harness.kernel.results import StepModelResult, newest_prompt
from harness.kernel.runs import Entry, RunState
from harness.ledger import Unique, Write

_MAX_TOLD = 5
_decode = msgspec.json.Decoder(Recorded).decode


Told = tuple[tuple[str, ...], str]  # the names of what differs, and the nearest difference


class Drifted(Exception):
    """A recorded step was asked with other inputs under `fork_on_drift`. Never leaves the kernel."""

    def __init__(
        self, *, stream: str, seq: int, input: str, tools: tuple[str, ...], told: Callable[[], Awaitable[Told]]
    ) -> None:
        super().__init__(f"{stream}#{seq}")
        self.stream = stream  # where the step was recorded
        self.seq = seq  # its end
        self.input = input  # hash of the present inputs
        self.tools = tools  # that are gone or have another signature
        self.told = told


class ModelSteps:
    """Model steps of one kernel."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._steps = caller.steps
        self._stack = caller.stack

    def replayed(
        self, run: RunState, step: str, core: str, messages: tuple[Message, ...], expected: OutputType, tools: str
    ) -> StepModelResult | None:
        """The recorded result of a step that was asked with the very same inputs; None if it takes a closer look."""
        entry = run.steps.get(step)
        if entry is None or entry.type != records.STEP_COMPLETED or entry.data is None or self._stack.prepares_models:
            return None
        ended = _decode(entry.data)
        answer = ended.answer
        if answer is None or ended.tools != tools or ended.input != matching.model_input_hash(core, messages):
            return None
        return result_of(run.run_id, step, entry.seq, ended, answer, expected.restore)

    async def step(self, run: RunState, ask: Ask) -> StepModelResult:
        """Recall or execute the step."""
        ask.hash()
        if self._stack.prepares_models:
            await self._prepare(run, ask)

        def recall(entry: Entry) -> Awaitable[StepModelResult | None]:
            return self._recall(run, ask, entry)

        def execute(entry: Entry | None) -> Awaitable[StepModelResult]:
            return Execution(self._caller, run, ask, entry).run()

        try:
            return await self._steps.once(run, ask.step, recall, execute)
        except RunNotActive:
            replay.raise_if_over(run, ask.step, ask.input)
            raise

    async def _prepare(self, run: RunState, ask: Ask) -> None:
        invocation = ModelInvocation(
            run_id=run.run_id, tenant=ask.tenant, model=ask.model, prompt=newest_prompt(ask.messages), messages=ask.messages,
            allowed_tools=ask.toolset.definitions, options=ask.options,
        )  # fmt: skip
        try:
            invocation = await self._stack.prepare_model(invocation)
            messages = invocation.messages
            if self._stack.scrubbing is not None:  # once more, for what other hooks put in
                messages = await self._stack.scrubbing.messages(run.tenant_id, messages)
        except Exception as error:
            await self._refuse(run, ask, error)
            raise
        ask.model, ask.messages, ask.options = invocation.model, messages, invocation.options
        ask.hash()

    async def _refuse(self, run: RunState, ask: Ask, error: Exception) -> None:
        if await self._steps.is_rejected(run, ask.step, ask.input, reason_of(error), error):
            return

        async def over(entry: Entry) -> bool | None:
            return True if entry.type in (records.STEP_COMPLETED, records.STEP_FAILED) else None

        async def record(_: Entry | None) -> bool:
            await self._caller.reject(run, ask, error)
            return True

        await self._steps.once(run, ask.step, over, record)

    # Recalling

    async def _recall(self, run: RunState, ask: Ask, entry: Entry) -> StepModelResult | None:
        if entry.type not in (records.STEP_COMPLETED, records.STEP_FAILED):
            return None
        ended = replay.recorded_end(run, ask.step, entry)
        if ended.kind != "model":
            raise replay.other_kind(run, ask.step, ended.kind, "model")
        failed = entry.type == records.STEP_FAILED
        if failed and ask.retry_failed:
            return None
        drift = () if ended.input == ask.input and ended.tools == ask.toolset.digest else await self._drift(run, ask, ended)
        if failed:
            replay.raise_failure(ended)
        answer = ended.answer or Answer()
        return result_of(run.run_id, ask.step, entry.seq, ended, answer, ask.expected.restore, drift=drift)

    async def _drift(self, run: RunState, ask: Ask, ended: StepEnded) -> tuple[str, ...]:
        """What changed that the replay policy allows. Raises `ReplayConsistencyError` for anything else."""
        match = matching.compare(recorded_input=ended.input, recorded_core=ended.core, input=ask.input, core=ask.core)
        tools = matching.changed_tools(run.toolsets.get(ended.tools, {}), ask.toolset.signatures)
        if match is Match.SAME and not tools:
            return ()
        if match is Match.PROMPT_DRIFT and not tools and ask.policy == "allow_prompt_drift":
            await self._note_drift(run, ask, ended)
            return ("prompt",)
        if ask.policy == "fork_on_drift":
            stream, seq = run.place_of(ask.step)
            raise Drifted(stream=stream, seq=seq, input=ask.input, tools=tools, told=lambda: self._told(run, ask, ended, tools))
        raise await self._inconsistent(run, ask, ended, tools)

    async def _note_drift(self, run: RunState, ask: Ask, ended: StepEnded) -> None:
        place = (ask.step, ask.input)
        if place not in run.drifts:
            run.drifts.add(place)
            drifted = records.StepDrifted(recorded_input=ended.input, input=ask.input, fields=("prompt",))
            draft = self._steps.draft(run, records.STEP_DRIFTED, drifted, ask.step)
            once = Unique(f"drift/{matching.digest_of((run.run_id, *place))}")
            with contextlib.suppress(KeyTaken):  # another kernel has noted the same
                await self._steps.store.append(Write(run.stream, (draft,)), guards=[once])

    async def _told(self, run: RunState, ask: Ask, ended: StepEnded, tools: tuple[str, ...]) -> Told:
        """Which inputs differ, and the nearest difference."""
        from harness.kernel import history

        started = await history.started(self._steps.store, *run.place_of(ask.step), ask.step, ended)
        before, now = started.model if started else None, ask.inputs()
        if before is None:
            return ("input", *tools), "the recorded input was erased"
        fields = (*matching.changed_fields(before, now), *tools)
        shapes = history.Shapes(await self._steps.store.read(run.place_of(ask.step)[0]))
        told = [
            shapes.difference(field, ended.tools, before.output_schema, ask.toolset.definitions, ask.expected.schema)
            or matching.difference(field, before, now)
            for field in fields[:_MAX_TOLD]
        ]
        return fields, "; ".join(told)

    async def _inconsistent(self, run: RunState, ask: Ask, ended: StepEnded, tools: tuple[str, ...]) -> ReplayConsistencyError:
        fields, where = await self._told(run, ask, ended, tools)
        return ReplayConsistencyError(
            f"step {ask.step!r} of run {run.run_id!r} was recorded with other inputs ({', '.join(fields)}); {where}."
            " Give it another step_key, or undo the change",
            fields=fields,
            difference=where,
        )
