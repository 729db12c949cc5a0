"""A harness whose work is done by other harnesses, each in a run of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from harness.agents.harness import BaseHarness
from harness.agents.passes import Link, linked, pass_of
from harness.errors import UsageError
from harness.kernel import TenantContext

T = TypeVar("T")


class SupervisorHarness(BaseHarness[Any]):
    """Override `step` and call `run_child` in it."""

    async def run_child(
        self,
        harness: BaseHarness[T],
        *,
        run_id: str,
        tenant: TenantContext | None = None,
        model: str | None = None,
        input: Mapping[str, Any] | None = None,
    ) -> T:
        """Let a child work on its run for one session, and return what it returned.

        The child's run is this run's: it belongs to the same tree, and this run's ledger names it. The tenant is this
        run's unless another one is given, and so is its budget. What the child raises is raised here; caught, this session
        goes on. A session of this run that is gone on with after a kill gets the same session of the child again, which is
        gone on with too, or replayed if it is over. `input` is what the child finds in `context.input`.
        """
        if not isinstance(harness, BaseHarness):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"a child is a harness, not {type(harness).__name__}")
        place = pass_of(self)
        tenant = tenant or self._tenant_of(place)
        if place is None or place.session is None:
            return await _run(harness, run_id, tenant, model, input)
        parent = place.context.run_id
        if harness.kernel.store is not self._kernel.store:
            raise UsageError(f"the child's run {run_id!r} must be in the same ledger as its parent {parent!r}")
        await self._kernel.link_child(run_id=parent, child_run=run_id)
        cause = f"{parent}#session-{place.session.number}/{place.number(f'child {run_id}')}"
        with linked(Link(parent, cause)):
            return await _run(harness, run_id, tenant, model or place.context.model, input)


async def _run(
    harness: BaseHarness[T], run_id: str, tenant: TenantContext, model: str | None, input: Mapping[str, Any] | None
) -> T:
    if input is None:  # so that a child may have a `run` of its own that takes none
        return await harness.run(run_id=run_id, tenant=tenant, model=model)
    return await harness.run(run_id=run_id, tenant=tenant, model=model, input=input)
