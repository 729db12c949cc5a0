"""The demo's stage: a temporary home, free ports, and a supervisor of its own, which is taken down to the last process.

Never touches a process or a port that it did not start itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from harness.processes import Process

SERVICE = "rate_limiter"
WEB_PORT, SERVICE_PORT = 8000, 8001
_TAG = "harness-demo"
_STOP_SECONDS = 15.0
_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL")


class StageFailed(HarnessError):
    """The demo's supervisor did not come up, or ended too early."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """What is running, and where."""

    root: Path
    web_port: int
    service_port: int
    moved: tuple[int, ...] = ()  # the usual ports that somebody else has
    supervisor: Process | None = None
    claims: list[socket.socket] = field(default_factory=list[socket.socket])  # of the ports, against other demos
    output: bytearray = field(default_factory=bytearray)

    @property
    def home(self) -> Path:
        return self.root / ".harness"

    @property
    def database(self) -> Path:
        return self.home / "harness.db"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    @property
    def tag(self) -> str:
        return f"{_TAG}:{self.root.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaked:
    """What was left behind, which is to be nothing."""

    processes: int
    ports: int


def set_up(*, model: str, raised_limits: bool) -> Stage:
    """Make the home and choose ports; nothing is started yet."""
    from harness.cli.preflight import missing_parts

    for problem in missing_parts():
        raise UsageError(problem)
    _check_model(model)
    claims: list[socket.socket] = []
    web, service = free_port(WEB_PORT, claims), free_port(SERVICE_PORT, claims)
    moved = tuple(wanted for wanted, got in ((WEB_PORT, web), (SERVICE_PORT, service)) if wanted != got)
    root = Path(tempfile.mkdtemp(prefix="harness-demo-"))
    stage = Stage(root=root, web_port=web, service_port=service, moved=moved, claims=claims)
    try:
        _furnish(stage, model, raised_limits=raised_limits)
    except OSError:
        remove(stage)
        _let_go(stage)
        raise
    return stage


def _check_model(model: str) -> None:
    """Refuse a model that could not be asked, before anything is started."""
    from harness.recovery.attempts import port_named

    try:
        port_named(model)
    except HarnessError as error:
        raise UsageError(f"--model: {error}") from error


def _furnish(stage: Stage, model: str, *, raised_limits: bool) -> None:
    from harness.recovery import demo_toml

    text = demo_toml(port=stage.service_port, raised_limits=raised_limits)
    text += f"\n[web]\nport = {stage.web_port}\n\n[monitor]\nmodel = {json.dumps(model)}\n"
    text += f"\n[agent]\nmodel = {json.dumps(model)}\nmodel_seconds = 30\n"
    (stage.root / "harness.toml").write_text(text, encoding="utf-8")
    stage.home.mkdir(mode=0o700)


def free_port(wanted: int, claims: list[socket.socket]) -> int:
    """The wanted port if nobody has it and no other demo is about to, else any free one."""
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", wanted))
        if _claimed(wanted, claims):
            return wanted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _claimed(port: int, claims: list[socket.socket]) -> bool:
    """Claim a port among the demos of this machine, by a name without a file that goes with its process."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0{_TAG}:{port}")
    except OSError as problem:
        claim.close()
        return problem.errno != errno.EADDRINUSE  # where there are no such names, the port itself has to do
    claims.append(claim)
    return True


async def start(stage: Stage) -> None:
    """Start the supervisor as a process of its own; it starts the rest."""
    from harness.processes import Spec, clean_env, spawn

    environment = clean_env({"HARNESS_HOME": str(stage.home), "PYTHONUNBUFFERED": "1"}, keep=_KEYS)
    kept = {name: value for name, value in environment.items() if not name.startswith("HARNESS_") or name == "HARNESS_HOME"}
    argv = (sys.executable, "-m", "harness", "run", "--home", str(stage.home), "--demo")
    spec = Spec(argv=argv, tag=stage.tag, cwd=stage.root, env=kept)
    stage.supervisor = await spawn(spec, on_output=stage.output.extend)


async def ended_early(stage: Stage) -> None:
    """Return never; raise `StageFailed` when the supervisor ends before it is told to."""
    assert stage.supervisor is not None
    await stage.supervisor.wait()
    said = bytes(stage.output).decode(errors="replace").strip().splitlines()
    raise StageFailed("the demo's supervisor has ended: " + (said[-1] if said else "it said nothing"))


async def take_down(stage: Stage, *, hurry: asyncio.Event) -> Leaked:
    """End everything, in good order unless there is a hurry, and count what is left."""
    from harness.processes import find

    if stage.supervisor is not None:
        stage.supervisor.signal(signal.SIGTERM)
        await _until(stage.supervisor, hurry)
        await stage.supervisor.stop(grace_seconds=0.0 if hurry.is_set() else 1.0)
    leaked = Leaked(processes=len(find(stage.tag)) + len(_of_home(stage)), ports=_held(stage))
    await _clear_away(stage)
    _let_go(stage)
    return leaked


async def _until(supervisor: Process, hurry: asyncio.Event) -> None:
    gone, hurried = asyncio.ensure_future(supervisor.wait()), asyncio.ensure_future(hurry.wait())
    try:
        await asyncio.wait({gone, hurried}, timeout=_STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiting in (gone, hurried):
            waiting.cancel()


def _of_home(stage: Stage) -> list[object]:
    from harness.processes import find
    from harness.recovery.supervisor.launch import home_tag

    return list(find(home_tag(stage.home)))


def _held(stage: Stage) -> int:
    """How many of our ports are still listened on, unless it is plainly somebody else who took one since."""
    from harness.processes import read_environment
    from harness.recovery.supervisor.launch import port_holder

    held = [port_holder(f"127.0.0.1:{port}") for port in (stage.web_port, stage.service_port)]
    pids = [holder[1] for holder in held if holder is not None]
    return sum(pid is None or read_environment(pid).get("HARNESS_HOME") == str(stage.home) for pid in pids)


async def _clear_away(stage: Stage) -> None:
    """End what a failed end has left, and remove the home."""
    from harness.processes import end_tagged, find
    from harness.recovery.supervisor.launch import home_tag

    for tag in {found.tag for found in [*find(stage.tag), *find(home_tag(stage.home))]}:
        await end_tagged(tag, grace_seconds=0.0)


def _let_go(stage: Stage) -> None:
    """Other demos may have the ports now."""
    for claim in stage.claims:
        claim.close()


def remove(stage: Stage) -> None:
    """Remove the home and everything in it."""
    shutil.rmtree(stage.root, ignore_errors=True)
    if stage.root.exists():
        raise HarnessError(f"{stage.root} could not be removed")


def is_interactive() -> bool:
    """Whether somebody sits at a terminal and may press keys."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
