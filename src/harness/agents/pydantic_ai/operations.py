"""What the framework wants to be durable, as the kernel's steps.

A model request is a model step, a tool call a tool step; what is left (listing tools, checking arguments, a capability's
own operations) is a tool step without a side effect, counted by its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextvars import ContextVar
from typing import Any, Generic, Literal, TypeVar, cast

from pydantic_ai.durable_exec import (
    BoundDurableOperation,
    CapabilityOperationId,
    DurableOperation,
    DurableOperationBackend,
    DurableOperationId,
    DynamicToolsetCallToolParams,
    EventStreamHandlerId,
    ModelCancelSuspendedResponseId,
    ModelCompactMessagesId,
    ModelRequestId,
    ModelRequestParams,
    ToolsetCallToolId,
    ToolsetCallToolParams,
    ToolsetGetInstructionsId,
    ToolsetGetToolsId,
    ToolsetValidateToolArgumentsId,
    durable_unit_scope,
)
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import ModelResponse
from pydantic_ai.tools import RunContext, ToolDefinition
from pydantic_ai.toolsets import ToolsetTool
from pydantic_core import to_jsonable_python

from harness.agents.pydantic_ai import runs
from harness.agents.pydantic_ai.requests import request_of, response_of
from harness.agents.pydantic_ai.runs import DurableRun
from harness.errors import ApprovalRequired, BudgetExceeded, CapabilityDenied, StepRejected, ToolRejected
from harness.kernel import SchemaTool, Scope, ToolExecutionContext, ToolRegistry, ToolTraits, at_scope, to_json

ParamsT = TypeVar("ParamsT")
WireT = TypeVar("WireT")
ResultT = TypeVar("ResultT")
T = TypeVar("T")

PolicyOf = Callable[[ToolDefinition], ToolTraits | Literal[False]]
_CallParams = ToolsetCallToolParams | DynamicToolsetCallToolParams
_PURE = ToolTraits(side_effect=False)
_ANY_OBJECT = {"type": "object"}


class KernelOperations(DurableOperationBackend[ToolTraits]):
    """Executes one agent's operations as steps of the run that the calling task works in."""

    def __init__(self, agent: str, policy_of: PolicyOf) -> None:
        self._agent = agent
        self._policy_of = policy_of

    def bind(self, operation: DurableOperation[ParamsT, WireT, ResultT]) -> BoundDurableOperation[ParamsT, WireT, ResultT]:
        """The operation as a step."""
        return _Bound(operation, self._agent)

    def config_for_tool(
        self, operation: DurableOperation[ParamsT, WireT, ResultT], *, tool: object | None, tool_name: str
    ) -> ToolTraits | Literal[False]:
        """What is decided about a tool; False: it is no step."""
        if not isinstance(tool, ToolsetTool):
            return ToolTraits()
        return self._policy_of(cast("ToolsetTool[Any]", tool).tool_def)

    def registrations(self) -> Sequence[Callable[..., object]]:
        """None: the kernel needs none."""
        return ()


