"""Safety policies: what is refused, what waits for whom, what happens once, and what of it is on the ledger."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.clock import VirtualClock
from harness.errors import (
    ApprovalRequired,
    CapabilityDenied,
    ModelMalformed,
    PolicyDenied,
    RunNotActive,
    StepFailed,
    StepRejected,
    UsageError,
)
from harness.kernel import Kernel, KernelPolicy, ScriptedModelPort, TenantContext
from harness.ledger import MemoryStore, SQLiteStore
from harness.middleware import (
    AmountLimit,
    Approval,
    CallLimit,
    Critic,
    PIIScrubberMiddleware,
    Quota,
    QuotaMiddleware,
    SafetyPolicy,
    SafetyPolicyMiddleware,
    ToolPolicy,
)
from harness.people import Questions

Store = MemoryStore | SQLiteStore
TENANT = TenantContext(tenant_id="t")
ANN = "person:ann"


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    clock = VirtualClock()
    made: Store
    made = (
        MemoryStore(clock=clock, actor=ANN)
        if request.param == "memory"
        else SQLiteStore(tmp_path / "k.db", clock=clock, actor=ANN)
    )
    yield made
    await made.close()


class Bank:
    """A kernel with a tool that pays, under a policy; `paid` is what really happened."""

    def __init__(self, store: Store, policy: ToolPolicy | None, *more: Any, port: Any = None) -> None:
        self.paid: list[float] = []
        self.fails = False
        middleware = [*more, SafetyPolicyMiddleware({} if policy is None else {"pay": policy})]
        self.kernel = Kernel(store=store, model_port=port, middleware=middleware, policy=KernelPolicy(model_attempts=1))

        @self.kernel.tool(side_effect=True)
        async def pay(amount: float, to: str = "ann", reason: str = "") -> dict[str, float]:
            if self.fails:
                raise ValueError("the bank is closed")
            self.paid.append(amount)
            return {"paid": amount}

    async def __aenter__(self) -> Bank:
        await self.kernel.open_run(tenant=TENANT, run_id="r")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kernel.close()

    async def pay(self, amount: object = 5, run: str = "r", key: str | None = None, **more: Any) -> Any:
        return await self.kernel.step_tool(
            run_id=run, tenant=TENANT, tool_name="pay", arguments={"amount": amount, **more}, step_key=key
        )

    async def decisions(self, run: str = "r") -> list[tuple[str, str]]:
        events = await self.kernel.get_events(run_id=run)
        return [(e.payload["decision"], e.payload.get("rule", "")) for e in events if e.type == "policy.decided"]


async def test_without_a_policy_nothing_is_decided(store: Store) -> None:
    """The middleware alone lets everything pass, and writes nothing."""
    async with Bank(store, None) as bank:
        await bank.pay()
        assert await bank.decisions() == []


async def test_every_decision_is_an_event_before_anything_leaves(store: Store) -> None:
    """Allowed and denied ones; the refusal is recorded as the step's rejection too; replay decides nothing."""
    async with Bank(store, ToolPolicy(amounts=[AmountLimit(path="amount", most=10)])) as bank:
        await bank.pay(5, key="a")
        with pytest.raises(PolicyDenied, match="amount is 11, and at most 10"):
            await bank.pay(11, key="b")
        await bank.pay(5, key="a")
        events = await bank.kernel.get_events(run_id="r")

        assert await bank.decisions() == [("allowed", ""), ("denied", "amount")]
        assert [(e.type, e.payload["reason"]) for e in events[-1:]] == [("step.rejected", "policy")]
        assert bank.paid == [5]


@pytest.mark.parametrize("amount", ["5", "0x5", "nan", -1, -0.5, True, None, [5], {"x": 1}])
async def test_what_is_no_amount_is_refused(store: Store, amount: object) -> None:
    """A text, though the tool would take it for a number; a negative number; nothing."""
    async with Bank(store, ToolPolicy(amounts=[AmountLimit(path="amount", most=10)])) as bank:
        with pytest.raises(StepRejected):
            await bank.pay(amount)
        assert bank.paid == []


