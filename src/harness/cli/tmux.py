"""A window in tmux that shows a session. tmux owns the window only: the agent belongs to its host, and outlives it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ProcessError

if TYPE_CHECKING:
    from harness.sessions import Launched

SESSION = "harness"
_SECONDS = 10.0


def check_tmux() -> None:
    """Raises `ProcessError` if there is no tmux here."""
    if shutil.which("tmux") is None:
        raise ProcessError('"tmux" not found — is it installed and on your PATH?')


def show_in_tmux(launched: Launched, home: Path, *, name: str) -> str:
    """Open a window in the tmux that we are in, or else in its session `harness`; gives the pane's id.

    The session goes on if that fails, which raises `ProcessError`.
    """
    command = shlex.join(["env", f"HARNESS_HOME={home}", sys.executable, "-m", "harness", "attach", "--id", launched.key])
    shown = ("-P", "-F", "#{pane_id}", "-n", name, command)
    if os.environ.get("TMUX"):
        ways = [("new-window", "-d", *shown)]
    else:
        there = ("new-window", "-d", "-t", f"={SESSION}:", *shown)
        # the last is for when another one has just made it
        ways = [there, ("new-session", "-d", "-x", "120", "-y", "40", "-s", SESSION, *shown), there]
    told = ""
    for words in ways:
        code, told = _tmux(*words)
        if code == 0:
            return told
    raise ProcessError(
        f"tmux opens no window: {told or 'it does not say why'}; the session runs: 'harness attach --id {launched.id}' shows it"
    )


def _tmux(*words: str) -> tuple[int, str]:
    """tmux's exit code and what it says.

    It may leave a server behind, which is to stay, and belongs neither to us nor to a session that we are run in.
    """
    from harness.sessions import INHERITED

    environment = {name: value for name, value in os.environ.items() if name not in (*INHERITED, "HARNESS_TAG")}
    environment["HARNESS_SPAWN"] = os.urandom(8).hex()
    try:
        done = subprocess.run(
            ["tmux", *words], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 124, f"it has not answered for {_SECONDS:g} s"
    return done.returncode, done.stdout.strip()
