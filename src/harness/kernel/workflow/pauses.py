"""A pause in a workflow: the run is paused once, and what the human said when it was resumed is the step's result."""

from __future__ import annotations

from typing import Any

import msgspec

from harness.errors import Conflict, UsageError
from harness.kernel import records, replay
from harness.kernel.encoding import to_plain_json
from harness.kernel.records import RunChanged, StepEnded, StepStarted
from harness.kernel.runs import Entry, RunState
from harness.kernel.steps import Steps
from harness.kernel.workflow.actions import checked_end
from harness.ledger import Draft, Unique

_RETRIES = 20


class _Answer(msgspec.Struct, frozen=True):
    value: Any


class Pauses:
    """The pauses of one kernel's workflows."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    async def pause(self, run: RunState, step: str, reason: str, context: Any) -> Any:
        """What the human said. Raises `RunNotActive` while the run is paused."""
        try:
            context = None if context is None else msgspec.json.decode(to_plain_json(context))
        except TypeError as error:
            raise UsageError(f"the context of a pause is JSON: {error}") from error

        async def recall(entry: Entry) -> _Answer | None:
            if not entry.ended:
                intent = entry.intent()
                if intent is not None and intent.kind != "pause":
                    raise replay.other_kind(run, step, intent.kind, "pause")
                return None
            return _Answer(msgspec.json.decode(checked_end(run, step, entry, "pause").result))

        async def execute(entry: Entry | None) -> _Answer:
            answer = await self._answer(run, step, entry)
            if answer is None:
                await self._begin(run, step, reason, context)
                await self._steps.check_active(run)
                answer = await self._answer(run, step, run.steps[step]) or _Answer(None)
            await self._end(run, step, answer)
            return answer

        return (await self._steps.once(run, step, recall, execute)).value

    async def _answer(self, run: RunState, step: str, entry: Entry | None) -> _Answer | None:
        """What was said when this very pause ended; None if it is not recorded in this run that it began."""
        if entry is None or entry.type != records.STEP_STARTED:
            return None
        began = await self._steps.store.event(run.stream, entry.seq)
        if began is None or began.key != step:  # it is of a run that this one was forked from
            return None
        after, page = entry.seq, 100
        while events := await self._steps.store.read(run.stream, after=after, limit=page):
            for event in events:
                if event.type == records.RUN_RESUMED:
                    return _Answer(None if event.erased else event.load(RunChanged).human_input)
                if event.type == records.RUN_UNBLOCKED:
                    return _Answer(None)
            after = events[-1].seq
        return None

    async def _begin(self, run: RunState, step: str, reason: str, context: Any) -> None:
        """The pause and the step that waits for its end, in one append."""
        store = self._steps.store
        paused = RunChanged(reason=reason, by=store.actor, context=context)
        if self._steps.scrubbing is not None:
            paused = await self._steps.scrubbing.changed(run.tenant_id, paused)
        started = StepStarted(kind="pause", name="pause")
        for _ in range(_RETRIES):
            status = await store.latest(run.stream, records.STATUS_KEY)
            assert status is not None
            await self._steps.check_active(run)
            change = Draft(
                type=records.RUN_PAUSED, payload=paused, key=records.STATUS_KEY, tenant=status.tenant, parent=status.ref
            )
            waits = self._steps.draft(run, records.STEP_STARTED, started, step)
            try:
                appended = await self._steps.write(run, change, waits, guards=(Unique(f"run-status/{status.ref}"),))
            except Conflict:  # somebody else changed the status first
                continue
            event = appended.last
            run.steps[step] = Entry(event.type, event.seq, event.data, event.data, 1)
            return
        raise Conflict(f"the status of run {run.run_id!r} is being changed all the time", name=run.stream)

    async def _end(self, run: RunState, step: str, answer: _Answer) -> None:
        result = msgspec.json.encode(answer.value, order="sorted")
        ended = StepEnded(kind="pause", name="pause", input="", result=records.raw(result))
        appended = await self._steps.write(run, self._steps.draft(run, records.STEP_COMPLETED, ended, step))
        self._steps.end(run, step, appended.last)