@pytest.mark.parametrize(
    "text", ['{"amount": NaN}', '{"amount": 1e999}', '{"amount": Infinity}', "{}", '{"amount": 5, "amount": 99}']
)
async def test_no_json_slips_through(store: Store, text: str) -> None:
    """What is judged is what the tool would get: NaN is no JSON, and of a name given twice the last one counts."""
    async with Bank(store, ToolPolicy(amounts=[AmountLimit(path="amount", most=10)])) as bank:
        with pytest.raises(StepRejected):
            await bank.kernel.step_tool(run_id="r", tenant=TENANT, tool_name="pay", arguments=text)
        assert bank.paid == []


async def test_limits_hold_per_run_tree_and_window(store: Store) -> None:
    """A run has two calls; its tree three; and the tenant so much money in an hour."""
    assert isinstance(store.clock, VirtualClock)
    policy = ToolPolicy(
        limits=[CallLimit(calls=2), CallLimit(calls=3, per="tree")],
        amounts=[AmountLimit(path="amount", total=20, per="tenant", window_seconds=3600)],
    )
    async with Bank(store, policy) as bank:
        await bank.kernel.start_run(tenant=TENANT, run_id="child", parent_run="r")
        await bank.kernel.start_run(tenant=TENANT, run_id="other")
        await bank.pay(5)
        await bank.pay(5)
        with pytest.raises(PolicyDenied, match="2 of 2 calls of pay"):
            await bank.pay(5)
        await bank.pay(5, run="child")
        with pytest.raises(PolicyDenied, match="3 of 3 calls"):
            await bank.pay(5, run="child")
        with pytest.raises(PolicyDenied, match=r"15 of 20 in all of pay are used, and 5\.5 more"):
            await bank.pay(5.5, run="other", key="late")
        store.clock.advance(3600)
        await bank.pay(5.5, run="other", key="late")


async def test_gathered_calls_never_pass_a_limit(store: Store) -> None:
    """Twenty at once, of which four are allowed."""
    async with Bank(store, ToolPolicy(limits=[CallLimit(calls=4, per="tenant")])) as bank:
        await bank.kernel.start_run(tenant=TENANT, run_id="s")
        told = await asyncio.gather(*(bank.pay(n, run="rs"[n % 2]) for n in range(20)), return_exceptions=True)

        assert sum(isinstance(each, PolicyDenied) for each in told) == 16
        assert len(bank.paid) == 4


async def test_an_effect_happens_once_for_the_tenant(store: Store) -> None:
    """The same payee and amount in another run is refused, also for 5.0; what failed may be done again."""
    async with Bank(store, ToolPolicy(once_by=["to", "amount"])) as bank:
        await bank.kernel.start_run(tenant=TENANT, run_id="s")
        bank.fails = True
        with pytest.raises(StepFailed):
            await bank.pay(5, to="bob")
        bank.fails = False
        await bank.pay(5, run="s", to="bob")
        for amount in (5, 5.0):
            with pytest.raises(PolicyDenied, match=r"the same to, amount was done, or is being done, by run/s"):
                await bank.pay(amount, to="bob", reason="again")
        await bank.pay(6, to="bob")
        told = await asyncio.gather(*(bank.pay(7, run=run, to="eve") for run in "rs" * 5), return_exceptions=True)

        assert bank.paid == [5, 6, 7]
        assert sum(isinstance(each, PolicyDenied) for each in told) == 9


async def test_a_failed_effect_that_another_run_had_is_not_retried(store: Store) -> None:
    """Who retries a failed step needs the effect's key anew; a rejection by the tool itself gives it back as well."""
    async with Bank(store, ToolPolicy(once_by=["to"], limits=[CallLimit(calls=3)])) as bank:
        await bank.kernel.start_run(tenant=TENANT, run_id="s")

        async def retry() -> Any:
            return await bank.kernel.step_tool(
                run_id="r", tenant=TENANT, tool_name="pay", arguments={"amount": 5, "to": "bob"}, step_key="a",
                retry_failed_step=True,
            )  # fmt: skip

        bank.fails = True
        for _ in range(2):
            with pytest.raises(StepFailed):
                await retry()
        bank.fails = False
        await bank.pay(5, run="s", to="bob")
        with pytest.raises(PolicyDenied, match="the same to was done, or is being done, by run/s"):
            await retry()

        assert bank.paid == [5]
        assert await store.reserved("policy/t/pay/run/r/calls") == 2


