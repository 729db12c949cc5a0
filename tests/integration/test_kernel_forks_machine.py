"""Random steps, forks and restarts: a fork replays exactly its prefix, and never writes to its parent after the note."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.kernel import Kernel, ModelInput, ModelRequest, ModelResult, TenantContext
from harness.ledger import MemoryStore

TENANT = TenantContext(tenant_id="t")
KEYS = st.sampled_from("abcde")


class Counting:
    """Every answer is another one."""

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, request: ModelRequest) -> ModelResult:
        self.calls += 1
        return ModelResult(text=f"{request.prompt} {self.calls}")


@dataclass
class Model:
    """What a run should hold: the answer to each step, and which of its events recorded it."""

    name: str
    answers: dict[str, str] = field(default_factory=dict)
    at: dict[str, int] = field(default_factory=dict)  # 0: inherited


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[str, int, str, int]]:
    """What to do, in which run, with which step, and where to fork."""
    action = st.sampled_from(("step", "step", "step", "tool", "fork", "drift", "restart"))
    return draw(st.lists(st.tuples(action, st.integers(0, 9), KEYS, st.integers(0, 99)), max_size=25))


async def step(kernel: Kernel, port: Counting, run: Model, key: str) -> None:
    """A model step: the recorded answer without a call if there is one, else another."""
    before = port.calls
    result = await kernel.step_model(
        run_id=run.name, tenant=TENANT, model="m", input=ModelInput.from_prompt(key), step_key=f"model-{key}"
    )
    known = run.answers.get(f"model-{key}")
    assert result.replayed == (known is not None)
    assert port.calls == before + (known is None)
    if known is None:
        run.answers[f"model-{key}"], run.at[f"model-{key}"] = result.text, result.seq
    assert result.text == run.answers[f"model-{key}"]


async def tool(kernel: Kernel, done: list[str], run: Model, key: str) -> None:
    """A side effect: once in each run that did not inherit it."""
    before = len(done)
    result = await kernel.step_tool(
        run_id=run.name, tenant=TENANT, tool_name="act", arguments={"on": key}, step_key=f"tool-{key}"
    )
    known = run.answers.get(f"tool-{key}")
    assert len(done) == before + (known is None)
    if known is None:
        run.answers[f"tool-{key}"], run.at[f"tool-{key}"] = result.result, result.seq
    assert result.result == run.answers[f"tool-{key}"]


async def fork(kernel: Kernel, store: MemoryStore, run: Model, place: int) -> Model:
    """A fork at some event: it has what had ended by then."""
    head = await store.head(f"run/{run.name}")
    assert head is not None
    at = 1 + place % head.seq
    name = (await kernel.fork_run(run_id=run.name, at_seq=at)).run_id
    kept = {key: answer for key, answer in run.answers.items() if run.at[key] <= at}
    return Model(name, kept, dict.fromkeys(kept, 0))


async def drift(kernel: Kernel, run: Model, key: str) -> Model | None:
    """Ask a recorded step of this very run with other words: the same fork, however often."""
    at = run.at.get(f"model-{key}", 0)
    if not at:
        return None
    asked = ModelInput.from_prompt(f"{key}!")
    results = [
        await kernel.step_model(
            run_id=run.name, tenant=TENANT, model="m", input=asked, step_key=f"model-{key}", replay_policy="fork_on_drift"
        )
        for _ in range(2)
    ]
    first, again = results
    assert (first.run_id, first.text, again.replayed) == (again.run_id, again.text, True)
    if first.replayed:  # forked before
        return None
    kept = {other: answer for other, answer in run.answers.items() if run.at[other] < at}
    made = Model(first.run_id, kept, dict.fromkeys(kept, 0))
    made.answers[f"changed-{key}"] = first.text
    made.at[f"changed-{key}"] = first.seq
    return made


async def play(program: list[tuple[str, int, str, int]]) -> None:
    store, port, done = MemoryStore(), Counting(), list[str]()

    def opened() -> Kernel:
        kernel = Kernel(store=store, model_port=port)

        @kernel.tool(side_effect=True)
        async def act(on: str) -> str:
            done.append(on)
            return f"{on} {len(done)}"

        return kernel

    kernel = opened()
    await kernel.start_run(tenant=TENANT, run_id="root")
    runs = [Model("root")]
    for action, which, key, place in program:
        run = runs[which % len(runs)]
        others = {other.name: await store.head(f"run/{other.name}") for other in runs if other is not run}
        changed = f"changed-{key}" in run.answers  # this step was recorded with other words
        match action:
            case "step" if not changed:
                await step(kernel, port, run, key)
            case "tool":
                await tool(kernel, done, run, key)
            case "fork":
                runs.append(await fork(kernel, store, run, place))
            case "drift" if not changed:
                made = await drift(kernel, run, key)
                runs += [made] if made is not None else []
            case "restart":
                await kernel.close()
                kernel = opened()
            case _:
                pass
        if action in ("step", "tool"):  # nobody else's run was written to
            assert others == {name: await store.head(f"run/{name}") for name in others}
    await kernel.close()
    kernel = opened()
    before = await store.tail()
    for run in runs:
        for kind, _, key in [name.partition("-") for name in run.answers]:
            if kind == "model":
                await step(kernel, port, run, key)
            elif kind == "tool":
                await tool(kernel, done, run, key)
    assert await store.tail() == before  # all of it was replayed
    await kernel.close()
    for run in runs:
        assert await store.verify_run_chain(run.name)
        forks = [event for event in await store.read(f"run/{run.name}") if event.type == "run.forked"]
        assert len({event.key for event in forks}) == len(forks)
    await store.close()


@settings(max_examples=120, deadline=None)
@given(programs())
def test_forks_replay_their_prefix_and_leave_their_parents_alone(program: list[tuple[str, int, str, int]]) -> None:
    """Whatever is done in whatever order, each run answers from what it recorded or inherited, and only from that."""
    asyncio.run(play(program))
