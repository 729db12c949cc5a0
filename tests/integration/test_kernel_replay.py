"""Replaying the decisions of runs, and the differences of runs, over all stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from harness.agents import AutonomousAgent
from harness.errors import (
    BudgetExceeded,
    CapabilityDenied,
    ModelUnavailable,
    NotFound,
    PolicyDenied,
    ReplayConsistencyError,
    RunExists,
    Unproven,
    UsageError,
)
from harness.kernel import (
    Kernel,
    KernelMiddleware,
    KernelPolicy,
    Message,
    MockModelPort,
    ModelInput,
    ModelResult,
    ScriptedModelPort,
    StepRecord,
    TenantContext,
    ToolCall,
    ToolRegistry,
    Usage,
)
from harness.kernel.rewording import PromptChange
from harness.ledger import MemoryStore, PostgresStore, SQLiteStore

Store = MemoryStore | SQLiteStore | PostgresStore
TENANT = TenantContext(tenant_id="t", capabilities=frozenset({"pay"}))
RUN = "run-1"
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    match request.param:
        case "memory":
            made: Store = MemoryStore()
        case "sqlite":
            made = SQLiteStore(tmp_path / "k.db")
        case _:
            made = PostgresStore(request.getfixturevalue("postgres_dsn"))
    yield made
    await made.close()


def call(name: str, arguments_json: str = "{}") -> ToolCall:
    return ToolCall(id=f"c-{name}", name=name, arguments_json=arguments_json)


def tools(done: list[str]) -> ToolRegistry:
    """A tool that looks and one that acts; both tell when they run."""
    registry = ToolRegistry()

    @registry.tool
    def look(at: str) -> str:
        done.append(f"look {at}")
        return f"{at} is full"

    @registry.tool(side_effect=True, requires_capability="pay")
    def pay(amount: int) -> dict[str, int]:
        done.append(f"pay {amount}")
        return {"paid": amount}

    return registry


async def worked(store: Store, *script: Any) -> list[str]:
    """An agent's run over this script. Gives what its tools did."""
    done: list[str] = []
    async with Kernel(store=store, model_port=ScriptedModelPort(script)) as kernel:
        await agent(kernel, done)
    return done


async def agent(kernel: Kernel, done: list[str], run_id: str = RUN) -> Any:
    return await AutonomousAgent(kernel, tools=tools(done)).run(
        run_id=run_id, tenant=TENANT, model="m", system_prompt="You look after disks.", prompt="How is /var?"
    )


async def events(store: Store) -> int:
    return len(await store.read(f"run/{RUN}"))


SCRIPT = (call("look", '{"at":"/var"}'), call("pay", '{"amount":5}'), "All is well.")


async def test_the_same_answers_make_no_difference(store: Store) -> None:
    """Each decision is asked again with its recorded input; no tool runs, and the run is left as it was."""
    done = await worked(store, *SCRIPT)
    before = await events(store)
    port = ScriptedModelPort(SCRIPT, by_history=True)
    async with Kernel(store=store, model_port=port) as kernel:
        diff = await kernel.replay_run(RUN)

        assert not diff
        assert diff.counts == {"same": 5, "changed": 0, "missing": 0, "extra": 0}
        assert [len(request.messages) for request in port.requests] == [2, 4, 6]
        assert {"look", "pay"} <= {tool.name for tool in port.requests[0].tools}
        assert (done, await events(store)) == (["look /var", "pay 5"], before)
        handle = await kernel.load_run(run_id=diff.run_id)
        status = await kernel.get_run_status(run_id=diff.run_id)
        assert (handle.replay_of, handle.root_run, status.status) == (RUN, RUN, "completed")
        assert await store.verify_run_chain(diff.run_id)


