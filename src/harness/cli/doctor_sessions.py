"""What `harness doctor` says of sessions and of the agent programs: what they need, what they left behind, what can be had.

Looks, and changes nothing. What a program can do is found out by `sessions.probing`, and what it does by
`sessions.trials`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.findings import Finding

if TYPE_CHECKING:
    from harness.ledger import Store
    from harness.sessions.client import Row
    from harness.sessions.probing import Found, Probed
    from harness.sessions.trials import Trial
    from harness.settings import Settings

_WAL_BYTES = 256 << 20  # a ledger's own is checkpointed at some megabytes
_FREE_BYTES = 512 << 20
_SHOWN = 5
_MIB = 1 << 20


def tmux() -> Finding:
    """Windows of sessions are tmux's."""
    path = shutil.which("tmux")
    return Finding(name="tmux", state="ok" if path else "missing", detail=path or "`harness run … --tmux` needs it")


def files(settings: Settings) -> Iterable[Finding]:
    """The disk below the home, and what the ledger keeps beside itself."""
    free = shutil.disk_usage(settings.home).free
    room = Finding(name="disk", state="ok", detail=f"{free // _MIB} MiB are free")
    yield room if free >= _FREE_BYTES else Finding(name="disk", state="broken", detail=f"only {free // _MIB} MiB are free")
    wal = Path(f"{settings.database}-wal")
    if "://" not in settings.database and wal.exists():
        size = wal.stat().st_size
        held = "" if size < _WAL_BYTES else f": a reader that does not end holds it back; see who has {settings.database} open"
        yield Finding(name="ledger's WAL", state="broken" if held else "ok", detail=f"{size // _MIB} MiB{held}")


async def sessions(store: Store, settings: Settings) -> list[Finding]:
    """Sessions without anybody who owns them, and processes whose session is over."""
    from harness.sessions.client import Sessions
    from harness.sessions.facts import State

    rows = await Sessions(store, settings.home).list(live=None)
    living = [row for row in rows if row.live]
    lost = [row for row in living if row.state == State.LOST]
    found = [Finding(name="sessions", state="ok", detail=f"{len(living) - len(lost)} run")]
    if lost:
        words = f"the hosts of {_some([row.id for row in lost])} have died: `harness gc` records their end and frees their ids"
        found.append(Finding(name="lost sessions", state="broken", detail=words))
    left = _orphans(rows)
    if left:
        words = f"{_some(left)} still run though their sessions are over; end them by their pid"
        found.append(Finding(name="orphans", state="broken", detail=words))
    return found


def _orphans(rows: Sequence[Row]) -> list[str]:
    """Processes that carry the tag of a session of this ledger that is over; those of other homes are none of ours."""
    from harness.processes import find
    from harness.sessions.facts import stream_of

    over = {stream_of(row.key): row.id for row in rows if not row.live}
    return [f"pid {one.identity.pid} of {over[one.tag]}" for one in find(stream_of("")) if one.tag in over]


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def agents(as_json: bool) -> int:
    """Print which agent programs are installed and what they show signs of; the exit code is 1 if one is broken."""
    from harness.cli.findings import show
    from harness.cli.opening import execute
    from harness.cli.output import json_line
    from harness.sessions.probing import KNOWN, probe_programs

    probed = execute(probe_programs)
    if as_json:
        json_line([_document(each) for each in probed])
        return 1 if any(each.problem for each in probed) else 0
    absent = [name for name in KNOWN if name not in {each.program for each in probed}]
    missing = [Finding(name=name, state="missing", detail="not on PATH") for name in absent]
    return show([*(line for each in probed for line in _lines(each)), *missing], as_json=False)


def try_agents(as_json: bool) -> int:
    """Run the installed agent programs and print what they do in each mode; the exit code is 1 if one does nothing."""
    from harness.cli.findings import show
    from harness.cli.opening import execute
    from harness.cli.output import json_line
    from harness.sessions.probing import KNOWN

    paths = {name: path for name in KNOWN if (path := shutil.which(name))}
    trials = execute(lambda: _try_all(paths))
    if as_json:
        json_line([_outcome(each, paths[each.program]) for each in trials])
        return 0 if all(map(_worked, trials)) else 1
    missing = [Finding(name=name, state="missing", detail="not on PATH") for name in KNOWN if name not in paths]
    return show([*map(_tried, trials), *missing], as_json=False)


async def _try_all(paths: Mapping[str, str]) -> list[Trial]:
    """One after the other, saying which: each takes some seconds."""
    from harness.sessions.trials import MODES, try_program

    trials: list[Trial] = []
    for program, path in paths.items():
        for mode in MODES[program]:
            print(f"trying {program} in mode {mode} …", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="harness-try-", ignore_cleanup_errors=True) as folder:
                trials.append(await try_program(program, path, mode, Path(folder)))
    return trials


def _tried(trial: Trial) -> Finding:
    """What it does, and what it does not, in a line."""
    does = " ".join(name for name, has in trial.does.items() if has)
    lacks = " ".join(name for name, has in trial.does.items() if not has)
    words = f"{trial.version}: {does or 'nothing'}{f'; not {lacks}' if lacks else ''}"
    if trial.problem:
        words += f"; cut short: {trial.problem}"
    return Finding(name=f"{trial.program} {trial.mode}", state="ok" if _worked(trial) else "broken", detail=words)


def _worked(trial: Trial) -> bool:
    return not trial.problem and any(trial.does.values())


def _outcome(trial: Trial, path: str) -> dict[str, object]:
    return {
        "program": trial.program,
        "path": path,
        "version": trial.version or None,
        "mode": str(trial.mode),
        "does": dict(trial.does),
        "problem": trial.problem or None,
    }


def _lines(probed: Probed) -> Iterable[Finding]:
    if probed.problem:
        yield Finding(name=probed.program, state="broken", detail=f"{probed.path}: {probed.problem}")
        return
    yield Finding(name=probed.program, state="ok", detail=f"{probed.version}, {probed.path}")
    for each in probed.found:
        yield Finding(name=f"  {each.name}", state="ok" if each.has else "missing", detail=_sign(each))


def _sign(found: Found) -> str:
    return found.sign if found.has else f"no sign of {found.sign}"


def _document(probed: Probed) -> dict[str, object]:
    """All that was found, and the modes by themselves, which is what most readers want."""
    found = [{"name": each.name, "has": each.has, "sign": each.sign} for each in probed.found]
    return {
        "program": probed.program,
        "path": probed.path,
        "version": probed.version or None,
        "modes": list(probed.modes),
        "found": found,
        "problem": probed.problem or None,
    }