async def test_a_killed_effect_keeps_its_key(tmp_path: Path) -> None:
    """kill -9 in the middle: nobody else gets the effect while nobody knows whether it happened."""
    killed = subprocess.run([sys.executable, "-c", PAYS_AND_DIES, str(tmp_path / "k.db")], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    async with SQLiteStore(tmp_path / "k.db", actor=ANN) as store, Bank(store, ToolPolicy(once_by=["to"])) as bank:
        await bank.kernel.start_run(tenant=TENANT, run_id="s")
        with pytest.raises(PolicyDenied, match="or is being done, by run/r"):
            await bank.pay(5, run="s", to="bob", key="a")
        await bank.kernel.reconcile_tool(run_id="r", tenant=TENANT, tool_name="pay", step_key="a", outcome="failed")
        await bank.pay(5, run="s", to="bob", key="a")

        assert bank.paid == [5]
        assert await store.verify()


PAYS_AND_DIES = """
import asyncio, os, signal, sys
from harness import Kernel, SQLiteStore, TenantContext
from harness.middleware import SafetyPolicyMiddleware, ToolPolicy

async def main():
    policy = SafetyPolicyMiddleware({"pay": ToolPolicy(once_by=["to"])})
    kernel = Kernel(store=SQLiteStore(sys.argv[1]), middleware=[policy])

    @kernel.tool(side_effect=True)
    async def pay(amount: float, to: str = "ann", reason: str = "") -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    tenant = TenantContext(tenant_id="t")
    await kernel.start_run(tenant=tenant, run_id="r")
    await kernel.step_tool(run_id="r", tenant=tenant, tool_name="pay", arguments={"amount": 5, "to": "bob"}, step_key="a")

asyncio.run(main())
"""


async def test_a_decision_made_before_a_crash_is_not_made_twice(store: Store) -> None:
    """A kernel that dies between the yes and the intent takes neither a second call nor the effect's key from the next."""
    policy = ToolPolicy(once_by=["amount"], limits=[CallLimit(calls=1)])
    async with Bank(store, policy) as bank:
        real = bank.kernel._tool_steps._calls.effect  # type: ignore[attr-defined]

        async def dies(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        bank.kernel._tool_steps._calls.effect = dies  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            await bank.pay(5, key="a")
        bank.kernel._tool_steps._calls.effect = real  # type: ignore[method-assign]
    async with Bank(store, policy) as bank:
        await bank.pay(5, key="a")

        assert bank.paid == [5]
        assert await bank.decisions() == [("allowed", "")]


async def test_a_reason_must_be_given(store: Store) -> None:
    """In an argument, or declared for the run; blank is none."""
    async with Bank(store, ToolPolicy(intent=True)) as bank:
        with pytest.raises(PolicyDenied, match="no reason is given"):
            await bank.pay(1, reason=" ")
        await bank.pay(1, reason="the bill of May")
        for _ in range(2):  # a replay writes nothing
            await bank.kernel.declare_intent(run_id="r", tenant=TENANT, tool_name="pay", reason="all bills")
        await bank.pay(2)
        assert [e.type for e in await bank.kernel.get_events(run_id="r")].count("intent.declared") == 1
        events = [e for e in await bank.kernel.get_events(run_id="r") if e.type == "policy.decided"]

        assert [e.payload.get("intent", "") for e in events] == ["", "the bill of May", "all bills"]


async def test_invariants_must_hold(store: Store) -> None:
    """Expressions and functions; what cannot be said does not hold."""

    def round_amounts(arguments: Mapping[str, Any]) -> object:
        return arguments["amount"] % 1 == 0 or "only whole amounts"

    policy = ToolPolicy(invariants=['amount < 100 and to in ("ann", "bob") or to.endswith("@example.org")', round_amounts])
    async with Bank(store, policy) as bank:
        await bank.pay(5, to="ann")
        await bank.pay(500, to="x@example.org")
        for amount, to, why in ((500, "ann", "does not hold"), (5.5, "ann", "only whole amounts"), (5, "eve", "does not hold")):
            with pytest.raises(PolicyDenied, match=why):
                await bank.pay(amount, to=to)
        with pytest.raises(PolicyDenied, match="cannot be said: there is no argument 'to'"):
            await bank.pay(5)


async def test_a_person_approves_exactly_these_arguments_once(store: Store) -> None:
    """The run waits, the answer lets it go on, other arguments need another answer, and another step too."""
    async with Bank(store, ToolPolicy(approval="human")) as bank:
        with pytest.raises(ApprovalRequired) as caught:
            await bank.pay(5, key="a")
        question = await Questions(store).get(caught.value.question_id)
        assert (await bank.kernel.get_run_status(run_id="r")).status == "paused"
        with pytest.raises(RunNotActive, match=f"pay waits for an answer to {question.id}"):
            await bank.pay(5, key="a")
        await Questions(store).answer(question.id, "approve", by="person:bob", digest=question.digest)
        assert (await bank.pay(5, key="a")).result == {"paid": 5}
        assert (await bank.kernel.get_human_input(run_id="r"))["by"] == "person:bob"
        for amount, key in ((6, "b"), (5, "c")):
            with pytest.raises(ApprovalRequired) as other:
                await bank.pay(amount, key=key)
            assert other.value.question_id != question.id
            await bank.kernel.resume(run_id="r", human_input="please think again")

        assert bank.paid == [5]
        assert (await bank.decisions())[:2] == [("waiting", "approval"), ("allowed", "")]
        assert (await Questions(store).get(question.id)).used_by == "run/r#a"


async def test_changed_arguments_need_a_new_approval(store: Store) -> None:
    """A yes to five is none to five hundred under the same step."""
    async with Bank(store, ToolPolicy(approval=Approval(pause=False))) as bank:
        with pytest.raises(ApprovalRequired) as first:
            await bank.pay(5, key="a")
        question = await Questions(store).get(first.value.question_id)
        await Questions(store).answer(question.id, "approve", by=ANN, digest=question.digest)
        with pytest.raises(ApprovalRequired) as second:
            await bank.pay(500, key="a")

        assert second.value.question_id != first.value.question_id
        assert bank.paid == []


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (True, "paid"),
        ({"approved": True, "note": "fine"}, "paid"),
        ("Approve", "paid"),
        (False, "denied"),
        ({"approved": False, "note": "too much"}, "denied"),
        ("no", "denied"),
        ("maybe", "asked"),
        ({"approved": "perhaps"}, "asked"),
        ({"other": True}, "asked"),
        (1, "asked"),
        (None, "asked"),
    ],
)
async def test_resume_carries_the_answer(store: Store, said: object, outcome: str) -> None:
    """Only an explicit yes is one, only an explicit no is one; with anything else the step asks again."""
    async with Bank(store, ToolPolicy(approval="human")) as bank:
        with pytest.raises(ApprovalRequired):
            await bank.pay(5, key="a")
        await bank.kernel.resume(run_id="r", human_input=said)
        if outcome == "paid":
            await bank.pay(5, key="a")
        else:
            with pytest.raises(PolicyDenied) as caught:
                await bank.pay(5, key="a")
            assert isinstance(caught.value, ApprovalRequired) is (outcome == "asked")

        assert bank.paid == ([5] if outcome == "paid" else [])


