"""One attempt of one agent at one ticket: what it is about and under which right it writes. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from harness.ledger import Fence
from harness.work import Claim, Item


@dataclass(slots=True, kw_only=True)
class Engagement:
    """What the tools of a run know of their ticket. `waits_for` names the question that it cannot go on without."""

    claim: Claim
    attempt: int  # counted by what agents concluded, so that a restart goes on with the same one
    run: str
    by: str  # model's name, or `rules`
    waits_for: str = ""
    parked: anyio.Event = field(default_factory=anyio.Event)

    @property
    def item(self) -> Item:
        return self.claim.item

    @property
    def ticket(self) -> str:
        return self.claim.item.id

    @property
    def fence(self) -> Fence:
        """Goes with every write, so that an agent that lost the ticket writes nothing."""
        return Fence(self.claim.lease, self.claim.token)

    @property
    def target(self) -> str:
        """The service that the ticket is about; empty if none is known."""
        return self.item.labels.get("target", "")

    @property
    def asked_by_person(self) -> bool:
        """Whether a person opened the ticket, and so knows of something that no check may show."""
        return self.item.source_type == "human"

    def park(self, question: str) -> None:
        """The attempt cannot go on before this question is answered."""
        self.waits_for = question
        self.parked.set()
