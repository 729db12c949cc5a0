"""Deciding about a tool call by its policy: rules, limits, effects that happen once, critics, people. Each decision an event.

A decision that allows a call carries the guards that make it so: counters and the effect's key are taken in the same
append, so two runs that ask at once get one yes. It is made once for a step and its arguments, and is found again after
a crash.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import quote

import msgspec

from harness.errors import ApprovalRequired, KeyTaken, PolicyDenied, Refused, RunNotActive
from harness.kernel import records
from harness.kernel.critics import Critics
from harness.kernel.lifecycle import Lifecycle
from harness.kernel.matching import digest_of
from harness.kernel.middleware.policies import (
    AmountLimit,
    Approval,
    CallLimit,
    ToolPolicy,
    amount_at,
    intent_in,
    judge,
    needs_approval,
    values_at,
)
from harness.kernel.middleware.safety import SafetyPolicy
from harness.kernel.records import Record
from harness.kernel.runs import FINAL, STATUS_OF, RunState
from harness.kernel.steps import Steps
from harness.kernel.tool_call import ToolAsk
from harness.kernel.tools import Tool
from harness.ledger import Draft, Guard, Reserve, Store, Unique

if TYPE_CHECKING:
    from harness.people import Question, Questions

DECIDED = "policy.decided"
INTENT_DECLARED = "intent.declared"
_MICRO = 1_000_000
_decode = msgspec.json.Decoder().decode


class PolicyDecided(Record, frozen=True, kw_only=True):
    """What was decided about one call; the event's key is `policy::STEP`."""

    step: str
    tool_name: str
    decision: Literal["allowed", "denied", "waiting"]
    digest: str  # of tenant, tool and arguments
    rule: str = ""  # that refused it
    reason: str = ""
    intent: str = ""
    critic: str = ""  # the step in which a critic said yes
    question: str = ""  # that people were asked
    approved_by: str = ""


class IntentDeclared(Record, frozen=True, kw_only=True):
    """Why a tool will be used in this run; the event's key is `intent::TOOL`."""

    tool_name: str
    reason: str


