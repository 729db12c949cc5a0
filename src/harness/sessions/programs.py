"""The agent programs that are known by name, and what is done for any other command: arguments, modes, dialects.

Owns the choice of the mode and of what a mode needs; what a program's own flags are is its dialect's.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from harness.errors import UsageError
from harness.processes import RotatingLog, Size
from harness.sessions.dialects.base import LineDialect
from harness.sessions.dialects.plain import PlainDialect
from harness.sessions.facts import Mode
from harness.sessions.ids import Folder
from harness.sessions.request import LaunchRequest
from harness.sessions.transports.base import Transport
from harness.sessions.transports.pipes import PipesSpec, PipesTransport


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a session's program runs and where its output goes."""

    folder: Folder
    cwd: Path
    env: Mapping[str, str]
    tag: str
    size: Size
    transcript: RotatingLog
    errors: RotatingLog


_STATE_EVENTS = {"CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1"}  # for a wrapper around a program that knows it

Make = Callable[[Place], Transport]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How a program is run. `make` gives its transport."""

    mode: Mode
    argv: tuple[str, ...]
    make: Make
    vendor_session: str = ""  # chosen by us, or continued
    queue_context: bool = False  # the first message is sent rather than given as an argument
    env: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])


def plan(request: LaunchRequest, *, id_: str) -> Plan:
    """Decide how the program of a request is run. Raises `UsageError` for a mode that it does not have."""
    mode = _mode(request)
    context = f"[harness session id={id_}] {request.context}" if request.context else ""
    name = Path(request.cli).name
    if name == "claude":
        return _claude(request, mode, context)
    if name == "codex":
        return _codex(request, mode, context)
    return _command(request, mode, context)


def _mode(request: LaunchRequest) -> Mode:
    try:
        given = Mode(request.mode) if request.mode else None
    except ValueError as error:
        raise UsageError(f"--mode is one of {', '.join(Mode)}, not {request.mode!r}") from error
    if given is not None:
        return given
    if request.attended or request.tmux:
        return Mode.PTY
    return {"claude": Mode.STREAM, "codex": Mode.APP_SERVER}.get(Path(request.cli).name, Mode.PTY)


def _claude(request: LaunchRequest, mode: Mode, context: str) -> Plan:
    from harness.sessions.dialects.claude_launch import Wishes, command_line
    from harness.sessions.dialects.claude_stream import ClaudeStream

    wishes = Wishes(
        prompt="" if mode is Mode.STREAM else context,
        session="" if request.vendor_session else str(uuid.uuid4()),
        resume=request.vendor_session,
        max_budget_usd=request.max_budget_usd,
    )
    line = command_line(mode, program=request.cli, agent_args=request.agent_args, wishes=wishes)
    if mode is Mode.PTY:
        make = terminal(line.argv, "claude")
    else:
        make = pipes(
            line.argv,
            lambda: ClaudeStream(mode, resumed=bool(request.vendor_session)),
            name=str(mode),
            talks=mode is Mode.STREAM,
        )
    return Plan(
        mode=mode,
        argv=line.argv,
        make=make,
        vendor_session=line.vendor_session,
        queue_context=mode is Mode.STREAM,
        env=line.env,
    )


def _codex(request: LaunchRequest, mode: Mode, context: str) -> Plan:
    from harness.sessions.dialects.codex.server import CodexServer
    from harness.sessions.dialects.codex_exec import CodexExec
    from harness.sessions.dialects.codex_launch import Wishes, command_line

    wishes = Wishes(
        prompt="" if mode is Mode.APP_SERVER else context, resume=request.vendor_session, cwd=str(Path(request.cwd).absolute())
    )
    line = command_line(mode, program=request.cli, agent_args=request.agent_args, wishes=wishes)
    match mode:
        case Mode.PTY:
            make = terminal(line.argv, "codex", vendor_session=line.vendor_session)
        case Mode.APP_SERVER:
            make = pipes(line.argv, lambda: CodexServer(line.thread), name=str(mode))
        case _:
            resumed = bool(request.vendor_session)
            make = pipes(line.argv, lambda: CodexExec(model=line.model, resumed=resumed), name=str(mode), talks=False)
    return Plan(mode=mode, argv=line.argv, make=make, vendor_session=line.vendor_session, queue_context=mode is Mode.APP_SERVER)


def _command(request: LaunchRequest, mode: Mode, context: str) -> Plan:
    if request.vendor_session and mode in (Mode.PTY, Mode.ONCE):
        name = Path(request.cli).name
        raise UsageError(f"{name} cannot continue a session of its own: nobody knows how to ask it to; leave out --resume")
    argv = (request.cli, *request.agent_args)
    prompted = (*argv, *([context] if context else []))
    match mode:
        case Mode.PTY:
            return Plan(mode=mode, argv=prompted, make=terminal(prompted, Path(request.cli).name))
        case Mode.STREAM:
            return Plan(
                mode=mode, argv=argv, make=pipes(argv, _claude_dialect, name="stream"), queue_context=True, env=_STATE_EVENTS
            )
        case Mode.APP_SERVER:
            return Plan(mode=mode, argv=argv, make=pipes(argv, _codex_dialect(request), name="app-server"), queue_context=True)
        case Mode.ONCE:
            return Plan(mode=mode, argv=prompted, make=pipes(prompted, PlainDialect, name="once", talks=False))


def pipes(argv: tuple[str, ...], dialect: Callable[[], LineDialect], *, name: str, talks: bool = True) -> Make:
    """A transport over pipes."""

    def make(place: Place) -> Transport:
        spec = PipesSpec(argv=argv, env=dict(place.env), cwd=place.cwd, tag=place.tag, name=name, input=talks)
        return PipesTransport(spec, dialect(), transcript=place.transcript, errors=place.errors)

    return make


def terminal(argv: tuple[str, ...], profile: str, *, vendor_session: str = "") -> Make:
    """A program on a terminal of our own, watched and typed to as its profile says."""

    def make(place: Place) -> Transport:
        from harness.sessions.transports.profiles import profile_of
        from harness.sessions.transports.terminal import TerminalSpec, TerminalTransport

        spec = TerminalSpec(
            argv=argv, env=place.env, cwd=place.cwd, tag=place.tag, size=place.size, folder=place.folder.path,
            profile=profile_of(profile, place.folder.home), home=place.folder.home,
            vendor_session=vendor_session,
        )  # fmt: skip
        return TerminalTransport(spec, transcript=place.transcript)

    return make


def _codex_dialect(request: LaunchRequest) -> Callable[[], LineDialect]:
    from harness.sessions.dialects.codex.options import ThreadOptions
    from harness.sessions.dialects.codex.server import CodexServer

    options = ThreadOptions(cwd=str(Path(request.cwd).absolute()), resume=request.vendor_session)
    return lambda: CodexServer(options)


def _claude_dialect() -> LineDialect:
    from harness.sessions.dialects.claude_stream import ClaudeStream

    return ClaudeStream()
