"""An MCP server for the tests, and what may be wrong with one.

Modes: `sdk` and `http` are real servers of the official SDK. The others speak the protocol by hand and start at once:
`normal`, `changed` (without `pay.now`), `garbage` and `silent` (no server at all).
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Unfit(Exception):
    """What a tool says when it does not work."""


def note(word: str) -> None:
    with (Path(sys.argv[2]) / "calls.txt").open("a") as calls:
        calls.write(f"{word}\n")


def look(path: str) -> dict[str, Any]:
    """Look at a file."""
    note(f"look {path}")
    return {"path": path, "percent": 97}


def pay(amount: int) -> str:
    """Pay."""
    note(f"pay {amount}")
    return f"paid {amount}"


def fail() -> str:
    """Never works."""
    raise Unfit("out of paper")


def die() -> str:
    """Ends the server."""
    note("die")
    os._exit(3)


def hang() -> str:
    """Never answers."""
    note("hang")
    time.sleep(600)
    return ""


def flood(size: int) -> str:
    """Says very much."""
    return "x" * size


def leave() -> int:
    """Leaves a process of its own session behind."""
    return subprocess.Popen(["sleep", "600"], start_new_session=True, stdin=subprocess.DEVNULL).pid


TOOLS: dict[str, Callable[..., Any]] = {
    "look": look, "pay.now": pay, "fail": fail, "die": die, "hang": hang, "flood": flood, "leave": leave,
}  # fmt: skip


def serve_by_sdk(mode: str, folder: Path) -> None:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations

    server = MCPServer("tests")

    def refuse() -> str:
        """Never works."""
        raise ToolError("out of paper")

    for name, function in {**TOOLS, "fail": refuse}.items():
        server.tool(name=name, annotations=ToolAnnotations(read_only_hint=name == "look"))(function)
    note("started")
    if mode == "sdk":
        server.run("stdio")
        return
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "port").write_text(str(port))
    server.run("streamable-http", host="127.0.0.1", port=port)


def serve_by_hand(mode: str) -> None:
    tools = {name: function for name, function in TOOLS.items() if mode != "changed" or name != "pay.now"}
    note("started")
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" not in asked:
            continue
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": asked["id"]}
        result = answered(asked["method"], asked.get("params") or {}, tools)
        answer |= {"error": {"code": -32601, "message": "no such method"}} if result is None else {"result": result}
        print(json.dumps(answer), flush=True)


def answered(method: str, params: dict[str, Any], tools: dict[str, Callable[..., Any]]) -> dict[str, Any] | None:
    match method:
        case "initialize":
            about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "tests", "version": "1"}}
            return {"protocolVersion": params["protocolVersion"], **about}
        case "tools/list":
            return {"tools": [declared(name, function) for name, function in tools.items()]}
        case "tools/call":
            try:
                value = tools[params["name"]](**params.get("arguments") or {})
            except Unfit as error:
                return {"content": [{"type": "text", "text": str(error)}], "isError": True}
            structured = value if isinstance(value, dict) else {"result": value}
            return {"content": [{"type": "text", "text": str(value)}], "structuredContent": structured}
        case _:
            return None


def declared(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    kinds = {"str": "string", "int": "integer"}
    wanted = {key: {"type": kinds[str(each.annotation)]} for key, each in inspect.signature(function).parameters.items()}
    schema = {"type": "object", "properties": wanted, "required": [*wanted]}
    hints = {"readOnlyHint": name == "look"}
    return {"name": name, "description": function.__doc__, "inputSchema": schema, "annotations": hints}


if __name__ == "__main__":
    match sys.argv[1]:
        case "garbage":
            print("this is no JSON", flush=True)
            print('{"jsonrpc": 7}', flush=True)
            sys.stdin.read()
        case "silent":
            time.sleep(600)
        case "sdk" | "http" as chosen:
            serve_by_sdk(chosen, Path(sys.argv[2]))
        case chosen:
            serve_by_hand(chosen)
