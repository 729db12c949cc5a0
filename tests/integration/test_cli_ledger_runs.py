"""`harness ledger replay | fork | diff | why | reconcile`, run in this process over a real home."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from harness.agents import AutonomousAgent
from harness.cli import main
from harness.errors import OutcomeUnknown
from harness.kernel import Kernel, ScriptedModelPort, TenantContext, ToolCall
from harness.ledger import SQLiteStore

TENANT = TenantContext(tenant_id="t")
RUN = "night-7"


class Cli:
    """Runs a command line and gives its exit code, its stdout and its stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = main(words)
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, *words: str) -> Any:
        code, out, err = self(*words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, with this process in its project."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HARNESS_")]:
        monkeypatch.delenv(name)
    assert main(("init",)) == 0
    return tmp_path / ".harness"


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def work(home: Path, program: Callable[[Kernel], Awaitable[None]], *script: Any) -> None:
    """Run a program on the home's ledger."""

    async def run() -> None:
        port = ScriptedModelPort(script, by_history=True)
        async with SQLiteStore(home / "harness.db", actor="test") as store, Kernel(store=store, model_port=port) as kernel:
            await program(kernel)

    asyncio.run(run())


@pytest.fixture
def worked(home: Path) -> None:
    """An agent has looked at a disk and said something."""

    async def program(kernel: Kernel) -> None:
        @kernel.tool()
        async def look(at: str) -> str:
            return f"{at} is full"

        await AutonomousAgent(kernel, memory=None).run(
            run_id=RUN, tenant=TENANT, model="m", system_prompt="You look after disks.", prompt="How is /var?"
        )

    work(home, program, ToolCall(id="1", name="look", arguments_json='{"at":"/var"}'), "It is full.")


def steps_of(found: Any) -> list[tuple[str, str]]:
    return [(step["step"], step["verdict"]) for step in found["steps"]]


@pytest.mark.usefixtures("worked")
def test_replay_prints_what_was_recorded(cli: Cli) -> None:
    """Without a model nobody is asked: the run is verified, and its steps are listed."""
    code, out, err = cli("ledger", "replay", RUN)

    assert (code, err.splitlines()[-1][:9]) == (0, "verified:")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("agent/")] == [
        "agent/turn-1", "agent/turn-1/call-1", "agent/turn-2"
    ]  # fmt: skip
    told = cli.json("ledger", "replay", RUN)
    assert (told["verified"], told["steps"][1]["result"]) == (True, "/var is full")


@pytest.mark.usefixtures("worked")
def test_replay_says_where_history_was_changed(cli: Cli, home: Path) -> None:
    """A run that does not verify ends the command with 1, with the place in its output."""
    with sqlite3.connect(home / "harness.db") as connection:
        connection.execute("UPDATE events SET data = replace(data, 'is full', 'is fine')")
    connection.close()

    code, out, _ = cli("ledger", "replay", RUN)

    assert code == 1
    assert f"changed: run/{RUN}#" in out


@pytest.mark.usefixtures("worked")
def test_replay_with_a_model_asks_again(cli: Cli) -> None:
    """Each decision is asked of the model that is named, in the words that are given, and compared."""
    found = cli.json("ledger", "replay", RUN, "--model", "mock:All good.", "--system", "Be brief.", "--as", "again")

    assert steps_of(found) == [("agent/turn-1", "changed"), ("agent/turn-1/call-1", "same"), ("agent/turn-2", "changed")]
    assert found["after_run"] == "again"
    assert [message["text"] for message in found["steps"][0]["after"]["messages"]][:1] == ["Be brief."]
    code, out, _ = cli("ledger", "replay", RUN, "--model", "mock:It is full.")
    assert code == 0
    assert "2 same, 1 changed" in out
    assert f"replayed as {RUN}::replay::" in out


@pytest.mark.usefixtures("worked")
def test_fork_and_diff(cli: Cli) -> None:
    """A fork differs from its run in nothing but what it has not done yet."""
    forked = cli.json("ledger", "fork", RUN, "--at", "3", "--as", "other")
    assert (forked["run_id"], forked["forked_from_run_id"], forked["forked_at_seq"]) == ("other", RUN, 3)

    assert {verdict for _, verdict in steps_of(cli.json("ledger", "diff", RUN, "other"))} == {"same", "missing"}
    assert cli("ledger", "diff", RUN, "other", "--check")[0] == 1
    code, out, _ = cli("ledger", "diff", RUN, RUN, "--check")
    assert (code, out.splitlines()[-1].strip()) == (0, "3 same; $0 before, $0 after")
    assert cli("ledger", "fork", RUN, "--at", "1")[1].startswith(f"forked: {RUN}::fork::")


