"""The part of the kernel's face that tells how far a run is, why it is there, and what it marks on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from harness.kernel.bounds import check_text
from harness.kernel.encoding import to_plain_json
from harness.kernel.face import Face
from harness.kernel.matching import digest_of
from harness.kernel.tenant import TenantContext

if TYPE_CHECKING:
    from harness.kernel.insight import Insight
    from harness.kernel.insight_results import RunExplanation, RunProgress
    from harness.people import Questions


class InsightMethods(Face):
    """Methods of `Kernel`."""

    _insight_made: Insight | None = None

    def _questions(self) -> Questions:
        raise NotImplementedError

    @property
    def _insight(self) -> Insight:
        if self._insight_made is None:
            from harness.kernel.insight import Insight

            self._insight_made = Insight(self._store, self._lifecycle, self._artifacts)
        return self._insight_made

    async def get_run_progress(self, *, run_id: str) -> RunProgress:
        """How far a run is, by index. Raises `NotFound`, `Unproven`."""
        return await self._insight.progress(run_id)

    async def explain_run(self, run_id: str, *, limit: int = 50) -> RunExplanation:
        """Why a run is where it is: costs by model and tool, the newest `limit` events worth telling, its tree of runs.

        By index, not by reading the run. `str()` of what it gives is for people. Raises `NotFound`, `Unproven`.
        """
        return await self._insight.explain(run_id, self._questions(), limit)

    async def checkpoint(
        self, *, run_id: str, tenant: TenantContext, name: str = "checkpoint", payload: Any = None, step_key: str | None = None
    ) -> int:
        """Mark a place that the run has reached; gives the event's sequence.

        `get_latest_run_summary(summary_type="checkpoint::NAME")` gives the newest payload. The same mark again (of the same
        `step_key`, or without one of the same payload) is the one that is there, so a replay writes nothing. Raises
        `TypeError` for what is no JSON.
        """
        self._open()
        check_text("a checkpoint's name", name)
        mark = digest_of((name, step_key, None if step_key is not None else msgspec.Raw(to_plain_json(payload))))
        once = f"checkpoint/{mark}"
        return await self._artifacts.append_summary(run_id, tenant, f"checkpoint::{name}", payload, step_key, once)
