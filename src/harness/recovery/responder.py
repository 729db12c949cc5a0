"""The agent process: claims the most urgent ticket, keeps the claim while it works, hands over, and claims the next.

Several may run for one home; each has a numbered place that the system frees the moment its process ends, so whoever
takes the place again goes on with its tickets at once. Two never work one ticket: every write carries the claim's fence.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec

from harness.errors import Fenced, HarnessError, IllegalTransition, LedgerError, NotFound
from harness.kernel import Kernel, KernelPolicy
from harness.ledger import Cursor, Store
from harness.people import Questions, QuestionStatus
from harness.recovery.attempts import AgentSettings, Desk, port_named
from harness.recovery.declarations import Declarations
from harness.recovery.facts import IncidentActionDecided, fact_of, incident_stream
from harness.recovery.pause import wait_paused, wait_unpaused
from harness.recovery.rules import NAME as RULES
from harness.recovery.rules import RuleModel
from harness.recovery.tools import RecoveryTools
from harness.text import cleaned, secrets_of
from harness.work import Claim, Filter, Items, Role, Status

if TYPE_CHECKING:
    from harness.kernel import ModelPort

SOURCES = ("invariant", "anomaly", "slo", "human", "scheduled", "webhook")
"""Where tickets come from. Other items on the ledger are other workers' business."""

_TICKETS = Filter(source_types=SOURCES)
_PLACES = 64
MODEL_POLICY = KernelPolicy(model_attempts=2, retry_max_seconds=5.0)  # while a model is waited for, a service is down
_ANSWERS = ("question.answered", "question.expired")


async def run_responder(
    store: Store,
    declarations: Declarations,
    home: Path,
    settings: AgentSettings | None = None,
    *,
    port: ModelPort | None = None,
    known: Sequence[str] | None = None,
) -> None:
    """Work tickets until cancelled. `port` is the model, else the one that the settings name.

    `known` are secrets to mask everywhere; without it those of the environment. Raises `UsageError` if the
    configured model cannot be reached as it is configured, and the ledger's own errors.
    """
    settings = settings or AgentSettings()
    if port is not None and settings.model == RULES:  # nothing but the rules is labelled as theirs
        settings = msgspec.structs.replace(settings, model=type(port).__name__)
    secrets = secrets_of(os.environ) if known is None else tuple(known)
    with _place(home) as number:
        kernel = Kernel(store=store, model_port=port or port_named(settings.model), policy=MODEL_POLICY)
        rules = Kernel(store=store, model_port=RuleModel())
        desk = Desk(
            store=store,
            items=Items(store, role=Role.SYSTEM),
            tools=RecoveryTools(store, declarations, home, root=Path(declarations.root), known=secrets),
            kernel=kernel,
            rules=rules,
            settings=settings,
            known=secrets,
        )
        try:
            await Responder(desk, f"agent-{number}@{os.uname().nodename}").run()
        finally:
            with anyio.CancelScope(shield=True):
                await kernel.close()
                await rules.close()


@contextlib.contextmanager
def _place(home: Path) -> Generator[int]:
    """A number that no other agent of this home has. The system frees it when the process ends, however it ends."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(1, _PLACES + 1):
        descriptor = os.open(home / f"agent-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        try:
            yield number
        finally:
            os.close(descriptor)
        return
    raise HarnessError(f"{_PLACES} agents work for {home} already; stop some first")


@dataclass(frozen=True, slots=True)
class _Work:
    """The work on one ticket, which can be ended and waited for."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: anyio.Event = field(default_factory=anyio.Event)


