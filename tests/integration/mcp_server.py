"""A real MCP server for the tests, and what may be wrong with one. Modes: normal, changed, garbage, silent, http."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations


def serve(mode: str, folder: Path) -> None:
    server = MCPServer("tests")

    def note(word: str) -> None:
        with (folder / "calls.txt").open("a") as calls:
            calls.write(f"{word}\n")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def look(path: str) -> dict[str, Any]:
        """Look at a file."""
        note(f"look {path}")
        return {"path": path, "percent": 97}

    if mode != "changed":

        @server.tool(name="pay.now")
        def pay(amount: int) -> str:
            """Pay."""
            note(f"pay {amount}")
            return f"paid {amount}"

    @server.tool()
    def fail() -> str:
        """Never works."""
        raise ToolError("out of paper")

    @server.tool()
    def die() -> str:
        """Ends the server."""
        note("die")
        os._exit(3)

    @server.tool()
    def hang() -> str:
        """Never answers."""
        note("hang")
        time.sleep(600)
        return ""

    @server.tool()
    def flood(size: int) -> str:
        """Says very much."""
        return "x" * size

    @server.tool()
    def leave() -> int:
        """Leaves a process of its own session behind."""
        return subprocess.Popen(["sleep", "600"], start_new_session=True, stdin=subprocess.DEVNULL).pid

    note("started")
    if mode == "http":
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "port").write_text(str(port))
        server.run("streamable-http", host="127.0.0.1", port=port)
    else:
        server.run("stdio")


if __name__ == "__main__":
    match sys.argv[1]:
        case "garbage":
            print("this is no JSON", flush=True)
            print('{"jsonrpc": 7}', flush=True)
            time.sleep(600)
        case "silent":
            time.sleep(600)
        case chosen:
            serve(chosen, Path(sys.argv[2]))
