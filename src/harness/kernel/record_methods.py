"""The part of the kernel's face that is about what a run recorded: its events, its steps, its artifacts and summaries."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from harness.errors import NotFound
from harness.kernel.face import Face
from harness.kernel.results import RunStatus, StepRecord
from harness.kernel.runs import stream_of
from harness.kernel.tenant import TenantContext
from harness.ledger import Event

_PAGE = 500


class RecordMethods(Face):
    """Methods of `Kernel`."""

    async def get_events(self, *, run_id: str) -> tuple[Event, ...]:
        """Every event of a run, in order. Raises `NotFound`."""
        events = await self._store.read(stream_of(run_id))
        if not events:
            raise NotFound(f"no run {run_id!r} in {self._store.location}")
        return tuple(events)

    async def get_steps(self, *, run_id: str) -> tuple[StepRecord, ...]:
        """Every step of a run, with what was asked and how it ended, in the order of their beginnings.

        A fork's steps begin with those it inherits, which say so in `inherited_from`. Raises `NotFound`.
        """
        from harness.kernel.story import story_of

        return tuple((await story_of(self._store, run_id)).steps.values())

    async def stream_events(self, *, run_id: str, since_seq: int = 0, follow: bool = False) -> AsyncGenerator[Event]:
        """A run's events after `since_seq`; with `follow` also those that come, pushed. Raises `NotFound`."""
        stream = stream_of(run_id)
        if await self._store.head(stream) is None:
            raise NotFound(f"no run {run_id!r} in {self._store.location}")
        tail = await self._store.tail()
        while True:
            events = await self._store.read(stream, after=since_seq, limit=_PAGE)
            for event in events:
                since_seq = event.seq
                yield event
            if len(events) < _PAGE:
                break
        if follow:
            async with contextlib.aclosing(self._store.follow(after=tail, streams=(stream,))) as news:
                async for event in news:
                    if event.stream == stream and event.seq > since_seq:
                        since_seq = event.seq
                        yield event

    async def get_run_status(self, *, run_id: str) -> RunStatus:
        """Where a run stands, in O(1). Raises `NotFound`, `Unproven`."""
        return await self._lifecycle.status(run_id)

    async def list_active_runs(self, *, tenant_id: str | None = None) -> tuple[RunStatus, ...]:
        """The runs that are not over, the oldest first, by index."""
        return tuple(await self._lifecycle.active(tenant_id))

    async def set_artifact(
        self, *, run_id: str, tenant: TenantContext, key: str, value: Any, schema_version: str | None = None, once: str = ""
    ) -> int:
        """Record a new version of an artifact; gives its sequence. Raises `TypeError` for what is no JSON.

        What was recorded under the name `once` before is not recorded again: its sequence is given.
        """
        self._open()
        return await self._artifacts.set(run_id, tenant, key, value, schema_version, once)

    async def get_artifact(self, *, run_id: str, key: str) -> Any:
        """The newest version of an artifact, verified; None if there is none. A fork has its parent's until it sets its own."""
        return await self._artifacts.get(run_id, key)

    async def list_artifacts(self, *, run_id: str) -> tuple[str, ...]:
        """The names of a run's artifacts, inherited ones too. Reads the run."""
        return tuple(await self._artifacts.keys(run_id))

    async def append_run_summary(
        self,
        *,
        run_id: str,
        tenant: TenantContext,
        summary_type: str,
        summary: Any,
        step_key: str | None = None,
        once: str = "",
    ) -> int:
        """Record a summary; gives its sequence. Raises `TypeError` for what is no JSON. For `once` see `set_artifact`."""
        self._open()
        return await self._artifacts.append_summary(run_id, tenant, summary_type, summary, step_key, once)

    async def get_latest_run_summary(self, *, run_id: str, summary_type: str) -> Any:
        """The newest summary of this type; None if there is none."""
        return await self._artifacts.latest_summary(run_id, summary_type)
