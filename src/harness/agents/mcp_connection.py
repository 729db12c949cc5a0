"""One connection to an MCP server: opened when it is needed, held by one task, ended with everything it started."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
import msgspec

from harness.errors import KernelError, UsageError

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus
    from mcp import Client, types

T = TypeVar("T")

IDEMPOTENCY_META = "harness/idempotency_key"
_MAX_PAGES = 100
_GRACE_SECONDS = 2.0


class StdioServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server that is a program."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    cwd: Path | None = None


class HttpServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server that is reached by streamable HTTP."""

    url: str
    headers: dict[str, str] = {}


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as its server declares it. `read_only` is its server's word, and nobody else's."""

    name: str
    description: str = ""
    input_schema: dict[str, Any] = {}
    read_only: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool answered."""

    value: Any
    text: str = ""
    is_error: bool = False


class Lost(Exception):
    """The server cannot be reached, is gone, or does not answer in time."""


class Connection:
    """Connects on demand, and again after a loss. Used within the task that opened it and those it starts."""

    def __init__(self, name: str, server: StdioServer | HttpServer, *, timeout: float) -> None:
        self._name = name
        self._server = server
        self._timeout = timeout
        self._group: TaskGroup | None = None
        self._client: Client | None = None
        self._over = anyio.Event()
        self._lock = anyio.Lock()
        self._tools: dict[str, Listed] | None = None

    async def open(self) -> None:
        """Be ready to connect."""
        self._group = anyio.create_task_group()
        await self._group.__aenter__()

    async def close(self) -> None:
        """End the connection and, if it is a program, everything that it started."""
        group, self._group = self._group, None
        if group is not None:
            self._over.set()
            await group.__aexit__(None, None, None)  # what the block raised is nothing that happened here

    async def tools(self) -> dict[str, Listed]:
        """The server's tools, asked once per connection. Raises `Lost`, `KernelError` for a list that makes no sense."""
        client = await self._connected()
        found = self._tools
        if found is None:
            found = self._tools = await self._guarded(client, self._list(client), self._timeout)
        return found

    async def call(self, name: str, arguments: dict[str, Any], key: str, *, timeout: float) -> Answer:
        """Call a tool once. Raises `Lost`, and `KernelError` for what the server refused or answered wrongly."""
        client = await self._connected()
        result = await self._guarded(client, client.call_tool(name, arguments, meta={IDEMPOTENCY_META: key}), timeout)
        return _answer(result)

    async def _list(self, client: Client) -> dict[str, Listed]:
        found: dict[str, Listed] = {}
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await client.list_tools(cursor=cursor, cache_mode="bypass")
            for tool in page.tools:
                if tool.name in found:
                    raise KernelError(f"{self._name} lists two tools named {tool.name!r}")
                hints = tool.annotations
                found[tool.name] = Listed(
                    name=tool.name, description=tool.description or "", input_schema=dict(tool.input_schema),
                    read_only=hints is not None and hints.read_only_hint is True,
                )  # fmt: skip
            cursor = page.next_cursor
            if not cursor:
                return found
        raise KernelError(f"{self._name} lists its tools without end")

    async def _guarded(self, client: Client, work: Awaitable[T], timeout: float) -> T:
        """What the server answers; a connection that failed or hangs is given up."""
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        try:
            with anyio.fail_after(timeout):
                return await work
        except TimeoutError as error:
            self._give_up(client)
            raise Lost(f"no answer within {timeout:g} s") from error
        except MCPError as error:
            if error.error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT):
                self._give_up(client)
                raise Lost(_line(error)) from error
            raise KernelError(f"{self._name} refused: {_line(error)}") from error
        except (OSError, anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            self._give_up(client)
            raise Lost(_line(error)) from error
        except (RuntimeError, ValueError) as error:  # the SDK's words for an answer after no schema
            raise KernelError(f"{self._name} answered what cannot be used: {_line(error)}") from error

    def _give_up(self, client: Client) -> None:
        if self._client is client:
            self._client = self._tools = None
            self._over.set()

    # The task that holds it

    async def _connected(self) -> Client:
        async with self._lock:
            if self._client is None:
                if self._group is None:
                    raise UsageError(f"{self._name} is not open; use its tools within `async with`")
                self._over = anyio.Event()
                self._client = await self._begin(self._group)
            return self._client

    async def _begin(self, group: TaskGroup) -> Client:
        over = self._over
        try:
            with anyio.fail_after(self._timeout):
                return await group.start(self._hold, over)
        except TimeoutError as error:
            over.set()
            raise Lost(f"no connection within {self._timeout:g} s") from error
        except UsageError:
            raise
        except Exception as error:
            raise Lost(_line(error)) from error

    async def _hold(self, over: anyio.Event, *, task_status: TaskStatus[Client]) -> None:
        """Open the connection and keep it until it is over, in one task, as the SDK's scopes want it."""
        started = False
        try:
            async with AsyncExitStack() as stack:
                client = await self._enter(stack)
                started = True
                task_status.started(client)
                await over.wait()
        except Exception:
            if not started:
                raise
            # it was given up already, and whoever called has been told

    async def _enter(self, stack: AsyncExitStack) -> Client:
        try:
            from mcp import Client, StdioServerParameters, stdio_client
        except ModuleNotFoundError as error:
            raise UsageError("MCP needs its SDK; install the extra: pip install 'agentharness[mcp]'") from error
        server = self._server
        if isinstance(server, HttpServer):
            return await stack.enter_async_context(Client(await _http(stack, server)))
        tag, environment = _marked(self._name, server.env)
        stack.push_async_callback(_end, tag)
        program, *arguments = server.argv
        parameters = StdioServerParameters(command=program, args=arguments, env=environment, cwd=server.cwd)
        nowhere = stack.enter_context(Path(os.devnull).open("w"))  # noqa: ASYNC230, SIM115 - no file, and the stack closes it
        return await stack.enter_async_context(Client(stdio_client(parameters, errlog=nowhere)))


async def _http(stack: AsyncExitStack, server: HttpServer) -> Any:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    timeout = httpx2.Timeout(30.0, read=300.0)
    http = httpx2.AsyncClient(headers=server.headers, timeout=timeout, trust_env=False, follow_redirects=False)
    return streamable_http_client(server.url, http_client=await stack.enter_async_context(http))


def _marked(name: str, given: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A tag of its own, and an environment that carries it to every descendant."""
    from harness.processes import marked, new_spawn_word

    word = new_spawn_word()
    tag = f"mcp/{name}/{word}"
    return tag, marked(given, tag=tag, word=word, detached=False)


async def _end(tag: str) -> None:
    """End what the server has left, also what has made itself a session of its own."""
    from harness.processes import end_tagged

    with anyio.CancelScope(shield=True):
        await end_tagged(tag, grace_seconds=_GRACE_SECONDS)


def _answer(result: types.CallToolResult) -> Answer:
    blocks = [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in result.content]
    texts = [block["text"] for block in blocks if block.get("type") == "text"]
    text = "\n".join(texts)
    if result.structured_content is not None:
        return Answer(value=result.structured_content, text=text, is_error=bool(result.is_error))
    value: Any = text if len(texts) == len(blocks) else blocks
    return Answer(value=value, text=text, is_error=bool(result.is_error))


def _line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    words = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