async def test_a_no_stays_a_no(store: Store) -> None:
    """Asked again, the same step with the same arguments is refused without asking people again."""
    async with Bank(store, ToolPolicy(approval="human")) as bank:
        with pytest.raises(ApprovalRequired):
            await bank.pay(5, key="a")
        await bank.kernel.resume(run_id="r", human_input={"approved": False, "note": "too much"})
        for _ in range(2):
            with pytest.raises(PolicyDenied, match=r"person:ann said no to q-.*: too much"):
                await bank.pay(5, key="a")

        assert await Questions(store).pending() == []
        assert await bank.decisions() == [("waiting", "approval"), ("denied", "approval")]


async def test_an_approval_has_a_deadline(store: Store) -> None:
    """After it nobody can say yes any more, and the step asks anew."""
    assert isinstance(store.clock, VirtualClock)
    async with Bank(store, ToolPolicy(approval=Approval(deadline_seconds=60))) as bank:
        with pytest.raises(ApprovalRequired) as first:
            await bank.pay(5, key="a")
        question = await Questions(store).get(first.value.question_id)
        store.clock.advance(61)
        with pytest.raises(PolicyDenied, match="expired"):
            await Questions(store).answer(question.id, "approve", by=ANN, digest=question.digest)
        with pytest.raises(ApprovalRequired) as second:
            await bank.pay(5, key="a")

        assert second.value.question_id != question.id


