"""Agent programs for the suite of all transports: each is made to do the same things, and tells what it heard and did.

A rehearsed one is told what to do by flags in the message, a real one by what a scripted model answers to the same words.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.processes import RotatingLog, Size
from harness.sessions import LaunchRequest, ids, programs
from harness.sessions.facts import Mode, State
from harness.sessions.mock_model import MockModel
from harness.sessions.offline import LIMIT_SECONDS, Offline, heard
from harness.sessions.rehearsal.catalogue import REHEARSALS, install

if TYPE_CHECKING:
    from tests.conftest import Hosted

    from harness.sessions import Launched

WORDS = ("one", "two", "three", "four")


def real_program(name: str) -> str:
    """The real program of this name: named by HARNESS_TEST_NAME, or on PATH; empty if there is none."""
    return os.environ.get(f"HARNESS_TEST_{name.upper()}") or shutil.which(name) or ""


class Rig:
    """One program in one mode. What it is to do is said in messages, whose texts these methods give."""

    mode: str
    cli: str
    args: tuple[str, ...] = ()
    tells_tools = True  # its tool calls are on record
    tells_turns = True  # it knows an interrupted or failed turn from a good one
    takes_lines = True  # several lines are one message
    unsaid: frozenset[str] = frozenset()  # what it does not let on: `retried`, `limit's end`
    when_limited = ("limit", State.LIMITED)  # how a turn that meets a usage limit ends, and what is seen then
    leaves = "exit"  # what a stop needs
    left = 0  # its exit code then, or the signal

    def __init__(self, hosted: Hosted) -> None:
        self.hosted = hosted
        self.work = hosted.root / "work"
        self.work.mkdir()

    async def begin(self, **request: Any) -> Launched:
        """Start it, at its prompt if it has one. Keywords are those of `LaunchRequest`."""
        args = (*self.args, *request.pop("agent_args", ()))
        given = {"mode": self.mode, "cwd": str(self.work), "environment": self.environment(), **request}
        return await self.hosted.launch(self.cli, *args, **given)

    async def can(self) -> frozenset[str]:
        """What its transport says that it can."""
        home = self.hosted.home
        request = LaunchRequest(
            home=str(home), database=self.hosted.database, cli=self.cli, agent_args=self.args, mode=self.mode, context="x"
        )
        log = RotatingLog(self.hosted.root / "unused.log")
        place = programs.Place(
            folder=ids.Folder(home=home, key=ids.new_key("unused")), cwd=self.work, env={}, tag="unused",
            size=Size(columns=120, rows=40), transcript=log, errors=log,
        )  # fmt: skip
        transport = programs.plan(request, id_="unused").make(place)
        await transport.close()
        return transport.can

    def environment(self) -> Mapping[str, str]:
        theirs = ("CLAUDE", "ANTHROPIC", "CODEX", "OPENAI", "HARNESS_")
        return {name: value for name, value in os.environ.items() if not name.startswith(theirs)}

    def says(self, word: str) -> str:
        """It answers."""
        return f"says {word}"

    def works(self, word: str) -> str:
        """It runs a command and answers."""
        raise NotImplementedError

    def holds(self, word: str) -> str:
        """It is in a turn until `release`."""
        raise NotImplementedError

    def asks(self, word: str) -> str:
        """It asks leave for a command; see `did`."""
        raise NotImplementedError

    def retries(self, word: str) -> str | None:
        """Its provider fails for a while; None if nothing is said of that."""
        return None

    def refused(self, word: str) -> str | None:
        """Its provider refuses the request; None if it cannot be made to."""
        return None

    def limited(self, word: str) -> str | None:
        """It runs into a usage limit."""
        return None

    def exits(self, word: str) -> tuple[str, int] | None:
        """It ends by itself with this code."""
        return None

    async def held(self, word: str) -> None:
        """Return when it is in the turn that `holds` began."""
        raise NotImplementedError

    def release(self, word: str) -> None:
        raise NotImplementedError

    def heard(self, text: str) -> int:
        """How often this text has come to it, whole."""
        raise NotImplementedError

    def did(self, word: str) -> bool:
        """Whether what it asked leave for has been done."""
        raise NotImplementedError

    async def saved(self, text: str) -> None:
        """Return when what was said is in the program's own record: what is not, no program can continue after a kill."""

    def remembers(self, vendor_session: str, text: str) -> bool:
        """Whether the program that continues a session knows what was said before."""
        raise NotImplementedError


