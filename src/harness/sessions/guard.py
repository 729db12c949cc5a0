"""The guard of a session: it starts the host, and if that dies it ends the agent's tree and has the end recorded.

It is forked before anything heavy is imported and stays small. It inherits orphans (as their subreaper), waits for exits
and does nothing else. The owner of the record is whoever buries the session (`host.burying`), a child of its own.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from importlib import import_module
from types import FrameType

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
_MAX_DEED = 65536


def main() -> int:
    """Start the host, which reads its request from stdin and answers on stdout, and stay until all is over.

    The process that was started ends at once, so that nobody has to reap us; the first line on stdout is our pid.
    """
    if os.fork():
        os._exit(0)
    os.write(1, b"%d\n" % os.getpid())
    _hear_all_signals()
    _become_subreaper()
    _restore_path()
    deed, will = os.pipe()  # what the host has taken on is told here, for whoever has to bury it
    guard = os.getpid()
    host = os.fork()
    if host == 0:
        os.close(deed)
        _run_host(will, guard)
    os.close(will)
    _let_go()
    _pass_on(host)
    status = _wait_for(host)
    _pass_on(None)
    taken_on = os.read(deed, _MAX_DEED)
    if os.waitstatus_to_exitcode(status) != 0:
        _bury(taken_on)
    _end_children(_tag_of(taken_on))
    return 0


def _hear_all_signals() -> None:
    """Whoever starts us in the background of a script lets us ignore some, and the agent would, too: a Ctrl-C ended nothing."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _restore_path() -> None:
    """The agent gets the caller's own PYTHONPATH, not the one by which this package was found."""
    given = os.environ.pop("HARNESS_SESSION_PYTHONPATH", None)
    if given:
        os.environ["PYTHONPATH"] = given
    elif given is not None:
        os.environ.pop("PYTHONPATH", None)


def _become_subreaper() -> None:
    import ctypes

    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _run_host(will: int, guard: int) -> None:
    """In the child: be the host; never returns."""
    code = 1
    gc.disable()  # until everything is loaded and frozen: none of it will ever be garbage
    try:
        from harness.leaving_out import leaving_out

        with leaving_out("ssl", "_hashlib", "typing_extensions"):
            for name in ("asyncio", "msgspec", "hashlib"):
                import_module(name)
        from harness.sessions.host.main import run

        code = run(request=os.dup(0), answer=os.dup(1), will=will, guard_pid=guard)
    finally:
        os._exit(code)


def _let_go() -> None:
    """The answer's pipe is the host's alone, so that whoever waits for it sees its end."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _pass_on(host: int | None) -> None:
    """Whoever asks the guard to end asks the host, which does it in good order; without one there is nobody to ask."""

    def tell(number: int, _frame: FrameType | None) -> None:
        if host is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(host, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _wait_for(pid: int) -> int:
    """Reap whoever exits until this child does; its status."""
    while True:
        try:
            found, status = os.waitpid(-1, 0)
        except InterruptedError:
            continue
        if found == pid:
            return status


def _bury(deed: bytes) -> None:
    """Have a child end the tree and write down what is known; it is a child so that its imports cost only then."""
    if not deed:  # it died before it had taken anything on
        return
    child = os.fork()
    if child == 0:
        code = 1
        try:
            from harness.sessions.host.burying import bury_for_guard

            code = bury_for_guard(deed)
        finally:
            os._exit(code)
    _wait_for(child)


def _tag_of(deed: bytes) -> bytes:
    """The mark of the agent's tree; that of nobody if the host had not taken anything on."""
    import json

    return f"session/{json.loads(deed)['key']}".encode() if deed else b""


def _end_children(tag: bytes) -> None:
    """End whoever was left to us from the agent's tree, but not what was started from within it to live apart."""
    while ours := [pid for pid in _children() if not _lives_apart(pid, tag)]:
        for pid in ours:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        os.waitpid(-1, 0)


def _lives_apart(pid: int, tag: bytes) -> bool:
    """Whether it carries marks, and none of the agent's: as the guard of another session does."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 - no pathlib here
            words = file.read().split(b"\0")
    except OSError:
        return False
    marked = any(word.startswith(b"HARNESS_SPAWN=") for word in words)
    return marked and b"HARNESS_TAG=" + tag not in words


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:  # noqa: PTH123 - no pathlib here
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())
