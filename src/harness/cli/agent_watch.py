"""`harness run <agent> --watch`: looks after the session from the foreground, and starts it anew when the ladder says so."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.cli.agent_words import AgentWords
from harness.errors import ProcessError
from harness.sessions import Launched, LaunchRequest, launch

if TYPE_CHECKING:
    from harness.sessions.watch.policy import Policy
    from harness.settings import Settings

_INTERRUPTED = 130


def watch(words: AgentWords, settings: Settings, launched: Launched, request: LaunchRequest) -> int:
    """Watch until it ends, or a person has to be told; gives the exit code. Ctrl-C ends the watch, not the session."""
    return asyncio.run(_watch(policy_of(words), settings, launched, request))


def policy_of(words: AgentWords) -> Policy:
    """The patience that was asked for. Raises `UsageError`."""
    from harness.sessions.watch.policy import policy

    return policy(
        preset=words.values.get("preset"), stall_after=words.values.get("stall-after"),
        max_resumes=words.values.get("max-resumes"),
    )  # fmt: skip


async def _watch(policy: Policy, settings: Settings, launched: Launched, request: LaunchRequest) -> int:
    from harness.ledger import open_store
    from harness.sessions import Watcher
    from harness.sessions.client import Sessions
    from harness.sessions.watch.succession import successor

    async with open_store(settings.database, actor="watch", create=False) as store:
        sessions = Sessions(store, Path(settings.home))

        async def relaunch(kind: Literal["vendor", "fresh"], text: str) -> str:
            before = await sessions.get(launched.id)
            again = successor(request, before, text=text, vendor_session=before.vendor_session if kind == "vendor" else "")
            return (await asyncio.to_thread(_launch_and_show, again, settings)).key

        watcher = Watcher(store, sessions, launched.key, policy, say=_say, relaunch=relaunch)
        watching = asyncio.ensure_future(watcher.run())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, watching.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            return await watching
        _say(f"harness watch: no longer watched; {launched.id} goes on: 'harness stop --id {launched.id}' ends it")
        return _INTERRUPTED


def _launch_and_show(request: LaunchRequest, settings: Settings) -> Launched:
    """Start it, in a window if the run before had one. Raises `HarnessError` if it cannot be started."""
    launched = launch(request)
    if request.tmux:
        from harness.cli.tmux import show_in_tmux

        try:
            show_in_tmux(launched, settings.home, name=request.tmux)
        except ProcessError as error:  # the session runs all the same
            _say(f"harness watch: {error}")
    return launched


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
