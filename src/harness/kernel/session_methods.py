"""The part of the kernel's face that is about sessions: stretches of work on a run, one after another."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from harness.errors import KeyTaken
from harness.kernel import records
from harness.kernel.face import Face
from harness.kernel.identity import session_scope
from harness.kernel.runs import stream_of
from harness.kernel.session_records import CHILD_LINKED, ChildLinked
from harness.kernel.sessions import Session, as_recorded, completed_for, session_of
from harness.kernel.tenant import TenantContext
from harness.ledger import Draft, Unique, Write


class SessionMethods(Face):
    """Methods of `Kernel`."""

    @contextlib.asynccontextmanager
    async def session(
        self, *, run_id: str, tenant: TenantContext, by: str = "", cause: str = "", fresh: bool = False
    ) -> AsyncGenerator[Session]:
        """A numbered stretch of work on a run, which one task at a time has, in whichever process.

        Steps inside that have no key are the session's own, so that a later session asks anew; steps with a key are the
        run's. A session that was killed, cancelled or refused something by the kernel is gone on with by the next one
        that is begun: its finished steps are replayed. One that was left by another exception has failed, and the next
        is a new one, as it is with `fresh`. Asking again for what a completed session had as its `cause` replays that
        session. A completed run is reopened by who needs steps in it. Raises `LeaseHeld` if another task keeps the run.
        """
        self._open()
        run = await self._steps.open(run_id)
        self._steps.check_tenant(run, tenant)
        async with session_of(self._steps, run, by=by, cause=cause, fresh=fresh) as session:
            yield session

    async def has_completed_session(self, *, run_id: str, cause: str) -> bool:
        """Whether a session was completed for this cause, so that asking again would replay it."""
        return await completed_for(self._store, run_id, cause) is not None

    async def as_recorded(self, *, tenant: TenantContext, value: Any) -> Any:
        """The value as it would be recorded for this tenant: without personal data, if a middleware keeps that out."""
        return msgspec.json.decode(await as_recorded(self._steps, tenant.tenant_id, value))

    async def link_child(self, *, run_id: str, child_run: str) -> None:
        """Say in a run that another run is its child. Said once, however often it is called."""
        stream, key = stream_of(run_id), f"child::{child_run}"
        if await self._store.latest(stream, key) is None:
            linked = Draft(type=CHILD_LINKED, payload=ChildLinked(run_id=child_run), key=key)
            with contextlib.suppress(KeyTaken):
                await self._store.append(Write(stream, (linked,)), guards=[Unique(f"{key}/{stream}")])

    def own_scope(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Steps called inside have nothing to do with the scopes and the session outside; without a key they count here."""
        return session_scope(name)

    async def unsettled_steps(self, *, run_id: str) -> tuple[str, ...]:
        """The ids of steps that are being executed here, and of side effects that have no recorded end."""
        run = await self._steps.open(run_id)
        unsettled = dict.fromkeys(run.inflight)
        for step, entry in run.steps.items():
            if entry.type == records.STEP_UNKNOWN:
                unsettled[step] = None
            elif entry.type == records.STEP_STARTED:
                intent = entry.intent()
                if intent is not None and intent.side_effect:
                    unsettled[step] = None
        return tuple(unsettled)
