"""What an agent may do about a ticket, as kernel tools: look, note, say how it stands, propose one of three actions.

There is no shell and no way to write anywhere but to the ticket; acting is the supervisor's, within the envelope. Every
tool knows its ticket by its run, never by what the model says. What a service wrote comes back fenced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.clock import MICROSECONDS
from harness.errors import LedgerError, OutcomeUnknown, StepRejected
from harness.kernel import Probed, ToolExecutionContext, ToolRegistry
from harness.ledger import Store, Write
from harness.recovery.declarations import Declarations
from harness.recovery.engagement import Engagement
from harness.recovery.evidence import MAX_LOG_LINES, Evidence
from harness.recovery.facts import ActionKind, IncidentConcluded, Value, draft, incident_stream
from harness.recovery.proposing import Proposals
from harness.recovery.reading import MAX_LINES, FileRoot
from harness.recovery.samples import latest_samples
from harness.recovery.typed_tool import TypedTool
from harness.text import cleaned
from harness.work import Items

if TYPE_CHECKING:
    from collections.abc import Callable

_CHECK_SECONDS = 8.0
_LOOK_SECONDS = 0.25
_NOTE_LIMIT = 4_000

Standing = Literal["completed", "verifying", "escalated", "failed", "blocked"]
Proposal = Literal["restart_service", "set_config", "revert_config"]

_ADMITS = re.compile(
    r"(?:\b(?:not|never|unable|failed|cannot|without)|n['\u2019]t)\b[^.;!?]{0,25}"
    r"\b(?:fix\w*|solv\w*|resolv\w*|repair\w*|restor\w*|heal\w*|recover\w*|help\w*|succe\w*|able)\b"
    r"|\b(?:still|remains?|keeps?)\b[^.;!?]{0,40}\b(?:fail\w*|down|broken|unhealthy|crash\w*|error\w*)\b"
    r"|\b(?:gave up|giving up|no luck)\b",
    re.IGNORECASE,
)


def admits_failure(text: str) -> bool:
    """Whether words that go with "completed" say the opposite, such as "I was not able to get this fixed"."""
    return bool(_ADMITS.search(text))


class RecoveryTools:
    """The tools of one responder, for all of its runs."""

    def __init__(self, store: Store, declarations: Declarations, home: Path, *, root: Path, known: Sequence[str] = ()) -> None:
        """`known` are secrets of the environment, masked wherever they turn up."""
        self._store = store
        self._home = home
        self._known = tuple(known)
        self._items = Items(store)
        self._files = FileRoot(root, home=home, also=_configurations(declarations, root), known=known)
        self._evidence = Evidence(store, declarations, home, known)
        self._proposals = Proposals(store, declarations, self._evidence)
        self._engaged: dict[str, Engagement] = {}

    def engage(self, engagement: Engagement) -> None:
        """From now on, what this run does is about this ticket."""
        self._engaged[engagement.run] = engagement

    def disengage(self, run: str) -> None:
        """The run does nothing any more."""
        self._engaged.pop(run, None)

    @cached_property
    def registry(self) -> ToolRegistry:
        """The tools, for an agent."""
        return ToolRegistry(
            [
                *(self._reading(each) for each in (
                    self.service_status, self.query_logs, self.query_metrics, self.check_now,
                    self.read_file, self.list_files, self.search_code,
                )),
                TypedTool(self.add_ticket_note, side_effect=True, risk_level="low", on_unknown="probe", probe=self._noted),
                TypedTool(self.update_ticket_status, risk_level="low"),
                TypedTool(self.propose_action, side_effect=True, risk_level="high", on_unknown="probe", probe=self._proposed),
            ]
        )  # fmt: skip

    def _reading(self, function: Callable[..., Any]) -> TypedTool:
        return TypedTool(function, risk_level="low")

    # Looking

    async def service_status(self, context: ToolExecutionContext, service: str = "") -> dict[str, Any]:
        """State of a service: process, last exit, checks with their newest results, configuration changes, recent actions.

        Without a name: the service that the ticket is about.
        """
        return await self._evidence.service(self._service(context, service))

    async def query_logs(
        self, context: ToolExecutionContext, service: str = "", lines: int = 50, search: str = ""
    ) -> dict[str, Any]:
        """The newest captured output of a service (200 lines at most), or the newest lines that contain `search`."""
        name = self._service(context, service)
        return self._evidence.logs(name, lines=min(lines, MAX_LOG_LINES), search=search[:200])

    async def query_metrics(
        self, context: ToolExecutionContext, service: str = "", check: str = "", seconds: float = 300.0
    ) -> dict[str, Any]:
        """Results and latencies of the checks of a service over the last seconds: counts, p50, p95, max, newest."""
        return self._evidence.metrics(self._service(context, service), check=check, seconds=min(max(seconds, 1.0), 86_400.0))

    async def check_now(self, context: ToolExecutionContext, service: str = "") -> dict[str, Any]:
        """Wait for fresh results of all checks of a service and give them. The monitor looks, nobody else."""
        name = self._service(context, service)
        fresh = await self._fresh(name, self._store.clock.now_us())
        return {"service": name, "fresh": fresh, "checks": await self._evidence.checks(name)}

    async def _fresh(self, target: str, since_us: int) -> bool:
        """Whether every check of the target was looked at since then; waits for it, for a while.

        Samples are no events and nobody announces them, so this looks again and again.
        """
        wanted = {check.name for check in await self._evidence.checked(target)}
        until = since_us + round(_CHECK_SECONDS * MICROSECONDS)
        while True:
            newest = latest_samples(self._home)
            if all(name in newest and newest[name].started_us >= since_us for name in wanted):
                return bool(wanted)
            if self._store.clock.now_us() >= until:
                return False
            await self._store.clock.sleep(_LOOK_SECONDS)

    def read_file(self, path: str, first: int = 1, lines: int = MAX_LINES) -> dict[str, Any]:
        """Lines of a file of the project, by a path relative to its root. Files that may hold secrets are not shown."""
        return self._files.read(path, first=first, lines=lines)

    def list_files(self, path: str = ".", pattern: str = "*") -> dict[str, Any]:
        """Files and folders in a folder of the project whose names fit the pattern."""
        return self._files.list(path, pattern=pattern)

    def search_code(self, text: str, path: str = ".", pattern: str = "*") -> dict[str, Any]:
        """Lines of the project's files that contain a text, in any case."""
        return self._files.search(text, path, pattern=pattern)

    # Saying

    async def add_ticket_note(self, context: ToolExecutionContext, text: str) -> dict[str, Any]:
        """Write down for people what was found out, tried or ruled out."""
        engagement = self._engagement(context)
        note = cleaned(text, known=self._known, limit=_NOTE_LIMIT)
        if not note.strip():
            raise StepRejected("a note needs words")
        data = {"key": context.idempotency_key, "run": context.run_id, "by": engagement.by}
        await self._items.note(engagement.ticket, note, claim=engagement.claim, author=_author(engagement), data=data)
        return {"noted": True}

    async def _noted(self, context: ToolExecutionContext) -> Probed:
        for event in await self._items.history(self._engagement(context).ticket):
            if event.type == "item.noted" and event.payload.get("data", {}).get("key") == context.idempotency_key:
                return Probed(happened=True, result={"noted": True})
        return Probed(happened=False)

    async def update_ticket_status(self, context: ToolExecutionContext, status: Standing, reason: str) -> dict[str, Any]:
        """Say how the ticket stands. `completed` (or `verifying`): it is fixed, and the monitor verifies that before the
        ticket is closed. `escalated` (or `failed`, `blocked`): a person has to go on; the reason says what is known.
        """
        engagement = self._engagement(context)
        said = cleaned(reason, known=self._known, limit=2000)
        fixed = status in ("completed", "verifying")
        if fixed and admits_failure(said):
            raise StepRejected(
                f"the reason says that it is not fixed, so the ticket is not {status}; use 'escalated', or go on"
            )
        fact = IncidentConcluded(
            ticket=engagement.ticket, attempt=engagement.attempt, fixed=fixed, reason=said, by=engagement.by, run=engagement.run
        )
        await self._store.append(Write(incident_stream(engagement.ticket), (draft(fact),)), guards=(engagement.fence,))
        after = "the monitor verifies it when you have ended" if fixed else "a person is called when you have ended"
        return {"noted": True, "status": "verifying" if fixed else "escalated", "next": f"end now: {after}"}

    # Acting

    async def propose_action(
        self,
        context: ToolExecutionContext,
        action: Proposal,
        reason: str,
        target: str = "",
        key: str | None = None,
        value: str | int | float | bool | None = None,
        version: str | None = None,
    ) -> dict[str, Any]:
        """Propose to act on a service; the envelope allows it, asks a person, or refuses, and the supervisor does it.

        `restart_service` replaces its process. `set_config` sets `key` (dotted) to `value` in its configuration file.
        `revert_config` puts back the version before the newest change, or `version`. Returns when it is over, with
        `verdict` done, suggested or refused, and for done the `outcome`.
        """
        arguments: dict[str, Value] = {"key": key, "value": value, "version": version}
        given = {name: each for name, each in arguments.items() if each is not None}
        engagement, service = self._engagement(context), self._service(context, target)
        try:
            return await self._proposals.propose(
                engagement, ActionKind(action), service, given,
                cleaned(reason, known=self._known, limit=1000), key=context.idempotency_key,
            )  # fmt: skip
        except LedgerError as error:  # the action may have been asked for, so this is no failure that one could act on
            raise OutcomeUnknown(f"what became of {action} on {service} could not be read: {error}") from error

    async def _proposed(self, context: ToolExecutionContext, target: str) -> Probed:
        found = await self._proposals.found(self._service(context, target), context.idempotency_key)
        return Probed(happened=found is not None, result=found)

    def _engagement(self, context: ToolExecutionContext) -> Engagement:
        engagement = self._engaged.get(context.run_id)
        if engagement is None:
            raise StepRejected(f"run {context.run_id} works on no ticket here")
        return engagement

    def _service(self, context: ToolExecutionContext, name: str) -> str:
        name = name.strip() or self._engagement(context).target
        if not name:
            raise StepRejected("this ticket is about no known service; say which one")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
            raise StepRejected(f"{cleaned(name, limit=80)!r} is no name of a service")
        return name


def _author(engagement: Engagement) -> str:
    return f"agent ({engagement.by})"


def _configurations(declarations: Declarations, root: Path) -> list[str]:
    """The declared configuration files below the root: an agent may read what it may propose to change."""
    return [service.config for service in declarations.services if service.config and not Path(service.config).is_absolute()]