class Responder:
    """One agent process at its place."""

    def __init__(self, desk: Desk, holder: str) -> None:
        self.desk = desk
        self.holder = holder
        self._at_work = anyio.CapacityLimiter(desk.settings.at_once)
        self._works: dict[str, _Work] = {}  # by ticket

    async def run(self) -> None:
        """Go on with what this place was working on, then claim what comes."""
        seen = await self.desk.store.tail()
        async with anyio.create_task_group() as group:
            group.start_soon(self._hear_answers, seen)
            await self._mend()
            for claim in await self._left_over():
                await self._begin(group, claim)
            while True:
                await wait_unpaused(self.desk.store)
                await self._room()
                claim = await self._next()
                if claim is not None:
                    await self._begin(group, claim)

    async def _next(self) -> Claim | None:
        """The most urgent ticket, waiting for one; None if recovery was paused meanwhile."""
        claims: list[Claim] = []
        async with anyio.create_task_group() as group:

            async def claim() -> None:
                ttl = self.desk.settings.lease_seconds
                claims.append(await self.desk.items.wait_claim(self.holder, ttl_seconds=ttl, match=_TICKETS))
                group.cancel_scope.cancel()

            async def stop_when_paused() -> None:
                await wait_paused(self.desk.store)
                group.cancel_scope.cancel()

            group.start_soon(claim)
            group.start_soon(stop_when_paused)
        return claims[0] if claims else None

    async def _left_over(self) -> list[Claim]:
        """The tickets that this place had when its process ended: nobody else can be at them."""
        claims: list[Claim] = []
        ttl = self.desk.settings.lease_seconds
        for item in await self.desk.items.list(status=Status.IN_PROGRESS, holder=self.holder, limit=None):
            with contextlib.suppress(HarnessError):
                claim = await self.desk.items.claim(self.holder, item_id=item.id, ttl_seconds=ttl)
                if claim is not None:
                    claims.append(claim)
        return claims

    async def _room(self) -> None:
        """Until there is room for one more ticket."""
        await self._at_work.acquire_on_behalf_of(self)
        self._at_work.release_on_behalf_of(self)

    async def _begin(self, group: anyio.abc.TaskGroup, claim: Claim) -> None:
        former = self._works.get(claim.item.id)
        if former is not None:  # this process stood still for longer than its claim lasts, and has it anew
            former.scope.cancel()
            await former.over.wait()
        await self._at_work.acquire_on_behalf_of(claim.item.id)
        group.start_soon(self._work, claim)

    async def _work(self, claim: Claim) -> None:
        """One ticket. What goes wrong with it is written on it and ends nothing else, but for the ledger's own errors."""
        mine = self._works[claim.item.id] = _Work()
        try:
            with mine.scope:
                await self._work_on(claim)
        finally:
            del self._works[claim.item.id]
            self._at_work.release_on_behalf_of(claim.item.id)
            mine.over.set()

    async def _work_on(self, claim: Claim) -> None:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self.desk.items.heartbeat, claim)
                await self.desk.work(claim)
                group.cancel_scope.cancel()
        except* (Fenced, IllegalTransition, NotFound):
            pass  # somebody else has the ticket, or a person has changed it: it is theirs
        except* LedgerError:
            raise
        except* Exception as errors:  # noqa: BLE001 - one ticket's trouble must not be the others'
            await self._give_up(claim, errors)

    async def _give_up(self, claim: Claim, errors: BaseExceptionGroup[Exception]) -> None:
        said = "; ".join(f"{type(error).__name__}: {error}" for error in _leaves(errors))
        reason = cleaned(f"the agent could not work on it: {said}", known=self.desk.known, limit=1000)
        with contextlib.suppress(Fenced, IllegalTransition):
            await self.desk.escalate(claim, reason)

    # Answers of people

    async def _hear_answers(self, seen: Cursor) -> None:
        async for event in self.desk.store.follow(after=seen, streams=("question/",), types=_ANSWERS):
            await self._heard(event.stream.partition("/")[2])

    async def _heard(self, question: str) -> None:
        with contextlib.suppress(NotFound):
            asked = await Questions(self.desk.store).get(question)
            if asked.kind == "approval" and asked.status is not QuestionStatus.PENDING:
                await self.desk.unpark(asked.subject, question)

    async def _mend(self) -> None:
        """Take up what was answered while no agent was there to hear it."""
        for item in await self.desk.items.list(status=Status.PARKED, limit=None):
            facts = [fact_of(event) for event in await self.desk.store.read(incident_stream(item.id))]
            asked = [fact.question for fact in facts if isinstance(fact, IncidentActionDecided) and fact.question]
            if asked:
                await self._heard(asked[-1])


def _leaves(errors: BaseExceptionGroup[Exception]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