async def test_another_decision_is_told_with_what_nobody_knows_then(store: Store) -> None:
    """A tool call that the run did not make has no result; one that it made elsewhere has."""
    await worked(store, *SCRIPT)
    script = (call("look", '{"at":"/var"}'), call("look", '{"at":"/srv"}'), call("pay", '{ "amount": 5 }'))
    async with Kernel(store=store, model_port=ScriptedModelPort(script)) as kernel:
        diff = await kernel.replay_run(RUN, model="n")

        first, second, third = (step for step in diff.steps if step.kind == "model")
        assert first.verdict == "same"
        assert (second.verdict, second.fields, second.unrecorded) == ("changed", ("tool_calls",), ('look({"at":"/srv"})',))
        assert second.difference == (
            'tool_calls: recorded pay({"amount":5}), now look({"at":"/srv"}); no recorded result for look({"at":"/srv"})'
        )
        assert (third.verdict, third.unrecorded) == ("changed", ())
        assert (diff.diverged, diff.first) == ((second,), second)


async def test_what_cannot_be_asked_begins_no_run(store: Store) -> None:
    """A mistyped pattern leaves nothing behind."""
    await worked(store, *SCRIPT)
    async with Kernel(store=store, model_port=MockModelPort(text="fine")) as kernel:
        with pytest.raises(UsageError, match="no model step matches 'agnet"):
            await kernel.replay_run(RUN, prompt={"agnet/*": "Well?"})

    assert [head.stream for head in await store.heads("run/")] == [f"run/{RUN}"]


async def test_a_finished_replay_answers_for_its_own_changes_only(store: Store) -> None:
    """Under the id of another question its answers would be taken for those of this one."""
    await worked(store, *SCRIPT)
    port = MockModelPort(text="fine")
    async with Kernel(store=store, model_port=port) as kernel:
        first = await kernel.replay_run(RUN, model="n", new_run_id="again")
        asked, written = port.calls, await store.head("run/again")

        assert (await kernel.replay_run(RUN, model="n", new_run_id="again")).steps == first.steps
        for other in ({"model": "o"}, {"model": "n", "prompt": "How is /srv?"}, {}):
            with pytest.raises(ReplayConsistencyError, match="was recorded with other inputs"):
                await kernel.replay_run(RUN, new_run_id="again", **cast("dict[str, Any]", other))
        assert (port.calls, await store.head("run/again")) == (asked, written)


async def test_a_model_that_is_away_has_decided_nothing(store: Store) -> None:
    """The replay ends there, and under its id goes on with that step when the model is back."""
    await worked(store, *SCRIPT)
    away = ScriptedModelPort([SCRIPT[0], *[ModelUnavailable("nobody is there")] * 9])
    policy = KernelPolicy(model_attempts=1)
    async with Kernel(store=store, model_port=away, policy=policy) as kernel:
        with pytest.raises(ModelUnavailable, match="nobody is there"):
            await kernel.replay_run(RUN, new_run_id="again")

    back = ScriptedModelPort(SCRIPT[1:])
    async with Kernel(store=store, model_port=back) as kernel:
        diff = await kernel.replay_run(RUN, new_run_id="again")

    assert not diff
    assert [event.type for event in await store.read("run/again")].count("step.failed") == 1


async def test_another_model_and_other_words_are_asked(store: Store) -> None:
    """The model, by name or by what was recorded; the system text, the task, or both; single steps by pattern."""
    await worked(store, *SCRIPT)
    port = MockModelPort(text="fine")
    async with Kernel(store=store, model_port=port) as kernel:
        for changes, model, system, user in (
            ({"model": "n"}, "n", "You look after disks.", "How is /var?"),
            ({"model": {"m": "n"}}, "n", "You look after disks.", "How is /var?"),
            ({"model": {"other": "n"}}, "m", "You look after disks.", "How is /var?"),
            ({"prompt": "How is /srv?"}, "m", "You look after disks.", "How is /srv?"),
            ({"prompt": PromptChange(system="Be brief.")}, "m", "Be brief.", "How is /var?"),
            ({"prompt": {"agent/turn-?": PromptChange(user="Well?")}}, "m", "You look after disks.", "Well?"),
            ({"prompt": {"agent/turn-1": "Well?"}}, "m", "You look after disks.", "How is /var?"),
            ({"prompt": lambda step: step.messages}, "m", "You look after disks.", "How is /var?"),
            ({"prompt": lambda step: None}, "m", "You look after disks.", "How is /var?"),
            ({"prompt": lambda step: PromptChange(system="Be brief.", user=step.step)}, "m", "Be brief.", "agent/turn-3"),
        ):
            diff = await kernel.replay_run(RUN, **cast("dict[str, Any]", changes))
            assert port.last is not None
            assert (port.last.model, port.last.messages[0].text, port.last.messages[1].text) == (model, system, user)
            assert diff.steps[-1].fields == ("text",)


