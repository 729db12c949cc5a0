"""Everything at once, killed at any instant and resumed: parallel steps, side effects, timers, pauses, children, forks,
sub-agents, approvals, budgets. Driven by `test_mixed_crash`.

Run as a program: `mixed_scenario.py FOLDER points EVERY | random KILLS SEED`; see `kernel_scenario`, whose tools it uses.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

import harness.agents.subagents
import harness.kernel.history
import harness.kernel.insight
import harness.kernel.workflow.runner
import harness.ledger.inspection
import harness.people.questions  # noqa: F401 - what is loaded when needed is loaded here, before the forks
from harness import AutonomousAgent, Kernel, ModelInput, TenantContext
from harness.agents import SubAgent
from harness.errors import ApprovalRequired, RunExists, RunNotActive
from harness.kernel import Message, ModelRequest, ModelResult, ToolCall, ToolExecutionContext, Usage
from harness.kernel.history import tell
from harness.ledger import SQLiteStore
from harness.middleware import SafetyPolicyMiddleware
from harness.people import Questions

sys.path.insert(0, str(Path(__file__).parent))
from kernel_scenario import Mortal, Tally, point

from harness.kernel.middleware.policies import ToolPolicy

TENANT = TenantContext(tenant_id="t", budget_usd_limit=5.0)
CALL_USD = 0.001
RUN, AGENT, FORK = "flow", "agent", "flow-fork"
EFFECTS = ("probe", "retry", "pay")


def label(run_id: str, messages: tuple[Message, ...]) -> str:
    """What tells one question to a model from all others: where it was asked, and after how much."""
    prompt = next(message.text for message in reversed(messages) if message.role == "user")
    return f"model {run_id} {len(messages)} {prompt.replace(' ', '_')}"


class Port:
    """The lead of the agents gives its task to a helper and notes the answer; the helper doubles; all others just answer."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    async def complete(self, request: ModelRequest) -> ModelResult:
        await asyncio.sleep(0.0005)
        self.tally.add(label(request.run_id, request.messages))
        said = sum(message.role == "assistant" for message in request.messages)
        first = request.messages[0].text
        usage = Usage(input_tokens=1, cost_usd=CALL_USD)
        if first.startswith("lead") and said < 2:
            calls = [ToolCall(id="1", name="helper", arguments_json='{"task":"double 21"}')]
            if said == 1:
                calls = [
                    ToolCall(id="2", name="probe", arguments_json='{"n":7}'),
                    ToolCall(id="3", name="pay", arguments_json='{"n":8}'),
                ]
            return ModelResult(tool_calls=tuple(calls), usage=usage)
        if first.startswith("help") and said < 1:
            return ModelResult(tool_calls=(ToolCall(id="1", name="double", arguments_json='{"n":21}'),), usage=usage)
        return ModelResult(text=f"done: {request.prompt}", usage=usage)


def register(kernel: Kernel, tally: Tally) -> None:
    """A pure tool, and side effects that are probed, repeated and approved."""

    @kernel.tool()
    async def double(n: int, context: ToolExecutionContext) -> int:
        tally.add(f"tool {context.run_id} {context.step}")
        return 2 * n

    def happened(context: ToolExecutionContext) -> bool:
        return any(line.startswith(f"effect {context.idempotency_key} ") for line in tally.lines())

    for name in EFFECTS:

        async def effect(n: int, context: ToolExecutionContext, name: str = name) -> None:
            tally.add(f"effect {context.idempotency_key} {name} {n} {context.run_id} {context.step}")
            await asyncio.sleep(0)

        policy: Any = "retry" if name == "retry" else "probe"
        kernel.tool(name=name, side_effect=True, on_unknown=policy, probe=happened)(effect)


