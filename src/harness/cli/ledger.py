"""`harness ledger`: verify, read, seal, export, import, erase and rebuild the record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import ledger_runs
from harness.cli.app import App
from harness.cli.opening import execute, reading, settings_of, writing
from harness.cli.options import Home, Json
from harness.cli.output import ago, json_line, line, note, now_us, plain, table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from harness.errors import NotFound
    from harness.ledger import Event, Store, Verification, View

app = App("Verify, read, seal, export and import the record; replay, fork and compare runs.")

Stream = Annotated[str, typer.Argument(metavar="STREAM", help="A stream's name, such as item/4711.", show_default=False)]


@app.command()
def verify(
    stream: Annotated[str | None, typer.Argument(metavar="STREAM", help="One stream; all without it.")] = None,
    seal: Annotated[list[Path] | None, typer.Option(help="Also compare with this seal; may be repeated.")] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Recompute every hash and say where history was changed, if it was.

    Ends with 0 if all of it verifies, with 1 if not.

    \b
    Examples:
      harness ledger verify
      harness ledger verify item/4711 --json
      harness ledger verify --seal .harness/seals/0001.json
    """

    async def work() -> Verification:
        from harness.errors import NotFound

        async with reading(home) as store:
            try:
                return await store.verify(stream, seals=tuple(seal or ()))
            except NotFound as error:
                raise await no_stream(store, stream or "") from error

    found = execute(work)
    if as_json:
        json_line(found)
    elif found.ok:
        line(f"verified: {found.events} events in {found.streams} streams")
    else:
        for problem in found.problems:
            place = problem.stream if problem.seq is None else f"{problem.stream}#{problem.seq}"
            line(f"{problem.kind}: {plain(place)}: {plain(problem.detail)}")
        note(f"not verified: {len(found.problems)} problems in {found.events} events of {found.streams} streams")
    raise typer.Exit(0 if found.ok else 1)


@app.command()
def events(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="A stream; item/ is all that begin so, / is all.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until interrupted.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Only events with a higher sequence.")] = 0,
    kind: Annotated[list[str] | None, typer.Option("--type", help="Only events of this type; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", hidden=True)] = True,
    home: Home = None,
) -> None:
    """Print a stream's events as JSON lines, oldest first.

    \b
    Examples:
      harness ledger events service/rate_limiter
      harness ledger events incident/ --follow
      harness ledger events / --type item.claimed
    """

    async def work() -> None:
        async with reading(home) as store:
            found = _followed(store, stream, tuple(kind or ())) if follow else _recorded(store, stream, tuple(kind or ()))
            async for event in found:
                if event.seq > after and (stream.endswith("/") or event.stream == stream):
                    json_line(event_json(event))

    execute(work)


def _prefixes(stream: str) -> tuple[str, ...]:
    return () if stream == "/" else (stream,)


def _followed(store: Store, stream: str, types: tuple[str, ...]) -> AsyncIterator[Event]:
    return store.follow(streams=_prefixes(stream), types=types)


async def _recorded(store: Store, stream: str, types: tuple[str, ...]) -> AsyncIterator[Event]:
    from harness.ledger import START

    known = await store.heads("".join(_prefixes(stream))) if stream.endswith("/") else await store.head(stream)
    if not known:
        raise await no_stream(store, stream)
    cursor = START
    while page := await store.read_all(after=cursor, streams=_prefixes(stream), types=types):
        for event in page:
            yield event
        cursor = page[-1].cursor


async def no_stream(store: Store, stream: str) -> NotFound:
    """What is said of a stream that is not there; who gave an id alone is told the stream's whole name."""
    from harness.errors import NotFound

    for kind in ("run", "item", "incident", "service", "question"):
        if await store.head(f"{kind}/{stream}") is not None:
            return NotFound(f"no stream {stream!r} in {store.location}; did you mean '{kind}/{stream}'?")
    return NotFound(f"no stream {stream!r} in {store.location}; 'harness ledger streams' lists them")


def event_json(event: Event) -> dict[str, object]:
    """An event as the command line and the API show it."""
    from harness.clock import iso

    return {
        "position": event.position,
        "stream": event.stream,
        "seq": event.seq,
        "type": event.type,
        "time": iso(event.ts),
        "ts": event.ts,
        "actor": event.actor,
        "tenant": event.tenant,
        "parent": event.parent,
        "key": event.key,
        "schema": event.schema,
        "payload": None if event.erased else event.payload,
        "erased": event.erased,
        "digest": event.digest.hex(),
        "prev": event.prev.hex(),
        "hash": event.hash.hex(),
    }


