"""Reading an answer while it comes: pieces of text, one recorded event, interrupted and repeated attempts, followers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from harness.errors import ModelError, ModelMalformed, ModelUnavailable, NotFound, UsageError
from harness.kernel import (
    Kernel,
    KernelPolicy,
    MockModelPort,
    ModelInput,
    ModelRequest,
    ModelResult,
    ModelStream,
    ScriptedModelPort,
    StreamingModelPort,
    TenantContext,
    TextDelta,
)
from harness.ledger import MemoryStore

TENANT = TenantContext(tenant_id="t")
RUN = "run-1"
PATIENCE_SECONDS = 30.0


class Port:
    """Streams what its script says, call by call: texts, errors, events to wait for."""

    def __init__(self, *script: list[Any]) -> None:
        self.script = list(script)
        self.closed = 0

    async def complete(self, request: ModelRequest) -> ModelResult:
        raise AssertionError("a port that streams is asked for a stream")

    async def stream(self, request: ModelRequest) -> AsyncGenerator[str | ModelResult]:
        said = ""
        try:
            for part in self.script.pop(0):
                if isinstance(part, asyncio.Event):
                    await part.wait()
                elif isinstance(part, Exception):
                    raise part
                elif part is None:
                    return
                else:
                    said += part
                    yield part
            yield ModelResult(text=said, model="port")
        finally:
            self.closed += 1


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as made:
        yield made


async def opened(store: MemoryStore, port: Any) -> Kernel:
    kernel = Kernel(store=store, model_port=port, policy=KernelPolicy(retry_base_seconds=0))
    await kernel.open_run(tenant=TENANT, run_id=RUN)
    return kernel


def stream(kernel: Kernel, **more: Any) -> ModelStream:
    return kernel.stream_model(run_id=RUN, tenant=TENANT, model="m", input=ModelInput.from_prompt("x"), step_key="s", **more)


async def types(store: MemoryStore) -> list[str]:
    return [event.type for event in await store.read(f"run/{RUN}")][1:]


async def read(stream: ModelStream) -> list[TextDelta]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [delta async for delta in stream]


async def test_the_text_comes_in_pieces_and_is_recorded_once(store: MemoryStore) -> None:
    """A reader has the first piece before the answer is complete; the ledger has the whole of it, in one event."""
    gate = asyncio.Event()
    kernel = await opened(store, Port(["It ", "is ", gate, "up."]))

    async with asyncio.timeout(PATIENCE_SECONDS), stream(kernel) as answer:
        first = [(await anext(answer)).text, (await anext(answer)).text]
        assert "step.completed" not in await types(store)
        gate.set()
        rest = [delta.text async for delta in answer]
        result = await answer.result()

    assert (first, rest) == (["It ", "is "], ["up."])
    assert (result.text, result.model, result.replayed) == ("It is up.", "port", False)
    assert await types(store) == ["step.started", "step.completed"]
    await kernel.close()


async def test_a_replay_gives_the_recorded_text_at_once(store: MemoryStore) -> None:
    """No call is made, nothing is written, and a step that streamed is the same step without streaming."""
    first = await opened(store, MockModelPort(text="two words"))
    assert "".join(delta.text for delta in await read(stream(first))) == "two words"
    before = await types(store)
    second = await opened(store, None)

    deltas = await read(stream(second))
    plain = await second.step_model(run_id=RUN, tenant=TENANT, model="m", input=ModelInput.from_prompt("x"), step_key="s")

    assert [(delta.text, delta.replayed) for delta in deltas] == [("two words", True)]
    assert (plain.text, plain.replayed) == ("two words", True)
    assert await types(store) == before
    await first.close()
    await second.close()


async def test_a_stream_can_just_be_awaited(store: MemoryStore) -> None:
    """Who does not read still gets the result."""
    kernel = await opened(store, ScriptedModelPort(["said so"]))

    assert await stream(kernel).text() == "said so"
    assert (await stream(kernel)).replayed
    await kernel.close()


async def test_a_port_that_cannot_stream_says_everything_at_the_end(store: MemoryStore) -> None:
    """Streaming is optional; the reader gets one piece."""

    class Plain:
        async def complete(self, request: ModelRequest) -> ModelResult:
            return ModelResult(text="all at once")

    kernel = await opened(store, Plain())

    assert [delta.text for delta in await read(stream(kernel))] == ["all at once"]
    assert not isinstance(Plain(), StreamingModelPort)
    assert isinstance(MockModelPort(text="x"), StreamingModelPort)
    await kernel.close()


async def test_an_attempt_that_breaks_off_is_tried_again_and_says_so(store: MemoryStore) -> None:
    """The reader is told to forget what the failed attempt said; both attempts are on the ledger, one text is."""
    kernel = await opened(store, Port(["It is d", ModelUnavailable("cut")], ["It is up."]))

    deltas = await read(answer := stream(kernel))

    assert [(delta.text, delta.attempt, delta.restarted) for delta in deltas] == [
        ("It is d", 1, False),
        ("", 2, True),
        ("It is up.", 2, False),
    ]
    assert (await answer).text == "It is up."
    assert [kind for kind in await types(store) if kind != "step.started"] == ["step.retried", "step.completed"]
    await kernel.close()


async def test_a_failure_in_the_middle_is_raised_to_the_reader(store: MemoryStore) -> None:
    """After the pieces comes the error, as of a step without streaming, and it is recorded."""
    kernel = await opened(store, Port(["It", ModelError("refused")]))
    answer = stream(kernel)

    assert (await anext(answer)).text == "It"
    with pytest.raises(ModelError, match="refused"):
        await anext(answer)
    with pytest.raises(ModelError, match="refused"):
        await answer
    assert (await types(store))[-1] == "step.failed"
    await kernel.close()


async def test_a_stream_without_a_result_is_malformed(store: MemoryStore) -> None:
    """A port that breaks its promise fails the step in one line."""
    kernel = await opened(store, Port(["It", None]))

    with pytest.raises(ModelMalformed, match="ended without a result"):
        await stream(kernel)

    await kernel.close()


async def test_leaving_a_stream_interrupts_the_attempt(store: MemoryStore) -> None:
    """Nothing half is recorded; the call is ended, and the step is executed again when it is asked for again."""
    port = Port(["It ", asyncio.Event()], ["whole"])
    kernel = await opened(store, port)

    async with asyncio.timeout(PATIENCE_SECONDS), stream(kernel) as answer:
        await anext(answer)
    assert port.closed == 1
    assert await types(store) == ["step.started", "step.interrupted"]

    assert (await stream(kernel)).text == "whole"
    await kernel.close()


async def test_a_stream_that_was_never_begun_can_be_closed(store: MemoryStore) -> None:
    """And does nothing any more."""
    kernel = await opened(store, Port())
    answer = stream(kernel)
    await answer.aclose()
    await answer.aclose()

    with pytest.raises(UsageError, match="closed before it began"):
        await answer.result()
    assert await types(store) == []
    await kernel.close()


async def test_a_reader_elsewhere_follows(store: MemoryStore) -> None:
    """Another kernel of the process sees what was said so far and each further piece, and where the answer ends."""
    gate = asyncio.Event()
    kernel = await opened(store, Port(["one ", "two ", gate, "three"]))
    other = Kernel(store=store)
    seen: list[tuple[str, bool]] = []

    async with asyncio.timeout(PATIENCE_SECONDS), stream(kernel) as answer:
        await anext(answer)
        await anext(answer)
        async with contextlib.aclosing(other.follow_text(run_id=RUN)) as news:
            async for delta in news:
                seen.append((delta.text, delta.done))
                assert delta.step == "s"
                gate.set()
                if delta.done:
                    break
        await answer

    assert seen == [("one two ", False), ("three", False), ("", True)]
    await kernel.close()


async def test_following_an_unknown_run_is_refused(store: MemoryStore) -> None:
    """By name."""
    kernel = Kernel(store=store)

    with pytest.raises(NotFound, match="ghost"):
        await anext(kernel.follow_text(run_id="ghost"))


async def test_readers_of_two_runs_do_not_hear_each_other(store: MemoryStore) -> None:
    """Also when one's name begins with the other's."""
    kernel = await opened(store, ScriptedModelPort(["theirs", "mine"]))
    await kernel.start_run(tenant=TENANT, run_id=f"{RUN}1")

    async def first() -> str:
        async with contextlib.aclosing(kernel.follow_text(run_id=f"{RUN}1")) as news:
            return (await anext(news)).text

    reading = asyncio.ensure_future(first())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await stream(kernel)
    kernel_two = kernel.stream_model(run_id=f"{RUN}1", tenant=TENANT, model="m", input=ModelInput.from_prompt("x"))
    await kernel_two

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await reading == "mine"
    await kernel.close()