class _Bound(BoundDurableOperation[ParamsT, WireT, ResultT], Generic[ParamsT, WireT, ResultT]):
    """One operation, bound."""

    def __init__(self, operation: DurableOperation[ParamsT, WireT, ResultT], agent: str) -> None:
        self._operation = operation
        self._agent = agent

    @property
    def operation(self) -> DurableOperation[ParamsT, WireT, ResultT]:
        return self._operation

    async def __call__(self, params: ParamsT, *, config: object | None = None) -> ResultT:
        run = runs.current_run()
        if run is None:
            return await self._operation.handler(params)
        scope = run.scope_of(self._agent, _run_context(params).run_id)
        match self._operation.operation_id:
            case ModelRequestId():
                return await self._ask(run, scope, params)
            case ToolsetCallToolId():
                policy = config if isinstance(config, ToolTraits) else ToolTraits()
                return await self._call(run, scope, params, policy)
            case other:
                return await self._do(run, scope, params, other)

    # Model requests

    async def _ask(self, run: DurableRun, scope: Scope, params: ParamsT) -> ResultT:
        async def ask(changed: ModelRequestParams) -> ModelResponse:
            with durable_unit_scope():
                return cast("ModelResponse", await self._operation.handler(cast("ParamsT", changed)))

        result = await run.kernel.step_model_through(
            run_id=run.run_id, tenant=run.tenant, scope=scope, replay_policy=run.replay_policy,
            request=request_of(cast("ModelRequestParams", params), ask),
        )  # fmt: skip
        run.run_id = result.run_id
        return cast("ResultT", response_of(result))

    # Tool calls

    async def _call(self, run: DurableRun, scope: Scope, params: ParamsT, policy: ToolTraits) -> ResultT:
        given = cast("_CallParams", params)
        arguments = to_json(to_jsonable_python(given.tool_args, fallback=repr))
        key = run.call_key(scope, given.ctx.run_step, given.ctx.tool_call_id or given.name)

        async def call(bound: dict[str, Any], context: ToolExecutionContext) -> object:
            now = given if to_json(bound) == arguments else _with_arguments(given, bound)
            with _within(runs.tool_calls(), context), at_scope((*scope, key)), durable_unit_scope():
                return self._operation.result_codec.dump(await self._operation.handler(cast("ParamsT", now)))

        try:
            return await self._step(run, scope, given.name, call, arguments, policy, key)
        except (BudgetExceeded, ApprovalRequired):
            raise
        except StepRejected as error:
            raise ToolFailed(_told(given.name, error)) from error

    async def _do(self, run: DurableRun, scope: Scope, params: ParamsT, operation: DurableOperationId) -> ResultT:
        async def call(_: dict[str, Any], context: ToolExecutionContext) -> object:
            with at_scope((*scope, context.step)), durable_unit_scope():
                return self._operation.result_codec.dump(await self._operation.handler(params))

        return await self._step(run, scope, _name(operation, params), call, b"{}", _PURE, None)

    async def _step(
        self,
        run: DurableRun,
        scope: Scope,
        name: str,
        call: Callable[[dict[str, Any], ToolExecutionContext], Awaitable[object]],
        arguments: bytes,
        policy: ToolTraits,
        key: str | None,
    ) -> ResultT:
        tool = SchemaTool(call, name=name, input_schema=_ANY_OBJECT, policy=policy)
        with at_scope(scope):
            step = run.kernel.step_tool(
                run_id=run.run_id, tenant=run.tenant, tool_name=name, arguments=arguments, step_key=key,
                tools=ToolRegistry([tool]), replay_rejections=True, retry_failed_step=run.retry_failed,
            )  # fmt: skip
        return self._operation.result_codec.load((await step).result)


def _told(name: str, error: StepRejected) -> str:
    """What the model reads of a refusal."""
    match error:
        case CapabilityDenied():
            return f"{name} is not allowed here"
        case ToolRejected():
            return str(error)
        case _:
            return f"{name} was refused: {error}"


def _with_arguments(params: _CallParams, arguments: dict[str, Any]) -> _CallParams:
    """The call with arguments that a middleware changed, checked as the framework checks a model's."""
    tool = params.tool if isinstance(params, ToolsetCallToolParams) else None
    if tool is not None:
        arguments = tool.args_validator.validate_python(arguments, context=params.ctx.validation_context)
    return dataclasses.replace(params, tool_args=arguments)


def _run_context(params: object) -> RunContext[Any]:
    return getattr(params, "run_context", None) or cast("Any", params).ctx


def _name(operation: DurableOperationId, params: object) -> str:
    """What a step that is neither a model request nor a tool call is called."""
    match operation:
        case ToolsetGetToolsId():
            return f"{operation.toolset_id}.list_tools"
        case ToolsetGetInstructionsId():
            return f"{operation.toolset_id}.instructions"
        case ToolsetValidateToolArgumentsId():
            return f"{operation.toolset_id}.validate.{cast('_CallParams', params).name}"
        case CapabilityOperationId():
            return f"{operation.capability_id}.{operation.operation}"
        case EventStreamHandlerId():
            return "handle_event"
        case ModelCompactMessagesId():
            return "compact_messages"
        case ModelCancelSuspendedResponseId():
            return "cancel_suspended_response"
        case _:
            return type(operation).__name__


@contextlib.contextmanager
def _within(variable: ContextVar[T | None], value: T) -> Generator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
