"""What a run with a scrubber writes, shows and gives back."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from harness.errors import ModelMalformed, StepFailed, StepRejected, UsageError
from harness.kernel import (
    Kernel,
    MockModelPort,
    ModelInput,
    ModelInvocation,
    ModelResult,
    ScriptedModelPort,
    TenantContext,
    ToolCall,
)
from harness.kernel.middleware.placeholders import PLACEHOLDER
from harness.ledger import MemoryStore, SQLiteStore
from harness.middleware import Finding, PIIScrubberMiddleware

Store = MemoryStore | SQLiteStore
TENANT = TenantContext(tenant_id="t")
RUN = "r"
ANN = "ann@example.org"
CARD = 4111111111111111


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "k.db")
    yield made
    await made.close()


async def written(store: Store) -> str:
    """Every payload on the ledger."""
    return "\n".join(event.data.decode() for event in await store.read_all(limit=10_000) if event.data is not None)


def use(kernel: Kernel, tool: str, arguments: object = None, **more: Any) -> Any:
    return kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name=tool, arguments=arguments, **more)


def ask(kernel: Kernel, prompt: str, **more: Any) -> Any:
    return kernel.step_model(run_id=RUN, tenant=TENANT, model="m", input=ModelInput.from_prompt(prompt), **more)


async def test_every_way_to_the_ledger_is_scrubbed(store: Store) -> None:
    """Prompts, answers, arguments, results, errors, artifacts, summaries, reasons and what people say."""
    call = ToolCall(id="c", name="echo", arguments_json=f'{{"to": "{ANN}"}}')
    port = ScriptedModelPort([ModelResult(text=f"ask {ANN}", tool_calls=(call,), stop_reason="tool_calls")])
    async with Kernel(store=store, model_port=port, middleware=[PIIScrubberMiddleware()]) as kernel:

        @kernel.tool()
        async def echo(to: str, card: int) -> dict[str, Any]:
            return {"to": to, "card": card, "password": "hunter22", ANN: 1}

        @kernel.tool(side_effect=True)
        async def breaks(to: str) -> None:
            raise ValueError(f"no such user {to}")

        await kernel.start_run(tenant=TENANT, run_id=RUN)
        said = await ask(kernel, f"about {ANN}")
        got = await use(kernel, "echo", {"to": ANN, "card": CARD})
        with pytest.raises(StepFailed):
            await use(kernel, "breaks", {"to": ANN})
        with pytest.raises(StepRejected):
            await use(kernel, "breaks", {"too": ANN})
        with pytest.raises(StepRejected):
            await use(kernel, "nothing", {"to": ANN})
        await kernel.set_artifact(run_id=RUN, tenant=TENANT, key="a", value={"mail": ANN})
        await kernel.append_run_summary(run_id=RUN, tenant=TENANT, summary_type="s", summary=f"wrote to {ANN}")
        await kernel.pause(run_id=RUN, reason=f"ask {ANN}", context={"who": ANN})
        await kernel.resume(run_id=RUN, human_input={"to": ANN})

        everything = await written(store)
        artifact = await kernel.get_artifact(run_id=RUN, key="a")
        human = await kernel.get_human_input(run_id=RUN)

    assert ANN not in everything
    assert str(CARD) not in everything
    assert "hunter22" not in everything
    token = artifact["mail"]
    assert PLACEHOLDER.fullmatch(token)
    assert human == {"to": token}
    assert said.text == f"ask {token}"
    assert said.tool_calls[0].arguments() == {"to": token}
    assert got.result["to"] == token
    assert got.result[token] == 1


async def test_a_replay_gives_and_writes_the_same(store: Store) -> None:
    """Another process makes the same placeholders, so nothing is asked, done or written again."""
    port = MockModelPort(text="well")
    async with Kernel(store=store, model_port=port, middleware=[PIIScrubberMiddleware()]) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        await ask(kernel, f"about {ANN} and +49 30 901820")
        before = len(await store.read_all(limit=1000))
    async with Kernel(store=store, middleware=[PIIScrubberMiddleware()]) as kernel:
        again = await ask(kernel, f"about {ANN} and +49 30 901820")

    assert again.replayed
    assert len(await store.read_all(limit=1000)) == before
    assert port.last is not None
    assert ANN not in port.last.prompt
    assert len(PLACEHOLDER.findall(port.last.prompt)) == 2


async def test_a_typed_answer_with_personal_data_is_the_same_now_and_later(store: Store) -> None:
    """The caller gets what is recorded; where the schema takes no placeholder, the step fails."""

    class Contact(BaseModel):
        mail: str

    class Short(BaseModel):
        mail: str

        def model_post_init(self, _: object) -> None:
            if not self.mail.startswith("ann"):
                raise ValueError("not Ann")

    port = MockModelPort(output={"mail": ANN})
    async with Kernel(store=store, model_port=port, middleware=[PIIScrubberMiddleware()]) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        first = await ask(kernel, "who?", output_schema=Contact, step_key="a")
        again = await ask(kernel, "who?", output_schema=Contact, step_key="a")
        with pytest.raises(ModelMalformed, match="no room for a placeholder"):
            await ask(kernel, "who?", output_schema=Short, step_key="b")

    assert first.output == again.output
    assert PLACEHOLDER.fullmatch(first.output.mail)
    assert ANN not in await written(store)


async def test_what_other_middleware_puts_in_is_scrubbed_too(store: Store) -> None:
    """Scrubbing comes first, and looks again at the end."""

    class Signs:
        def prepare_model(self, invocation: ModelInvocation) -> ModelInvocation:
            return dataclasses.replace(invocation, prompt=f"{invocation.prompt} -- {ANN}")

    port = MockModelPort(text="ok")
    async with Kernel(store=store, model_port=port, middleware=[Signs(), PIIScrubberMiddleware()]) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        await ask(kernel, "hello")

    assert port.last is not None
    assert port.last.prompt.startswith("hello -- <EMAIL_")


async def test_a_long_text_holds_nobody_up(store: Store) -> None:
    """It is looked at beside the event loop, which goes on meanwhile; what is in it is found all the same."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async with Kernel(store=store, middleware=[PIIScrubberMiddleware()]) as kernel, asyncio.TaskGroup() as group:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        ticking = group.create_task(tick())
        await kernel.set_artifact(run_id=RUN, tenant=TENANT, key="k", value="word 12 " * 100_000 + ANN)
        found = ticks
        ticking.cancel()
        artifact = await kernel.get_artifact(run_id=RUN, key="k")

    assert found >= 5
    assert ANN not in artifact
    assert artifact.startswith("word 12 word")


