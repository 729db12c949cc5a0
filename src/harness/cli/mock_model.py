"""`harness mock-model`: serve a scripted model API, so that real agent programs can be rehearsed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import App
from harness.cli.options import Json
from harness.cli.output import clock_time, json_line, line, note, plain

if TYPE_CHECKING:
    from harness.processes import Identity
    from harness.sessions.mock_model import MockModel, Received

app = App()

_LOOK_SECONDS = 0.5  # between looks at the process that it ends with


@app.command(name="mock-model")
def mock_model(
    script: Annotated[Path, typer.Option(metavar="FILE", help="What it says: a .toml or .json file.")],
    host: Annotated[str, typer.Option(help="Interface; beyond loopback everybody there may use it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 0,
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", metavar="FILE", help="Gets the address once it listens.", show_default=False)
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Gets each request whole, as a line of JSON.", show_default=False),
    ] = None,
    parent_pid: Annotated[
        int | None, typer.Option("--parent-pid", min=1, help="End when this process does.", show_default=False)
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the script.")] = False,
    as_json: Json = False,
) -> None:
    """Serve a scripted model API on loopback: Anthropic Messages, OpenAI Responses and Chat Completions.

    Real agent programs run their real tools against it, and nothing is spent. The address is printed first, then a
    line for each request. Ctrl-C or SIGTERM end it. See docs/mock-model.md for the script.

    \b
    Examples:
      harness mock-model --script rehearsal.toml
      harness mock-model --script rehearsal.json --port 8765 --log requests.jsonl
      harness mock-model --script rehearsal.toml --check
    """
    from harness.cli.entries import until_stopped
    from harness.processes import Identity
    from harness.sessions.mock_model import MockModel, is_loopback, read_script

    parsed = read_script(script)
    if check:
        _checked(script, len(parsed.scenarios), as_json)
        return
    parent = None if parent_pid is None else Identity.of(parent_pid)
    model = MockModel(parsed, host=host, port=port, log=log)
    told = _Teller(as_json=as_json)
    model.told = told.request

    def ready() -> None:
        told.address(model.url)
        if not is_loopback(host):
            note(f"harness: everybody who reaches {plain(host)} may use this server and read what it is sent")
        if ready_file is not None:
            _write_whole(ready_file, f"{model.url}\n")

    async def work() -> None:
        await _serve(model, ready, parent)

    raise typer.Exit(until_stopped(work))


def _checked(script: Path, named: int, as_json: bool) -> None:
    if as_json:
        json_line({"ok": True, "script": str(script), "scenarios": named})
    else:
        line(plain(f"{script}: a script that can be played, with {named} named scenarios"))


async def _serve(model: MockModel, ready: Callable[[], None], parent: Identity | None) -> None:
    import asyncio

    serving = asyncio.ensure_future(model.serve(ready))
    try:
        while parent is not None and parent.alive() and not serving.done():
            await asyncio.wait([serving], timeout=_LOOK_SECONDS)
        if parent is None:
            await serving
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    if serving.done() and not serving.cancelled():
        serving.result()


class _Teller:
    """Says on stdout what happens, until nobody reads it any more."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._heard = True

    def address(self, url: str) -> None:
        self._say(lambda: json_line({"url": url, "pid": os.getpid()}) if self._as_json else line(url))

    def request(self, received: Received) -> None:
        self._say(lambda: json_line(_summary(received)) if self._as_json else line(_sentence(received)))

    def _say(self, say: Callable[[], None]) -> None:
        if not self._heard:
            return
        try:
            say()
            sys.stdout.flush()
        except BrokenPipeError:  # answering programs goes on
            self._heard = False
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _summary(received: Received) -> dict[str, object]:
    names = ("number", "at", "scenario", "protocol", "method", "path", "model", "stream", "side", "turn", "answer", "outcome")
    return {name: getattr(received, name) for name in names}


def _sentence(received: Received) -> str:
    where = f"{received.scenario}: " if received.scenario else ""
    what = f"{received.protocol} {received.turn}" if received.turn else f"{received.method} {received.path}"
    calls = [str(call["name"]) for call in received.answer.get("calls", ())]
    text = received.answer.get("text", "")[:60]
    said = " + ".join(part for part in (repr(text) if text else "", *calls) if part)
    return plain(
        f"{clock_time(int(received.at * 1_000_000))} {where}{what}: {received.outcome}" + (f", {said}" if said else "")
    )


def _write_whole(path: Path, text: str) -> None:
    """At once or not at all, for whoever waits for the file."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