class Script:
    """What is done, from the first line each time."""

    def __init__(self, kernel: Kernel, tally: Tally) -> None:
        self.kernel = kernel
        self.tally = tally

    async def run(self) -> None:
        await self.flow()
        await self.agents()
        await self.fork()
        if (await self.kernel.get_run_status(run_id=FORK)).active:
            await self.kernel.finish_run(run_id=FORK, tenant=TENANT)

    # A workflow with a child, timers, a pause and approvals

    async def flow(self) -> None:
        while True:
            try:
                result = await self.kernel.run_workflow(run_id=RUN, tenant=TENANT, workflow=self.work)
            except ApprovalRequired:
                await self.person()
                continue
            if result.status == "completed":
                assert result.output == ["go", 6], result.output
                return
            assert result.status == "paused", result
            await self.person()

    async def work(self, ctx: Any) -> Any:
        asked = [ctx.model(name=f"ask-{n}", model="m", input=ModelInput.from_prompt(f"ask {n}")) for n in range(3)]
        acted = [ctx.step(name=f"act-{n}", action=lambda n=n: self.act(RUN, n)) for n in range(3)]
        *said, one, two, three = await asyncio.gather(*asked, *acted)
        assert [answer.text for answer in said] == [f"done: ask {n}" for n in range(3)]
        for n, name in enumerate(EFFECTS):
            await ctx.tool(name, {"n": n}, name=f"{name}-{n}")
        await ctx.sleep(0.005)
        human = await ctx.pause("may I?")
        child = await ctx.child(name="child", workflow=self.child)
        return [human, one + two + three + child]

    async def child(self, ctx: Any) -> int:
        await ctx.tool("probe", {"n": 3}, name="probe-3")
        return await ctx.step(name="act-3", action=lambda: self.act(ctx.run_id, 3))

    async def act(self, run_id: str, n: int) -> int:
        self.tally.add(f"action {run_id} act-{n}")
        return n

    async def person(self) -> None:
        """Says yes to whatever is asked, and lets the run go on."""
        questions = Questions(self.kernel.store)
        for question in await questions.pending():
            await questions.answer(question.id, question.choices[0].name, by="person", digest=question.digest)
        for run in await self.kernel.list_active_runs():
            if run.status == "paused":
                await self.kernel.resume(run_id=run.run_id, human_input="go")

    # An agent with a sub-agent

    async def agents(self) -> None:
        helper = SubAgent(name="helper", description="Doubles.", system_prompt="help", visible_tool_names=["double"])
        agent = AutonomousAgent(self.kernel, subagents=[helper], memory=None)
        while True:
            try:
                result = await agent.run(run_id=AGENT, tenant=TENANT, model="m", system_prompt="lead", prompt="double and note")
            except (ApprovalRequired, RunNotActive):  # nobody has answered, or let it go on after the answer
                await self.person()
                continue
            assert result.completed, result
            return

    # A fork, and a step of it that was not in its origin

    async def fork(self) -> None:
        seq = next(
            event.seq
            for event in await self.kernel.get_events(run_id=RUN)
            if event.key == "ask-2" and "completed" in event.type
        )
        try:
            await self.kernel.fork_run(run_id=RUN, at_seq=seq, new_run_id=FORK)
        except RunExists:
            await self.kernel.load_run(run_id=FORK)
        old = await self.ask("ask-2", "ask 2")
        new = await self.ask("ask-9", "ask 9")
        drifted = await self.ask("ask-2", "ask two", replay_policy="fork_on_drift")
        assert (old.replayed, new.text, drifted.text) == (True, "done: ask 9", "done: ask two")
        assert drifted.forked_from_run_id == RUN  # to which the step belongs that the fork inherited

    async def ask(self, key: str, prompt: str, **more: Any) -> Any:
        return await self.kernel.step_model(
            run_id=FORK, tenant=TENANT, model="m", step_key=key, input=ModelInput.from_prompt(prompt), **more
        )


def kernel_on(store: SQLiteStore, tally: Tally) -> Kernel:
    policy = SafetyPolicyMiddleware({"pay": ToolPolicy(approval="human", once_by=("n",))})
    kernel = Kernel(store=store, model_port=Port(tally), middleware=[policy])
    register(kernel, tally)
    return kernel


async def attempt(folder: Path, n: int, when: str) -> None:
    """The script under a store that may die."""
    tally = Tally(folder / "tally")
    async with Mortal(folder / "k.db", n, when) as store, kernel_on(store, tally) as kernel:
        await Script(kernel, tally).run()