async def test_tenants_have_different_placeholders_and_a_given_key_needs_no_event(store: Store) -> None:
    """Nobody can compare two tenants' values; with an own key the ledger holds none."""
    tokens: list[str] = []
    for tenant_id, key in (("a", None), ("b", None), ("c", b"k" * 32), ("d", "k" * 32)):
        tenant = TenantContext(tenant_id=tenant_id)
        async with Kernel(store=store, middleware=[PIIScrubberMiddleware(key=key)]) as kernel:
            await kernel.start_run(tenant=tenant, run_id=tenant_id)
            await kernel.set_artifact(run_id=tenant_id, tenant=tenant, key="k", value=ANN)
            tokens.append(await kernel.get_artifact(run_id=tenant_id, key="k"))

    assert len(set(tokens)) == 3
    assert tokens[2] == tokens[3]
    assert [head.stream for head in await store.heads("scrub/")] == ["scrub/a", "scrub/b"]


async def test_the_key_can_be_erased(store: Store) -> None:
    """Afterwards nobody can test a guess, the chain is valid, and new values get placeholders of another key."""
    tokens: list[str] = []
    for _ in range(2):
        async with Kernel(store=store, middleware=[PIIScrubberMiddleware()]) as kernel:
            await kernel.open_run(tenant=TENANT, run_id=RUN)
            await kernel.set_artifact(run_id=RUN, tenant=TENANT, key="k", value=ANN)
            tokens.append(await kernel.get_artifact(run_id=RUN, key="k"))
        await store.erase("scrub/t", (await store.heads("scrub/t"))[0].seq, reason="forget")

    assert tokens[0] != tokens[1]
    assert await store.verify()