class Safety:
    """The safety policy of one kernel."""

    store: Store

    def __init__(
        self, policy: SafetyPolicy, steps: Steps, lifecycle: Lifecycle, questions: Callable[[], Questions], critics: Critics
    ) -> None:
        self._policy = policy
        self._steps = steps
        self.store = steps.store
        self._lifecycle = lifecycle
        self._questions = questions
        self._critics = critics

    async def admit(self, run: RunState, ask: ToolAsk, tool: Tool, arguments_json: bytes) -> None:
        """Let a call pass, or raise `PolicyDenied` or `ApprovalRequired`. `arguments_json` is what the tool would get."""
        policy = None if ask.exempt else self._policy.of(tool)
        if policy is None:
            return
        digest = digest_of((run.tenant_id, tool.name, tool.version, ask.arguments_json.decode()))
        event = await self._steps.store.latest(run.stream, f"policy::{ask.step}")
        before = None if event is None or event.erased else event.load(PolicyDecided)
        if event is not None and before is not None and before.decision == "allowed" and before.digest == digest:
            entry = run.steps.get(ask.step)
            if entry is None or not entry.ended or entry.seq < event.seq:  # it was decided for the attempt that is to come
                return
        call = _Call(self, run, ask, tool, policy, digest, _decode(arguments_json), before)
        await call.decide()

    async def intent(self, run: RunState, tool_name: str) -> str | None:
        """The reason that was declared for a tool in this run last."""
        event = await self._steps.store.latest(run.stream, f"intent::{tool_name}")
        return None if event is None or event.erased else event.load(IntentDeclared).reason

    async def record(self, run: RunState, decided: PolicyDecided, *guards: Guard) -> None:
        """Write a decision."""
        if self._steps.scrubbing is not None:
            reason = await self._steps.scrubbing.text(run.tenant_id, decided.reason)
            intent = await self._steps.scrubbing.text(run.tenant_id, decided.intent)
            decided = msgspec.structs.replace(decided, reason=reason, intent=intent)
        draft = Draft(type=DECIDED, payload=decided, key=f"policy::{decided.step}", tenant=run.tenant_id)
        await self._steps.write(run, draft, guards=guards)

    async def refused_by(self, run: RunState, guards: list[Guard]) -> Refused | None:
        """What the counters would say now. They are asked again when the call is allowed."""
        for guard in guards:
            if isinstance(guard, Reserve) and guard.limit is not None:
                used = await self._steps.store.reserved(guard.counter)
                if used + guard.amount > guard.limit:
                    return Refused(guard.counter, amount=guard.amount, reserved=used, limit=guard.limit)
        return None

    async def spent(self, run: RunState, step: str, error: KeyTaken) -> bool | None:
        """Whether the holder of an effect's key has had it, or may still. None: it is this very step, before its end."""
        store = self._steps.store
        event = await store.event(error.stream, error.seq)
        if event is None or event.erased:
            return True
        holder = event.load(PolicyDecided).step
        own = error.stream == run.stream and holder == step
        ended = await store.latest(error.stream, holder)
        if ended is not None and ended.seq > error.seq:
            failed = ended.type in (records.STEP_FAILED, records.STEP_REJECTED)
            return False if failed else None if own else True
        if own:
            return None
        status = await store.latest(error.stream, records.STATUS_KEY)
        return status is None or STATUS_OF.get(status.type, "active") not in FINAL

    # People

    async def ask_person(self, run: RunState, ask: ToolAsk, approval: Approval, digest: str, why: str) -> Question:
        """The question about a call, asked now or before; answered or not."""
        deadline = approval.deadline_seconds
        now_us = self._steps.store.clock.now_us()
        reason = f" ({why})" if why else ""
        return await self._questions().ask(
            "approval",
            f"{run.stream}#{ask.step}",
            digest=digest,
            text=f"May {ask.name}({ask.arguments_json.decode()}) be done?{reason}",
            deadline_us=None if deadline is None else now_us + round(deadline * _MICRO),
            tenant=run.tenant_id,
            context={
                "run_id": run.run_id, "step": ask.step, "tool": ask.name, "arguments": _decode(ask.arguments_json),
            },
        )  # fmt: skip

    async def use(self, run: RunState, ask: ToolAsk, question: Question) -> None:
        """Act on a yes, which can be done once."""
        await self._questions().use(question.id, by=f"{run.stream}#{ask.step}", digest=question.digest, choice="approve")

    async def critic(self, run: RunState, ask: ToolAsk, approval: Approval, digest: str) -> tuple[str, str]:
        """The step in which the critic was asked, and why it said no; empty for yes."""
        assert approval.critic is not None
        return await self._critics.ask(run, ask, approval.critic, f"{ask.step}/critic-{digest[:12]}")

    async def pause(self, run: RunState, ask: ToolAsk, question_id: str) -> None:
        """Let the run wait for an answer."""
        policy = None if ask.tool is None else self._policy.of(ask.tool)
        approval = None if policy is None else policy.approvals
        if approval is not None and approval.pause:
            context = {"approval": question_id, "step": ask.step, "tool": ask.name}
            with contextlib.suppress(RunNotActive):  # another step of it waits already
                await self._lifecycle.change(
                    run.run_id, records.RUN_PAUSED, reason=f"{ask.name} waits for an answer to {question_id}",
                    by="safety policy", context=context,
                )  # fmt: skip


