"""What a run leaves for later: artifacts by key with all their versions, and summaries. Latest in O(1), verified.

A fork has its parent's artifacts as they were at the fork point, as it has its steps: what a recorded step kept, the steps
after it find. Summaries tell how far a run itself has come, so they are not inherited.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from harness.errors import KeyTaken, NotFound, PolicyDenied, Unproven
from harness.kernel import inherited, records
from harness.kernel.checking import check_key, check_tenant
from harness.kernel.encoding import to_plain_json
from harness.kernel.lifecycle import checked
from harness.kernel.records import ArtifactSet, SummaryAppended
from harness.kernel.runs import stream_of
from harness.kernel.tenant import TenantContext
from harness.ledger import Draft, Store, Unique, Write

if TYPE_CHECKING:
    from harness.kernel.middleware.scrubbing import Scrubbing


class Artifacts:
    """Artifacts and summaries of runs."""

    def __init__(self, store: Store, scrubbing: Scrubbing | None = None) -> None:
        self._store = store
        self._scrubbing = scrubbing

    async def _recorded(self, tenant: TenantContext, value: Any) -> bytes:
        """The value as JSON that may be recorded."""
        data = to_plain_json(value)
        return data if self._scrubbing is None else await self._scrubbing.json(tenant.tenant_id, data)

    async def set(
        self, run_id: str, tenant: TenantContext, key: str, value: Any, schema_version: str | None, once: str = ""
    ) -> int:
        """Record a new version; gives its sequence. Raises `TypeError` for what is no JSON."""
        check_key("key", key)
        check_tenant(tenant)
        data = await self._recorded(tenant, value)
        artifact = ArtifactSet(
            name=key, digest=hashlib.sha256(data).hexdigest(), value=msgspec.Raw(data), schema_version=schema_version
        )
        return await self._append(run_id, tenant, records.ARTIFACT_SET, artifact, f"artifact::{key}", once)

    async def get(self, run_id: str, key: str) -> Any:
        """The newest version; None if there is none or it was erased. Raises `Unproven` if it is not what was recorded."""
        check_key("key", key)
        event = await inherited.newest(self._store, run_id, f"artifact::{key}")
        if event is None:
            await self._check_known(run_id)
        if event is None or checked(event).erased:
            return None
        artifact = event.load(ArtifactSet)
        data = bytes(artifact.value)
        if hashlib.sha256(data).hexdigest() != artifact.digest:
            raise Unproven(f"{event.ref}: artifact {key!r} does not match its digest", stream=event.stream, seq=event.seq)
        return msgspec.json.decode(data)

    async def keys(self, run_id: str) -> list[str]:
        """The names of all artifacts of a run."""
        own = await self._store.read(stream_of(run_id))
        if not own:
            raise NotFound(f"no run {run_id!r} in {self._store.location}")
        events = [*await inherited.events_before(self._store, run_id), *own]
        names = {event.key for event in events if event.type == records.ARTIFACT_SET and event.key is not None}
        return sorted(name.removeprefix("artifact::") for name in names)

    async def _check_known(self, run_id: str) -> None:
        if await self._store.head(stream_of(run_id)) is None:
            raise NotFound(f"no run {run_id!r} in {self._store.location}")

    async def append_summary(
        self, run_id: str, tenant: TenantContext, summary_type: str, summary: Any, step_key: str | None, once: str = ""
    ) -> int:
        """Record a summary; gives its sequence. Raises `TypeError` for what is no JSON."""
        check_key("summary_type", summary_type)
        check_tenant(tenant)
        data = await self._recorded(tenant, summary)
        record = SummaryAppended(summary_type=summary_type, summary=msgspec.Raw(data), step_key=step_key)
        return await self._append(run_id, tenant, records.SUMMARY_APPENDED, record, f"summary::{summary_type}", once)

    async def latest_summary(self, run_id: str, summary_type: str) -> Any:
        """The newest summary of this type; None if there is none or it was erased."""
        check_key("summary_type", summary_type)
        event = await self._store.latest(stream_of(run_id), f"summary::{summary_type}")
        if event is None:
            await self._check_known(run_id)
        if event is None or checked(event).erased:
            return None
        return msgspec.json.decode(bytes(event.load(SummaryAppended).summary))

    async def _append(
        self, run_id: str, tenant: TenantContext, type_: str, payload: records.Record, key: str, once: str
    ) -> int:
        stream = stream_of(run_id)
        status = await self._store.latest(stream, records.STATUS_KEY)
        if status is None:
            raise NotFound(f"no run {run_id!r} in {self._store.location}")
        if status.tenant != tenant.tenant_id:
            raise PolicyDenied(f"run {run_id!r} belongs to tenant {status.tenant!r}, not to {tenant.tenant_id!r}")
        event = Draft(type=type_, payload=payload, key=key, tenant=tenant.tenant_id)
        guards = [Unique(f"once/{stream}/{once}")] if once else []
        try:
            return (await self._store.append(Write(stream, (event,)), guards=guards)).first.seq
        except KeyTaken as error:  # it was recorded by a pass that did not come to its end
            return error.seq
