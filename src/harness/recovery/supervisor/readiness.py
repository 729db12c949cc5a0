"""Whether a service is ready: asked over HTTP, TCP or by a command. Waiting for a line of its log is its unit's part.

A probe answers with a reason, which is empty when the service is ready. Nothing here raises for a service that is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from harness.errors import ProcessError

Probe = Callable[[], Awaitable[str]]

_FIRST_SECONDS = 0.02
_MOST_SECONDS = 0.25
_ASK_SECONDS = 2.0


async def until_ready(probe: Probe, *, timeout_seconds: float, sleep: Callable[[float], Awaitable[None]]) -> str:
    """Ask again and again; an empty reason once it is ready, or the last reason when the time is over."""
    reason = "it was never asked"
    pause = _FIRST_SECONDS
    try:
        async with asyncio.timeout(timeout_seconds):
            while reason := await probe():
                await sleep(pause)
                pause = min(_MOST_SECONDS, pause * 1.5)
    except TimeoutError:
        return reason
    return ""


async def ask_http(url: str) -> str:
    """GET the address; a status of 200 to 399 is ready. Follows nothing and reads the status line only."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    context = None
    if secure:
        import ssl

        context = ssl.create_default_context()
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: harness\r\nConnection: close\r\n\r\n"
    writer = None
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.write(request.encode("latin-1", "replace"))
            words = (await reader.readline()).split()
    except TimeoutError:
        return f"no answer within {_ASK_SECONDS:g} s"
    except (OSError, ValueError) as problem:
        return _words(problem)
    finally:
        _close(writer)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return "what it answers is not HTTP"
    status = int(words[1])
    return "" if 200 <= status < 400 else f"it answers {status}"


async def ask_tcp(address: str) -> str:
    """Connect to `host:port`; being connected is ready."""
    parts = urlsplit(f"tcp://{address}")
    writer = None
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except TimeoutError:
        return f"no connection within {_ASK_SECONDS:g} s"
    except (OSError, ValueError) as problem:
        return _words(problem)
    finally:
        _close(writer)
    return ""


async def ask_command(command: str, *, cwd: Path, env: dict[str, str], tag: str) -> str:
    """Run the command; ending with 0 is ready. It and all it has started are gone when this returns."""
    from harness.processes import Spec, spawn

    process = None
    try:
        process = await spawn(Spec(argv=tuple(shlex.split(command)), cwd=cwd, env=env, tag=tag))
        async with asyncio.timeout(_ASK_SECONDS):
            ended = await process.wait()
    except TimeoutError:
        return f"the command took longer than {_ASK_SECONDS:g} s"
    except (ProcessError, ValueError) as problem:
        return str(problem)
    finally:
        if process is not None:
            with contextlib.suppress(ProcessError):
                await asyncio.shield(process.stop(grace_seconds=0))
    return (
        "" if ended.code == 0 else f"the command ended with {ended.code if ended.signal is None else f'signal {ended.signal}'}"
    )


def _words(problem: Exception) -> str:
    reason = problem.strerror if isinstance(problem, OSError) else None
    return (reason or str(problem) or type(problem).__name__).lower()


def _close(writer: asyncio.StreamWriter | None) -> None:
    if writer is not None:
        writer.close()