@app.command()
def streams(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only streams whose names begin so.")] = "",
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List the streams and how far each has come.

    \b
    Examples:
      harness ledger streams
      harness ledger streams incident/ --json
    """

    async def work() -> list[dict[str, object]]:
        async with reading(home) as store:
            heads = await store.heads(prefix)
            return [{"stream": head.stream, "events": head.seq, "hash": head.hash.hex(), "ts": head.ts} for head in heads]

    found = execute(work)
    if as_json:
        json_line(found)
        return
    now = now_us()
    rows = [(head["stream"], head["events"], ago(int(str(head["ts"])), now), str(head["hash"])[:12]) for head in found]
    table(("stream", "events", "last", "hash"), rows, empty="no streams")


@app.command()
def seal(
    out: Annotated[Path | None, typer.Option(help="Folder for the seal; the home's seals/ without it.")] = None,
    key: Annotated[Path | None, typer.Option(help="Private key (PEM); without it that of the home, which is made.")] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Write a signed statement of what the ledger holds now.

    Copy it to where nobody here can change it: only then a cut or rewritten ledger is found out.

    \b
    Examples:
      harness ledger seal
      harness ledger seal --out /mnt/elsewhere --key ~/keys/harness.pem
    """

    async def work() -> Path:
        from harness.errors import LedgerError
        from harness.ledger import signing_key, write_seal

        place = settings_of(home).home
        async with writing(home) as store:
            if key is not None and not key.exists():
                raise LedgerError(f"{key}: no such key; without --key one is made in {place}")
            return await write_seal(store, out or place / "seals", signing_key(key or place / "seal-key.pem"))

    path = execute(work)
    if as_json:
        json_line({"seal": str(path)})
    else:
        line(f"sealed: {path}")


@app.command()
def export(
    streams: Annotated[list[str], typer.Argument(metavar="STREAM", help="One stream or several.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle's file; stdout without it.")] = None,
    home: Home = None,
) -> None:
    """Write streams as JSON lines that verify on their own.

    \b
    Examples:
      harness ledger export item/4711 -o ticket.jsonl
      python tools/verify_bundle.py ticket.jsonl
    """

    async def work() -> None:
        async with reading(home) as store:
            await write_bundle(store, streams, out)

    execute(work)


async def write_bundle(store: Store, streams: Sequence[str], out: Path | None) -> None:
    """Export streams into a file, which appears only when it is whole, or to stdout, a device or a pipe."""
    from harness.ledger import export_bundle

    for stream in streams:
        if await store.head(stream) is None:
            raise await no_stream(store, stream)
    lines = [text async for text in export_bundle(store, streams)]
    if out is None:
        for text in lines:
            line(text)
        return
    _write(out, "\n".join(lines) + "\n")
    note(f"{out}: {len(lines) - 2} events of {len(streams)} streams")


def _write(out: Path, text: str) -> None:
    in_place = out.is_symlink() or (out.exists() and not out.is_file())  # /dev/stdout, a pipe; a folder says what it is
    unfinished = out if in_place else out.with_name(out.name + ".new")
    try:
        unfinished.write_text(text, encoding="utf-8")
        if not in_place:
            unfinished.replace(out)
    except OSError as error:
        error.filename = str(out)
        raise
    finally:
        if not in_place:
            unfinished.unlink(missing_ok=True)


@app.command(name="import")
def import_(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A file that export wrote.")],
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Verify a bundle and take its streams into this ledger, as they are.

    \b
    Examples:
      harness ledger import ticket.jsonl
    """

    async def work() -> dict[str, int]:
        from harness.errors import LedgerError
        from harness.ledger import parse_bundle

        try:
            text = bundle.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise LedgerError(f"{bundle}: not a bundle: {error.reason} at byte {error.start}") from error
        try:
            found = parse_bundle(text)
        except LedgerError as error:
            raise LedgerError(f"{bundle}: {error}") from error
        async with writing(home) as store:
            await store.restore([event for events in found.values() for event in events])
        return {stream: len(events) for stream, events in found.items()}

    taken = execute(work)
    if as_json:
        json_line({"streams": taken})
    else:
        line(f"imported: {sum(taken.values())} events of {len(taken)} streams")


@app.command()
def erase(
    stream: Stream,
    seq: Annotated[int, typer.Argument(metavar="SEQ", min=1, help="The event's number in the stream.")],
    reason: Annotated[str, typer.Option(help="Why; it is recorded.", show_default=False)],
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Remove one event's payload for good. The chain stays valid, and the erasing is recorded.

    \b
    Examples:
      harness ledger erase item/4711 3 --reason "personal data"
    """

    async def work() -> Event:
        async with writing(home) as store:
            return await store.erase(stream, seq, reason=reason)

    recorded = execute(work)
    if as_json:
        json_line(event_json(recorded))
    else:
        line(f"erased: {stream}#{seq}; recorded as {recorded.ref}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What rebuilding or checking the derived tables found."""

    ok: bool
    views: list[str]
    differing: list[str]  # tables that were not as the events say
    folded: int


@app.command()
def rebuild(
    check: Annotated[bool, typer.Option("--check", help="Only compare; change nothing.")] = False,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Fold the tables that answer questions anew from the events, or compare them.

    \b
    Examples:
      harness ledger rebuild --check
      harness ledger rebuild
    """

    async def work() -> Rebuilt:
        views = known_views()
        async with reading(home) if check else writing(home) as store:
            store.register(*views)
            differing = await store.check(*views)
            folded = 0 if check else await store.rebuild(*views)
        return Rebuilt(ok=not (check and differing), views=[view.name for view in views], differing=differing, folded=folded)

    found = execute(work)
    if as_json:
        json_line(found)
    elif check:
        line("the same as the events" if found.ok else f"differing: {', '.join(found.differing)}")
    else:
        line(f"rebuilt: {', '.join(found.views)} from {found.folded} events")
    raise typer.Exit(0 if found.ok else 1)


def known_views() -> list[View]:
    """Every table that this version derives from events."""
    from harness.kernel import PROGRESS_VIEW, RUNS_VIEW
    from harness.people import QUESTIONS_VIEW
    from harness.recovery.history import ENVELOPE_VIEW
    from harness.sessions import SESSIONS_VIEW
    from harness.work import ITEM_VIEW

    return [ITEM_VIEW, QUESTIONS_VIEW, ENVELOPE_VIEW, RUNS_VIEW, PROGRESS_VIEW, SESSIONS_VIEW]


for command in ledger_runs.COMMANDS:
    app.command()(command)
