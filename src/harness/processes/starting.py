"""Starting a process as the leader of its own session, and taking over one that a dead owner has left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.errors import ProcessError
from harness.processes import output as pipes
from harness.processes import pty, reaper, system
from harness.processes.environment import SOCKETS, TAG, clean_env, marked, new_spawn_word, words_of
from harness.processes.identity import Identity, read_environment
from harness.processes.output import Follower
from harness.processes.process import Ends, Process
from harness.processes.rotating import RotatingLog
from harness.processes.tree import Tree


class Spec(NamedTuple):
    """What to start, and how its ends are held."""

    argv: tuple[str, ...]
    tag: str  # what it is for; found again by `find`
    cwd: Path | None = None  # None: ours
    env: Mapping[str, str] | None = None  # complete; None: clean_env()
    pty: pty.Size | None = None  # a terminal of this size as stdin, stdout and stderr
    stdin: bool = False  # a pipe for `write`; otherwise /dev/null
    sockets: tuple[int, ...] = ()  # descriptors it inherits under the same numbers, told in HARNESS_SOCKETS
    output: Path | None = None  # a FIFO to make here, so that it outlives us and the next owner reads on; None: a pipe
    detached: bool = False  # no part of the tree that we run in ourselves: it is not ended with us


async def spawn(
    spec: Spec, *, on_output: Follower | None = None, on_error: Follower | None = None, log: RotatingLog | None = None
) -> Process:
    """Start it and drain its output to `log` and `on_output`, in order and without loss.

    stderr joins stdout unless `on_error` is given; it then has its own pipe (or FIFO, `NAME.err`).
    Raises `ProcessError` if the program, the directory or the terminal cannot be had; nothing is left then.
    """
    _check(spec)
    word = new_spawn_word()
    wires = _wire(spec, split=on_error is not None)
    try:
        pid = _start(spec, wires, word)
        reaper.own_child(pid)
        try:
            identity = Identity.of(pid)
            process = _process(identity, wires, (on_output, on_error), log, tag=spec.tag, word=word, child=True)
        except BaseException:
            _undo(pid)
            raise
    except BaseException:
        wires.close()
        raise
    reaper.watch_orphans()
    return process


async def adopt(
    identity: Identity,
    *,
    tag: str,
    output: Path | int | None = None,
    on_output: Follower | None = None,
    on_error: Follower | None = None,
    log: RotatingLog | None = None,
) -> Process:
    """Take over a process that another owner started: read its FIFO on (or a terminal's descriptor), watch it, stop it.

    It is not our child, so its exit code stays unknown, and its stdin ended with its owner. One that has exited meanwhile
    is adopted as exited, so that `stop` ends what it left. Raises `ProcessError` if it carries another tag.
    """
    environment = read_environment(identity.pid) if identity.alive() else {}
    if environment.get(TAG, tag) != tag:
        raise ProcessError(f"process {identity.pid} is {environment[TAG]!r}, not {tag!r}: it is not adopted")
    word = (words_of(environment) or ("",))[-1]
    wires = _reopen(identity, output, split=on_error is not None)
    try:
        process = _process(identity, wires, (on_output, on_error), log, tag=tag, word=word, child=False)
    except BaseException:
        wires.close(keep_fifos=True)
        raise
    reaper.watch_orphans()
    return process


class _Wires:
    """Descriptors that nobody owns yet: the program's, which are closed once it has them, and our ends of them."""

    def __init__(self, *, program: Sequence[int] = (), reading: Sequence[int] = (), terminal: bool = False) -> None:
        self.program = [*program]  # stdin, stdout, stderr; the last may be missing: as stdout
        self.reading = [*reading]
        self.writing: int | None = None
        self.terminal = terminal
        self.fifos: list[Path] = []

    def close(self, *, keep_fifos: bool = False) -> None:
        """Undo all of it."""
        self.close_program_side()
        for fd in self.reading if self.writing is None else [*self.reading, self.writing]:
            os.close(fd)
        self.reading, self.writing = [], None
        for fifo in () if keep_fifos else self.fifos:
            pipes.remove_fifo(fifo)

    def close_program_side(self) -> None:
        for fd in self.program:
            os.close(fd)
        self.program = []


def _check(spec: Spec) -> None:
    if not spec.argv or not spec.argv[0]:
        raise ProcessError(f"{spec.tag}: there is no command to start")
    if not spec.tag:
        raise ProcessError(f"{spec.argv[0]}: a process needs a tag, so that it can be found again")
    if spec.pty is not None and spec.output is not None:
        raise ProcessError(f"{spec.tag}: a process has a terminal or a FIFO, not both")
    if spec.cwd is not None and not spec.cwd.is_dir():
        raise ProcessError(f"{spec.cwd}: the working directory does not exist")
    _find_program(spec.argv[0], spec)


def _find_program(name: str, spec: Spec) -> None:
    """Refuse what cannot be started, in the words of a person; the child itself searches again."""
    environment = os.environ if spec.env is None else spec.env
    if os.sep in name:
        path = (spec.cwd or Path()) / name
        if not path.exists():
            raise ProcessError(f'"{name}" does not exist')
        if path.is_dir() or not os.access(path, os.X_OK):
            raise ProcessError(f'"{name}" is not a program that can be run')
    elif system.find_program(name, environment.get("PATH", os.defpath)) is None:
        raise ProcessError(f'"{name}" not found — is it installed and on your PATH?')


def _wire(spec: Spec, *, split: bool) -> _Wires:
    wires = _Wires()
    try:
        if spec.pty is not None:
            ours, theirs = pty.open_pty(spec.pty)
            return _Wires(program=[theirs], reading=[ours], terminal=True)
        _wire_input(spec, wires)
        for suffix in ("", ".err") if split else ("",):
            _wire_output(_beside(spec.output, suffix), wires)
    except OSError as error:
        wires.close()
        raise ProcessError(f"{spec.tag}: cannot make its pipes: {error.strerror or error}") from error
    except BaseException:
        wires.close()
        raise
    return wires


def _wire_input(spec: Spec, wires: _Wires) -> None:
    if spec.stdin:
        theirs, wires.writing = os.pipe()
        wires.program.append(theirs)
    else:
        wires.program.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def _wire_output(path: Path | None, wires: _Wires) -> None:
    if path is None:
        ours, theirs = pipes.open_pipe()
    else:
        ours, theirs = pipes.make_fifo(path)
        wires.fifos.append(path)
    wires.reading.append(ours)
    wires.program.append(theirs)


def _beside(path: Path | None, suffix: str) -> Path | None:
    return None if path is None else path.with_name(path.name + suffix)


def _start(spec: Spec, wires: _Wires, word: str) -> int:
    """Start it; without a function to run in the child, Python uses vfork, so a big owner costs no more than a small one."""
    environment = dict(clean_env() if spec.env is None else spec.env)
    environment = marked(environment, tag=spec.tag, word=word, detached=spec.detached)
    argv, in_child = spec.argv, None
    if spec.pty is not None:
        if spec.env is None or "TERM" not in environment:  # ours says what our own terminal is, if any
            environment["TERM"] = "xterm-256color"
        argv, in_child = pty.controlling(spec.argv)
    if spec.sockets:
        environment[SOCKETS] = ",".join(map(str, spec.sockets))
    program = wires.program
    try:
        started = subprocess.Popen(
            argv,
            cwd=spec.cwd,
            env=environment,
            stdin=program[0],
            stdout=program[1] if len(program) > 1 else program[0],
            stderr=program[-1],
            pass_fds=spec.sockets,
            start_new_session=spec.pty is None,
            preexec_fn=in_child,
        )
    except (OSError, ValueError) as error:
        raise ProcessError(f"{spec.argv[0]}: cannot be started: {getattr(error, 'strerror', None) or error}") from error
    started.returncode = 0  # its exit is ours to take, see `Process`
    if spec.pty is None:
        wires.close_program_side()
    return started.pid


def _undo(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    reaper.disown_child(pid)


def _process(
    identity: Identity,
    wires: _Wires,
    followers: tuple[Follower | None, Follower | None],
    log: RotatingLog | None,
    *,
    tag: str,
    word: str,
    child: bool,
) -> Process:
    """Hand the descriptors to those who read and write them, and those to the process."""
    ends = Ends(fifos=tuple(wires.fifos), terminal=wires.reading[0] if wires.terminal else None)
    try:
        if wires.writing is not None:
            ends.feed = pipes.Feed(wires.writing, owns=True)
            wires.writing = None
        for follower in followers[: len(wires.reading)]:
            ends.drains.append(pipes.Drain(wires.reading[0], log=log, follower=follower))
            del wires.reading[0]
        if wires.terminal and ends.terminal is not None:
            ends.feed = pipes.Feed(ends.terminal, owns=False)
            ends.program_side, wires.program = wires.program[0] if wires.program else None, []
        tree = Tree(identity, word=word, tag=tag, outputs=[drain.file for drain in ends.drains])
        return Process(identity, tree, ends, tag=tag, child=child)
    except BaseException:
        ends.close()
        raise


def _reopen(identity: Identity, output: Path | int | None, *, split: bool) -> _Wires:
    wires = _Wires()
    if isinstance(output, int):
        return _Wires(reading=[output], terminal=True)
    for number, suffix in enumerate(("", ".err") if split else ("",), start=1):
        path = _beside(output, suffix)
        if path is not None:
            wires.fifos.append(path)
            fd = _reopen_fifo(path, identity, number)
            if fd is not None:
                wires.reading.append(fd)
    return wires


def _reopen_fifo(path: Path, identity: Identity, number: int) -> int | None:
    """The FIFO by its name, or, if the name is gone, by the process that has it open; None if there is neither."""
    with contextlib.suppress(OSError, ProcessError):
        return pipes.open_fifo(path)
    with contextlib.suppress(OSError, ProcessError):
        return pipes.open_fifo(Path(f"/proc/{identity.pid}/fd/{number}"), follow=True)
    if identity.alive():
        raise ProcessError(f"{path}: the output of process {identity.pid} cannot be read on: its FIFO is gone")
    return None
