"""The skill in the hands of a real agent program: it starts another one as it was taught, and is written to by it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.session_rigs import comes_true, real_program

from harness.sessions.facts import MessageStatus
from harness.sessions.mock_model import MockModel, Received
from harness.sessions.record import Session

if TYPE_CHECKING:
    from tests.conftest import Hosted

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not real_program("claude"), reason="claude is missing: install it, or name it in HARNESS_TEST_CLAUDE"),
]
PATIENCE_SECONDS = 90
RULES = ["Skill(harness-*)", "Bash(harness *)", "Write"]
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
CHECKED = "If you have checked it: harness send --id lead --no-wait --inbox-ttl 1h 'T-7 is done'"


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
        (self.work / "harness.toml").write_text(f"[sessions]\nallow = {json.dumps(RULES)}\n")
        path = f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        (own / ".profile").write_text(f"export PATH={shlex.quote(path)}\n")  # Codex runs commands in a login shell
        self.environment = {
            "PATH": path, "HOME": str(own), "TMPDIR": str(self.temporary), "LANG": "C.UTF-8", "TERM": "xterm-256color",
            "COLUMNS": "120",
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
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
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

    def plays(self, program: str, *of_program: str, mode: str = "") -> None:
        """Have the model lead the first program through the skill; the rest is about the other one that it starts."""
        task = "Read TASK.md and do what it says. Write REPORT.md when you are done."
        start = f'harness run {program} --detach --id helper --description "T-7 parser" --max-wall 3600 --context "{task}"'
        words = shlex.join([*(["--mode", mode] if mode else []), "--", *of_program])
        report = {"write": {"path": str(self.work / "REPORT.md"), "content": "ok\n"}}
        lead = [
            {"tools": [{"name": "Skill", "input": {"skill": "harness-dispatch"}}]},
            {"tools": [{"shell": "harness status"}]},
            {"tools": [{"write": {"path": str(self.work / "TASK.md"), "content": "Write ok into REPORT.md.\n"}}]},
            {"tools": [{"shell": f"{start} {words}"}]},
            {"tools": [{"shell": "harness wait --id helper --until task_complete --timeout 60"}]},
            {"tools": [{"read": str(self.work / "REPORT.md")}]},
            {"tools": [{"shell": f'harness send --id helper --wait-for-idle --timeout 60 "{CHECKED}"'}]},
            {"text": "The helper has written REPORT.md."},
        ]
        helper = [{"tools": [{"read": str(self.work / "TASK.md")}]}, {"tools": [report]}, {"text": "REPORT.md is written."}]
        send = "harness send --id lead --no-wait --inbox-ttl 1h 'T-7 is done'"
        outside = {"cmd": send, "sandbox_permissions": "require_escalated", "justification": "the answer"}
        answer = {"name": "exec_command", "input": outside} if program == "codex" else {"shell": send}
        look = {"tools": [{"shell": "harness status"}]}  # Codex does it in its sandbox, which must not take us for dead
        self.model.load({"scenarios": {
            "lead": {"rules": [
                {"prompt": "Delegate T-7", "turns": lead},
                {"prompt": "^.harness relay from=.*\\s+T-7 is done", "turns": [{"text": "Then all is done."}]},
            ]},
            "helper": {"rules": [
                {"prompt": "Read TASK.md", "turns": helper},
                {"prompt": "If you have checked it", "turns": [look, {"tools": [answer]}, {"text": "Told."}]},
            ]},
        }})  # fmt: skip

    async def delegated(self, *more: str) -> Session:
        """The session that was given the task, once it has also heard of the task's end."""
        await self.harness("skills", "install", "--local")
        words = ("--detach", "--id", "lead", "--context", "Delegate T-7, please.")
        await self.harness("run", "claude", *words, *more)
        await self.harness("wait", "--id", "lead", "--until", "task_complete", "--timeout", str(PATIENCE_SECONDS))
        return await self.session("lead")

    async def check(self, lead: Session, *, helper: str) -> None:
        """The work was done, rules gave the leave, and each message came once, under one header, as a session's."""
        other = await self.session("helper")
        assert other.claimed is not None
        assert (other.cli, other.claimed.description, other.claimed.limits.max_wall_seconds) == (helper, "T-7 parser", 3600)
        assert (self.work / "REPORT.md").read_text() == "ok\n"
        taught = self.results("lead")
        assert "# Giving work to another agent" in taught
        assert "REPORT.md is written." in taught  # what `harness wait` told
        told = {id_: await self.events(id_) for id_ in ("lead", "helper")}
        ends = {id_: [event["summary"] for event in told[id_] if event["type"] == "task_complete"] for id_ in told}
        assert ends == {
            "lead": ["The helper has written REPORT.md.", "Then all is done."], "helper": ["REPORT.md is written.", "Told."]
        }  # fmt: skip

        decided = {id_: decisions(events) for id_, events in told.items()}
        assert {verdict for verdicts in decided.values() for verdict, _ in verdicts} == {("allow", "policy")}
        assert {rule for _, rule in decided["lead"]} == {
            "rule Skill(harness-*)",
            "rule Write",
        }  # the skill brings leave for its own
        assert "rule Bash(harness *)" in {rule for _, rule in decided["helper"]}

        [back] = [message for message in lead.messages.values() if message.origin.kind == "session"]
        assert (back.origin.cli, back.origin.id, back.status) == (helper, "helper", MessageStatus.DONE)
        assert re.fullmatch(rf"\[harness relay from={helper} id=helper at={TIME}\]\nT-7 is done", back.text)
        [there] = [message for message in other.messages.values() if message.origin.kind == "session"]
        assert (there.origin.cli, there.origin.id, there.status) == ("claude", "lead", MessageStatus.DONE)
        assert re.fullmatch(rf"\[harness relay from=claude id=lead at={TIME}\]\n{re.escape(CHECKED)}", there.text)
        assert self.results("lead").count("[harness relay from=") == 2  # the other one is the skill's own
        assert self.results("helper").count("[harness relay from=") == 1

    async def events(self, id_: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (await self.harness("events", "--id", id_, "--snapshot")).splitlines()]

    async def ends(self, lead: Session) -> None:
        """One ledger has both; who stops the first leaves the second, and after both nothing runs."""
        assert await self.harness("stop", "--id", "lead") == "lead ended by its own exit\n"
        assert [row.id for row in await self.hosted.sessions.list()] == ["helper"]
        other = await self.session("helper")
        assert other.state == "prompt"
        assert lead.claimed is not None
        assert other.pid in self.left()
        assert await self.harness("stop", "--id", "helper") == "helper ended by its own exit\n"
        ended = await self.json("status", "--ended", "--json")
        assert {row["id"]: row["exited"]["reason"] for row in ended} == {"lead": "stopped", "helper": "stopped"}
        await comes_true(lambda: not self.left(), PATIENCE_SECONDS)
        assert await self.hosted.store.verify()

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


