"""Starting a session: a guard process is started, which starts the host, which starts the agent and says so.

It is what `harness run` imports, so it loads neither asyncio nor msgspec. Owns the form of the answer.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from harness.errors import HarnessError, ProcessError, UsageError

if TYPE_CHECKING:
    from harness.sessions.request import LaunchRequest

ANSWER_BYTES = 1 << 20
_GIVE_UP_SECONDS = 5.0
_GUARD = os.path.join(os.path.dirname(__file__), "guard.py")  # noqa: PTH118, PTH120 - by its path it starts sooner than by -m
_SPAWN = "HARNESS_SPAWN"
_OURS = ("HARNESS_TAG", _SPAWN, "HARNESS_SOCKETS")
INHERITED = (
    "HARNESS_SESSION_ID", "HARNESS_SESSION_CLI", "HARNESS_ID", "HARNESS_SESSION_REPO_ROOT",
    "HARNESS_DESCRIPTION", "HARNESS_SPAWNER_PANE",
)  # fmt: skip
"""What a session tells its agent; a session that the agent starts has its own."""


class Launched(NamedTuple):
    """A session that is registered and whose agent runs."""

    id: str
    key: str
    cli: str
    pid: int
    host_pid: int
    guard_pid: int
    mode: str
    log: str
    folder: str


class NotRegistered(ProcessError):
    """Nothing was registered within the time that a start was given; what was started is ended."""

    exit_code = 124

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no session was registered within {seconds:g} s; what was started is ended")


class AgentDied(ProcessError):
    """The agent ended as soon as it was started; `code` is its exit code, `tail` its last output."""

    def __init__(self, message: str, *, key: str, code: int | None, tail: str) -> None:
        super().__init__(message)
        self.key = key
        self.code = code
        self.tail = tail


class IdTaken(HarnessError):
    """A living session has the id."""


class Launching:
    """A host that is getting ready while its request is still being made: both take time, and there are two cores.

    `environment` is the agent's (default: this process's). End it with `finish` or `abandon`.
    """

    def __init__(self, *, environment: Mapping[str, str] | None = None, name: str = "") -> None:
        self._environment = environment
        given = dict(os.environ if environment is None else environment)
        told = {word: value for word, value in given.items() if word not in INHERITED and word not in _OURS}
        told[_SPAWN] = os.urandom(8).hex()  # a tree of its own: it outlives a session from within which it is started
        self._started = subprocess.Popen(
            [sys.executable, "-P", _GUARD, *([name] if name else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_importable(told),
            start_new_session=True,
        )

    def finish(self, request: LaunchRequest) -> Launched:
        """Start the session and return when it is registered. It outlives this process.

        Raises `UsageError` for a bad request, `ProcessError` if the program cannot be started, `NotRegistered` if that takes
        too long, `AgentDied` if it ended at once, `HarnessError` naming the pid if the id is in use. Nothing is left then.
        """
        import msgspec

        guard = self._started
        assert guard.stdin is not None
        assert guard.stdout is not None
        with guard.stdin, guard.stdout:
            with contextlib.suppress(BrokenPipeError):
                guard.stdin.write(msgspec.json.encode(request))
                guard.stdin.close()
            lines = _lines(guard.stdout.fileno(), 2, request.timeout_seconds)
        guard.wait()
        if lines is None:
            raise NotRegistered(request.timeout_seconds)
        try:
            return _read(lines[-1])
        except IdTaken:
            if request.id is not None:
                raise
        return launch(request, environment=self._environment)  # somebody drew the same at the same time

    def abandon(self) -> None:
        """Nothing is to be started after all: without a request the host ends by itself. Idempotent."""
        for pipe in (self._started.stdin, self._started.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._started.wait()


def launch(request: LaunchRequest, *, environment: Mapping[str, str] | None = None) -> Launched:
    """Start a session at once; see `Launching`."""
    return Launching(environment=environment, name=request.id or request.cli).finish(request)


def _importable(environment: dict[str, str]) -> dict[str, str]:
    """Let the guard find this package where it was found by path alone."""
    root = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))  # noqa: PTH118, PTH120 - no pathlib yet
    if root in sys.path and "site-packages" not in root:
        rest = environment.get("PYTHONPATH")
        return {
            **environment,
            "HARNESS_SESSION_PYTHONPATH": rest or "",
            "PYTHONPATH": f"{root}{os.pathsep}{rest}" if rest else root,
        }
    return environment


def _lines(descriptor: int, count: int, seconds: float) -> list[bytes] | None:
    """The guard's pid and the host's answer; None if the time is over, and then they are told to end.

    Fewer lines if they ended without a word.
    """
    deadline = time.monotonic() + seconds
    held = b""
    try:
        while held.count(b"\n") < count and len(held) < ANSWER_BYTES:
            part = _part(descriptor, deadline)
            if part is None:
                _give_up(descriptor, held)
                return None
            if not part:
                break
            held += part
    except BaseException:  # such as Ctrl-C: nobody would know of what is being started
        _give_up(descriptor, held)
        raise
    return held.splitlines() or [b""]


def _part(descriptor: int, deadline: float) -> bytes | None:
    """What can be read next, empty at the end; None if it does not come in time."""
    left = deadline - time.monotonic()
    return os.read(descriptor, 65536) if left > 0 and select.select([descriptor], [], [], left)[0] else None


def _give_up(descriptor: int, held: bytes) -> None:
    """The guard, which says its pid at once, ends all that it has started, and itself, when it is asked to."""
    deadline = time.monotonic() + _GIVE_UP_SECONDS
    while b"\n" not in held and (part := _part(descriptor, deadline)):
        held += part
    told = held.partition(b"\n")[0]
    if not (b"\n" in held and told.isdigit()):
        return
    if not hasattr(os, "pidfd_open"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(told), signal.SIGTERM)
        return
    with contextlib.suppress(OSError):  # it is gone already
        guard = os.pidfd_open(int(told))
        try:
            signal.pidfd_send_signal(guard, signal.SIGTERM)
            select.select([guard], [], [], max(deadline - time.monotonic(), 0))
        finally:
            os.close(guard)


def _read(line: bytes) -> Launched:
    if not line.startswith(b"{"):  # nothing came after the guard's pid
        raise ProcessError("the session's host ended before it had registered; look at its host.log")
    import msgspec

    told = cast("dict[str, Any]", msgspec.json.decode(line))
    if told.get("ok"):
        names = Launched._fields
        return Launched(**{name: told[name] for name in names})
    message = str(told.get("error", "the session could not be started"))
    if "code" in told:
        raise AgentDied(message, key=str(told.get("key", "")), code=told["code"], tail=str(told.get("tail", "")))
    raise (UsageError if told.get("usage") else IdTaken if told.get("taken") else HarnessError)(message)
