"""A watched session with a real host and a rehearsed agent: what goes wrong really does, and what helps really helps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.sessions import facts
from harness.sessions.starting import Launched
from harness.sessions.watch.handoff import LOOK_FIRST
from harness.sessions.watch.policy import Policy
from harness.sessions.watch.watcher import Watcher

if TYPE_CHECKING:
    from tests.conftest import Hosted

PATIENCE_SECONDS = 40.0
RULES = Policy(stall_after_seconds=1.0, max_resumes=2)
MODES = [("claude", "stream"), ("codex", "app-server")]


class Watched:
    """A session under a watcher, and what its agent has written down."""

    def __init__(self, hosted: Hosted, journal: Path) -> None:
        self.hosted = hosted
        self.journal = journal
        self.said: list[str] = []
        self.runs: list[Launched] = []

    async def start(self, program: str, *flags: str, **request: Any) -> Launched:
        twin = self.hosted.twin(program, "--journal", str(self.journal), "--store", str(self.journal.parent / "store"), *flags)
        self.request = {"id": "w1", **request}
        self.program = twin
        self.runs.append(await self.hosted.launch(twin, **self.request))
        return self.runs[-1]

    async def relaunch(self, kind: str, text: str) -> str:
        before = await self.hosted.sessions.get(self.runs[-1].key)
        vendor = before.vendor_session if kind == "vendor" else ""
        again = {**self.request, "context": text, "follows": before.key, "vendor_session": vendor}
        self.runs.append(await self.hosted.launch(self.program, **again))
        return self.runs[-1].key

    def watch(self, rules: Policy = RULES) -> asyncio.Task[int]:
        key = self.runs[-1].key
        watcher = Watcher(self.hosted.store, self.hosted.sessions, key, rules, say=self.said.append, relaunch=self.relaunch)
        return asyncio.create_task(watcher.run())

    def noted(self, event: str) -> list[dict[str, Any]]:
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [line for line in map(json.loads, lines) if line["event"] == event]

    async def until(self, true: Callable[[], object], what: str) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not true():
                await asyncio.sleep(0.01)
        assert true(), what

    async def result(self, watching: asyncio.Task[int]) -> int:
        """What the watcher returns; the streams are shown where it does not."""
        done, _ = await asyncio.wait({watching}, timeout=PATIENCE_SECONDS)
        if not done:
            watching.cancel()
            told = [
                f"{event.seq} {event.type} {event.data!r}"[:200] for run in self.runs for event in await self.hosted.events(run)
            ]
            raise AssertionError("\n".join([*self.said, *told]))
        return watching.result()

    async def told(self, *types: str) -> list[Any]:
        """The payloads of these types of all runs, in order."""
        found: list[Any] = []
        for run in self.runs:
            events = await self.hosted.events(run)
            found += [event.load(facts.SHAPES[event.type]) for event in events if event.type in types]
        return found


@pytest.fixture
def watched(hosted: Hosted, tmp_path: Path) -> Watched:
    return Watched(hosted, tmp_path / "journal")


@pytest.mark.parametrize(("program", "mode"), MODES)
async def test_a_turn_that_hangs_is_cut_and_continued_once(watched: Watched, program: str, mode: str) -> None:
    """The agent gets its first message and one that says what was cut, each exactly once."""
    run = await watched.start(program, "--hangs", mode=mode)
    await watched.hosted.sessions.send(run.key, "do it")
    watching = watched.watch()

    await watched.until(lambda: len(watched.noted("turn-over")) >= 2, "the continued turn")
    await watched.hosted.sessions.stop(run.key, by="test")

    await watched.result(watching)
    messages = [line["text"] for line in watched.noted("message")]
    assert messages[0] == "do it"
    assert len(messages) == 2
    assert LOOK_FIRST in messages[1]
    assert len(watched.noted("interrupt")) == 1
    assert [each.rung for each in await watched.told(facts.STALLED)] == ["probe", "interrupt"]
    assert any(line.startswith("harness watch: resume 1/2 (idle=") for line in watched.said)


@pytest.mark.parametrize(("program", "mode"), MODES)
async def test_a_frozen_program_is_killed_and_its_session_resumed(watched: Watched, program: str, mode: str) -> None:
    """It answers no probe, so it is ended; the same session of the vendor goes on in another process with a text."""
    run = await watched.start(program, "--freezes", "--stray", "1000", mode=mode)
    await watched.hosted.sessions.send(run.key, "do it")
    watching = watched.watch()

    await watched.until(lambda: len(watched.noted("turn-over")) >= 1, "the resumed turn")
    await watched.hosted.sessions.stop(watched.runs[-1].key, by="test")

    await watched.result(watching)
    before, after = [await watched.hosted.sessions.get(each.key) for each in watched.runs]
    assert before.vendor_session == after.vendor_session != ""
    assert [line["session"] for line in watched.noted("resumed")] == [before.vendor_session]
    assert LOOK_FIRST in watched.noted("message")[-1]["text"]
    assert [each.rung for each in await watched.told(facts.STALLED)] == ["probe", "resume"]
    assert {each.how for each in await watched.told(facts.RESUMED)} == {"vendor"}
    assert before.exited is not None
    assert before.exited.needed == "kill"


async def test_an_agent_that_goes_in_circles_is_stopped(watched: Watched) -> None:
    """It is busy all the time, and makes the same call."""
    run = await watched.start("claude", "--repeats", "0", "--pause", "0.02", mode="stream")
    await watched.hosted.sessions.send(run.key, "do it")
    watching = watched.watch(Policy(stall_after_seconds=60.0, max_resumes=1))

    await watched.until(lambda: len(watched.noted("turn-over")) >= 2, "the continued turn")
    await watched.hosted.sessions.stop(run.key, by="test")

    await watched.result(watching)
    (stall,) = await watched.told(facts.STALLED)
    assert (stall.clock, stall.rung) == ("repeats", "interrupt")
    assert "Do not make that call again" in watched.noted("message")[-1]["text"]


@pytest.mark.parametrize(("program", "mode"), MODES)
async def test_an_agent_that_has_finished_hears_nothing(watched: Watched, program: str, mode: str) -> None:
    """Long after its turn it has had one message, and nobody has asked it anything."""
    run = await watched.start(program, mode=mode)
    await watched.hosted.said(run, "do it")
    watching = watched.watch(Policy(stall_after_seconds=0.2, max_resumes=2))

    done, _ = await asyncio.wait({watching}, timeout=2.0)  # ten times its patience
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

    assert not done
    assert [line["text"] for line in watched.noted("message")] == ["do it"]
    assert await watched.told(facts.STALLED, facts.PROBE_REQUESTED, facts.INTERRUPT_REQUESTED) == []


async def test_a_permission_that_nobody_gives_is_no_stall(watched: Watched) -> None:
    """The agent waits for a person; so does the watcher."""
    run = await watched.start("claude", "--asks", "Bash", mode="stream")
    await watched.hosted.sessions.send(run.key, "do it")
    await watched.hosted.state(run, "blocked")
    watching = watched.watch(Policy(stall_after_seconds=0.2, max_resumes=2))

    done, _ = await asyncio.wait({watching}, timeout=2.0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

    assert not done
    assert await watched.told(facts.STALLED) == []


async def test_a_session_that_cannot_be_resumed_is_handed_over_and_then_escalated(watched: Watched) -> None:
    """The resumed process dies at once, a fresh one is told what was asked, it freezes too: a person is told."""
    run = await watched.start("claude", "--freezes", "--turn", "0", "--crashes-on-resume", mode="stream")
    await watched.hosted.sessions.send(run.key, "Port the parser.")

    assert await watched.result(watched.watch()) == 3
    assert "Port the parser." in watched.noted("message")[-1]["text"]
    assert watched.noted("message")[-1]["text"].startswith("[harness session id=w1] You take over from another session")
    assert watched.said[-2] == "harness watch: max resumes reached, escalating"


async def test_the_code_of_an_agent_that_ends_is_returned(watched: Watched) -> None:
    """It finishes with 7 though a child holds its output."""
    run = await watched.start("claude", "--exit", "7", "--child", "60", mode="stream")
    await watched.hosted.sessions.send(run.key, "do it")

    assert await watched.result(watched.watch()) == 7


async def test_a_usage_limit_is_waited_out(watched: Watched) -> None:
    """The turn that it cut is continued when it resets, and costs nothing."""
    run = await watched.start("claude", "--limit", "1", mode="stream")
    await watched.hosted.sessions.send(run.key, "do it")
    watching = watched.watch(Policy(stall_after_seconds=30.0, max_resumes=0))

    await watched.until(lambda: len(watched.noted("turn-over")) >= 2, "the continued turn")
    await watched.hosted.sessions.stop(run.key, by="test")

    await watched.result(watching)
    assert watched.noted("message")[-1]["text"].startswith("A usage limit ended your last turn.")
    assert "resumes=0" in watched.said[-1]