async def finished(store: SQLiteStore) -> set[str]:
    """The labels of all steps that have ended, as the tally writes them."""
    found: set[str] = set()
    for head in await store.heads("run/"):
        run_id = head.stream.removeprefix("run/")
        for step in tell(await store.read(head.stream)):
            if step.state == "completed":
                names = {
                    "model": label(run_id, step.messages) if step.messages else "",
                    "action": f"action {run_id} {step.name}",
                }
                found.add(names.get(step.kind, f"tool {run_id} {step.step}"))
    return found


async def resume(folder: Path) -> None:
    """The script again, in another process, to its end; then everything is looked at."""
    tally = Tally(folder / "tally")
    async with SQLiteStore(folder / "k.db", durability="process") as store:
        ended, before = await finished(store), tally.lines()
        async with kernel_on(store, tally) as kernel:
            await Script(kernel, tally).run()
            active = await kernel.list_active_runs()
        new = tally.lines()[len(before) :]
        wrong = [f"was finished and ran again: {line}" for line in new if _named(line) in ended]
        wrong += [f"was run and has no recorded end: {line}" for line in {*map(_named, tally.lines())} - await finished(store)]
        wrong += _effects(tally.lines())
        wrong += [f"{run.run_id} is still {run.status}" for run in active if "::fork::" not in run.run_id]
        verified = await store.verify()
        wrong += [f"the chain does not verify: {verified.problems}"] if not verified else []
        wrong += await _books(store)
    (folder / "wrong").write_text(json.dumps(wrong))


def _named(line: str) -> str:
    words = line.split(" ")
    return f"tool {words[4]} {words[5]}" if words[0] == "effect" else line


def _effects(lines: list[str]) -> list[str]:
    """Each effect once; a repeated one at least with one key."""
    seen: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        words = line.split(" ")
        if words[0] == "effect":
            seen.setdefault((words[2], words[3]), []).append(words[1])
    expected = {("probe", "0"), ("retry", "1"), ("pay", "2"), ("probe", "3"), ("probe", "7"), ("pay", "8")}
    wrong = [f"effects happened: {sorted(seen)}"] if set(seen) != expected else []
    wrong += [f"{what} happened as {keys}" for what, keys in seen.items() if len(set(keys)) != 1]
    return wrong + [f"{what} happened {len(keys)} times" for what, keys in seen.items() if len(keys) > 1 and what[0] != "retry"]


async def _books(store: SQLiteStore) -> list[str]:
    """What is on the tenant's counter, against what all runs have spent or still hold."""
    spent = held = pauses = 0
    for head in await store.heads("run/"):
        events = await store.read(head.stream)
        spent += sum(event.payload.get("cost", 0) for event in events if event.type.startswith("step."))
        pauses += sum(event.type == "run.paused" and event.payload.get("reason") == "may I?" for event in events)
        held += _held(events)
    reserved = await store.reserved("spend/t")
    wrong = [] if reserved == spent + held else [f"{reserved} is on the counter, {spent} was spent and {held} is held"]
    return wrong + ([] if pauses == 1 else [f"the person was asked {pauses} times"])


def _held(events: list[Any]) -> int:
    """What a run was given and has neither spent nor given back."""
    taken = sum(event.payload["amount"] for event in events if event.type == "budget.taken")
    returned = sum(event.payload["amount"] for event in events if event.type == "budget.returned")
    steps = [event.payload for event in events if event.type.startswith("step.")]
    return taken - returned - sum(step.get("cost", 0) - step.get("overdraft", 0) for step in steps)


def main() -> None:
    root, mode = Path(sys.argv[1]), sys.argv[2]
    if mode == "points":
        for when in ("before", "after"):
            n = 1
            while point(root, f"{when}-{n}", lambda folder, n=n, when=when: lambda: attempt(folder, n, when), resume):
                n += int(sys.argv[3])
    else:
        dice, wanted, killed, number = random.Random(int(sys.argv[4])), int(sys.argv[3]), 0, 0
        while killed < wanted and number < 3 * wanted:  # some are over before they are to be killed
            seconds = dice.uniform(0.002, 0.35)
            killed += point(root, f"random-{number}", lambda folder: lambda: attempt(folder, -1, ""), resume, seconds=seconds)
            number += 1


if __name__ == "__main__":
    main()
