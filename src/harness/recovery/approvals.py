"""A person's yes or no to what an agent wants to do: asking, finding and answering, by ticket.

An approval is a question of kind `approval` whose subject is the ticket. It is bound to one action and its very
arguments, and is used once; what it allows is still judged by the envelope when it is done.
"""

from __future__ import annotations

import json

from harness.errors import NotFound, UsageError
from harness.ledger import Store
from harness.people import Choice, Question, Questions
from harness.recovery.envelope import digest_of, proposal_of
from harness.recovery.facts import ActionRequested
from harness.recovery.history import APPROVAL, APPROVE, DENY

_CHOICES = (Choice(APPROVE, "yes, do it"), Choice(DENY, "no"))


async def ask(store: Store, request: ActionRequested, *, deadline_us: int | None = None, parent: str | None = None) -> Question:
    """Ask whether the action may be done; the same question again is the one that was asked."""
    arguments = ", ".join(f"{name} = {json.dumps(value)}" for name, value in sorted(request.arguments.items()))
    what = f"{request.kind} on {request.target}" + (f" with {arguments}" if arguments else "")
    return await Questions(store).ask(
        APPROVAL,
        request.ticket,
        digest=digest_of(request),
        text=f"{what}? {request.reason}".strip(),
        choices=_CHOICES,
        deadline_us=deadline_us,
        parent=parent,
        context={
            "proposal": proposal_of(request.action_id),
            "kind": request.kind.value,
            "target": request.target,
            "arguments": request.arguments,
            "reason": request.reason,
        },
    )


async def pending(store: Store, ticket: str | None = None) -> list[Question]:
    """The approvals that wait for a person, of one ticket or of all, the oldest first."""
    return await Questions(store).pending(kind=APPROVAL, subject=ticket)


async def answer(
    store: Store, ticket: str, *, approved: bool, by: str, reason: str = "", question: str | None = None
) -> Question:
    """Answer what is asked about a ticket; which one must be said if there are several.

    Raises `NotFound` if nothing is asked, `UsageError` if it is not clear which question is meant.
    """
    open_ones = await pending(store, ticket)
    chosen = [each for each in open_ones if question in (None, each.id)]
    if not chosen:
        what = f"question {question} of ticket {ticket}" if question else f"ticket {ticket}"
        raise NotFound(f"nothing waits for approval: {what}")
    if len(chosen) > 1:
        ids = ", ".join(each.id for each in chosen)
        raise UsageError(f"ticket {ticket} has {len(chosen)} open questions, say which one: {ids}")
    word = APPROVE if approved else DENY
    return await Questions(store).answer(chosen[0].id, word, by=by, digest=chosen[0].digest, note=reason)


async def use(store: Store, request: ActionRequested) -> None:
    """Act on a yes, which can be done once. Raises `PolicyDenied` if it was used for anything else."""
    questions = Questions(store)
    await questions.use(request.question, by=proposal_of(request.action_id), digest=digest_of(request), choice=APPROVE)