class _Call:
    """One call that is being decided about."""

    def __init__(
        self, safety: Safety, run: RunState, ask: ToolAsk, tool: Tool, policy: ToolPolicy, digest: str,
        arguments: Mapping[str, Any], before: PolicyDecided | None,
    ) -> None:  # fmt: skip
        self._safety = safety
        self._run = run
        self._ask = ask
        self._tool = tool
        self._policy = policy
        self._arguments = arguments
        self._before = before
        self._decided = PolicyDecided(step=ask.step, tool_name=tool.name, decision="allowed", digest=digest)

    async def decide(self) -> None:
        """Let it pass, or raise."""
        declared = await self._safety.intent(self._run, self._tool.name) if self._policy.intent else None
        refusal = judge(self._policy, self._arguments, declared=declared)
        if refusal is not None:
            await self._deny(*refusal)
        if self._policy.intent:
            self._change(intent=intent_in(self._policy, self._arguments) or declared or "")
        counters = self._counters()
        soon = await self._safety.refused_by(self._run, counters)
        if soon is not None:
            await self._deny("limit", _limit_words(self._tool.name, soon))
        await self._check_once(0)
        approval = self._policy.approvals
        if approval is not None and needs_approval(approval, self._arguments):
            await self._approved(approval)
        await self._allow(counters)

    def _change(self, **fields: Any) -> None:
        self._decided = msgspec.structs.replace(self._decided, **fields)

    async def _deny(self, rule: str, reason: str) -> None:
        denied = msgspec.structs.replace(self._decided, decision="denied", rule=rule, reason=reason)
        if denied != self._before:
            await self._safety.record(self._run, denied)
        raise PolicyDenied(f"{self._tool.name} is refused by its policy ({rule}): {reason}")

    # Who says yes

    async def _approved(self, approval: Approval) -> None:
        if approval.critic is not None:
            step, reason = await self._safety.critic(self._run, self._ask, approval, self._decided.digest)
            if reason:
                await self._deny("critic", reason)
            self._change(critic=step)
        if approval.human:
            await self._answered(approval)

    async def _answered(self, approval: Approval) -> None:
        question = await self._safety.ask_person(self._run, self._ask, approval, self._decided.digest, self._decided.intent)
        match question.answer:
            case None:
                await self._wait(question)
            case "approve":
                await self._safety.use(self._run, self._ask, question)
                self._change(question=question.id, approved_by=question.answered_by or "")
            case _:
                self._change(question=question.id)
                note = f": {question.note}" if question.note else ""
                await self._deny("approval", f"{question.answered_by} said no to {question.id}{note}")

    async def _wait(self, question: Question) -> None:
        waiting = msgspec.structs.replace(self._decided, decision="waiting", rule="approval", question=question.id)
        if waiting != self._before:
            await self._safety.record(self._run, waiting)
        raise ApprovalRequired(
            f"{self._tool.name} needs a person's yes: answer question {question.id}, then ask for the step again",
            question_id=question.id,
        )

    # What is counted

    def _counters(self) -> list[Guard]:
        now_us = self._safety.store.clock.now_us()
        guards: list[Guard] = [Reserve(self._counter(limit, now_us, "calls"), 1, limit.calls) for limit in self._policy.limits]
        for limit in self._policy.amounts:
            amount = amount_at(self._arguments, limit.path)
            if limit.total is not None and not isinstance(amount, str):
                name = self._counter(limit, now_us, f"amount/{quote(limit.path, safe='')}")
                guards.append(Reserve(name, math.ceil(round(min(amount, 10**12) * _MICRO, 3)), round(limit.total * _MICRO)))
        return guards

    def _counter(self, limit: CallLimit | AmountLimit, now_us: int, what: str) -> str:
        run = self._run
        place = f"policy/{quote(run.tenant_id, safe='')}/{self._tool.name}"
        if limit.per != "tenant":
            place += f"/{limit.per}/{quote(run.run_id if limit.per == 'run' else run.root_run, safe='')}"
        if limit.window_seconds is not None:
            place += f"/{limit.window_seconds:g}s/{now_us // round(limit.window_seconds * _MICRO)}"
        return f"{place}/{what}"

    def _once_key(self, generation: int) -> str:
        recorded = cast("dict[str, Any]", _decode(self._ask.arguments_json))
        named = [[_number(each) for each in values_at(recorded, path)] for path in self._policy.once_by]
        digest = digest_of((list(self._policy.once_by), named))
        return f"policy/{quote(self._run.tenant_id, safe='')}/{self._tool.name}/once/{digest}/{generation}"

    async def _check_once(self, generation: int) -> None:
        """Refuse what was done before, so that nobody is asked about it. The key itself is taken at the end."""
        if self._policy.once_by:
            held = await self._safety.store.holder_of(self._once_key(generation))
            if held is not None:
                await self._had(KeyTaken(self._once_key(generation), stream=held[0], seq=held[1]))

    async def _had(self, error: KeyTaken) -> bool:
        """Whether the key is this very step's; raises if another step has had the effect."""
        spent = await self._safety.spent(self._run, self._ask.step, error)
        if spent:
            named = ", ".join(self._policy.once_by)
            await self._deny(
                "once", f"the same {named} was done, or is being done, by {error.stream} (decided in #{error.seq})"
            )
        return spent is None

    async def _allow(self, counters: list[Guard]) -> None:
        generation, own = 0, False
        while True:
            once = [Unique(self._once_key(generation))] if self._policy.once_by and not own else []
            try:
                await self._safety.record(self._run, self._decided, *counters, *once)
            except Refused as error:
                await self._deny("limit", _limit_words(self._tool.name, error))
            except KeyTaken as error:
                own = await self._had(error)
                generation += 1
                continue
            return


def _number(value: Any) -> Any:
    """A number in one form: 5.0 is 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _limit_words(tool_name: str, error: Refused) -> str:
    scale, what = (1, "calls") if error.counter.endswith("/calls") else (_MICRO, "in all")
    used, limit, more = (f"{amount / scale:g}" for amount in (error.reserved, error.limit, error.amount))
    return f"{used} of {limit} {what} of {tool_name} are used, and {more} more do not fit"
