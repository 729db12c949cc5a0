"""One attempt at one ticket, from the claim to the hand-over: engage, let the agent work, hand over or wait for a person.

Every step of it can be interrupted by a kill and is gone on with by whoever claims the ticket next. When the
configured model fails, the rules take over under a run of their own, and the ledger says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import msgspec

from harness.agents import AutonomousAgent
from harness.errors import IllegalTransition, KernelError, KeyTaken, LedgerError, OutcomeUnknown
from harness.kernel import Kernel, ModelCallOptions, TenantContext
from harness.ledger import Event, Store, Unique, Write
from harness.people import Questions, QuestionStatus
from harness.recovery import brief, response
from harness.recovery.engagement import Engagement
from harness.recovery.facts import (
    ActionCompleted,
    Fact,
    IncidentEngaged,
    IncidentEscalated,
    draft,
    fact_of,
    incident_stream,
    service_stream,
)
from harness.recovery.rules import NAME as RULES
from harness.recovery.rules import RuleModel
from harness.recovery.tools import RecoveryTools
from harness.settings import Count, Seconds
from harness.text import cleaned
from harness.work import Claim, Items, Role, Status

if TYPE_CHECKING:
    from harness.kernel import ModelPort

_TRIES = 4  # of a run whose side effect could not be told
_UNKNOWN_SECONDS = 0.5


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[agent]` in harness.toml."""

    model: str = RULES  # rules, anthropic:MODEL, openai:MODEL, openai-chat:MODEL
    model_seconds: Seconds = 15.0  # one call may take so long; two that do, and the rules take over in time
    iterations: Count = 20
    at_once: Count = 4  # tickets; those that wait for a person do not count
    lease_seconds: Seconds = 15.0  # so long a ticket stays with an agent that stopped without a word


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """How an agent's part of an attempt ended, and whose it was."""

    engaged: IncidentEngaged
    ended: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What every attempt of a responder uses."""

    store: Store
    items: Items
    tools: RecoveryTools
    kernel: Kernel  # with the configured model
    rules: Kernel  # with the rule model
    settings: AgentSettings
    known: Sequence[str]

    async def work(self, claim: Claim) -> None:
        """Work on a claimed ticket until it is handed over or waits for a person. Raises `Fenced` if the claim was lost."""
        incident, plan = await self._plan(claim)
        if plan.exhausted:
            await self.escalate(claim, f"{response.MAX_ATTEMPTS} attempts have not healed it; nothing is repaired without end")
            return
        engaged = plan.engaged or await self._engage(claim, incident, plan.attempt)
        ended, words = "finished before", ""
        conclusion = plan.conclusion
        if conclusion is None:
            performance = await self._perform(claim, engaged)
            if performance is None:
                return
            ended, words, engaged = performance.ended, performance.words, performance.engaged
            said = response.conclusions_in(await self._incident(claim))
            conclusion = response.conclusion_of(engaged.run, said)
        await self._finish(engaged, ended)
        handover = response.hand_over(conclusion, ended=ended, words=cleaned(words, known=self.known, limit=600))
        if handover.to == "verifying":
            await self.items.transition(claim.item.id, Status.VERIFYING, reason=handover.reason, claim=claim)
        else:
            await self.escalate(claim, handover.reason)

    async def _plan(self, claim: Claim) -> tuple[list[Event], response.Plan]:
        incident = await self._incident(claim)
        return incident, response.plan(incident, await self.items.history(claim.item.id))

    async def _incident(self, claim: Claim) -> list[Event]:
        return await self.store.read(incident_stream(claim.item.id))

    # Engaging

    async def _engage(self, claim: Claim, incident: Sequence[Event], attempt: int) -> IncidentEngaged:
        fact = IncidentEngaged(
            ticket=claim.item.id, attempt=attempt, by=self.settings.model, run=f"incident-{claim.item.id}-{attempt}",
            holder=claim.holder, system=brief.SYSTEM, prompt=brief.prompt(claim.item, incident, attempt, known=self.known),
        )  # fmt: skip
        return await self._told(claim, f"engaged/{attempt}", fact)

    async def _take_over(self, claim: Claim, engaged: IncidentEngaged, why: str) -> IncidentEngaged:
        """The rules go on where the configured model failed: the same ticket, the same words, a run of their own."""
        reason = cleaned(why, known=self.known, limit=500)
        fact = msgspec.structs.replace(engaged, by=RULES, run=f"{engaged.run}-{RULES}", holder=claim.holder, reason=reason)
        return await self._told(claim, f"engaged/{engaged.attempt}/{RULES}", fact)

    async def _told(self, claim: Claim, what: str, fact: IncidentEngaged) -> IncidentEngaged:
        """Write it once; gives what stands on the ledger, which a former holder may have written."""
        key = f"incident/{claim.item.id}/{what}"
        try:
            await self._tell(claim, key, fact)
        except KeyTaken as error:
            event = await self.store.event(error.stream, error.seq)
            told = fact_of(event) if event is not None else None
            return told if isinstance(told, IncidentEngaged) else fact
        return fact

    async def _tell(self, claim: Claim, key: str, fact: Fact) -> None:
        engagement = Engagement(claim=claim, attempt=0, run="", by="")
        await self.store.append(
            Write(incident_stream(claim.item.id), (draft(fact),)), guards=(Unique(key), engagement.fence)
        )  # fmt: skip

    # Performing

    async def _perform(self, claim: Claim, engaged: IncidentEngaged) -> Performance | None:
        """Let the agent work. None: it waits for a person."""
        if engaged.by != RULES:
            try:
                return await self._run(claim, engaged, self.kernel)
            except (LedgerError, OutcomeUnknown):
                raise
            except Exception as error:  # noqa: BLE001 - whatever keeps a model from working must not keep the repair from it
                why = f"{type(error).__name__}: {error}"
            engaged = await self._take_over(claim, engaged, why)
        return await self._run(claim, engaged, self.rules)

    async def _run(self, claim: Claim, engaged: IncidentEngaged, kernel: Kernel) -> Performance | None:
        engagement = Engagement(claim=claim, attempt=engaged.attempt, run=engaged.run, by=engaged.by)
        ended: list[Performance | Exception] = []

        async def think() -> None:
            try:
                ended.append(await self._think(engaged, kernel))
            except Exception as error:  # noqa: BLE001 - raised below, as itself and not in a group
                ended.append(error)
            group.cancel_scope.cancel()

        self.tools.engage(engagement)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(think)
                await engagement.parked.wait()
                group.cancel_scope.cancel()
        finally:
            self.tools.disengage(engaged.run)
        if not ended:
            await self._park(claim, engagement.waits_for)
            return None
        if isinstance(ended[0], Exception):
            raise ended[0]
        return ended[0]

    async def _think(self, engaged: IncidentEngaged, kernel: Kernel) -> Performance:
        options = ModelCallOptions(timeout=self.settings.model_seconds)
        agent = AutonomousAgent(kernel, tools=self.tools.registry, model_options=options, memory=None)
        for remaining in reversed(range(_TRIES)):
            try:
                result = await agent.run(
                    run_id=engaged.run,
                    tenant=TenantContext(tenant_id=self.store.tenant),
                    model=engaged.by.partition(":")[2] or engaged.by,
                    system_prompt=engaged.system,
                    prompt=engaged.prompt,
                    max_iterations=self.settings.iterations,
                )
            except OutcomeUnknown:  # the next pass asks the tool's probe
                if not remaining:
                    raise
                await self.store.clock.sleep(_UNKNOWN_SECONDS)
            else:
                return Performance(engaged=engaged, ended=result.outcome.value, words=result.text)
        raise AssertionError("the last try returns or raises")

    async def _finish(self, engaged: IncidentEngaged, reason: str) -> None:
        """Say that the runs of the attempt are over, so that none stays active for ever."""
        runs = [engaged.run, engaged.run.removesuffix(f"-{RULES}")]
        for run in dict.fromkeys(runs):
            with contextlib.suppress(KernelError):
                status = await self.rules.get_run_status(run_id=run)
                if status.active:
                    await self.rules.finish_run(run_id=run, failed=run != engaged.run, reason=reason)

    # Handing over

    async def _park(self, claim: Claim, question: str) -> None:
        """Put the ticket aside until a person has answered; the answer takes it up again."""
        reason = f"waits for a person's answer to {question}"
        await self.items.transition(claim.item.id, Status.PARKED, reason=reason, claim=claim)
        if (await Questions(self.store).get(question)).status is not QuestionStatus.PENDING:
            await self.unpark(claim.item.id, question)

    async def unpark(self, ticket: str, question: str) -> None:
        """A person has answered, so the ticket is to be worked again, unless somebody else has changed it."""
        with contextlib.suppress(IllegalTransition):
            item = await self.items.get(ticket)
            if item.status is Status.PARKED and question in item.reason:
                await self.items.transition(ticket, Status.PENDING, reason=f"{question} is answered", role=Role.SYSTEM)

    async def escalate(self, claim: Claim, reason: str) -> None:
        """Hand the ticket to a person, with everything they need to go on."""
        incident = await self._incident(claim)
        actions = await self._actions(claim)
        fact = self._masked(response.escalation(claim.item, incident, actions, reason))
        with contextlib.suppress(KeyTaken):
            await self._tell(claim, f"incident/{claim.item.id}/escalated/{claim.token}", fact)
        await self.items.transition(claim.item.id, Status.BLOCKED, reason=reason, claim=claim)

    def _masked(self, fact: IncidentEscalated) -> IncidentEscalated:
        """A ticket's words come from services and people, who may have written a secret."""
        clean = {
            name: tuple(cleaned(line, known=self.known, limit=1000) for line in getattr(fact, name))
            for name in ("known", "tried", "ruled_out")
        }
        return msgspec.structs.replace(fact, **clean)

    async def _actions(self, claim: Claim) -> list[ActionCompleted]:
        """What was done for this ticket."""
        target = claim.item.labels.get("target", "")
        if not target:
            return []
        events = await self.store.read_all(streams=(service_stream(target),), types=(ActionCompleted.TYPE,))
        facts = [fact_of(event) for event in events]
        return [fact for fact in facts if isinstance(fact, ActionCompleted) and fact.ticket == claim.item.id]


def port_named(name: str) -> ModelPort:
    """The port that the configuration names: `rules`, or a provider's as `anthropic:MODEL`. Raises `UsageError`."""
    from harness.kernel.providers import port_from

    return port_from(name, {RULES: lambda _: RuleModel()})
