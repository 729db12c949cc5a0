"""What a real session leaves in its folder: lines that fit the schema, and the same as the ledger's."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harness.ledger import Draft, Event, Reserve, SQLiteStore, Write
from harness.sessions import Launched, LaunchRequest, facts, launch, published
from harness.sessions.ids import Folder
from harness.wake import Bell

PATIENCE_SECONDS = 30.0
AGENT = """
import os, sys, time
print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.01)
sys.exit(7)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / ".harness"
    path.mkdir(mode=0o700)
    return path


def start(home: Path, **values: Any) -> Launched:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
    request = LaunchRequest(
        home=str(home), database=str(home / "harness.db"), cli=sys.executable, agent_args=("-c", AGENT), id="w1",
        cwd=str(home.parent), mode="once", **values,
    )  # fmt: skip
    return launch(request, environment=environment)


async def seen_to_its_end(home: Path, key: str) -> list[Event]:
    """All events of a run that ends."""
    found: list[Event] = []
    async with asyncio.timeout(PATIENCE_SECONDS), SQLiteStore(home / "harness.db", create=False) as store:
        stream = facts.stream_of(key)
        async for event in store.follow(streams=(stream,)):
            found.append(event)
            if event.type == facts.EXITED:
                break
    return found


async def test_the_file_and_the_ledger_tell_the_same_and_fit_the_schema(home: Path) -> None:
    """From `started`, with what was given at the start, to `summary` and `exited` with the agent's code."""
    launched = await asyncio.to_thread(start, home, meta={"ticket": 7}, description="waits for a file")
    queued = facts.Queued(message_id="m1", text="x" * 250, expires_us=2**52, forced=True)
    async with SQLiteStore(home / "harness.db", create=False) as store:
        await store.append(
            Write(facts.stream_of(launched.key), (Draft(type=facts.QUEUED, payload=queued),)),
            guards=(Reserve(facts.inbox_counter(launched.key), 1, facts.INBOX_LIMIT),),
        )
        Bell(Folder(home=home, key=launched.key).bell).ring()
    (home.parent / "go").touch()

    events = await seen_to_its_end(home, launched.key)

    path = Folder(home=home, key=launched.key).events
    expected = [line.decode() for event in events if (line := published.line(event, launched.key)) is not None]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while path.read_text(encoding="utf-8").count("\n") < len(expected):  # the view is written after the ledger
            await asyncio.sleep(0.01)
    lines = path.read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    validator = jsonschema.Draft202012Validator(json.loads(published.schema()))
    for each in told:
        validator.validate(each)
    assert lines == expected
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    by_type = {each["type"]: each for each in told}
    assert (by_type["started"]["pid"], by_type["started"].get("meta")) == (launched.pid, {"ticket": 7})
    assert (by_type["started"].get("cli"), by_type["started"].get("mode")) == (Path(sys.executable).name, "once")
    assert by_type["send"]["msg_truncated"]
    assert by_type["exited"]["code"] == 7
    assert [each["type"] for each in told][-2:] == ["summary", "exited"]
    summary = json.loads(path.with_name("session.json").read_text(encoding="utf-8"))
    assert (summary["session"], summary["exited"]["code"], summary["live"]) == (launched.key, 7, False)