async def test_a_schema_is_asked_for_again(store: Store) -> None:
    """The recorded schema is what the answer must fit, also where no program is at hand that knows it."""
    async with Kernel(store=store, model_port=MockModelPort(output={"x": 1}, usage=Usage(cost_usd=0.02))) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        for key in ("a", "b"):
            await kernel.step_model(
                run_id=RUN, tenant=TENANT, model="m", input=ModelInput.from_prompt(key), output_schema=SCHEMA, step_key=key
            )
    port = ScriptedModelPort([ModelResult(output={"x": 2}, usage=Usage(cost_usd=0.05)), "no JSON"])
    async with Kernel(store=store, model_port=port) as kernel:
        diff = await kernel.replay_run(RUN)

        a, b = diff.steps
        assert (a.fields, a.difference) == (("output",), "output.x: recorded 1, now 2")
        assert (b.fields, b.after and b.after.error) == (("state",), "ModelMalformed")
        assert (diff.cost_before_usd, diff.cost_after_usd) == (0.04, 0.05)
        assert port.requests[0].json_schema == SCHEMA


async def test_a_replay_is_paid_from_the_tenants_budget(store: Store) -> None:
    """It reserves and settles like any run, and ends where the money does."""
    tenant = TenantContext(tenant_id="t", budget_usd_limit=0.05)
    port = MockModelPort(text="ok", usage=Usage(cost_usd=0.02))
    async with Kernel(store=store, model_port=port) as kernel:
        await kernel.start_run(tenant=tenant, run_id=RUN)
        await kernel.step_model(run_id=RUN, tenant=tenant, model="m", input=ModelInput.from_prompt("a"), step_key="a")
        await kernel.replay_run(RUN)
        with pytest.raises(BudgetExceeded):
            await kernel.replay_run(RUN, new_run_id="again")
        richer = TenantContext(tenant_id="t", budget_usd_limit=1.0)
        diff = await kernel.replay_run(RUN, new_run_id="again", tenant=richer)
        assert (diff.run_id, port.calls) == ("again", 3)

        again = await kernel.replay_run(RUN, new_run_id="again")
        assert (again.counts, port.calls) == (diff.counts, 3)


async def test_another_policy_says_what_it_would_have_refused(store: Store) -> None:
    """Middleware, or a tenant that may less: recorded tool calls are checked, not made; refusals are in the replay's run."""

    class NoPay(KernelMiddleware):
        async def prepare_tool_request(self, *, arguments_json: str, **about: Any) -> str:
            if about["tool_name"] == "pay":
                raise PolicyDenied("nothing is paid at night")
            return arguments_json

    done = await worked(store, *SCRIPT)
    port = ScriptedModelPort(SCRIPT, by_history=True)
    async with Kernel(store=store, model_port=port) as kernel:
        diff = await kernel.replay_run(RUN, policy=NoPay())

        (refused,) = diff.of("changed")
        assert (refused.step, refused.fields) == ("agent/turn-2/call-1", ("state",))
        assert "now rejected (PolicyDenied: nothing is paid at night)" in refused.difference
        assert len(done) == 2
    async with Kernel(store=store, model_port=port, tool_port=tools(done)) as kernel:
        diff = await kernel.replay_run(RUN, tenant=TenantContext(tenant_id="t"))

        assert [step.after and step.after.error for step in diff.of("changed")] == [CapabilityDenied.__name__]
        assert not await kernel.replay_run(RUN, policy=KernelPolicy(model_attempts=1))


