"""Approvals: policy first, then a person until the deadline, then a denial with its reason. Never a silent wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import HarnessError, NotFound
from harness.ledger import Draft
from harness.sessions import facts, policy
from harness.sessions.burying import withdraw_questions
from harness.sessions.host.recorder import Recorder, draft
from harness.sessions.reports import ApprovalAsked, ApprovalSettled, Decision

if TYPE_CHECKING:
    from harness.people import Question, Questions

_SUMMARY_CHARACTERS = 2000
_ARGUMENT_CHARACTERS = 20_000


class Approvals:
    """The open requests of one session. `answer` gives a decision to the transport, `record` writes events."""

    def __init__(
        self,
        recorder: Recorder,
        rules: policy.ApprovalRules,
        *,
        answer: Callable[[str, Decision], Awaitable[None]],
        record: Callable[[Draft], Awaitable[None]],
        complain: Callable[[BaseException], object],
    ) -> None:
        self._recorder = recorder
        self._rules = rules
        self._answer = answer
        self._record = record
        self._complain = complain
        self._waiting: dict[str, asyncio.Task[None]] = {}  # for a person, by request; leaves when there is a decision
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, asked: ApprovalAsked) -> None:
        """See to a request: decide it, or ask a person, and return; the agent, which may be slow to read, is told meanwhile."""
        verdict, rule = policy.judge(self._rules, asked.tool, asked.arguments)
        if verdict != "ask":
            await self._record(self._requested(asked))
            self._begin(self._decide(asked.request, allow=verdict == "allow", by="policy", reason=f"rule {rule}"))
            return
        deadline_us = self._recorder.store.clock.now_us() + round(self._rules.deadline_seconds * 1e6)
        try:
            question = await self._put(asked, deadline_us)
        except HarnessError as error:  # nobody can be asked, so nobody says yes
            await self._record(self._requested(asked))
            self._begin(self._decide(asked.request, allow=False, by="policy", reason=f"no person can be asked: {error}"))
            return
        await self._record(self._requested(asked, question=question.id, deadline_us=deadline_us))
        self._waiting[asked.request] = self._begin(self._wait(asked.request, question))

    async def settle(self, settled: ApprovalSettled) -> None:
        """The agent does not wait any more: close what is open about it."""
        self._forget(settled.request)
        approval = self._recorder.session.approvals.get(settled.request)
        if approval is not None and not approval.decision:
            await self._record(_decided(settled.request, settled.decision, "agent", settled.reason))
            await withdraw_questions(self._recorder.store, [approval], settled.reason or "the agent does not wait any more")

    async def close(self) -> None:
        """Nobody is waited for any more."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._complain(error)

    def _requested(self, asked: ApprovalAsked, *, question: str = "", deadline_us: int | None = None) -> Draft:
        return draft(
            facts.APPROVAL_REQUESTED,
            facts.ApprovalRequested(
                request=asked.request, tool=asked.tool, summary=_cleaned(asked.summary, limit=_SUMMARY_CHARACTERS),
                arguments=_bounded(asked.arguments), question=question, deadline_us=deadline_us, turn=asked.turn,
            ),
        )  # fmt: skip

    async def _put(self, asked: ApprovalAsked, deadline_us: int) -> Question:
        from harness.people import digest_of

        session = self._recorder.session
        return await self._questions().ask(
            "approval", f"{self._recorder.stream}#{asked.request}",
            digest=digest_of((asked.tool, asked.arguments)),
            text=_cleaned(f"{session.cli} {session.id} asks to use {asked.tool}: {asked.summary}", limit=_SUMMARY_CHARACTERS),
            deadline_us=deadline_us,
            context={
                "session": session.key, "request": asked.request, "tool": asked.tool, "arguments": _bounded(asked.arguments),
            },
        )  # fmt: skip

    def _questions(self) -> Questions:
        from harness.people import Questions

        return Questions(self._recorder.store)

    async def _wait(self, request: str, question: Question) -> None:
        """Until a person has answered, or the deadline has passed."""
        try:
            answered = await self._answer_in_time(question)
        except HarnessError as error:  # the ledger does not tell any more, so nobody says yes
            self._waiting.pop(request, None)
            await self._decide(request, allow=False, by="policy", reason=f"no person's answer can be heard: {error}")
            return
        self._waiting.pop(request, None)
        if answered.answer is None:
            reason = f"nobody answered within {self._rules.deadline_seconds:g} s"
            await self._decide(request, allow=False, by="deadline", reason=reason)
            return
        allow = answered.answer == "approve"
        with contextlib.suppress(HarnessError):
            await self._questions().use(question.id, by=f"{self._recorder.stream}#{request}", digest=question.digest)
        reason = answered.note or ("" if allow else f"denied by {answered.answered_by}")
        await self._decide(request, allow=allow, by=answered.answered_by or "person", reason=reason)

    async def _answer_in_time(self, question: Question) -> Question:
        """The question as it stands when it is answered or the deadline has passed."""
        assert question.deadline_us is not None
        left = (question.deadline_us - self._recorder.store.clock.now_us()) / 1e6
        try:
            async with asyncio.timeout(max(left, 0)):
                return await self._answered(question)
        except TimeoutError:
            with contextlib.suppress(HarnessError):
                await self._questions().expire(question.id)
            return await self._questions().get(question.id)  # somebody may have answered at the last moment

    async def _answered(self, question: Question) -> Question:
        from harness.people import QuestionStatus

        questions = self._questions()
        stream = f"question/{question.id}"
        store = self._recorder.store
        follower = store.follow(after=await store.tail(), streams=(stream,))
        try:
            found = await questions.get(question.id)
            while found.status is QuestionStatus.PENDING:
                await anext(follower)
                found = await questions.get(question.id)
            return found
        finally:
            await follower.aclose()

    async def _decide(self, request: str, *, allow: bool, by: str, reason: str) -> None:
        """Tell the agent first: an answer that it never got must not be on record as given."""
        try:
            await self._answer(request, Decision(allow=allow, reason=reason))
        except NotFound:
            await self._record(_decided(request, "withdrawn", "agent", "it had stopped waiting"))
            return
        except HarnessError as error:
            await self._record(_decided(request, "withdrawn", "agent", f"the answer could not be given: {error}"))
            return
        await self._record(_decided(request, "allow" if allow else "deny", by, reason))

    def _forget(self, request: str) -> None:
        task = self._waiting.pop(request, None)
        if task is not None:
            task.cancel()


def _decided(request: str, decision: Literal["allow", "deny", "withdrawn"], by: str, reason: str) -> Draft:
    payload = facts.ApprovalDecided(
        request=request, decision=decision, by=by, reason=_cleaned(reason, limit=_SUMMARY_CHARACTERS)
    )
    return draft(facts.APPROVAL_DECIDED, payload)


def _cleaned(text: str, *, limit: int) -> str:
    """Fit for the record; the patterns are loaded when the first agent asks for something."""
    from harness.text import cleaned

    return cleaned(text[: 4 * limit], limit=limit)  # looking through megabytes would hold everything up


def _bounded(arguments: object) -> object:
    """Arguments as they are put on record: whole if they are small."""
    import msgspec

    try:
        text = msgspec.json.encode(arguments).decode()
    except (TypeError, ValueError):
        text = repr(arguments)
    return arguments if len(text) <= _ARGUMENT_CHARACTERS else _cleaned(text, limit=_ARGUMENT_CHARACTERS)
