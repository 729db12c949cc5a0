"""A run as a whole: its own steps after those that it inherits as a fork, and the shapes they refer to. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from harness.errors import NotFound
from harness.kernel.history import Shapes, tell
from harness.kernel.records import RunStarted
from harness.kernel.results import StepRecord
from harness.kernel.runs import stream_of
from harness.ledger import Event, Store, lineage

_ENDED = frozenset({"completed", "failed", "rejected"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What a run did, and with what."""

    run_id: str
    first: Event
    head: Event  # the newest event
    steps: dict[str, StepRecord]  # by id, in the order of their beginnings
    shapes: Shapes

    @property
    def started(self) -> RunStarted | None:
        """How the run began; None once that was erased."""
        return None if self.first.erased else self.first.load(RunStarted)


async def story_of(store: Store, run_id: str) -> Story:
    """Tell a run. Raises `NotFound`, and `Unproven` for a fork of itself."""
    own = await store.read(stream_of(run_id))
    if not own:
        raise NotFound(f"no run {run_id!r} in {store.location}")
    shapes = Shapes(())
    steps: dict[str, StepRecord] = {}
    for origin in reversed(await lineage(store, run_id)):
        events = await store.read(origin.stream, limit=origin.at)
        for step in tell(events):
            if step.state in _ENDED or (step.side_effect and step.state in ("started", "unknown")):
                steps[step.step] = msgspec.structs.replace(step, inherited_from=origin.parent)
        _take(shapes, events)
    _take(shapes, own)
    for step in tell(own):
        inherited = steps.get(step.step)
        if inherited is not None and step.arguments is None:  # it was begun there, and ended here
            step = msgspec.structs.replace(step, arguments=inherited.arguments)
        steps[step.step] = step
    return Story(run_id=run_id, first=own[0], head=own[-1], steps=steps, shapes=shapes)


def _take(shapes: Shapes, events: list[Event]) -> None:
    for event in events:
        shapes.take(event)