async def test_only_large_amounts_are_asked_about(store: Store) -> None:
    """Below the threshold nobody is disturbed."""
    async with Bank(store, ToolPolicy(approval=Approval(path="amount", above=100))) as bank:
        await bank.pay(100)
        with pytest.raises(ApprovalRequired):
            await bank.pay(101)


async def test_who_waits_for_people_survives_a_restart(store: Store) -> None:
    """The question, the pause and the answer are on the ledger."""
    async with Bank(store, ToolPolicy(approval="human")) as bank:
        with pytest.raises(ApprovalRequired) as caught:
            await bank.pay(5, key="a")
    question = await Questions(store).get(caught.value.question_id)
    await Questions(store).answer(question.id, "approve", by=ANN, digest=question.digest)
    for _ in range(2):
        async with Bank(store, ToolPolicy(approval="human")) as bank:
            result = await bank.pay(5, key="a")

    assert result.replayed
    assert bank.paid == []


async def test_a_critic_is_a_recorded_step(store: Store) -> None:
    """A model that says yes or no; each is asked once for the same call."""
    port = ScriptedModelPort(['{"approved": true, "reason": "fine"}', '{"approved": false, "reason": "too dear"}'])
    async with Bank(store, ToolPolicy(approval=Critic(model="judge")), port=port) as bank:
        await bank.pay(5, key="a")
        for _ in range(2):
            with pytest.raises(PolicyDenied, match="the critic said no: too dear"):
                await bank.pay(50, key="b")
        steps = [(step.kind, step.state) for step in await bank.kernel.get_steps(run_id="r")]

        assert bank.paid == [5]
        assert len(port.requests) == 2
        assert '"amount":5' in port.requests[0].prompt
        assert steps.count(("model", "completed")) == 2


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        (True, True),
        ({"approved": True}, True),
        ("no way", False),
        (False, False),
        ({"approved": "yes"}, False),
        (None, False),
        (1, False),
    ],
)
async def test_a_critic_may_be_a_function(store: Store, said: object, passes: bool) -> None:
    """Async or not; only an explicit yes is one."""
    asked: list[object] = []

    async def critic(tool: str, arguments: dict[str, Any]) -> object:
        asked.append((tool, arguments))
        return said

    async with Bank(store, ToolPolicy(approval=Critic(function=critic))) as bank:
        if passes:
            await bank.pay(5)
        else:
            with pytest.raises(PolicyDenied, match="the critic said no"):
                await bank.pay(5)

        assert bank.paid == ([5] if passes else [])
        assert asked == [("pay", {"amount": 5})]


async def test_a_critic_that_cannot_be_asked_has_not_said_yes(store: Store) -> None:
    """It is asked again when the step is."""
    port = ScriptedModelPort([ModelMalformed("nonsense"), '{"approved": true, "reason": ""}'])
    async with Bank(store, ToolPolicy(approval=Critic(model="judge")), port=port) as bank:
        with pytest.raises(PolicyDenied, match="could not be asked"):
            await bank.pay(5, key="a")
        await bank.pay(5, key="a")

        assert bank.paid == [5]


async def test_the_policy_sees_real_values_and_writes_none(store: Store) -> None:
    """With a scrubber invariants get the address, and nothing on the ledger does."""
    policy = ToolPolicy(invariants=['to == "eve@example.org"'], once_by=["to"], approval=Approval(pause=False))
    async with Bank(store, policy, PIIScrubberMiddleware()) as bank:
        with pytest.raises(ApprovalRequired):
            await bank.pay(5, to="eve@example.org", key="a")
        with pytest.raises(PolicyDenied, match="does not hold"):
            await bank.pay(5, to="bob@example.org", key="b")
        (question,) = await Questions(store).pending()
        await Questions(store).answer(question.id, "approve", by=ANN, digest=question.digest)
        await bank.pay(5, to="eve@example.org", key="a")
        with pytest.raises(PolicyDenied, match="the same to"):
            await bank.pay(6, to="eve@example.org", key="c")
        written = [event.data for event in await store.read_all(limit=1000) if event.data is not None]

    assert not any(b"eve@" in data or b"bob@" in data for data in written)


