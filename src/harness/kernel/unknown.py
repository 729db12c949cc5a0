"""Side effects with an unknown outcome: what a tool's own policy makes of them, and what a person or a program may.

Nothing is ever run again blindly. Whatever settles the outcome is recorded with the step's end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from harness.errors import Conflict, OutcomeUnknown, PolicyDenied, StepFailed, StepRejected, UsageError
from harness.kernel import records
from harness.kernel.encoding import to_json
from harness.kernel.records import StepStarted, StepUnknown
from harness.kernel.results import StepToolResult
from harness.kernel.runs import Entry, RunState
from harness.kernel.tool_call import ToolAsk, ToolCalls
from harness.kernel.tools import Probed, Tool
from harness.ledger import Draft

if TYPE_CHECKING:
    from harness.people import Question, Questions

Outcome = Literal["completed", "failed", "probe", "retry"]


class Unknowns:
    """Unknown outcomes of one kernel."""

    def __init__(self, calls: ToolCalls, questions: Callable[[], Questions]) -> None:
        self._calls = calls
        self._questions = questions

    async def settle(self, run: RunState, ask: ToolAsk, entry: Entry, intent: StepStarted | None) -> StepToolResult:
        """Do what the tool's policy says. Raises `OutcomeUnknown` if that leaves it unknown, `StepFailed` if it failed."""
        if intent is None:
            raise OutcomeUnknown(f"the intent of step {ask.step!r} of run {run.run_id!r} was erased; it cannot be settled")
        policy = ask.tool.on_unknown if ask.tool is not None else "ask"
        _, refused = self._calls.refusal(ask)
        if refused is not None and ask.tool is not None:
            raise refused
        elsewhere = run.unsettled.get(ask.step)
        if elsewhere is not None and elsewhere[1] == intent.attempt:  # perhaps it is at work in another run just now
            return await self._ask(run, ask, entry, intent, begun_as=elsewhere[0])
        match policy:
            case "retry":
                return await self.again(run, ask, entry, intent)
            case "probe":
                return await self.probe(run, ask, entry, intent)
            case "fail":
                await self.fail(run, ask, intent, message="the outcome is unknown", by="on_unknown=fail")
                raise StepFailed(f"{ask.name} failed: the outcome is unknown, and its policy takes that for a failure")
            case "ask":
                return await self._ask(run, ask, entry, intent)

    async def again(self, run: RunState, ask: ToolAsk, entry: Entry, intent: StepStarted) -> StepToolResult:
        """Run the tool again, with the idempotency key of the first attempt."""
        tool = self._tool(ask)
        bound = self._calls.bound(run, ask, tool)
        before = [] if entry.type == records.STEP_UNKNOWN else [self._lost(run, ask, intent)]
        return await self._calls.effect(
            run, ask, tool, bound, attempt=intent.attempt + 1, key=intent.idempotency_key, before=before
        )

    async def probe(self, run: RunState, ask: ToolAsk, entry: Entry, intent: StepStarted) -> StepToolResult:
        """Ask the tool's probe what happened."""
        tool = self._tool(ask)
        if tool.probe is None:
            raise UsageError(f"{tool.name} has no probe; record its outcome or run it again")
        context = self._calls.context(run, ask, intent.idempotency_key, intent.attempt)
        try:
            found = await tool.ask_probe(self._calls.bound(run, ask, tool), context)
        except Exception as error:
            await self._note(run, ask, entry, intent, message=f"the probe failed: {type(error).__name__}: {error}")
            raise OutcomeUnknown(f"{ask.name}: its probe failed ({error}); reconcile step {ask.step!r} by hand") from error
        if found.happened is None:
            await self._note(run, ask, entry, intent, message="the probe cannot tell")
            raise OutcomeUnknown(f"{ask.name}: its probe cannot tell what happened; reconcile step {ask.step!r} by hand")
        if found.happened:
            return await self.complete(run, ask, intent, found, by="probe")
        return await self.again(run, ask, entry, intent)

    async def complete(self, run: RunState, ask: ToolAsk, intent: StepStarted, found: Probed, *, by: str) -> StepToolResult:
        """Record that it happened."""
        ended = self._calls.ended(ask, intent.attempt, result=to_json(found.result), reconciled=by)
        return await self._calls.complete(run, ask, ended)

    async def fail(self, run: RunState, ask: ToolAsk, intent: StepStarted, *, message: str, by: str) -> None:
        """Record that it failed."""
        ended = self._calls.ended(ask, intent.attempt, error="OutcomeUnknown", message=message, reconciled=by)
        await self._calls.fail(run, ask, ended)

    async def _ask(
        self, run: RunState, ask: ToolAsk, entry: Entry, intent: StepStarted, *, begun_as: str = ""
    ) -> StepToolResult:
        from harness.people import Choice, digest_of

        where = f" as {begun_as}, before the fork of this run," if begun_as else ""
        arguments = bytes(intent.arguments).decode()
        digest = digest_of((run.run_id, ask.step, ask.name, arguments, intent.attempt))
        question = await self._questions().ask(
            "reconcile",
            f"{run.stream}#{ask.step}",
            digest=digest,
            text=f"{ask.name}({arguments}) was begun{where} and has no recorded end. Did it happen?",
            choices=(
                Choice("completed", "it happened"),
                Choice("failed", "it did not, and must not"),
                Choice("retry", "run it again"),
            ),
            tenant=run.tenant_id,
            context={"run_id": run.run_id, "step": ask.step, "idempotency_key": intent.idempotency_key},
        )
        if question.answer is not None:
            return await self._answered(run, ask, entry, intent, question)
        await self._note(run, ask, entry, intent, message="", question=question.id)
        raise OutcomeUnknown(
            f"{ask.name} was begun{where} and has no recorded end:"
            f" answer question {question.id}, or reconcile step {ask.step!r}"
        )

    async def _answered(
        self, run: RunState, ask: ToolAsk, entry: Entry, intent: StepStarted, question: Question
    ) -> StepToolResult:
        by = f"{question.id} by {question.answered_by}"
        await self._questions().use(question.id, by=f"{run.stream}#{ask.step}", digest=question.digest)
        match question.answer:
            case "completed":
                return await self.complete(run, ask, intent, Probed(happened=True), by=by)
            case "retry":
                return await self.again(run, ask, entry, intent)
            case _:
                await self.fail(run, ask, intent, message=question.note or "a person says that it did not happen", by=by)
                raise StepFailed(f"{ask.name} failed: {question.note or 'a person says that it did not happen'}")

    async def _note(
        self, run: RunState, ask: ToolAsk, entry: Entry, intent: StepStarted, *, message: str, question: str = ""
    ) -> None:
        """Record what is known, unless it is recorded."""
        if entry.type != records.STEP_UNKNOWN:
            await self._calls.unknown(run, ask, intent.attempt, "crash", message, question)
        elif entry.data is not None:
            before = msgspec.json.decode(entry.data, type=StepUnknown)
            if (message and message != before.message) or (question and question != before.question):
                await self._calls.unknown(run, ask, intent.attempt, before.reason, message, question)

    def _lost(self, run: RunState, ask: ToolAsk, intent: StepStarted) -> Draft:
        unknown = StepUnknown(name=ask.name, input=ask.input, attempt=intent.attempt, reason="crash")
        return self._calls.steps.draft(run, records.STEP_UNKNOWN, unknown, ask.step)

    def _tool(self, ask: ToolAsk) -> Tool:
        if ask.tool is None:
            raise StepRejected(f"no tool is named {ask.name!r} here; register it, or record its outcome")
        return ask.tool

    # By hand

    async def reconcile(
        self, run: RunState, ask: ToolAsk, outcome: Outcome | None, *, result: object, message: str, by: str
    ) -> StepToolResult | None:
        """Settle an unknown outcome. Raises `StepRejected` for a step whose outcome is known."""

        async def recall(entry: Entry) -> StepToolResult | None:
            if entry.ended:
                raise StepRejected(f"step {ask.step!r} of run {run.run_id!r} is {entry.type.partition('.')[2]}, not unknown")
            return None

        async def execute(entry: Entry | None) -> StepToolResult | None:
            intent = entry.intent() if entry is not None else None
            if entry is None or intent is None or not intent.side_effect:
                raise StepRejected(f"step {ask.step!r} of run {run.run_id!r} has no side effect of unknown outcome")
            ask.name = intent.name
            arguments, given = bytes(intent.arguments), ask.given
            if given is not None and ask.arguments_json != arguments:
                raise StepRejected(f"these are not the arguments that step {ask.step!r} of run {run.run_id!r} was begun with")
            ask.take(arguments, given)
            return await self._reconciled(run, ask, entry, intent, outcome, result=result, message=message, by=by)

        return await self._calls.steps.once(run, ask.step, recall, execute)

    async def _reconciled(
        self, run: RunState, ask: ToolAsk, entry: Entry, intent: StepStarted, outcome: Outcome | None, *,
        result: object, message: str, by: str,
    ) -> StepToolResult | None:  # fmt: skip
        if outcome is None:
            outcome = "probe" if ask.tool is not None and ask.tool.probe is not None else "retry"
        match outcome:
            case "completed":
                done = await self.complete(run, ask, intent, Probed(happened=True, result=result), by=by)
                await self._answer(run, ask, "completed", by=by)  # afterwards: an answer has no room for the result
                return done
            case "failed":
                message = message or "it did not happen"
                await self._answer(run, ask, "failed", by=by, note=message)
                await self.fail(run, ask, intent, message=message, by=by)
                return None
            case "probe":
                done = await self.probe(run, ask, entry, intent)
                await self._answer(run, ask, "completed", by="probe")
                return done
            case "retry":
                self._tool(ask)
                await self._answer(run, ask, "retry", by=by)
                return await self.again(run, ask, entry, intent)

    async def _answer(self, run: RunState, ask: ToolAsk, choice: str, *, by: str, note: str = "reconciled") -> None:
        """Close the question about a step that is settled otherwise: nobody shall be asked what is known."""
        subject = f"{run.stream}#{ask.step}"
        questions = self._questions()
        for question in await questions.pending(kind="reconcile", subject=subject):
            with contextlib.suppress(Conflict, PolicyDenied):  # answered, expired or used meanwhile
                await questions.answer(question.id, choice, by=by, digest=question.digest, note=note)
                await questions.use(question.id, by=subject, digest=question.digest, choice=choice)