async def test_a_program_takes_its_own_way_over_recorded_results(store: Store) -> None:
    """An agent's conversation goes on with what its other decisions lead to; nothing runs, what is not known says so."""
    done = await worked(store, *SCRIPT)
    script = (call("pay", '{"amount":5}'), call("look", '{"at":"/srv"}'), lambda request: request.messages[-1].text)
    again: list[str] = []
    async with Kernel(store=store, model_port=ScriptedModelPort(script)) as kernel:
        diff = await kernel.replay_run(RUN, program=lambda kernel, run_id: agent(kernel, again, run_id))

    assert (done, again) == (["look /var", "pay 5"], [])
    by_step = {step.step: step for step in diff.steps}
    assert by_step["agent/turn-1/call-1"].fields == ("result",)
    assert by_step["agent/turn-1/call-1"].difference == "result: recorded '/var is full', now {'paid': 5}"
    assert by_step["agent/turn-2"].unrecorded == ('look({"at":"/srv"})',)
    assert "NoRecordedResult: the recorded run has no result for" in by_step["agent/turn-3"].after.text  # type: ignore[union-attr]


async def test_recorded_failures_and_refusals_are_given_again_to_a_program(store: Store) -> None:
    """What a tool raised, and what was refused, is what it reads in the replay too."""

    def broken() -> str:
        raise ValueError("out of order")

    registry = ToolRegistry()
    registry.tool(broken)

    async def program(kernel: Kernel, run_id: str) -> Any:
        return await AutonomousAgent(kernel, tools=registry).run(
            run_id=run_id, tenant=TENANT, model="m", system_prompt="", prompt="try"
        )

    script = (call("broken"), call("broken", '{"x":1}'), call("nothing"), "Given up.")
    async with Kernel(store=store, model_port=ScriptedModelPort(script)) as kernel:
        await program(kernel, RUN)
    async with Kernel(store=store, model_port=ScriptedModelPort(script)) as kernel:
        diff = await kernel.replay_run(RUN, program=program)

    assert not diff, [(step.step, step.difference) for step in diff.steps]


async def test_what_cannot_be_replayed_is_refused_in_words(store: Store) -> None:
    """Unknown runs, mistyped patterns, a program with other words, another tenant, a taken id."""
    await worked(store, *SCRIPT)
    async with Kernel(store=store, model_port=MockModelPort(text="x")) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="other")
        for changes, error, said in (
            ({"prompt": {"agent/tern-*": "x"}}, UsageError, "no model step matches 'agent/tern-\\*'"),
            ({"prompt": 7}, UsageError, "is a text, a PromptChange, messages or None"),
            ({"program": agent, "model": "n"}, UsageError, "a program says itself"),
            ({"tenant": TenantContext(tenant_id="u")}, PolicyDenied, "belongs to tenant 't'"),
            ({"new_run_id": "other"}, RunExists, "no replay of 'run-1'"),
        ):
            with pytest.raises(error, match=said):
                await kernel.replay_run(RUN, **changes)  # type: ignore[arg-type]
        with pytest.raises(NotFound):
            await kernel.replay_run("nobody")
    async with Kernel(store=store) as kernel:
        with pytest.raises(UsageError, match="no model port"):
            await kernel.replay_run(RUN)


async def test_an_erased_decision_is_missing_from_the_replay(store: Store) -> None:
    """What it was asked is gone, so it cannot be made again."""
    async with Kernel(store=store, model_port=MockModelPort(text="x")) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        for key in ("a", "b"):
            await kernel.step_model(run_id=RUN, tenant=TENANT, model="m", input=ModelInput.from_prompt(key), step_key=key)
    await store.erase(f"run/{RUN}", 2, reason="personal data")
    async with Kernel(store=store, model_port=MockModelPort(text="x")) as kernel:
        diff = await kernel.replay_run(RUN)

        assert [step.step for step in diff.of("same")] == ["b"]


