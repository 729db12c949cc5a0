"""The part of the kernel's face for other frameworks: a model step whose call is made by the framework's own model.

Such a step is recorded, paid for, retried, refused and replayed as any other one; only who asks, and what the model is
shown, come from outside.
"""

from __future__ import annotations

import copy
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from harness.errors import ModelError, StepFailed
from harness.kernel.face import Face
from harness.kernel.forks import Forks
from harness.kernel.identity import Scope, current_scope
from harness.kernel.matching import ReplayPolicy
from harness.kernel.model_call import Ask
from harness.kernel.model_step import Drifted, ModelSteps
from harness.kernel.outputs import OutputType
from harness.kernel.ports import Message, ModelCallOptions, ModelPort, ToolDefinition
from harness.kernel.results import StepModelResult
from harness.kernel.runs import RunState
from harness.kernel.tenant import TenantContext
from harness.kernel.toolsets import Toolset

_DEFAULT_OPTIONS = ModelCallOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRequest:
    """What a framework asks a model. `settings` are inputs that have no other place here, as JSON."""

    model: str
    messages: tuple[Message, ...]
    port: ModelPort
    tools: Sequence[ToolDefinition] = ()
    options: ModelCallOptions = _DEFAULT_OPTIONS
    settings: Mapping[str, Any] | None = None


class ForeignMethods(Face):
    """Methods of `Kernel`."""

    _model_steps: ModelSteps
    _forks: Forks

    def step_model_through(
        self,
        *,
        run_id: str,
        tenant: TenantContext,
        request: ForeignRequest,
        scope: Scope | None = None,
        replay_policy: ReplayPolicy = "strict",
    ) -> Coroutine[Any, Any, StepModelResult]:
        """Ask a model through `request.port`, or give back what it said. Counted in `scope`, by default the present one.

        The answer's `native` comes back as the port gave it. A recorded failure is raised again if the run has gone on
        after it, else the model is asked again. Raises what `step_model` raises.
        """
        self._open()
        within = current_scope() if scope is None else scope
        step = self._steps.allot(run_id, within, "model", None)

        async def take() -> StepModelResult:
            run = self._steps.runs.get(run_id) or await self._steps.open(run_id)
            self._steps.check_tenant(run, tenant)
            ask = _ask(tenant, step, request, replay_policy)
            try:
                return await self._take(run, ask)
            except (ModelError, StepFailed) as error:
                if not error.replayed or _survived(run, step):
                    raise
            ask.retry_failed = True
            return await self._take(run, ask)

        return take()

    async def _take(self, run: RunState, ask: Ask) -> StepModelResult:
        if ask.policy != "fork_on_drift":
            return await self._model_steps.step(run, copy.copy(ask))
        try:
            return await self._model_steps.step(run, copy.copy(ask))
        except Drifted as drifted:
            return await self._forks.go_on(run, ask, drifted, self._model_steps.step)


def _ask(tenant: TenantContext, step: str, request: ForeignRequest, policy: ReplayPolicy) -> Ask:
    return Ask(
        tenant=tenant, step=step, model=request.model, messages=request.messages, schema=None,
        expected=OutputType(request.settings, _unchecked, msgspec.json.decode), options=request.options,
        toolset=Toolset.declared(request.tools), visible=None, policy=policy, retry_failed=False, port=request.port,
    )  # fmt: skip


def _unchecked(value: Any) -> tuple[Any, bytes]:
    """The framework checks its answers itself."""
    return value, msgspec.json.encode(value)


def _survived(run: RunState, step: str) -> bool:
    """Whether the run has gone on after a step."""
    ended = run.steps[step]
    return bool(ended.stream) or any(entry.seq > ended.seq and not entry.stream for entry in run.steps.values())
