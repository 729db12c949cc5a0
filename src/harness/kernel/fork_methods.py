"""The part of the kernel's face that is about runs beside a run: forks of it."""

from __future__ import annotations

from harness.kernel.face import Face
from harness.kernel.forks import Forks
from harness.kernel.lifecycle import handle_of
from harness.kernel.results import RunHandle


class ForkMethods(Face):
    """Methods of `Kernel`."""

    _forks: Forks

    async def fork_run(self, *, run_id: str, at_seq: int, new_run_id: str | None = None) -> RunHandle:
        """Begin a run that has the steps which `run_id` had ended after its event `at_seq`, and goes on by itself.

        The steps are referred to, not copied, and cost nothing again. A side effect that was begun by then and had no end
        stays unknown in the fork, whatever its tool's policy: it is settled by a person's answer or `reconcile_tool`.
        Artifacts, summaries, status and money are not inherited; budget and quotas are those of the same tenant and tree
        of runs. The fork is active, whatever the run's status. Raises `NotFound`, `RunExists`, `UsageError` for a place
        that the run does not have, `Unproven` if the run does not verify up to there.
        """
        self._open()
        return handle_of(await self._forks.fork(run_id, at_seq, new_run_id))
