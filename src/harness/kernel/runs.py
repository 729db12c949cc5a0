"""One run as this kernel knows it: a fold of its events, indexed by step. Pure but for the attributes of its holder.

A step's payload is kept as recorded and decoded when the step is asked for, so that loading a long run is cheap.
"""

from __future__ import annotations

import asyncio
from typing import Final

import anyio
import msgspec

from harness.kernel import records
from harness.kernel.records import (
    BudgetChanged,
    Costs,
    RunAcquired,
    RunStarted,
    StepDrifted,
    StepStarted,
    ToolsetRecorded,
)
from harness.kernel.results import Status
from harness.ledger import Event, Fence
from harness.spend import Slice

ENDED: Final = frozenset({records.STEP_COMPLETED, records.STEP_FAILED, records.STEP_REJECTED})
STATUS_OF: Final[dict[str, Status]] = {
    records.RUN_STARTED: "active",
    records.RUN_RESUMED: "active",
    records.RUN_UNBLOCKED: "active",
    records.RUN_REOPENED: "active",
    records.RUN_PAUSED: "paused",
    records.RUN_BLOCKED: "blocked",
    records.RUN_CANCELLED: "cancelled",
    records.RUN_COMPLETED: "completed",
    records.RUN_FAILED: "failed",
}
FINAL: Final = frozenset({"cancelled", "completed", "failed"})
_MAYBE_HAPPENED: Final = frozenset({records.STEP_STARTED, records.STEP_UNKNOWN})

_COST: Final = b'"cost":'
_costs = msgspec.json.Decoder(Costs).decode


def stream_of(run_id: str) -> str:
    """The run's stream."""
    return f"run/{run_id}"


class Entry(msgspec.Struct, gc=False):
    """The newest thing known of a step."""

    type: str  # of the event that says it
    seq: int
    data: bytes | None  # its payload; None once erased
    started: bytes | None = None  # payload of the newest step.started, while the step has not ended
    attempt: int = 0  # of the newest attempt, while the step has not ended
    stream: str = ""  # where the event is, if this run inherited the step from the one it is a fork of

    @property
    def ended(self) -> bool:
        return self.type in ENDED

    def intent(self) -> StepStarted | None:
        """The newest announcement of a step that has not ended; None if there is none or it was erased."""
        return None if self.started is None else msgspec.json.decode(self.started, type=StepStarted)


