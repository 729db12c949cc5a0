"""`harness runs`: a person sees what is under way on the command line, and lets it go on or end."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.errors import ApprovalRequired
from harness.kernel import Kernel, TenantContext, WorkflowContext
from harness.ledger import SQLiteStore
from harness.middleware import SafetyPolicyMiddleware, ToolPolicy

TENANT = TenantContext(tenant_id="t")


class Cli:
    """Runs a command line and gives its exit code, its stdout and its stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = main(("runs", *words))
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, *words: str) -> Any:
        code, out, err = self(*words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a workflow that waits for a person, and a run that is over."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HARNESS_")]:
        monkeypatch.delenv(name)
    assert main(("init",)) == 0
    home = tmp_path / ".harness"

    async def begin(kernel: Kernel) -> None:
        await kernel.start_run(tenant=TenantContext(tenant_id="u"), run_id="old")
        await kernel.finish_run(run_id="old", reason="done")
        assert await released(kernel) == "paused"

    work(home, begin)
    return home


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def work(home: Path, program: Callable[[Kernel], Awaitable[None]]) -> None:
    """Run a program on the home's ledger."""

    async def run() -> None:
        policy = SafetyPolicyMiddleware({"pay": ToolPolicy(approval="human")})
        async with SQLiteStore(home / "harness.db") as store, Kernel(store=store, middleware=[policy]) as kernel:
            await program(kernel)

    asyncio.run(run())


async def released(kernel: Kernel) -> Any:
    """Run the workflow to where it comes: what it gives, or its status."""

    async def workflow(ctx: WorkflowContext) -> Any:
        return await ctx.pause("release it?")

    result = await kernel.run_workflow(run_id="release", tenant=TENANT, workflow=workflow)
    return result.output if result.status == "completed" else result.status


def test_runs_are_listed(cli: Cli) -> None:
    """Those under way, or all; of one tenant, and only the newest of them."""
    (waiting,) = cli.json("list")
    assert (waiting["run_id"], waiting["status"], waiting["reason"]) == ("release", "paused", "release it?")
    assert [each["run_id"] for each in cli.json("list", "--all")] == ["old", "release"]
    assert [each["run_id"] for each in cli.json("list", "--all", "--tenant", "u")] == ["old"]
    assert [each["run_id"] for each in cli.json("list", "--all", "--limit", "1")] == ["release"]
    assert cli("list", "--tenant", "u") == (0, "", "no run is under way\n")
    assert "release it?" in cli("list")[1]


def test_a_run_is_explained(cli: Cli) -> None:
    """Where it stands and what it waits for, for people and programs; looking writes nothing."""
    before = cli.json("list")

    assert "waits for human" in cli("show", "release")[1]
    assert cli.json("show", "release")["progress"]["waiting_for"] == "human"
    assert cli.json("list") == before


@pytest.mark.parametrize(
    ("words", "said"), [(("--input", "yes"), "yes"), (("--input-json", '{"region": "eu"}'), {"region": "eu"}), ((), None)]
)
def test_a_paused_workflow_gets_its_answer(cli: Cli, home: Path, words: tuple[str, ...], said: Any) -> None:
    """Run again, the program has what was said."""
    assert cli.json("resume", "release", *words)["status"] == "active"

    async def again(kernel: Kernel) -> None:
        assert await released(kernel) == said

    work(home, again)


def test_a_run_is_paused_and_cancelled(cli: Cli, home: Path) -> None:
    """By whom and why is on the ledger."""
    assert cli("resume", "release")[0] == 0
    assert cli("pause", "release", "--reason", "look first") == (0, "paused: release\n", "")
    assert cli("cancel", "release", "--reason", "not wanted")[0] == 0

    assert cli.json("list") == []
    (note,) = [each for each in cli.json("show", "release")["notes"] if each["type"] == "run.cancelled"]
    assert "not wanted" in note["text"]
    assert "by=person:" in note["text"]


def test_an_approval_is_answered_where_it_is_asked(cli: Cli, home: Path) -> None:
    """Resuming such a run here would let it go on without an answer, only to wait again."""

    async def program(kernel: Kernel) -> None:
        @kernel.tool(side_effect=True)
        async def pay(amount: int) -> str:
            return f"paid {amount}"

        await kernel.start_run(tenant=TENANT, run_id="bill")
        with pytest.raises(ApprovalRequired):
            await kernel.step_tool(run_id="bill", tenant=TENANT, tool_name="pay", arguments={"amount": 5})

    work(home, program)
    code, _, err = cli("resume", "bill", "--input", "yes")

    assert code == 2
    assert "harness questions approve q-" in err
    assert cli.json("show", "bill")["progress"]["status"] == "paused"


def test_a_changed_run_hides_no_other(cli: Cli, home: Path) -> None:
    """It is named on stderr; the others are listed."""
    with sqlite3.connect(home / "harness.db") as connection:
        connection.execute("""UPDATE events SET data = '{"by":"mallory"}' WHERE type = 'run.paused'""")

    code, out, err = cli("list", "--all", "--json")

    assert code == 0
    assert [each["run_id"] for each in json.loads(out)] == ["old"]
    assert err.startswith("not listed: ")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "nobody"), 1, "no run 'nobody'"),
        (("pause", "nobody"), 1, "no run 'nobody'"),
        (("pause", "release"), 1, "is paused; only one that is active can be paused"),
        (("resume", "nobody"), 1, "no run 'nobody'"),
        (("resume", "old"), 1, "is completed; only one that is paused can be resumed"),
        (("resume", "release", "--input", "a", "--input-json", "1"), 2, "say it once"),
        (("resume", "release", "--input-json", "yes"), 2, "for a text there is --input"),
        (("cancel", "old"), 1, "is completed"),
        (("list", "--limit", "0"), 2, "--limit"),
        (("show",), 2, "RUN"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(cli: Cli, words: tuple[str, ...], code: int, said: str) -> None:
    """Nothing is printed as a result, and the run is where it was."""
    found, out, err = cli(*words)

    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    assert cli.json("show", "release")["progress"]["status"] == "paused"
