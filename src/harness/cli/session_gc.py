"""`harness gc`: removing the files of sessions that ended long ago."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import App
from harness.cli.opening import execute, settings_of
from harness.cli.options import Home, Json
from harness.cli.output import json_line, line, now_us, plain
from harness.cli.session_words import opened

if TYPE_CHECKING:
    from harness.sessions.client import Old

app = App()

_DAY_US = 86_400 * 1_000_000


@app.command()
def gc(
    keep_days: Annotated[
        float | None, typer.Option(min=0, max=36_500, help="Keep those that ended within so many days; that of harness.toml.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Remove the files of sessions that ended long ago: transcripts, events.jsonl. What happened stays on the record.

    Sessions whose host died unseen are recorded as lost. Nothing of a session that runs is touched.

    \b
    Examples:
      harness gc --dry-run
      harness gc --keep-days 7
    """
    from harness.sessions import SessionSettings

    days = settings_of(home).section("sessions", SessionSettings).keep_days if keep_days is None else keep_days

    async def work() -> tuple[list[Old], list[str]]:
        async with opened(home, write=not dry_run) as sessions:
            buried = [] if dry_run else await sessions.bury_lost()
            found = await sessions.old_folders(now_us() - round(days * _DAY_US))
            return (found if dry_run else [old for old in found if await sessions.remove(old)]), buried

    removed, buried = execute(work)
    freed = sum(old.size for old in removed)
    if as_json:
        told = [{"session": old.key, "path": str(old.path), "bytes": old.size} for old in removed]
        json_line({"ok": True, "dry_run": dry_run, "removed": told, "bytes": freed, "lost": buried})
        return
    for old in removed:
        line(plain(f"{old.key}  {_mib(old.size)}"))
    line(f"{'would remove' if dry_run else 'removed'} {len(removed)} folders, {_mib(freed)}")
    if buried:
        line(plain(f"recorded as lost: {', '.join(buried[:10])}{' …' if len(buried) > 10 else ''}"))


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
