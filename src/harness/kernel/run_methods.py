"""The part of the kernel's face that is about the life of a run: begin, load, pause, block, end."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from harness.errors import KernelError, PolicyDenied
from harness.kernel import records
from harness.kernel.checking import check_run_id
from harness.kernel.encoding import to_plain_json
from harness.kernel.face import Face
from harness.kernel.lifecycle import handle_of
from harness.kernel.results import RunHandle
from harness.kernel.runs import stream_of
from harness.kernel.tenant import TenantContext


class RunMethods(Face):
    """Methods of `Kernel`."""

    async def start_run(self, *, tenant: TenantContext, run_id: str | None = None, parent_run: str | None = None) -> RunHandle:
        """Begin a run; without an id it gets one. `parent_run` is the run that caused it. Raises `RunExists`."""
        self._open()
        return await self._lifecycle.start(tenant, run_id, parent_run)

    async def load_run(self, *, run_id: str) -> RunHandle:
        """Begin a new pass over a run that exists: steps without a key are counted from the first again.

        The run is read and verified once. Raises `NotFound`, `Unproven`.
        """
        self._open()
        check_run_id(run_id)
        known = run_id in self._steps.runs
        run = await self._steps.open(run_id)
        if known and not run.held:
            await self._steps.leases.catch_up(run)
        self._steps.passes.pop(run_id, None)
        return handle_of(run)

    async def open_run(self, *, tenant: TenantContext, run_id: str, parent_run: str | None = None) -> RunHandle:
        """Start the run, or go on with it if it exists; does not begin a new pass over it."""
        self._open()
        check_run_id(run_id)
        if await self._store.head(stream_of(run_id)) is None:
            with contextlib.suppress(KernelError):
                return await self.start_run(tenant=tenant, run_id=run_id, parent_run=parent_run)
        run = await self._steps.open(run_id)
        self._steps.check_tenant(run, tenant)
        return handle_of(run)

    async def pause(self, *, run_id: str, tenant: TenantContext | None = None, reason: str = "", context: Any = None) -> int:
        """Let no further step be executed until `resume`; steps at work end. Gives the event's sequence."""
        return await self._change(run_id, tenant, records.RUN_PAUSED, reason=reason, context=context)

    async def resume(
        self, *, run_id: str, tenant: TenantContext | None = None, human_input: Any = None, reason: str = ""
    ) -> int:
        """Let a paused run go on, with what the human said; `get_human_input` reads it.

        Where a tool waits for a person's yes, `human_input` of True or False, "approve" or "deny", or a mapping with
        `approved` (and a `note`) is the answer, bound to what was asked. Anything else leaves the question open.
        """
        if self._steps.waiting is not None and human_input is not None:
            context = await self._lifecycle.paused_with(run_id, tenant)
            await self._steps.waiting.resumed(context, human_input, by=self._store.actor)
        return await self._change(run_id, tenant, records.RUN_RESUMED, reason=reason, human_input=human_input)

    async def get_human_input(self, *, run_id: str) -> Any:
        """What the human said when the run was resumed last; None if nothing was said since another change."""
        return await self._lifecycle.human_input(run_id)

    async def block_run(self, *, run_id: str, tenant: TenantContext | None = None, reason: str = "") -> int:
        """Let no further step be executed until `unblock_run`, because something is missing."""
        return await self._change(run_id, tenant, records.RUN_BLOCKED, reason=reason)

    async def unblock_run(self, *, run_id: str, tenant: TenantContext | None = None, reason: str = "") -> int:
        """What was missing is there."""
        return await self._change(run_id, tenant, records.RUN_UNBLOCKED, reason=reason)

    async def cancel_run(self, *, run_id: str, tenant: TenantContext | None = None, reason: str = "") -> int:
        """End a run for good: nothing more is executed. Steps at work end and are recorded."""
        return await self._change(run_id, tenant, records.RUN_CANCELLED, reason=reason)

    async def finish_run(
        self, *, run_id: str, tenant: TenantContext | None = None, failed: bool = False, reason: str = ""
    ) -> int:
        """Say that a run is over because it has done what it was for, or has failed."""
        return await self._change(run_id, tenant, records.RUN_FAILED if failed else records.RUN_COMPLETED, reason=reason)

    async def reopen_run(self, *, run_id: str, tenant: TenantContext | None = None, reason: str = "") -> int:
        """Let a completed run go on, because there is more to do. What was cancelled or has failed stays over."""
        return await self._change(run_id, tenant, records.RUN_REOPENED, reason=reason)

    async def _change(self, run_id: str, tenant: TenantContext | None, type_: str, *, reason: str, **more: Any) -> int:
        self._open()
        if tenant is not None and (await self._lifecycle.status(run_id)).tenant_id != tenant.tenant_id:
            raise PolicyDenied(f"run {run_id!r} does not belong to tenant {tenant.tenant_id!r}")
        more = {name: _plain(name, value) for name, value in more.items()}
        return await self._lifecycle.change(run_id, type_, reason=reason, by=self._store.actor, **more)


def _plain(name: str, value: Any) -> Any:
    """The value as reading it back will give it. Raises `TypeError` for what is no JSON."""
    try:
        return json.loads(to_plain_json(value))
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