class RunState:
    """A run in memory. `seen` is the newest sequence that was folded or written here."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.stream = stream_of(run_id)
        self.lease = f"run/{run_id}"
        self.tenant_id = ""
        self.parent_run: str | None = None
        self.root_run = run_id
        self.fork_of: str | None = None
        self.fork_at = 0
        self.replay_of: str | None = None
        self.unsettled: dict[str, tuple[str, int]] = {}  # inherited intents without an end: where they are, which attempt
        self.seen = 0
        self.steps: dict[str, Entry] = {}
        self.slice = Slice()
        self.lost: dict[str, int] = {}  # reservations of attempts that never ended, by step
        self.drifts: set[tuple[str, str]] = set()
        self.toolsets: dict[str, dict[str, str]] = {}
        self.prefixes: dict[bytes, int] = {}  # conversations that were recorded here, by digest, and in which event
        self.schemas: set[str] = set()  # of outputs, by digest, that were recorded here in full
        self.status_seq = 0
        self.status_upto = 0  # up to this sequence no status event is missing here
        self.status: Status = "active"
        # What this kernel object does with it:
        self.token = 0  # the newest lease token that was seen
        self.held = False
        self.expires_us = 0  # until then nobody else can have the lease
        self.fence = Fence(self.lease, 0)
        self.inflight: dict[str, asyncio.Event | None] = {}
        self.turn = anyio.Lock()  # for acquiring the lease and taking a slice

    # Folding

    def wrote(self, event: Event) -> None:
        """An event of it was written here, where its meaning is known already, unless it changes the status."""
        seq = event.seq
        if seq > self.seen:
            self.seen = seq
        if seq == self.status_upto + 1 and event.key != records.STATUS_KEY:
            self.status_upto = seq

    def fold(self, event: Event) -> None:
        """Take the next event. What an erased one said of a step is that it happened."""
        seq = event.seq
        if seq <= self.seen:
            return
        self.seen = seq
        if seq == self.status_upto + 1:
            self.status_upto = seq
        type_, data = event.type, event.data
        if type_ == records.STEP_COMPLETED:  # nearly every event of a long run
            key = event.key or ""
            self.steps[key] = Entry(type_, seq, data)
            if self.lost or (data is not None and _COST in data):
                self._fold_costs(key, data)
        elif type_.startswith("step."):
            self._fold_step(type_, event.key or "", seq, data)
        elif type_ in STATUS_OF:
            self._fold_status(event)
        elif data is None:
            return
        elif type_ == records.RUN_ACQUIRED:
            self.token = max(self.token, event.load(RunAcquired).token)
        elif type_ == records.TOOLSET_RECORDED:
            toolset = event.load(ToolsetRecorded)
            self.toolsets[toolset.digest] = toolset.tools
        elif type_ == records.BUDGET_TAKEN:
            self.slice.granted += event.load(BudgetChanged).amount
        elif type_ == records.BUDGET_RETURNED:
            self.slice.granted -= event.load(BudgetChanged).amount

    def _fold_step(self, type_: str, key: str, seq: int, data: bytes | None) -> None:
        if type_ == records.STEP_DRIFTED:
            if data is not None:
                self.drifts.add((key, msgspec.json.decode(data, type=StepDrifted).input))
            return
        if type_ in ENDED:
            self.steps[key] = Entry(type_, seq, data)
            self._fold_costs(key, data)
            return
        before = self.steps.get(key)
        if type_ == records.STEP_STARTED:
            started = None if data is None else msgspec.json.decode(data, type=StepStarted)
            attempt = started.attempt if started else 1 + (before.attempt if before else 0)
            self.steps[key] = Entry(type_, seq, data, data, attempt)
            if started is not None and started.reserved:
                self.lost[key] = started.reserved
                self.slice.reserve(started.reserved)
            return
        started_data, attempt = (before.started, before.attempt) if before else (None, 1)
        self.steps[key] = Entry(type_, seq, data, started_data, attempt)
        if type_ != records.STEP_UNKNOWN:
            self._fold_costs(key, data)

    def _fold_costs(self, key: str, data: bytes | None) -> None:
        if self.lost:
            self.slice.reserved -= self.lost.pop(key, 0)
        if data is not None and _COST in data:  # there is no overdraft without a cost
            costs = _costs(data)
            self.slice.spent += costs.cost
            self.slice.granted += costs.overdraft

    def _fold_status(self, event: Event) -> None:
        self.status = STATUS_OF[event.type]
        self.status_seq = event.seq
        if event.type == records.RUN_STARTED:
            self.tenant_id = event.tenant
            if event.data is not None:
                started = event.load(RunStarted)
                self.token = max(self.token, started.token)
                self.parent_run = started.parent_run
                self.root_run = started.root_run or self.run_id
                self.fork_of, self.fork_at = started.fork_of, started.fork_at
                self.replay_of = started.replay_of

    def inherit(self, before: RunState) -> None:
        """Begin with what another run, folded up to the fork point and given up for this, knows of its steps.

        Its lease, its status and its money stay its own. A call that had no end there is made anew here, but a side
        effect without one stays unknown: it may have happened, or be happening.
        """
        for step, entry in before.steps.items():
            if not entry.ended:
                intent = entry.intent()  # None: it was erased, so nobody knows what it was
                if entry.type not in _MAYBE_HAPPENED or (intent is not None and not intent.side_effect):
                    continue
                place = before.unsettled.get(step)
                if place is None or place[1] != entry.attempt:
                    place = f"{before.stream}#{entry.seq}", entry.attempt
                self.unsettled[step] = place
            if not entry.stream:
                entry.stream = before.stream
            self.steps[step] = entry
        self.toolsets.update(before.toolsets)
        self.drifts.update(before.drifts)

    def place_of(self, step: str) -> tuple[str, int]:
        """The stream and the sequence of the newest event of a step, which may be another run's that this is a fork of."""
        entry = self.steps[step]
        return entry.stream or self.stream, entry.seq

    # The lease
    def hold(self, token: int, expires_us: int) -> None:
        """This kernel has the run's lease from now on."""
        self.token = token
        self.held = True
        self.expires_us = expires_us
        self.fence = Fence(self.lease, token)

    def let_go(self) -> None:
        """Somebody else may have the lease now."""
        self.held = False
        self.expires_us = 0

    @property
    def idle(self) -> bool:
        """Whether no step of it is being executed here."""
        return not self.inflight
