"""An in-process harness: work on a run in sessions, each through the stages initialize, wake, work and sleep.

Owns the order of the stages and what the end of a session means for its run. Which pass goes on with which session is
the kernel's decision (`kernel.session_records`), what is recorded and replayed are its steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_args

from harness.agents import passes
from harness.agents.calling import call
from harness.agents.harness_steps import HarnessSteps
from harness.agents.passes import HarnessContext, Link, Pass, at_work, linked
from harness.errors import NotFound, OutcomeUnknown, RunNotActive, UsageError
from harness.kernel import Kernel, ReplayPolicy, TenantContext

if TYPE_CHECKING:
    from harness.kernel import Session

T = TypeVar("T")


class BaseHarness(HarnessSteps, Generic[T]):
    """Works on runs in sessions. Override `step`; its value is what `run` returns.

    A session that is killed, cancelled or refused something by the kernel is gone on with by the next `run`, and its
    finished steps are replayed; so `step` may be called several times in one session. An error of `step`'s own ends its
    session as failed, and the next `run` begins a new one. A step without a key belongs to its session; one with a key
    belongs to the run and keeps its answer in all sessions. One object may work on several runs at once.
    """

    def __init__(
        self,
        kernel: Kernel,
        tenant: TenantContext | None = None,
        *,
        default_model: str = "default",
        replay_policy: ReplayPolicy = "strict",
    ) -> None:
        if not isinstance(kernel, Kernel):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"{type(self).__name__} needs a Kernel, not {_said(kernel)}")
        if tenant is not None:
            _check_tenant(tenant)
        if replay_policy not in get_args(ReplayPolicy):
            raise UsageError(f"replay_policy is one of {', '.join(get_args(ReplayPolicy))}, not {replay_policy!r}")
        self._kernel = kernel
        self._tenant = tenant
        self._default_model = default_model
        self._replay_policy: ReplayPolicy = replay_policy
        self._last: HarnessContext | None = None

    @property
    def kernel(self) -> Kernel:
        return self._kernel

    @property
    def tenant(self) -> TenantContext | None:
        return self._tenant

    # What a subclass overrides

    async def step(self, *, context: HarnessContext) -> T:
        """The work of one session."""
        raise UsageError(f"{type(self).__name__} does no work: override `async def step(self, *, context)`")

    async def on_initialize(self, *, context: HarnessContext) -> None:
        """Called before the work of a run's first session, until it has once ended well."""

    async def on_wake(self, *, context: HarnessContext, reorientation: Mapping[str, Any]) -> None:
        """Called before the work of each session. `reorientation` says where the run stands; it is not recorded."""

    async def on_sleep(self, *, context: HarnessContext, execution_error: Exception | None) -> None:
        """Called after the work of each session, also if it failed. What it raises makes the session fail."""

    # A session

    async def run(
        self,
        run_id: str,
        *,
        tenant: TenantContext | None = None,
        model: str | None = None,
        input: Mapping[str, Any] | None = None,
        finish: bool = True,
        new_session: bool = False,
    ) -> T:
        """Work on a run for one session, and return what `step` returned. The run is started if it does not exist.

        Goes on with a session that was cut short, unless `new_session`. When nothing is left to do the run is completed,
        unless `finish` is false; a later `run` reopens it. While another task or process has a session in this run, this
        waits, for the kernel's `lease_wait_seconds` at most, and then raises `LeaseHeld`.

        Raises what `step` and the hooks raise; `RunNotActive` for a run that is paused, blocked or over;
        `OutcomeUnknown` if a side effect without a known end is left behind.
        """
        context = self._asked(run_id, tenant, model, input)
        link = passes.link()
        with linked(None):
            context = dataclasses.replace(context, run_created=await self._enter(context, link))
            self._last = context
            await self._check_active(context)
            with at_work(Pass(self, context)) as before:
                before.prepared = await self._prepare(context)
                again = link is not None and await self._kernel.has_completed_session(run_id=run_id, cause=link.cause)
                if not again and (at_rest := await self._at_rest(before, finish=finish)) is not None:
                    return at_rest
            cause = link.cause if link else ""
            async with self._kernel.session(
                run_id=run_id, tenant=context.tenant, by=type(self).__name__, cause=cause, fresh=new_session
            ) as session:
                return await self._session(before, session, finish=finish)

    async def _session(self, before: Pass, session: Session, *, finish: bool) -> T:
        context = dataclasses.replace(before.context, session=session.number, resumed=session.resumed)
        with at_work(Pass(self, context, session, before.prepared)):
            if not session.replays:
                await self._reopen(context)
                await self._keep_input(context)
            result = await self._stages(context, session)
            if not session.replays:
                await self._check_clean(context.run_id)
                await session.end(finish="nothing is left to do" if finish and self._nothing_left(result) else "")
        return result

    async def _stages(self, context: HarnessContext, session: Session) -> T:
        failure: Exception | None = None
        result: T | None = None
        try:
            await self._wake(context, session)
            result = await self._work(context, session)
        except Exception as error:  # noqa: BLE001 - it is raised when the harness sleeps
            failure = error
        try:
            with self._kernel.scope("sleep"):
                await call(self.on_sleep, context=context, execution_error=failure)
        except Exception as error:
            if failure is None:
                raise
            failure.add_note(f"{type(self).__name__}.on_sleep raised as well: {type(error).__name__}: {error}")
        if failure is not None:
            raise failure
        return cast("T", result)

    async def _wake(self, context: HarnessContext, session: Session) -> None:
        if not session.initialized:
            with self._kernel.scope("initialize"):
                await call(self.on_initialize, context=context)
            session.initialized = True
        before = session.newest
        reorientation = {
            "run_created": context.run_created,
            "session": session.number,
            "resumed": session.resumed,
            "last_outcome": before.outcome if before else None,
            "last_error": f"{before.error}: {before.message}" if before and before.error else None,
        }
        with self._kernel.scope("wake"):
            await call(self.on_wake, context=context, reorientation=reorientation)

    async def _work(self, context: HarnessContext, session: Session) -> T:
        return await call(self.step, context=context)

    # What kinds of harness differ in

    async def _prepare(self, context: HarnessContext) -> object:
        """Called before there is a session; what it gives is the pass's `prepared`."""
        return None

    async def _at_rest(self, before: Pass, *, finish: bool) -> T | None:
        """The result, if there is nothing to do that would need a session."""

    def _nothing_left(self, result: T) -> bool:
        """Whether the run is completed with this session."""
        return True

    # The run

    def _asked(
        self, run_id: object, tenant: TenantContext | None, model: str | None, input: Mapping[str, Any] | None
    ) -> HarnessContext:
        if not isinstance(run_id, str):
            raise UsageError(f"a run's id is a text, not {_said(run_id)}")
        tenant = tenant if tenant is not None else self._tenant
        if tenant is None:
            raise UsageError(f"{type(self).__name__} has no tenant; give one to it, or to run(…, tenant=)")
        _check_tenant(tenant)
        if input is not None and not isinstance(input, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"a session's input is a mapping of names, not {_said(input)}")
        return HarnessContext(run_id, tenant, model or self._default_model, input=dict(input or {}))

    async def _enter(self, context: HarnessContext, link: Link | None) -> bool:
        """Begin a pass over the run. Gives whether it was started for this."""
        handle = None
        with contextlib.suppress(NotFound):
            handle = await self._kernel.load_run(run_id=context.run_id)
        if handle is None or handle.tenant_id != context.tenant.tenant_id:  # which `open_run` refuses
            parent = link.parent_run if link else None
            await self._kernel.open_run(tenant=context.tenant, run_id=context.run_id, parent_run=parent)
        return handle is None

    async def _check_active(self, context: HarnessContext) -> None:
        status = await self._kernel.get_run_status(run_id=context.run_id)
        if status.status not in ("active", "completed"):
            after = (
                "it is over; choose another run_id"
                if status.status in ("cancelled", "failed")
                else "resume or unblock it first"
            )
            reason = f" ({status.reason})" if status.reason else ""
            raise RunNotActive(f"run {context.run_id!r} is {status.status}{reason}; {after}")

    async def _reopen(self, context: HarnessContext) -> None:
        status = await self._kernel.get_run_status(run_id=context.run_id)
        if status.status == "completed":
            await self._kernel.reopen_run(run_id=context.run_id, reason=f"session {context.session}")

    async def _keep_input(self, context: HarnessContext) -> None:
        """Record what the supervisor gave as artifacts, as far as it is JSON and new."""
        for key, value in context.input.items():
            with contextlib.suppress(TypeError):
                if await self.get_artifact(key=key) != value:
                    await self.set_artifact(key=key, value=value)

    async def _check_clean(self, run_id: str) -> None:
        """A session ends only when nothing of it is under way or unknown."""
        unsettled = await self._kernel.unsettled_steps(run_id=run_id)
        if unsettled:
            raise OutcomeUnknown(
                f"run {run_id!r} cannot sleep: {', '.join(unsettled[:5])} has no known end; await what is under way,"
                " reconcile what is unknown"
            )


def _check_tenant(tenant: object) -> None:
    if not isinstance(tenant, TenantContext):
        raise UsageError(f"a tenant is a TenantContext, not {_said(tenant)}")


def _said(value: object) -> str:
    return f"{type(value).__name__} {value!r}"[:100]