async def test_an_erased_model_step_says_so_when_it_is_replayed(store: Store) -> None:
    """The payload is gone, the chain is valid, and the step is over: it is neither repeated nor invented."""
    port = MockModelPort(text="well")
    async with Kernel(store=store, model_port=port) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        asked = await ask(kernel, f"about {ANN}", step_key="a")
        await ask(kernel, "other", step_key="b")
    await store.erase(f"run/{RUN}", asked.seq, reason="personal data")
    async with Kernel(store=store, model_port=port) as kernel:
        with pytest.raises(StepFailed, match="was erased"):
            await ask(kernel, f"about {ANN}", step_key="a")
        assert (await ask(kernel, "other", step_key="b")).replayed

    assert ANN not in await written(store)
    assert await store.verify()
    assert port.calls == 2


async def test_tools_get_values_back_only_where_that_is_wanted(store: Store) -> None:
    """`restore` names the tools; others get the placeholder, and an unknown one is refused before anything happens."""
    got: list[str] = []
    scrubber = PIIScrubberMiddleware(restore={"mail"})
    async with Kernel(store=store, middleware=[scrubber]) as kernel:
        for name in ("mail", "search"):

            async def tool(to: str, name: str = name) -> None:
                got.append(f"{name} {to}")

            kernel.tool(name=name)(tool)
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        await kernel.set_artifact(run_id=RUN, tenant=TENANT, key="k", value=ANN)
        token = await kernel.get_artifact(run_id=RUN, key="k")
        await use(kernel, "mail", {"to": token})
        await use(kernel, "search", {"to": token})
        await use(kernel, "search", {"to": ANN})
        with pytest.raises(StepRejected, match="has not seen the value"):
            await use(kernel, "mail", {"to": "<EMAIL_0123456789ab>"})
        types = [event.type for event in await kernel.get_events(run_id=RUN)]

    assert got == [f"mail {ANN}", f"search {token}", f"search {ANN}"]
    assert types[-1] == "step.rejected"


async def test_a_refusal_is_recorded_without_what_it_quotes(store: Store) -> None:
    """The exception may quote the value; the event does not."""

    class Quotes:
        def prepare_tool_request(self, *, arguments_json: str, **_: Any) -> str:
            raise ValueError(f"not {arguments_json}")

    async with Kernel(store=store, middleware=[PIIScrubberMiddleware(), Quotes()]) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        with pytest.raises(ValueError, match=ANN):
            await use(kernel, "look", {"to": ANN})

    assert "step.rejected" in [event.type for event in await store.read(f"run/{RUN}")]
    assert ANN not in await written(store)


async def test_own_detectors_and_exceptions(store: Store) -> None:
    """A detector is any object with `find`; what is allowed stays."""

    class Badges:
        def find(self, text: str) -> list[Finding]:
            at = text.find("badge-")
            return [Finding(at, at + 10, "BADGE")] if at >= 0 else []

    port = MockModelPort(text="ok")
    scrubber = PIIScrubberMiddleware(more=[Badges()], allow={"git@github.com"})
    async with Kernel(store=store, model_port=port, middleware=[scrubber]) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        await ask(kernel, f"badge-1234 of {ANN} at git@github.com:x/y")

    assert port.last is not None
    assert PLACEHOLDER.sub(lambda match: match[0][1:6], port.last.prompt) == "BADGE of EMAIL at git@github.com:x/y"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"detectors": [42]}, "no detector"),
        ({"more": [Finding]}, "no detector"),
        ({"key": "short"}, "16 bytes"),
        ({"allow": "ann@example.org"}, "not one text"),
    ],
)
def test_a_wrong_scrubber_is_refused_when_it_is_made(given: dict[str, Any], told: str) -> None:
    """Not in the middle of a run."""
    with pytest.raises(UsageError, match=told):
        PIIScrubberMiddleware(**given)