async def comes_true(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for what only another process can make true, and tells nobody."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


# Rehearsed


class Rehearsed(Rig):
    """A rehearsed program, called by the real one's name, so that it is started as the real one is."""

    program = "claude"
    rehearsal = "claude"
    flags: tuple[str, ...] = ()

    def __init__(self, hosted: Hosted) -> None:
        super().__init__(hosted)
        self.journal = hosted.root / "journal"
        self.store = hosted.root / "store"
        words = [*self.flags, "--journal", str(self.journal), "--store", str(self.store)]
        self.cli = str(install(REHEARSALS[self.rehearsal], words, hosted.root / "bin"))

    def told(self, text: str, *flags: str) -> str:
        return f"{text}\nrehearse: {' '.join(flags)}"

    def works(self, word: str) -> str:
        return self.told(f"works {word}", "--tool", "0.02")

    def holds(self, word: str) -> str:
        return self.told(f"holds {word}", "--holds", str(self._gate(word)))

    def asks(self, word: str) -> str:
        return self.told(f"asks {word}", "--asks", "Bash")

    def retries(self, word: str) -> str | None:
        return self.told(f"retries {word}", "--retries", "2")

    def limited(self, word: str) -> str | None:
        return self.told(f"limited {word}", "--limit", str(LIMIT_SECONDS))

    def exits(self, word: str) -> tuple[str, int] | None:
        return self.told(f"exits {word}", "--exit", "7"), 7

    async def held(self, word: str) -> None:
        await comes_true(lambda: self.heard(f"holds {word}"))

    def release(self, word: str) -> None:
        self._gate(word).touch()

    def heard(self, text: str) -> int:
        return sum(line["text"].count(text) for line in self._noted("message"))

    def did(self, word: str) -> bool:
        """The decisions come in the order of the words."""
        decisions = self._noted("decision")
        number = WORDS.index(word)
        return number < len(decisions) and decisions[number]["behavior"] in ("allow", "accept")

    def remembers(self, vendor_session: str, text: str) -> bool:
        return vendor_session in [line["session"] for line in self._noted("resumed")]

    def _gate(self, word: str) -> Path:
        return self.hosted.root / f"gate-{word}"

    def _noted(self, event: str) -> list[dict[str, Any]]:
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [told for told in map(json.loads, lines) if told["event"] == event]


class RehearsedClaude(Rehearsed):
    mode = "stream"


class RehearsedCodex(Rehearsed):
    mode, rehearsal = "app-server", "codex"


class ClaudeTerminal(Rehearsed):
    mode = "pty"
    unsaid = frozenset({"retried", "limit's end"})


class CodexTerminal(Rehearsed):
    mode, rehearsal = "pty", "codex"
    tells_tools = False  # its `notify` tells the end of a turn and nothing else
    unsaid = frozenset({"retried"})
    when_limited = ("success", State.PROMPT)  # it is a line on the screen, and nothing more

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "CODEX_HOME": str(self.store)}

    def limited(self, word: str) -> str | None:
        return self.told(f"limited {word}", "--limit", str(LIMIT_SECONDS), "--work", "0.5")  # or nobody would see it work


class ShellTerminal(Rehearsed):
    """A program that reads lines, of which nothing is known but its processes."""

    mode = "pty"
    tells_tools = tells_turns = takes_lines = False
    leaves, left = "term", 15

    def __init__(self, hosted: Hosted) -> None:
        super().__init__(hosted)
        self.cli = sys.executable
        self.args = (*REHEARSALS["terminal"].argv[1:], "--like", "shell", "--journal", str(self.journal))

    def told(self, text: str, *flags: str) -> str:
        return f"rehearse: {' '.join(flags)} --answer '{text}'"

    def retries(self, word: str) -> str | None:
        return None  # nobody could tell it from other output

    def limited(self, word: str) -> str | None:
        return None


class RehearsedClaudeOnce(Rehearsed):
    mode = "once"
    leaves, left = "term", 143


class RehearsedCodexOnce(Rehearsed):
    mode, rehearsal = "once", "codex"
    leaves, left = "term", 15

    def asks(self, word: str) -> str:
        return self.told(f"asks {word}", "--tool", "0.02")  # it asks nobody, and is told that it may not

    def did(self, word: str) -> bool:
        return False