def decisions(events: list[dict[str, Any]]) -> set[tuple[tuple[str, str], str]]:
    """How each request for leave was decided, by whom, and why."""
    decided = [event for event in events if event["type"] == "approval_decided"]
    return {((event["decision"], event["by"]), event["reason"]) for event in decided}


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


async def test_a_claude_gives_work_to_another_as_its_skill_teaches(office: Office) -> None:
    """It starts it, waits, reads, asks it for a sign by message, and is woken by that; rules decide what it may do."""
    settings = json.dumps({"env": {"ANTHROPIC_BASE_URL": office.model.base("helper")}})
    office.plays("claude", "--settings", settings)

    lead = await office.delegated("--mode", "stream")

    await office.check(lead, helper="claude")
    await office.ends(lead)


async def test_it_works_the_same_at_terminals(office: Office) -> None:
    """Both programs sit at terminals of ours; leave is asked for by hooks."""
    settings = json.dumps({"env": {"ANTHROPIC_BASE_URL": office.model.base("helper")}})
    manual = ("--permission-mode", "manual")
    office.plays("claude", *manual, "--settings", settings, mode="pty")

    lead = await office.delegated("--mode", "pty", "--", *manual)

    await office.check(lead, helper="claude")
    await office.ends(lead)


@pytest.mark.skipif(not real_program("codex"), reason="codex is missing: install it, or name it in HARNESS_TEST_CODEX")
async def test_a_claude_gives_work_to_a_codex(office: Office) -> None:
    """The same words start the other program; it asks leave to answer from outside its sandbox, and may look from within it."""
    provider = f'{{name="scripted",base_url="{office.model.base("helper")}/v1",env_key="SCRIPTED_KEY",wire_api="responses"}}'
    wanted = (f"model_providers.scripted={provider}", "model_provider=scripted", "analytics.enabled=false")
    given = [word for each in wanted for word in ("-c", each)]
    office.plays("codex", "-m", "gpt-5.5-codex", "-s", "workspace-write", *given)

    lead = await office.delegated("--mode", "stream")

    await office.check(lead, helper="codex")
    await office.ends(lead)