async def test_a_changed_history_is_not_replayed(tmp_path: Path) -> None:
    """A replay of a run begins with verifying it."""
    import sqlite3

    async with SQLiteStore(tmp_path / "k.db") as store:
        await worked(store, "All is well.")
    with sqlite3.connect(tmp_path / "k.db") as connection:
        connection.execute("UPDATE events SET data = replace(data, 'well', 'lost')")
    connection.close()
    async with SQLiteStore(tmp_path / "k.db") as store, Kernel(store=store, model_port=MockModelPort(text="x")) as kernel:
        with pytest.raises(Unproven):
            await kernel.replay_run(RUN)


async def test_a_fork_is_replayed_with_its_beginning(store: Store) -> None:
    """The decisions that it inherited are its own."""
    await worked(store, *SCRIPT)
    port = ScriptedModelPort(SCRIPT, by_history=True)
    async with Kernel(store=store, model_port=port) as kernel:
        fork = await kernel.fork_run(run_id=RUN, at_seq=await events(store))
        diff = await kernel.replay_run(fork.run_id)

        assert diff.counts["same"] == 5


# Differences


async def test_two_runs_are_compared_step_by_step(store: Store) -> None:
    """Same, changed, missing, extra: in words, with costs; a fork pays nothing for what it inherited."""
    port = ScriptedModelPort([ModelResult(text=text, usage=Usage(cost_usd=0.01)) for text in "abcXYc"])

    async def ask(kernel: Kernel, run_id: str, prompt: str, key: str) -> None:
        await kernel.step_model(run_id=run_id, tenant=TENANT, model="m", input=ModelInput.from_prompt(prompt), step_key=key)

    async with Kernel(store=store, model_port=port) as kernel:
        kernel.tool(name="look")(lambda at: at)
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        for prompt in "abc":
            await ask(kernel, RUN, prompt, prompt)
        await kernel.step_tool(run_id=RUN, tenant=TENANT, tool_name="look", arguments={"at": "/a"}, step_key="look")
        await kernel.fork_run(run_id=RUN, at_seq=3, new_run_id="fork")  # after a
        await ask(kernel, "fork", "B", "b")
        await ask(kernel, "fork", "n", "n")
        await kernel.step_tool(run_id="fork", tenant=TENANT, tool_name="look", arguments={"at": "/b"}, step_key="look")

        diff = await kernel.diff_runs(RUN, "fork")

        assert [(step.step, step.verdict) for step in diff.steps] == [
            ("a", "same"), ("b", "changed"), ("n", "extra"), ("c", "missing"), ("look", "changed")
        ]  # fmt: skip
        a, b, _, _, look = diff.steps
        assert (a.cost_before_usd, a.cost_after_usd, a.after and a.after.inherited_from) == (0.01, 0.0, RUN)
        assert b.fields == ("prompt", "text")
        assert look.fields == ("arguments.at", "result")
        assert look.difference == "arguments.at: recorded '/a', now '/b'"
        assert (diff.cost_before_usd, diff.cost_after_usd) == (0.03, 0.02)
        assert diff.first is b
        assert not await kernel.diff_runs(RUN, RUN)
        with pytest.raises(NotFound):
            await kernel.diff_runs(RUN, "nobody")


def test_messages_made_by_a_function_are_checked() -> None:
    """A function may give messages or a `ModelInput`, and nothing else."""
    from harness.kernel.rewording import messages_for

    step = StepRecord(step="a", kind="model", name="m", state="completed", seq=2, started_us=0, messages=(Message.user("x"),))

    assert messages_for(lambda _: ModelInput.from_prompt("y"), step) == (Message.user("y"),)
    assert messages_for(lambda _: [Message.user("z")], step) == (Message.user("z"),)
    with pytest.raises(UsageError):
        messages_for(lambda _: 7, step)  # type: ignore[arg-type, return-value]
