"""Tools of MCP servers, for agents and kernels: listed by a recorded step, called as recorded tool steps.

Owns what a server's tools mean here: which policy they are under, how its answers and failures are told, and that a run
keeps the tools that it began with. The connection is `mcp_connection`'s, recording is the kernel's. A server is
connected when it is first really needed, so a replay starts none. Needs the extra `mcp`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from harness.agents.mcp_connection import Connection, HttpServer, Listed, Lost, StdioServer
from harness.errors import KernelError, NotFound, OutcomeUnknown, ToolRejected, UsageError
from harness.kernel import JSONSchema, SchemaTool, ToolExecutionContext, ToolRegistry, ToolTraits, digest_of

if TYPE_CHECKING:
    from harness.kernel import Kernel, TenantContext

MAX_TOOLS = 1_000
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_READ_ONLY = ToolTraits(side_effect=False)


class McpTools:
    """The tools of one MCP server. An async context manager; leaving it ends the server's whole process tree.

    `policies` say per tool (by the server's names) what is decided about it; any other is under `default`, which assumes
    side effects. With `trust_read_only_hints` a tool that its server calls read-only is believed to be. `prefix` stands
    before every name as the model sees it. Times are in seconds.
    """

    def __init__(
        self,
        name: str,
        server: StdioServer | HttpServer,
        *,
        policies: Mapping[str, ToolTraits] | None = None,
        default: ToolTraits | None = None,
        trust_read_only_hints: bool = False,
        prefix: str = "",
        connect_timeout: float = 30.0,
        call_timeout: float = 120.0,
        max_result_bytes: int = 1 << 20,
    ) -> None:
        if not name.isidentifier():
            raise UsageError(f"the name of an MCP server is letters, digits and _, not {name!r}")
        self.name = name
        self._policies = dict(policies or {})
        self._default = default or ToolTraits()
        self._trust_hints = trust_read_only_hints
        self._prefix = prefix
        self._timeout = call_timeout
        self._limit = max_result_bytes
        self._connection = Connection(name, server, timeout=connect_timeout)
        self._listed: dict[str, Listed] = {}
        self._registry: ToolRegistry | None = None

    @classmethod
    def stdio(
        cls, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, **options: Any
    ) -> Self:
        """A server that is a program, started here and spoken to over its stdin and stdout. It inherits no secrets."""
        if isinstance(argv, str) or not argv:
            raise UsageError(f"argv is a program and its arguments, not {argv!r}")
        return cls(name, StdioServer(argv=tuple(argv), env=dict(env or {}), cwd=cwd), **options)

    @classmethod
    def http(cls, name: str, url: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> Self:
        """A server that is reached by streamable HTTP."""
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"the address of an MCP server begins with http:// or https://, not {url!r}")
        return cls(name, HttpServer(url=url, headers=dict(headers or {})), **options)

    async def __aenter__(self) -> Self:
        await self._connection.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def list_tools(self, kernel: Kernel, *, run_id: str, tenant: TenantContext) -> ToolRegistry:
        """The server's tools as this run has them: asked once and recorded, so a resumed run sees the same ones.

        A tool that the server has changed since is refused when it is called. Raises `StepFailed` when the server cannot
        be reached or lists what cannot be used; the next pass asks again.
        """
        step = f"{self.name}.list_tools"

        async def ask(_: dict[str, Any], __: ToolExecutionContext) -> list[dict[str, Any]]:
            return [msgspec.to_builtins(tool) for tool in (await self._connection.tools()).values()]

        lister = ToolRegistry([SchemaTool(ask, name=step, policy=_READ_ONLY)])
        listed = await kernel.step_tool(
            run_id=run_id, tenant=tenant, tool_name=step, step_key=step, tools=lister, retry_failed_step=True
        )
        self._take(msgspec.convert(listed.result, list[Listed]))
        return self.registry()

    def registry(self) -> ToolRegistry:
        """The tools as they were listed. Raises `UsageError` before `list_tools`."""
        if self._registry is None:
            raise UsageError(f"the tools of {self.name} are not known yet; call `await tools.list_tools(kernel, …)` first")
        return self._registry

    def _take(self, listed: list[Listed]) -> None:
        if len(listed) > MAX_TOOLS:
            raise UsageError(f"{self.name} lists {len(listed)} tools, which is over the limit of {MAX_TOOLS}")
        unknown = sorted(set(self._policies) - {tool.name for tool in listed})
        if unknown:
            raise NotFound(f"{self.name} has no tool {', '.join(map(repr, unknown))}, though there is a policy for it")
        self._listed = {tool.name: tool for tool in listed}
        self._registry = ToolRegistry(self._tool(tool) for tool in listed)

    def _tool(self, listed: Listed) -> SchemaTool:
        async def call(arguments: dict[str, Any], context: ToolExecutionContext) -> Any:
            return await self._call(listed, arguments, context)

        name = _NOT_IN_NAMES.sub("_", self._prefix + listed.name)[:64]
        schema: JSONSchema = listed.input_schema
        return SchemaTool(call, name=name, description=listed.description, input_schema=schema, policy=self._policy(listed))

    def _policy(self, listed: Listed) -> ToolTraits:
        believed = self._trust_hints and listed.read_only
        return self._policies.get(listed.name) or (_READ_ONLY if believed else self._default)

    # Calling

    async def _call(self, listed: Listed, arguments: dict[str, Any], context: ToolExecutionContext) -> Any:
        try:
            present = (await self._connection.tools()).get(listed.name)
        except Lost as error:
            raise ToolRejected(f"{self.name} cannot be reached, so nothing was done: {error}") from error
        if present is None or _signature(present) != _signature(listed):
            what = "is gone" if present is None else "has another description or schema"
            raise ToolRejected(f"{listed.name} of {self.name} {what} since this run listed it; give the work a new run")
        try:
            answer = await self._connection.call(listed.name, arguments, context.idempotency_key, timeout=self._timeout)
        except Lost as error:
            if self._policy(listed).side_effect:
                raise OutcomeUnknown(f"{self.name} was asked for {listed.name} and did not answer: {error}") from error
            raise KernelError(f"{self.name} did not answer: {error}") from error
        size = len(msgspec.json.encode(answer.value))
        if size > self._limit:
            raise KernelError(f"{listed.name} answered {size:,} bytes, which is over the limit of {self._limit:,}")
        if answer.is_error:
            raise KernelError(answer.text or f"{listed.name} failed without saying why")
        return answer.value


def _signature(tool: Listed) -> str:
    return digest_of((tool.name, tool.description, tool.input_schema))