async def test_what_is_refused_costs_no_quota(store: Store) -> None:
    """Quota comes first and is given back when the policy says no."""
    policy = ToolPolicy(amounts=[AmountLimit(path="amount", most=1)])
    async with Bank(store, policy, QuotaMiddleware(Quota(calls=1))) as bank:
        with pytest.raises(PolicyDenied):
            await bank.pay(5)
        await bank.pay(1)


async def test_every_refusal_is_an_event(store: Store) -> None:
    """Whoever refuses: arguments, an unknown tool, a capability, a quota, a policy, a hook."""

    class No:
        def prepare_tool_request(self, *, arguments_json: str, **_: Any) -> str:
            if "hook" in arguments_json:
                raise PermissionError("hook")
            return arguments_json

    policy = ToolPolicy(amounts=[AmountLimit(path="amount", most=1)])
    async with Bank(store, policy, QuotaMiddleware(Quota(calls=1)), No()) as bank:

        @bank.kernel.tool(requires_capability="root")
        async def guarded() -> None: ...

        async def refused(error: type[Exception], tool: str, **arguments: Any) -> None:
            with pytest.raises(error):
                await bank.kernel.step_tool(run_id="r", tenant=TENANT, tool_name=tool, arguments=arguments)

        await refused(StepRejected, "pay", wrong=1)
        await refused(StepRejected, "nothing")
        await refused(CapabilityDenied, "guarded")
        await refused(PolicyDenied, "pay", amount=2)
        await refused(PermissionError, "pay", amount=1, reason="hook")
        await bank.pay(1)
        await refused(StepRejected, "pay", amount=1)
        events = await bank.kernel.get_events(run_id="r")

    assert [e.payload["reason"] for e in events if e.type == "step.rejected"] == [
        "arguments", "unknown_tool", "capability", "policy", "middleware", "budget",
    ]  # fmt: skip


async def test_policies_by_risk_and_by_default(store: Store) -> None:
    """A tool's own policy goes before that of its risk, and that before the default."""
    closed = ToolPolicy(limits=[CallLimit(calls=0)])
    policy = SafetyPolicy(
        tools={"own": ToolPolicy()}, by_risk={"high": ToolPolicy(limits=[CallLimit(calls=1)])}, default=closed
    )
    async with Kernel(store=store, middleware=[SafetyPolicyMiddleware(policy)]) as kernel:
        for name, risk in (("own", "high"), ("risky", "high"), ("other", "low")):

            async def tool() -> None: ...

            kernel.tool(name=name, risk_level=risk)(tool)  # type: ignore[arg-type]
        await kernel.start_run(tenant=TENANT, run_id="r")

        async def use(name: str) -> None:
            await kernel.step_tool(run_id="r", tenant=TENANT, tool_name=name)

        for name in ("own", "own", "risky"):
            await use(name)
        for name in ("risky", "other"):
            with pytest.raises(PolicyDenied, match="calls"):
                await use(name)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ToolPolicy(invariants=["__import__('os')"]), "which an invariant cannot"),
        (lambda: ToolPolicy(invariants=["amount <"]), "is no expression"),
        (lambda: ToolPolicy(invariants="amount < 1"), "are lists"),
        (lambda: ToolPolicy(once_by=["a..b"]), "a path is made of"),
        (lambda: CallLimit(calls=-1), "is a number"),
        (lambda: CallLimit(calls=1, per="week"), "per 'run', 'tree' or 'tenant'"),  # type: ignore[arg-type]
        (lambda: AmountLimit(path="a"), "needs most or total"),
        (lambda: AmountLimit(path="a", most=float("nan")), "is a number"),
        (lambda: Approval(human=False), "a person or a critic"),
        (lambda: Critic(), "either a model or a function"),
        (lambda: SafetyPolicyMiddleware({"pay": {"approval": "human"}}), "is a ToolPolicy"),  # type: ignore[dict-item]
        (lambda: SafetyPolicyMiddleware({"pay": ToolPolicy(approval="everybody")}), "an approval is by"),  # type: ignore[arg-type]
        (lambda: SafetyPolicyMiddleware([1]), "a safety policy is"),  # type: ignore[arg-type]
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(make: Any, told: str) -> None:
    """When it is made, and not in the middle of a run."""
    with pytest.raises(UsageError, match=told):
        make()
