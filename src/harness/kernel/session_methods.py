"""The part of the kernel's face that is about sessions: stretches of work on a run, one after another."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from harness.kernel import records
from harness.kernel.face import Face
from harness.kernel.sessions import Session, session_of
from harness.kernel.tenant import TenantContext


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
        async with session_of(self._store, self._steps, run, by=by, cause=cause, fresh=fresh) as session:
            yield session

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
