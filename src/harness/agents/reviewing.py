"""Draft, review, verify: three harnesses one after another, and what counts as a yes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from harness.agents.harness import BaseHarness
from harness.agents.passes import HarnessContext
from harness.agents.supervisor import SupervisorHarness

if TYPE_CHECKING:
    from harness.kernel import Kernel, ReplayPolicy, TenantContext

_YES = ("ok", "passed")


@dataclass(frozen=True, slots=True)
class DraftReviewVerifyResult:
    """What each of the three gave, and whether the verifier said yes."""

    draft: Any
    review: Any
    verify: Any
    approved: bool


class DraftReviewVerifySupervisor(SupervisorHarness):
    """Runs the drafter, shows its draft to the reviewer, and both to the verifier, each in a run of its own.

    They find it in `context.input`, as `draft` and `review`, and in the artifacts of these names if it can be recorded as
    JSON. Only an explicit yes of the verifier approves, see `approves`; `verify_passes` decides instead of that.
    """

    def __init__(
        self,
        *,
        kernel: Kernel,
        tenant: TenantContext | None = None,
        drafter: BaseHarness[Any],
        reviewer: BaseHarness[Any],
        verifier: BaseHarness[Any],
        verify_passes: Callable[[Any], bool] | None = None,
        default_model: str = "default",
        replay_policy: ReplayPolicy = "strict",
    ) -> None:
        super().__init__(kernel, tenant, default_model=default_model, replay_policy=replay_policy)
        self._drafter = drafter
        self._reviewer = reviewer
        self._verifier = verifier
        self._verify_passes = verify_passes or approves

    async def step(self, *, context: HarnessContext) -> DraftReviewVerifyResult:
        """The three, one after another, and the verdict, which is recorded as the summary `review_verdict`."""
        draft = await self._ask(self._drafter, "draft", context, dict(context.input))
        review = await self._ask(self._reviewer, "review", context, {"draft": draft})
        verify = await self._ask(self._verifier, "verify", context, {"draft": draft, "review": review})
        approved = self._verify_passes(verify) is True
        await self.write_summary("review_verdict", {"approved": approved, "verifier": f"{verify!r}"[:500]})
        return DraftReviewVerifyResult(draft, review, verify, approved)

    async def _ask(self, harness: BaseHarness[Any], name: str, context: HarnessContext, shown: Mapping[str, Any]) -> Any:
        return await self.run_child(
            harness, run_id=f"{context.run_id}::{name}", tenant=context.tenant, model=context.model, input=shown
        )


def approves(answer: object) -> bool:
    """Whether an answer is an explicit yes: True, `passed` that is True, or a `status` of "ok" or "passed".

    Anything else is a no: a text, whatever it says; a number; nothing at all. Where there is a `passed`, it decides.
    """
    if isinstance(answer, bool):
        return answer
    if isinstance(answer, Mapping):
        said = cast("Mapping[str, object]", answer)
        passed, status = said.get("passed"), said.get("status")
    else:
        passed, status = getattr(answer, "passed", None), None
    if passed is not None:
        return passed is True
    return isinstance(status, str) and status in _YES
