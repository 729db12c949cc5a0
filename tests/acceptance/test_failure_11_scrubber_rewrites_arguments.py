"""Failure 11: the scrubber rewrites the address that an e-mail tool is to send to.

What a model sees and what is on the ledger holds placeholders; what the tool receives is the address itself, whether
the program gave it or a model that only ever saw the placeholder, and also after a crash in the middle.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import Kernel, ModelInput, OutcomeUnknown, ReplayConsistencyError, SQLiteStore, StepRejected, TenantContext
from harness.kernel import ModelRequest, ModelResult, ScriptedModelPort, ToolCall, ToolExecutionContext
from harness.middleware import PIIScrubberMiddleware

TENANT = TenantContext(tenant_id="t")
ADDRESS = "ann.example@mail.example.org"


def ledger_bytes(folder: Path) -> bytes:
    """Everything that is on the disk."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.name.startswith("k.db"))


async def test_the_tool_gets_the_address_and_the_ledger_does_not(tmp_path: Path) -> None:
    """The program gives the address; the mail goes there; no byte of the ledger's files holds it."""
    sent: list[str] = []
    async with SQLiteStore(tmp_path / "k.db") as store:
        for expected in (False, True):
            async with Kernel(store=store, middleware=[PIIScrubberMiddleware()]) as kernel:

                @kernel.tool(side_effect=True)
                async def send_mail(to: str) -> dict[str, str]:
                    sent.append(to)
                    return {"sent_to": to}

                await kernel.open_run(tenant=TENANT, run_id="r")
                done = await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="send_mail", arguments={"to": ADDRESS})
                assert done.replayed is expected
                assert ADDRESS not in done.result_json
        assert await store.verify()

    assert sent == [ADDRESS]
    assert ADDRESS.encode() not in ledger_bytes(tmp_path)
    assert b"<EMAIL_" in ledger_bytes(tmp_path)


async def test_a_model_that_saw_a_placeholder_sends_to_the_address(tmp_path: Path) -> None:
    """The model writes the placeholder into its call, and the tool gets what it stands for."""
    sent: list[str] = []

    def answer(request: ModelRequest) -> ModelResult:
        assert ADDRESS not in request.prompt
        token = request.prompt.removeprefix("Tell ").removesuffix(" that all is well")
        call = ToolCall(id="c", name="send_mail", arguments_json=f'{{"to": "{token}"}}')
        return ModelResult(tool_calls=(call,), stop_reason="tool_calls")

    async with SQLiteStore(tmp_path / "k.db") as store:
        port = ScriptedModelPort([answer])
        async with Kernel(store=store, model_port=port, middleware=[PIIScrubberMiddleware()]) as kernel:

            @kernel.tool(side_effect=True)
            async def send_mail(to: str) -> None:
                sent.append(to)

            await kernel.start_run(tenant=TENANT, run_id="r")
            said = await kernel.step_model(
                run_id="r", tenant=TENANT, model="m", input=ModelInput.from_prompt(f"Tell {ADDRESS} that all is well")
            )
            (call,) = said.tool_calls
            await kernel.step_tool(run_id="r", tenant=TENANT, tool_name=call.name, arguments=call.arguments())

    assert sent == [ADDRESS]
    assert ADDRESS.encode() not in ledger_bytes(tmp_path)


async def test_another_address_under_the_same_step_is_noticed(tmp_path: Path) -> None:
    """Scrubbing hides the address, not that it changed."""
    async with SQLiteStore(tmp_path / "k.db") as store, Kernel(store=store, middleware=[PIIScrubberMiddleware()]) as kernel:

        @kernel.tool(side_effect=True)
        async def send_mail(to: str) -> None: ...

        await kernel.start_run(tenant=TENANT, run_id="r")

        async def send(to: str) -> None:
            await kernel.step_tool(run_id="r", tenant=TENANT, tool_name="send_mail", arguments={"to": to}, step_key="s")

        await send(ADDRESS)
        with pytest.raises(ReplayConsistencyError, match=r"arguments\.to") as caught:
            await send("bob@mail.example.org")

    assert ADDRESS not in str(caught.value)


PROGRAM = """
import asyncio, os, signal, sys
from pathlib import Path
from harness import Kernel, SQLiteStore, TenantContext
from harness.middleware import PIIScrubberMiddleware

async def main():
    store = SQLiteStore(sys.argv[1])
    kernel = Kernel(store=store, middleware=[PIIScrubberMiddleware()])

    @kernel.tool(side_effect=True, on_unknown="retry")
    async def send_mail(to: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    await kernel.start_run(tenant=TenantContext(tenant_id="t"), run_id="r")
    await kernel.step_tool(
        run_id="r", tenant=TenantContext(tenant_id="t"), tool_name="send_mail", arguments={"to": sys.argv[2]}, step_key="s"
    )

asyncio.run(main())
"""


@pytest.mark.parametrize("policy", ["retry", "ask"])
async def test_after_a_kill_the_retry_has_the_real_arguments(tmp_path: Path, policy: str) -> None:
    """The caller gives them again; without them the tool is not run with a placeholder."""
    killed = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "k.db"), ADDRESS], timeout=60, env={**os.environ})
    assert killed.returncode == -signal.SIGKILL
    sent: list[tuple[str, str]] = []
    async with SQLiteStore(tmp_path / "k.db") as store, Kernel(store=store, middleware=[PIIScrubberMiddleware()]) as kernel:

        @kernel.tool(side_effect=True, on_unknown=policy)  # type: ignore[arg-type]
        async def send_mail(to: str, context: ToolExecutionContext) -> None:
            sent.append((to, context.idempotency_key))

        given = {"run_id": "r", "tenant": TENANT, "tool_name": "send_mail", "step_key": "s"}
        with pytest.raises(StepRejected, match="has not seen the value"):
            await kernel.reconcile_tool(**given, outcome="retry")
        with pytest.raises(StepRejected, match="not the arguments"):
            await kernel.reconcile_tool(**given, outcome="retry", arguments={"to": "bob@mail.example.org"})
        if policy == "ask":
            with pytest.raises(OutcomeUnknown):
                await kernel.step_tool(**given, arguments={"to": ADDRESS})
            await kernel.reconcile_tool(**given, outcome="retry", arguments={"to": ADDRESS})
        else:
            await kernel.step_tool(**given, arguments={"to": ADDRESS})
        events = await store.read("run/r")

    (intent, *_) = [event.payload for event in events if event.type == "step.started"]
    assert sent == [(ADDRESS, intent["idempotency_key"])]
    assert ADDRESS.encode() not in ledger_bytes(tmp_path)
