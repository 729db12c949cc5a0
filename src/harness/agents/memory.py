"""What an agent writes down for later: entries by key, kept as artifacts of its run or of its tenant.

An entry is written once for each call, however often the call is made again after a crash. What the agent read is
recorded as the tool's result, so its own writing never changes what a resumed pass reads.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal, get_args

from harness.agents.conversation import shortened
from harness.agents.suspension import suspending
from harness.errors import RunNotActive, ToolRejected, UsageError
from harness.kernel import TenantContext, Tool, ToolExecutionContext, events_before, stream_of
from harness.kernel.records import ARTIFACT_SET, ArtifactSet

if TYPE_CHECKING:
    from harness.kernel import Kernel
    from harness.ledger import Event

MemoryScope = Literal["run", "tenant"]

MAX_KEY_CHARACTERS = 100
MAX_ENTRY_CHARACTERS = 10_000
MAX_ENTRIES = 200
_MAX_FOUND = 20
_MAX_KNOWN = 64  # runs whose entries are remembered here
_SHOWN_CHARACTERS = 300
_PREFIX = "memory/"
_KEY = "artifact::" + _PREFIX


class _Known:
    """The keys of the entries of one run, as far as it was read."""

    def __init__(self) -> None:
        self.seen = 0
        self.keys: dict[str, None] = {}

    def take(self, event: Event) -> None:
        if event.type == ARTIFACT_SET and event.key is not None and event.key.startswith(_KEY):
            key = event.key.removeprefix(_KEY)
            self.keys.pop(key, None)
            if not event.erased and bytes(event.load(ArtifactSet).value) != b"null":
                self.keys[key] = None


class Memory:
    """Entries of a run, or of all runs of a tenant. The artifact of an entry is named `memory/KEY`; a forgotten one is null."""

    def __init__(self, kernel: Kernel, scope: MemoryScope) -> None:
        if scope not in get_args(MemoryScope):
            raise UsageError(f"an agent's memory is that of its run or its tenant ('run', 'tenant') or None, not {scope!r}")
        self.scope: MemoryScope = scope
        self._kernel = kernel
        self._known: dict[str, _Known] = {}

    async def home(self, run_id: str, tenant: TenantContext) -> str:
        """The run that holds the entries. A tenant's is begun when it is first needed, and is over at once."""
        if self.scope == "run":
            return run_id
        home = f"memory::{tenant.tenant_id}"
        await self._kernel.open_run(tenant=tenant, run_id=home)
        if (await self._kernel.get_run_status(run_id=home)).active:
            with contextlib.suppress(RunNotActive):  # somebody else was faster
                await self._kernel.finish_run(run_id=home, tenant=tenant, reason="holds what agents remember")
        return home

    async def keys(self, home: str) -> list[str]:
        """The keys of all entries, the oldest first. Reads only what is new since the last time."""
        known = self._known.pop(home, None)
        if known is None:
            known = _Known()
            for event in await events_before(self._kernel.store, home):
                known.take(event)
        for event in await self._kernel.store.read(stream_of(home), after=known.seen):
            known.take(event)
            known.seen = event.seq
        self._known[home] = known
        if len(self._known) > _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        return list(known.keys)

    async def entry(self, home: str, key: str) -> str | None:
        """One entry, verified; None if there is none."""
        value = await self._kernel.get_artifact(run_id=home, key=_PREFIX + key)
        return None if value is None else str(value)

    async def set(self, context: ToolExecutionContext, key: str, text: str | None) -> None:
        """Write an entry, or with None forget it. Once for each call of the tool."""
        home = await self.home(context.run_id, context.tenant)
        await self._kernel.set_artifact(
            run_id=home, tenant=context.tenant, key=_PREFIX + key, value=text, once=f"memory/{context.idempotency_key}"
        )

    async def shown(self, run_id: str, tenant: TenantContext) -> str:
        """All entries, each in a line of its own, for the beginning of a conversation."""
        home = await self.home(run_id, tenant)
        lines: list[str] = []
        for key in await self.keys(home):
            text = " ".join((await self.entry(home, key) or "").split())
            lines.append(f"- {key}: {shortened(text, _SHOWN_CHARACTERS)}")
        return "\n".join(lines)

    # What the model may call

    def tools(self) -> list[Tool]:
        """The tools `remember`, `recall` and `forget`."""
        return [Tool(self.remember), Tool(self.recall), Tool(self.forget)]

    async def remember(self, key: str, text: str, context: ToolExecutionContext) -> str:
        """Keep a text under a key for later, also for when this conversation has been shortened. Replaces an older one."""
        with suspending():
            _check(key, text)
            home = await self.home(context.run_id, context.tenant)
            keys = await self.keys(home)
            if key not in keys and len(keys) >= MAX_ENTRIES:
                raise ToolRejected(f"{MAX_ENTRIES} entries are kept already; forget one first")
            await self.set(context, key, text)
        return f"kept under {key!r}"

    async def recall(self, context: ToolExecutionContext, key: str = "", query: str = "") -> dict[str, Any]:
        """Read what was kept: the entry of a key, or the entries that contain the words of a query; without both, all keys."""
        with suspending():
            home = await self.home(context.run_id, context.tenant)
            if key:
                text = await self.entry(home, key)
                if text is None:
                    raise ToolRejected(
                        f"nothing is kept under {key!r}; there are: {', '.join(await self.keys(home)) or 'none'}"
                    )
                return {"entries": {key: text}}
            keys = await self.keys(home)
            if not query:
                return {"keys": keys}
            found = {name: text for name in keys if _matches(query, name, text := await self.entry(home, name) or "")}
            return {"entries": dict(list(found.items())[-_MAX_FOUND:]), "found": len(found)}

    async def forget(self, key: str, context: ToolExecutionContext) -> str:
        """Forget what was kept under a key."""
        with suspending():
            home = await self.home(context.run_id, context.tenant)
            if await self.entry(home, key) is None:
                return f"nothing was kept under {key!r}"
            await self.set(context, key, None)
        return f"forgot {key!r}"


def _check(key: str, text: str) -> None:
    if not 0 < len(key) <= MAX_KEY_CHARACTERS or not key.isprintable() or not key.strip():
        raise ToolRejected(f"a key has 1 to {MAX_KEY_CHARACTERS} printable characters, not {key[:200]!r}")
    if len(text) > MAX_ENTRY_CHARACTERS:
        raise ToolRejected(f"an entry has at most {MAX_ENTRY_CHARACTERS} characters, not {len(text)}; keep the gist of it")


def _matches(query: str, key: str, text: str) -> bool:
    place = f"{key}\n{text}".casefold()
    return all(word in place for word in query.casefold().split())
