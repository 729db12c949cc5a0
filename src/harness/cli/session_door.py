"""`harness run … --port`: a web door for one session, in a process of its own, which ends with the session.

Its port is taken here, so that a taken one is an error before anything is started, and handed on open: whoever asks the door
before it is ready waits a moment. Loads no web framework; `main` is that process.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

from harness.errors import HarnessError, UsageError

if TYPE_CHECKING:
    import socket

    from harness.settings import Settings

ADDRESS_FILE = "door.json"
"""In the session's folder, for its owner alone: where its door is, and its token."""
_LIBRARIES = ("fastapi", "nicegui", "uvicorn")
_NOT_ITS_OWN = ("HARNESS_TAG", "HARNESS_SPAWN", "HARNESS_SOCKETS")  # by these others would take it for a process of theirs


def check_port(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Take a port for `open_door`. Raises `AddressTaken`, `HarnessError`; closing what is given lets go of it."""
    from importlib.util import find_spec

    from harness.web.server import listen

    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise HarnessError(f"a web door needs {', '.join(missing)}: pip install 'agentharness[web]'")
    return listen(host, port)


def open_door(
    settings: Settings, key: str, *, host: str = "127.0.0.1", port: int | None = None, listening: socket.socket | None = None
) -> str:
    """Open a door for one session and give its address, with the token in it. `listening` is what `check_port` gave.

    Raises `AddressTaken`, `HarnessError`.
    """
    from harness.sessions import Folder, write_private

    if listening is None and port is None:
        raise UsageError("a session's web door needs a port")
    with listening or check_port(host, port or 0) as taken:
        token = secrets.token_urlsafe(24)
        folder = Folder(home=settings.home, key=key).path
        port = int(taken.getsockname()[1])
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}"
        request = {
            "home": str(settings.home), "database": settings.database, "key": key, "host": host, "token": token,
            "socket": taken.fileno(),
        }  # fmt: skip
        pid = _start(request, str(folder / "door.log"))
    told = {"address": address, "host": host, "port": port, "token": token, "pid": pid}
    with contextlib.suppress(OSError):
        write_private(folder / ADDRESS_FILE, json.dumps(told))
    return address


def _start(request: dict[str, Any], log: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_ITS_OWN}
    environment["HARNESS_SPAWN"] = os.urandom(8).hex()  # a tree of its own: it outlives a session that opens it
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        door = subprocess.Popen(
            [sys.executable, "-m", "harness.cli.session_door", request["key"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=descriptor,
            env=environment,
            pass_fds=(request["socket"],),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    assert door.stdin is not None
    with contextlib.suppress(BrokenPipeError), door.stdin as pipe:  # not in the arguments, which everybody can read
        pipe.write(json.dumps(request).encode())
    door.returncode = 0  # it is on its own from here: never waited for
    return door.pid


def main() -> int:
    """Be the door: the request is read from standard input."""
    import asyncio
    import socket

    from harness.sessions import Folder
    from harness.settings import load_settings
    from harness.web.guard import Access
    from harness.web.server import WebSettings, serve_session

    request = cast("dict[str, Any]", json.loads(sys.stdin.buffer.read()))
    settings = load_settings(home=request["home"], flags={"database": request["database"]})
    web = settings.section("web", WebSettings)
    access = Access(host=request["host"], token=request["token"], names=frozenset(web.names))
    try:
        with socket.socket(fileno=request["socket"]) as listening:
            asyncio.run(serve_session(settings, request["key"], access, listening))
    finally:
        (Folder(home=settings.home, key=request["key"]).path / ADDRESS_FILE).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
