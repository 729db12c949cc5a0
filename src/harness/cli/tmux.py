"""A window in tmux that shows a session. tmux owns the window only: the agent belongs to its host, and outlives it."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ProcessError

if TYPE_CHECKING:
    from harness.sessions import Launched

SESSION = "harness"
_SECONDS = 10.0


def show_in_tmux(launched: Launched, home: Path, *, name: str) -> str:
    """Open a window in the tmux that we are in, or else in its session `harness`; gives the pane's id.

    The session goes on if that fails, which raises `ProcessError`.
    """
    return asyncio.run(_open(launched, home, name))


async def _open(launched: Launched, home: Path, name: str) -> str:
    command = shlex.join(["env", f"HARNESS_HOME={home}", sys.executable, "-m", "harness", "attach", "--id", launched.key])
    shown = ("-P", "-F", "#{pane_id}", "-n", name, command)
    if os.environ.get("TMUX"):
        return await _tmux("new-window", "-d", *shown, at=launched)
    if (await _try("has-session", "-t", f"={SESSION}"))[0] == 0:
        return await _tmux("new-window", "-d", "-t", f"={SESSION}:", *shown, at=launched)
    return await _tmux("new-session", "-d", "-x", "120", "-y", "40", "-s", SESSION, *shown, at=launched)


async def _tmux(*words: str, at: Launched) -> str:
    code, output = await _try(*words)
    if code != 0:
        told = output.strip() or f"exit code {code}"
        raise ProcessError(f"tmux opens no window: {told}; the session runs: 'harness attach --id {at.id}' shows it")
    return output.strip()


async def _try(*words: str) -> tuple[int, str]:
    from harness.processes import Spec, capture

    spec = Spec(argv=("tmux", *words), tag=f"tmux/{os.getpid()}", env=dict(os.environ), detached=True)
    done = await capture(spec, timeout_seconds=_SECONDS)
    return (124 if done.timed_out else done.exit.code or 0), done.output.decode(errors="replace")
