"""The skill in the hands of a real agent program: it starts another one as it was taught, waits for it, and is written to by it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.processes import find
from harness.sessions.facts import MessageStatus
from harness.sessions.mock_model import MockModel, Received
from harness.sessions.record import Message, Session
from tests.session_rigs import real_program

if TYPE_CHECKING:
    from tests.conftest import Hosted

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not real_program("claude"), reason="claude is missing: install it, or name it in HARNESS_TEST_CLAUDE"),
]
PATIENCE_SECONDS = 90
RELAY = r"\[harness relay from=(\w+) id=(\w+) at=\d{4}-\d\d-\d\dT[\d:.]+Z?[^\]]*\]"


class Office:
    """A project in which an agent delegates: its folder, the programs' own homes, and the model that all of them ask."""

    def __init__(self, hosted: Hosted, model: MockModel) -> None:
        self.hosted, self.model, self.work = hosted, model, hosted.root
        own = hosted.root.parent / f"{hosted.root.name}-own"
        self.config, self.codex, self.temporary, programs = (own / name for name in ("claude", "codex", "t", "bin"))
        for folder in (self.config, self.codex, self.temporary, programs):
            folder.mkdir(parents=True)
        for name in ("claude", "codex"):
            if real_program(name):
                (programs / name).symlink_to(real_program(name))
        self.own = own
        seen = {
            "hasCompletedOnboarding": True, "theme": "dark", "customApiKeyResponses": {"approved": ["test-key"]},
            "projects": {str(self.work): {"hasTrustDialogAccepted": True}},
        }  # fmt: skip
        for place in (own, self.config):
            (place / ".claude.json").write_text(json.dumps(seen))
        (self.work / "harness.toml").write_text('[sessions]\nallow = ["Bash(harness *)", "Skill(harness-*)", "Write", "Read"]\n')
        self.environment = {
            "PATH": f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(own), "TMPDIR": str(self.temporary), "LANG": "C.UTF-8", "TERM": "xterm-256color", "COLUMNS": "120",
            "CLAUDE_CONFIG_DIR": str(self.config), "CLAUDE_CODE_TMPDIR": str(self.temporary), "CODEX_HOME": str(self.codex),
            "ANTHROPIC_BASE_URL": model.base("lead"), "ANTHROPIC_API_KEY": "test-key", "SCRIPTED_KEY": "test-key",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_MAX_RETRIES": "1",
        }  # fmt: skip

    async def harness(self, *words: str) -> str:
        """What `harness …` prints, run by a person in the project's folder."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "harness", *words, cwd=self.work, env=self.environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_SECONDS):
            output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode() + output.decode()
        return output.decode()

    async def json(self, *words: str) -> Any:
        return json.loads(await self.harness(*words))

    async def session(self, id_: str) -> Session:
        return await self.hosted.sessions.get(id_)

    def asked(self, scenario: str) -> list[Received]:
        """What the model was asked in the work itself."""
        return [request for request in self.model.requests if request.main and request.scenario == scenario]

    def results(self, scenario: str) -> str:
        """Everything that tools have told a program, as its model saw it last."""
        return json.dumps(self.asked(scenario)[-1].body, ensure_ascii=False)

    def left(self) -> list[int]:
        """What still runs of all that was started here."""
        mine = f"HOME={self.own}".encode()
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mine in path.read_bytes().split(b"\0") and (path.parent / "cmdline").read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found

    async def close(self) -> None:
        for row in await self.hosted.sessions.list():
            await self.hosted.sessions.stop(row.key, by="test", kill=True, timeout_seconds=2)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.hosted.sessions.ended(row.key)


@pytest.fixture
def model() -> Iterator[MockModel]:
    with MockModel() as model:
        yield model


@pytest.fixture
async def office(hosted: Hosted, model: MockModel) -> AsyncIterator[Office]:
    world = Office(hosted, model)
    try:
        yield world
    finally:
        await world.close()


async def test_x(office: Office) -> None:
    helper = json.dumps({"env": {"ANTHROPIC_BASE_URL": office.model.base("helper")}})
    lead = [
        {"tools": [{"name": "Skill", "input": {"skill": "harness-dispatch"}}]},
        {"tools": [{"shell": "harness status"}]},
        {"tools": [{"write": {"path": str(office.work / "TASK.md"), "content": "Write ok into REPORT.md.\n"}}]},
        {"tools": [{"shell": 'harness run claude --detach --id helper --description "T-7 parser" --max-wall 3600 --context "Read TASK.md and do what it says. Write REPORT.md when you are done." -- --settings ' + f"'{helper}'"}]},
        {"tools": [{"shell": "harness wait --id helper --until task_complete --timeout 60"}]},
        {"tools": [{"read": str(office.work / "REPORT.md")}]},
        {"tools": [{"shell": 'harness send --id helper --wait-for-idle --timeout 60 "When you have checked it: harness send --id lead --no-wait --inbox-ttl 1h \\"T-7 is done\\""'}]},
        {"text": "The helper has written REPORT.md."},
    ]
    helping = [
        {"tools": [{"read": str(office.work / "TASK.md")}]},
        {"tools": [{"write": {"path": str(office.work / "REPORT.md"), "content": "ok\n"}}]},
        {"text": "REPORT.md is written."},
    ]
    office.model.load({"scenarios": {
        "lead": {"rules": [{"prompt": "Delegate T-7", "turns": lead}, {"prompt": "T-7 is done", "turns": [{"text": "Then all is done."}]}]},
        "helper": {"rules": [
            {"prompt": "Read TASK.md", "turns": helping},
            {"prompt": "When you have checked it", "turns": [{"tools": [{"shell": 'harness send --id lead --no-wait --inbox-ttl 1h "T-7 is done"'}]}, {"text": "Told."}]},
        ]},
    }})
    print(await office.harness("skills", "install", "--local"))
    print(await office.json("run", "claude", "--detach", "--id", "lead", "--context", "Delegate T-7, please."))
    print(await office.harness("wait", "--id", "lead", "--until", "task_complete", "--timeout", "60"))
    for name in ("lead", "helper"):
        print(name, await office.harness("events", "--id", name, "--snapshot"))
        print([m for m in office.asked(name)[-1].body["messages"]])
    print(await office.harness("stop", "--id", "lead"))
    print(await office.harness("status"))
    print(await office.harness("stop", "--id", "helper"))
    print(office.left())
    assert 0