class CommandOnce(Rig):
    """A plain command that is given its one prompt as its last argument."""

    mode = "once"
    tells_tools = tells_turns = False
    leaves, left = "term", 15
    SCRIPT = """
    for last; do :; done
    printf '%s\\0' "$last" >>"$1/heard"
    case $last in *'holds one'|*'exits one') while [ ! -e "$1/gate-one" ]; do sleep 0.02; done;; esac
    case $last in *'exits one') exit 7;; esac
    echo "echo: $last"
    """

    def __init__(self, hosted: Hosted) -> None:
        super().__init__(hosted)
        self.cli = "sh"
        self.args = ("-c", self.SCRIPT, "command", str(hosted.root))

    def works(self, word: str) -> str:
        return f"works {word}"

    def holds(self, word: str) -> str:
        return f"holds {word}"

    def asks(self, word: str) -> str:
        return f"asks {word}"

    def exits(self, word: str) -> tuple[str, int] | None:
        return f"exits {word}", 7

    async def held(self, word: str) -> None:
        await comes_true(lambda: self.heard(f"holds {word}"))

    def release(self, word: str) -> None:
        (self.hosted.root / f"gate-{word}").touch()

    def heard(self, text: str) -> int:
        path = self.hosted.root / "heard"
        return path.read_text().count(text) if path.exists() else 0

    def did(self, word: str) -> bool:
        return False


REHEARSED: Mapping[str, type[Rig]] = {
    "stream-claude": RehearsedClaude,
    "app-server-codex": RehearsedCodex,
    "pty-claude": ClaudeTerminal,
    "pty-codex": CodexTerminal,
    "pty-shell": ShellTerminal,
    "once-claude": RehearsedClaudeOnce,
    "once-codex": RehearsedCodexOnce,
    "once-command": CommandOnce,
}


# Real


class Real(Rig):
    """A real program whose model answers by a script, in a home of its own."""

    program: str
    plan = False  # whether Claude Code is paid by a plan, which has limits

    def __init__(self, hosted: Hosted, model: MockModel) -> None:
        super().__init__(hosted)
        self.model = model
        self.cli = real_program(self.program)
        self._settle()
        model.load(self.offline.script(WORDS))

    def _settle(self) -> None:
        self.offline = Offline(self.program, self.hosted.root / "own", cwd=self.work, url=self.model.url, plan=self.plan)
        self.args = self.offline.arguments(Mode(self.mode))

    def environment(self) -> Mapping[str, str]:
        return self.offline.environment

    def works(self, word: str) -> str:
        return f"works {word}"

    def holds(self, word: str) -> str:
        return f"holds {word}"

    def asks(self, word: str) -> str:
        return f"asks {word}"

    def retries(self, word: str) -> str | None:
        return f"retries {word}"

    def refused(self, word: str) -> str | None:
        return f"refused {word}"

    def limited(self, word: str) -> str | None:
        self.plan = True
        self._settle()
        return f"limited {word}"

    async def held(self, word: str) -> None:
        await asyncio.to_thread(self.model.wait_held, word)

    def release(self, word: str) -> None:
        self.model.release(word)

    def heard(self, text: str) -> int:
        return heard(self.model.requests, text)

    def did(self, word: str) -> bool:
        return (self.work / word).exists()

    async def saved(self, text: str) -> None:
        places = [self.hosted.root / "own" / "h" / each for each in (".claude/projects", ".codex/sessions")]
        await comes_true(lambda: any(text in file.read_text() for place in places for file in place.rglob("*.jsonl")))

    def remembers(self, vendor_session: str, text: str) -> bool:
        return self.heard(text) == 1


class RealClaude(Real):
    """Claude Code, on its stream-json."""

    program, mode = "claude", "stream"


class RealClaudeTerminal(Real):
    """Claude Code in its terminal."""

    program, mode = "claude", "pty"
    unsaid = frozenset({"retried", "limit's end"})

    def exits(self, word: str) -> tuple[str, int] | None:
        return "/exit", 0


class RealClaudeOnce(Real):
    """`claude -p`."""

    program, mode = "claude", "once"
    leaves, left = "term", 143

    def exits(self, word: str) -> tuple[str, int] | None:
        return f"refused {word}", 1


class RealCodex(Real):
    """Codex, by its app-server."""

    program, mode = "codex", "app-server"


class RealCodexTerminal(Real):
    """Codex in its terminal."""

    program, mode = "codex", "pty"
    tells_tools = False
    unsaid = frozenset({"retried", "limit's end"})
    when_limited = ("limit", State.BLOCKED)  # it asks which model to go on with

    def exits(self, word: str) -> tuple[str, int] | None:
        return "/quit", 0


class RealCodexOnce(Real):
    """`codex exec`."""

    program, mode = "codex", "once"
    leaves, left = "term", 15

    def exits(self, word: str) -> tuple[str, int] | None:
        return f"refused {word}", 1


REAL: Mapping[str, type[Real]] = {
    "stream-claude": RealClaude,
    "pty-claude": RealClaudeTerminal,
    "once-claude": RealClaudeOnce,
    "app-server-codex": RealCodex,
    "pty-codex": RealCodexTerminal,
    "once-codex": RealCodexOnce,
}
