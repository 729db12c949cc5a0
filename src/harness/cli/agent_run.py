"""`harness run <agent>`: starts a session and shows it here, in tmux, or not at all; with `--watch` it is looked after.

Loads as little as it can: the host gets ready while the settings are read.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from typing import TYPE_CHECKING

from harness import home as places
from harness.cli.agent_words import AgentWords
from harness.errors import HarnessError, ProcessError, UsageError
from harness.leaving_out import leaving_out
from harness.sessions import AgentDied, Launched, Launching

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from harness.repo import Worktree
    from harness.sessions import LaunchRequest, SessionSettings
    from harness.settings import Settings


def run(words: AgentWords) -> int:
    """Do what was asked; gives the exit code."""
    gc.disable()  # a detached start is over before there is anything to collect
    try:
        return _run(words)
    finally:
        gc.enable()


def _run(words: AgentWords) -> int:
    _check_together(words)
    worktree = "worktree" in words.optional
    launching = None if worktree else Launching(name=words.values.get("id") or words.agent)
    with leaving_out("typing_extensions"):  # a quarter of what is loaded here
        import msgspec as _  # noqa: F401
    try:
        settings, section = _settings(words)
        listening = _listening(words)
        request = _request(words, settings, section, port=listening.getsockname()[1] if listening is not None else 0)
        if worktree:
            request, launching = _in_worktree(words, request, settings), Launching(name=request.id or words.agent)
        assert launching is not None
        launched = launching.finish(request)
    except AgentDied as died:
        return _died(died, words)
    except BaseException:
        if launching is not None:
            launching.abandon()
        raise
    if listening is not None:
        _open_door(words, settings, launched, listening)
    return _show(words, settings, launched, request)


def _listening(words: AgentWords) -> socket.socket | None:
    """The session's own web door, taken before anything is started: a port in use is an error then."""
    port = words.whole("port", most=65_535)
    if port is None:
        return None
    from harness.cli.session_door import check_port

    return check_port(words.values.get("host", "127.0.0.1"), port)


def _check_together(words: AgentWords) -> None:
    """Refuse combinations that cannot be meant, and a start from nowhere."""
    if places.here() is None:
        raise HarnessError(f"{places.GONE}, for an agent works in it")
    watched = "watch" in words.optional and words.optional["watch"] is None
    for name in ("preset", "stall-after", "max-resumes"):
        if name in words.values and not watched:
            raise UsageError(f"--{name} belongs to --watch, which is not given")
    if watched and "detach" in words.flags:
        raise UsageError("--watch stays in the foreground, so it cannot be combined with --detach")
    if "host" in words.values and "port" not in words.values:
        raise UsageError("--host needs a --port for the session's web door")
    if watched:
        from harness.cli.agent_watch import policy_of

        policy_of(words)
    if "tmux" in words.optional:
        from harness.cli.tmux import check_tmux

        check_tmux()
    words.json("meta")


def _settings(words: AgentWords) -> tuple[Settings, SessionSettings]:
    from harness.sessions import SessionSettings
    from harness.settings import load_settings, prepare_home

    settings = load_settings(home=words.values.get("home"))
    section = settings.section("sessions", SessionSettings)
    prepare_home(settings.home)
    return settings, section


def _request(words: AgentWords, settings: Settings, section: SessionSettings, *, port: int) -> LaunchRequest:
    from pathlib import Path

    from harness.sessions import LaunchRequest

    cwd = Path.cwd()
    attended = _attended(words)
    columns, rows = _window() if attended else (120, 40)
    ttl, wall, patience = words.duration("inbox-ttl"), words.duration("max-wall"), words.duration("timeout")
    resumed = words.values.get("resume", "")
    follows, vendor = _resumed(settings, resumed) if resumed else ("", "")
    return LaunchRequest(
        home=str(settings.home), database=settings.database, cli=words.agent, agent_args=tuple(words.agent_args),
        id=words.values.get("id"), mode=words.values.get("mode"), cwd=str(cwd), repo=str(_repository(cwd)),
        description=words.values.get("description", ""), meta=words.json("meta"), context=words.values.get("context", ""),
        max_budget_usd=words.number("max-budget-usd"), max_turns=words.whole("max-turns", least=1),
        max_wall_seconds=wall, inbox_ttl_seconds=ttl if ttl is not None else section.inbox_ttl_seconds,
        columns=columns, rows=rows, attended=attended, tmux=_window_name(words) if "tmux" in words.optional else "",
        timeout_seconds=patience if patience is not None else section.start_seconds, follows=follows, vendor_session=vendor,
        watch_file=_watch_file(words, cwd), spawner_pane=os.environ.get("TMUX_PANE", ""), port=port,
        approvals={
            "allow": section.allow, "deny": section.deny, "ask": section.ask, "deadline_seconds": section.approval_seconds,
        },
        transcript_max_bytes=section.transcript_megabytes << 20, transcript_keep=section.transcript_files,
    )  # fmt: skip


def _attended(words: AgentWords) -> bool:
    """Whether a person sits at it: in the foreground, and nobody else watches."""
    return not ({"detach"} & words.flags or "tmux" in words.optional or _watching(words))


def _watching(words: AgentWords) -> bool:
    return "watch" in words.optional and words.optional["watch"] is None


def _window() -> tuple[int, int]:
    """The size of this terminal; a headless one is 120 x 40."""
    for stream in (sys.stdout, sys.stdin):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed ones are none at all
            columns, rows = os.get_terminal_size(stream.fileno())
            if columns and rows:
                return columns, rows
    return 120, 40