@pytest.mark.usefixtures("worked")
def test_why_leads_back_to_the_beginning(cli: Cli) -> None:
    """From a tool call to the turn that asked for it, to the run; from a fork into the run it comes from."""
    told = cli.json("ledger", "why", RUN, "agent/turn-1/call-1")
    assert [(each["type"], each["step"]) for each in told] == [
        ("step.completed", "agent/turn-1/call-1"), ("step.completed", "agent/turn-1"), ("run.started", "")
    ]  # fmt: skip
    assert 'asked for look({"at":"/var"})' in told[1]["told"]

    cli("ledger", "fork", RUN, "--at", "3", "--as", "other")
    code, out, _ = cli("ledger", "why", "run/other#1")
    assert code == 0
    assert out.splitlines()[2].startswith(f"because of run/{RUN}#3 ")


def test_reconcile_records_what_is_known(cli: Cli, home: Path) -> None:
    """A side effect whose outcome is unknown is settled by hand; a known one stays as it is."""

    async def program(kernel: Kernel) -> None:
        @kernel.tool(side_effect=True)
        async def pay(amount: int) -> str:
            raise OutcomeUnknown("the line went dead")

        await kernel.start_run(tenant=TENANT, run_id=RUN)
        for key in ("one", "two"):
            with pytest.raises(OutcomeUnknown):
                await kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="pay", arguments={"amount": 5}, step_key=key)

    work(home, program)
    done = cli.json("ledger", "reconcile", RUN, "one", "--outcome", "completed", "--result", '{"paid": 5}')
    assert done["outcome"] == "completed"
    assert cli("ledger", "reconcile", RUN, "two", "--outcome", "failed", "--message", "the bank never saw it")[0] == 0

    steps = cli.json("ledger", "replay", RUN)["steps"]
    assert [(step["state"], step["result"], step["message"]) for step in steps] == [
        ("completed", {"paid": 5}, ""), ("failed", None, "the bank never saw it")
    ]  # fmt: skip
    _, out, _ = cli("ledger", "why", RUN, "one")
    assert [line.split(" run/")[0] for line in out.splitlines() if not line.startswith(" ")][1:] == ["it settles", "in the run"]
    assert "settled by person:" in out
    code, _, err = cli("ledger", "reconcile", RUN, "one", "--outcome", "failed")
    assert (code, "is completed, not unknown" in err) == (1, True)


@pytest.mark.usefixtures("worked")
def test_an_id_of_another_replay_is_refused(cli: Cli) -> None:
    """Else the answers of one model would be shown as those of another."""
    assert cli("ledger", "replay", RUN, "--model", "mock:one", "--as", "again")[0] == 0
    code, out, err = cli("ledger", "replay", RUN, "--model", "mock:two", "--as", "again")

    assert (code, out) == (2, "")
    assert "'again' was begun with something else: model: recorded 'one', now 'two'; give another --as" in err


@pytest.mark.usefixtures("worked")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("replay", "nobody"), 1, "no run 'nobody'"),
        (("verify", RUN), 1, f"did you mean 'run/{RUN}'?"),
        (("events", RUN), 1, f"did you mean 'run/{RUN}'?"),
        (("export", RUN), 1, f"did you mean 'run/{RUN}'?"),
        (("replay", RUN, "--prompt", "x"), 2, "say whom"),
        (("replay", RUN, "--model", "nonsense:x"), 2, "names no model port"),
        (("replay", RUN, "--model", "mock:x", "--prompt", "x", "--only", "b*"), 2, "no model step matches 'b*'"),
        (("fork", "nobody", "--at", "1"), 1, "no run 'nobody'"),
        (("fork", RUN, "--at", "99"), 2, "cannot be forked at 99"),
        (("fork", RUN, "--at", "1", "--as", RUN), 1, "exists already"),
        (("fork", RUN, "--at", "0"), 2, "0"),
        (("diff", RUN, "nobody"), 1, "no run 'nobody'"),
        (("why", RUN), 2, "is no event"),
        (("why", f"run/{RUN}#99"), 1, "no event"),
        (("why", RUN, "nothing"), 1, "no step 'nothing'; it has: agent/turn-1"),
        (("reconcile", RUN, "nothing", "--outcome", "failed"), 1, "no step 'nothing'"),
        (("reconcile", RUN, "x", "--outcome", "retry"), 2, "runs the tool's code, which is not here"),
        (("reconcile", RUN, "x", "--outcome", "maybe"), 2, "completed or failed"),
        (("reconcile", RUN, "x", "--outcome", "completed", "--result", "{"), 2, "is no JSON"),
        (("reconcile", RUN, "x", "--outcome", "failed", "--result", "1"), 2, "has no result"),
        (("reconcile", RUN, "x", "--outcome", "completed", "--message", "sent"), 2, "--message says why it failed"),
        (("replay", os.fsdecode(b"\xff\xfe")), 2, r"argument 3 is not valid UTF-8: '\xff\xfe'"),
    ],
)
def test_bad_words_are_answered_in_one_line(cli: Cli, words: tuple[str, ...], code: int, said: str) -> None:
    """What cannot be done is told with what to do instead; nothing is printed as a result."""
    found, out, err = cli("ledger", *words)

    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
