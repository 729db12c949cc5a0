"""The part of the kernel's face that is about safety policies: why a tool will be used."""

from __future__ import annotations

from harness.errors import PolicyDenied, UsageError
from harness.kernel.face import Face
from harness.kernel.runs import stream_of
from harness.kernel.tenant import TenantContext
from harness.ledger import Draft, Write


class PolicyMethods(Face):
    """Methods of `Kernel`."""

    async def declare_intent(self, *, run_id: str, tenant: TenantContext, tool_name: str, reason: str) -> int:
        """Record why a tool will be used in this run, where its policy asks for a reason; gives the event's sequence.

        It holds for the run's further calls of this tool, until another one is declared; the one that holds is not recorded
        again. Raises `NotFound`.
        """
        from harness.kernel.admission import INTENT_DECLARED, IntentDeclared

        self._open()
        if not reason.strip():
            raise UsageError(f"the reason for {tool_name} is empty")
        status = await self._lifecycle.status(run_id)
        if status.tenant_id != tenant.tenant_id:
            raise PolicyDenied(f"run {run_id!r} belongs to tenant {status.tenant_id!r}, not to {tenant.tenant_id!r}")
        if self._steps.scrubbing is not None:
            reason = await self._steps.scrubbing.text(tenant.tenant_id, reason)
        payload = IntentDeclared(tool_name=tool_name, reason=reason)
        draft = Draft(type=INTENT_DECLARED, payload=payload, key=f"intent::{tool_name}", tenant=tenant.tenant_id)
        before = await self._store.latest(stream_of(run_id), f"intent::{tool_name}")
        if before is not None and not before.erased and before.load(IntentDeclared) == payload:
            return before.seq
        return (await self._store.append(Write(stream_of(run_id), (draft,)))).first.seq