def _repository(cwd: Path) -> Path:
    """The root of the repository that a directory is in, or the directory itself."""
    return next((folder for folder in (cwd, *cwd.parents) if (folder / ".git").exists()), cwd)


def _watch_file(words: AgentWords, cwd: Path) -> str:
    given = words.values.get("watch-file") or words.optional.get("watch")
    if not given:
        return ""
    path = (cwd / given).absolute()
    if not path.parent.is_dir():
        raise UsageError(f"--watch-file {given}: there is no folder {path.parent}, so nothing could ever appear in it")
    return str(path)


def _window_name(words: AgentWords) -> str:
    return words.optional.get("tmux") or words.values.get("id") or words.agent


def _resumed(settings: Settings, name: str) -> tuple[str, str]:
    """What `--resume` means: one of our sessions by id or key, or a vendor's session by its own id."""
    import asyncio

    from harness.errors import NotFound
    from harness.ledger import open_store
    from harness.sessions.client import Sessions

    async def look() -> tuple[str, str]:
        async with open_store(settings.database, create=True) as store:
            try:
                session = await Sessions(store, settings.home).get(name)
            except NotFound:
                return "", name
            if not session.vendor_session:
                raise HarnessError(f"session {name!r} has no session of its program's own that could be continued")
            return session.key, session.vendor_session

    return asyncio.run(look())


def _in_worktree(words: AgentWords, request: LaunchRequest, settings: Settings) -> LaunchRequest:
    """Start in a worktree of the session's own."""
    import asyncio
    from pathlib import Path

    from msgspec.structs import replace

    from harness.sessions import check_id, free_id

    id_ = check_id(request.id) if request.id else free_id(settings.home)
    tree = asyncio.run(_worktree(Path(request.cwd), settings.home / "worktrees" / id_, id_, words.optional["worktree"]))
    return replace(request, id=id_, cwd=str(tree.path), worktree=str(tree.path), branch=tree.branch)


async def _worktree(repository: Path, path: Path, id_: str, branch: str | None) -> Worktree:
    """That of an earlier run of this id, or a new one. Raises `HarnessError` where there can be none."""
    from harness.repo import Git, Worktrees

    git = Git(repository)
    if not (await git.try_run("rev-parse", "--git-dir")).ok:
        raise HarnessError(f"--worktree needs a git repository, and {repository} is in none")
    if not (await git.try_run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")).ok:
        raise HarnessError(f"--worktree needs a commit, and {repository} has none yet")
    trees = Worktrees(repository)
    found = await trees.find(path)
    if found is None or not found.whole:
        return await trees.add(path, branch=branch or f"harness/{id_}")
    if branch not in (None, found.branch):
        raise HarnessError(
            f"{path} is there already, on branch {found.branch or 'none'}: leave the branch out, choose another --id, "
            f"or remove it with 'git worktree remove {path}'"
        )
    return found


def _died(died: AgentDied, words: AgentWords) -> int:
    """An agent that ended at once: where it ran in the foreground, its output and its code are ours."""
    if _attended(words):
        from harness.sessions import Folder
        from harness.sessions.client.viewing import show_all
        from harness.settings import load_settings

        show_all(Folder(home=load_settings(home=words.values.get("home")).home, key=died.key))
        return 1 if died.code is None else died.code
    if "json" in words.flags or "detach" in words.flags:
        import json

        print(json.dumps({"ok": False, "error": str(died), "code": died.code, "tail": died.tail}))
    print(f"harness: {' '.join(str(died).split())}", file=sys.stderr)
    return 1


def _show(words: AgentWords, settings: Settings, launched: Launched, request: LaunchRequest) -> int:
    import json

    line = json.dumps(
        {
            "ok": True, "id": launched.id, "cli": launched.cli, "pid": launched.pid, "host_pid": launched.host_pid,
            "mode": "headless", "transport": launched.mode, "key": launched.key, "log": launched.log,
            "output_log_path": launched.log,
        }
    )  # fmt: skip
    if "tmux" in words.optional:
        from harness.cli.tmux import show_in_tmux

        try:
            show_in_tmux(launched, settings.home, name=_window_name(words))
        except ProcessError:
            print(line, flush=True)  # the session runs all the same
            raise
    if not (_watching(words) or _attended(words)):
        print(line, flush=True)
        gc.freeze()  # nor at the end, which would look through all that was loaded
        return 0
    gc.enable()
    if _watching(words):
        from harness.cli.agent_watch import watch

        return watch(words, settings, launched, request)
    return _view(settings, launched)


def _view(settings: Settings, launched: Launched) -> int:
    """Show it here until it ends. At a terminal every key goes to the agent; elsewhere an interrupt means to stop it."""
    from harness.sessions.client.viewing import view

    try:
        return view(settings, launched.key, ours=True)
    except KeyboardInterrupt:
        import asyncio

        from harness.ledger import open_store
        from harness.sessions.client import Sessions

        async def stop() -> None:
            async with open_store(settings.database, actor="foreground", create=False) as store:
                sessions = Sessions(store, settings.home)
                await sessions.stop(launched.key, by="foreground", reason="interrupted", timeout_seconds=10)
                await sessions.ended(launched.key)

        asyncio.run(stop())
        raise


def _open_door(words: AgentWords, settings: Settings, launched: Launched, listening: socket.socket) -> None:
    from harness.cli.session_door import open_door

    address = open_door(settings, launched.key, host=words.values.get("host", "127.0.0.1"), listening=listening)
    print(f"harness: {address}", file=sys.stderr)
