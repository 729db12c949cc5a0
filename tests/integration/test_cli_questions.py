"""People answer on the command line what runs ask, and the runs go on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from harness.cli import main
from harness.errors import ApprovalRequired, PolicyDenied
from harness.kernel import Kernel, TenantContext
from harness.ledger import SQLiteStore
from harness.middleware import SafetyPolicyMiddleware, ToolPolicy

TENANT = TenantContext(tenant_id="t")


@pytest.fixture
async def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kernel]:
    """A kernel on a project's ledger, with a tool that people must approve."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / ".harness"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HARNESS_HOME", str(home))
    async with (
        SQLiteStore(home / "harness.db") as store,
        Kernel(store=store, middleware=[SafetyPolicyMiddleware({"pay": ToolPolicy(approval="human")})]) as kernel,
    ):

        @kernel.tool(side_effect=True)
        async def pay(amount: int) -> str:
            return f"paid {amount}"

        await kernel.start_run(tenant=TENANT, run_id="r")
        yield kernel


async def pay(kernel: Kernel, amount: int = 5) -> Any:
    return await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="pay", arguments={"amount": amount}, step_key="pay")


class Cli:
    """Runs a command line in another thread, since it has a loop of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = await anyio.to_thread.run_sync(lambda: main(words))
        out, err = self._capsys.readouterr()
        return code, out, err


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


async def test_a_person_approves_and_the_run_goes_on(kernel: Kernel, cli: Cli) -> None:
    """List, show, approve; then the step that waited is done, though nobody resumed the run."""
    with pytest.raises(ApprovalRequired) as caught:
        await pay(kernel)
    id_ = caught.value.question_id

    listed = json.loads((await cli("questions", "list", "--kind", "approval", "--json"))[1])
    shown = (await cli("questions", "show", id_))[1]
    code, out, _ = await cli("questions", "approve", id_, "--note", "fine")

    assert [each["id"] for each in listed] == [id_]
    assert 'text: May pay({"amount":5}) be done?' in shown
    assert (code, out) == (0, 'approve: May pay({"amount":5}) be done?\n')
    assert (await pay(kernel)).result == "paid 5"
    assert "nobody asks anything" in (await cli("questions", "list"))[2]
    assert "used by: run/r#pay" in (await cli("questions", "show", id_))[1]


async def test_a_person_denies(kernel: Kernel, cli: Cli) -> None:
    """The step is refused with the reason."""
    with pytest.raises(ApprovalRequired) as caught:
        await pay(kernel)

    assert (await cli("questions", "deny", caught.value.question_id, "--note", "too much"))[0] == 0
    with pytest.raises(PolicyDenied, match=r"said no to .*: too much"):
        await pay(kernel)


async def test_what_cannot_be_answered_says_so(kernel: Kernel, cli: Cli) -> None:
    """An unknown question, an answer that is not offered, a second answer: one line each."""
    with pytest.raises(ApprovalRequired) as caught:
        await pay(kernel)
    id_ = caught.value.question_id

    assert await cli("questions", "approve", "q-0") == (1, "", "harness: no question 'q-0'\n")
    code, _, err = await cli("questions", "answer", id_, "maybe")
    assert (code, err) == (2, f"harness: {id_} offers approve, deny, not 'maybe'\n")
    assert (await cli("questions", "answer", id_, "approve", "--json"))[0] == 0
    code, _, err = await cli("questions", "deny", id_)
    assert code == 1
    assert "was answered already" in err
