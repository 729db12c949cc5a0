"""What Claude Code asks its host and what a host says to it, as the real program (2.1.329) takes it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from harness.errors import NotFound, UsageError
from harness.sessions import facts
from harness.sessions.dialects.claude_stream import ClaudeStream
from harness.sessions.facts import Origin, Placing, State
from harness.sessions.reports import (
    ApprovalAsked,
    ApprovalSettled,
    Decision,
    Outgoing,
    Progress,
    Reading,
    Report,
)

Told = TypeVar("Told")
RECORDED = Path(__file__).parent / "recorded" / "claude"
MESSAGE = "0f3a9c21-7a4e-4c55-9d3c-0d8f1f0f6c11"


def recorded(name: str) -> list[bytes]:
    return (RECORDED / f"{name}.jsonl").read_bytes().splitlines()


def stream() -> ClaudeStream:
    """A dialect that has been opened, as a host does."""
    dialect = ClaudeStream()
    dialect.opening()
    return dialect


def told(lines: Iterable[bytes], dialect: ClaudeStream | None = None) -> list[Report]:
    """What these lines tell, without mere signs of life; whatever is asked is allowed."""
    dialect = dialect or stream()
    found: list[Report] = []
    for line in lines:
        for report in dialect.feed(line).reports:
            if isinstance(report, ApprovalAsked):
                dialect.decide(report.request, Decision(allow=True))
            if not isinstance(report, Progress):
                found.append(report)
    return found


def only(kind: type[Told], reports: Iterable[Report]) -> list[Told]:
    return [report for report in reports if isinstance(report, kind)]


def states(reports: Iterable[Report]) -> list[tuple[State, str]]:
    """States and details, repetitions left out."""
    found: list[tuple[State, str]] = []
    for reading in only(Reading, reports):
        if not found or found[-1] != (reading.state, reading.detail):
            found.append((reading.state, reading.detail))
    return found


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def said(data: bytes) -> Any:
    """The one line of JSON that is to be written."""
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    return json.loads(data)


# What it asks


def asked(dialect: ClaudeStream, name: str) -> ApprovalAsked:
    """Feed a recording up to the first thing that is asked."""
    for each in recorded(name):
        for report in dialect.feed(each).reports:
            if isinstance(report, ApprovalAsked):
                return report
    raise AssertionError("nothing was asked")


def test_leave_is_given_with_the_arguments_as_they_were() -> None:
    """The program runs what it is sent back."""
    dialect = stream()
    approval = asked(dialect, "allowed_and_denied")

    answer = said(dialect.decide(approval.request, Decision(allow=True, reason="looks fine")))

    assert (approval.tool, approval.arguments) == ("Bash", {"command": "touch made-by-tool"})
    assert answer["response"]["request_id"] == approval.request
    assert answer["response"]["response"] == {"behavior": "allow", "updatedInput": approval.arguments}


def test_a_denial_has_a_reason_and_may_end_the_turn() -> None:
    """The reason is what the model reads."""
    dialect = stream()
    approval = asked(dialect, "allowed_and_denied")

    answer = said(dialect.decide(approval.request, Decision(allow=False, reason="not here", interrupt=True)))

    assert answer["response"]["response"] == {"behavior": "deny", "message": "not here", "interrupt": True}


def test_nobody_answers_twice() -> None:
    """What is answered is not open any more."""
    dialect = stream()
    approval = asked(dialect, "allowed_and_denied")
    dialect.decide(approval.request, Decision(allow=True))

    with pytest.raises(NotFound, match=approval.request):
        dialect.decide(approval.request, Decision(allow=True))


def test_the_reason_of_an_approval_answers_a_question() -> None:
    """A question to a person comes as a call that needs leave, and its answers go back with the arguments."""
    dialect = stream()
    approval = asked(dialect, "question")

    answer = said(dialect.decide(approval.request, Decision(allow=True, reason="Green, please")))

    assert approval.summary == "Which colour?"
    given = answer["response"]["response"]["updatedInput"]
    assert given["answers"] == {"Which colour?": "Green, please"}
    assert given["questions"] == approval.arguments["questions"]


def test_a_question_without_an_answer_goes_back_as_it_was() -> None:
    """The agent is told that the person did not answer."""
    dialect = stream()
    approval = asked(dialect, "question")

    answer = said(dialect.decide(approval.request, Decision(allow=True)))

    assert answer["response"]["response"]["updatedInput"] == approval.arguments


def test_a_request_without_an_id_cannot_be_answered() -> None:
    """It is kept, for somebody to look at."""
    step = stream().feed(line(type="control_request", request={"subtype": "can_use_tool"}))

    assert [type(report) for report in step.reports] == [facts.Unrecognised]
    assert step.replies == ()


def test_a_question_blocks_as_one() -> None:
    """The session says that a person is asked rather than leave."""
    assert (State.BLOCKED, "question") in states(told(recorded("question")))


def test_what_is_withdrawn_can_no_longer_be_answered() -> None:
    """An interruption ends the asking."""
    dialect = stream()
    approval = asked(dialect, "withdrawn")
    rest = recorded("withdrawn")

    settled = [report for each in rest for report in only(ApprovalSettled, dialect.feed(each).reports)]

    assert [(each.request, each.decision) for each in settled] == [(approval.request, "withdrawn")]
    with pytest.raises(NotFound):
        dialect.decide(approval.request, Decision(allow=True))


def test_what_is_still_open_at_the_prompt_is_over() -> None:
    """The program was not answered in time, or answered by somebody else, and says no word about it."""
    dialect = stream()
    approval = asked(dialect, "allowed_and_denied")

    reports = told([line(type="system", subtype="session_state_changed", state="idle")], dialect)

    assert [settled.request for settled in only(ApprovalSettled, reports)] == [approval.request]


def test_open_approvals_are_asked_again_when_the_program_is_greeted_again() -> None:
    """The answer to a greeting names them; those that are known are not told twice."""
    greeting = next(each for each in recorded("withdrawn") if b'"pending_permission_requests":[{' in each)
    dialect = stream()

    reports = [*dialect.feed(greeting).reports]

    (approval,) = only(ApprovalAsked, reports)
    assert approval.arguments == {"command": "touch x"}
    assert states(reports) == [(State.BLOCKED, "permission")]
    again = next(each for each in recorded("withdrawn") if b'"can_use_tool"' in each and b'"control_request"' in each[:30])
    assert only(ApprovalAsked, dialect.feed(again).reports) == []
    dialect.decide(approval.request, Decision(allow=True))


def test_a_program_that_works_when_it_is_greeted_is_not_at_its_prompt() -> None:
    """It says so in its answer."""
    response = {"subtype": "success", "request_id": "harness-initialize-1", "response": {"session_state": "running"}}

    assert states(told([line(type="control_response", response=response)])) == [(State.BUSY, "")]


def test_an_approval_says_why_it_is_needed() -> None:
    """Where the program gives a reason, a person reads it; a denial without one says at least that."""
    dialect = stream()
    request = {"subtype": "can_use_tool", "tool_name": "Write", "input": {"file_path": "/x"}, "decision_reason": "outside"}

    (approval, _) = dialect.feed(line(type="control_request", request_id="r1", request=request)).reports

    assert isinstance(approval, ApprovalAsked)
    assert approval.summary == "/x\n(outside)"
    assert said(dialect.decide("r1", Decision(allow=False)))["response"]["response"]["message"] == "denied"


@pytest.mark.parametrize(
    ("request_", "response", "noted"),
    [
        ({"subtype": "elicitation", "mcp_server_name": "m", "message": "Name?"}, {"action": "decline"}, "elicitation"),
        ({"subtype": "hook_callback", "callback_id": "c1"}, {}, "hook_callback"),
        ({"subtype": "request_user_dialog", "dialog_kind": "trust"}, None, "request_user_dialog"),
        ({"subtype": "mcp_message", "server_name": "s"}, None, "mcp_message"),
        ({"subtype": "sing_a_song"}, None, "control_request/sing_a_song"),
        ({}, None, "control_request/"),
    ],
)
def test_whatever_else_is_asked_is_answered_at_once(
    request_: dict[str, Any], response: dict[str, Any] | None, noted: str
) -> None:
    """A request without an answer would hold the agent for ever; None: the answer is an error."""
    step = stream().feed(line(type="control_request", request_id="r7", request=request_))

    (reply,) = step.replies
    answer = said(reply)["response"]
    assert answer["request_id"] == "r7"
    assert answer["subtype"] == ("error" if response is None else "success")
    assert answer.get("response") == response
    (told_of,) = step.reports
    assert isinstance(told_of, facts.Noted | facts.Unrecognised)
    assert told_of.kind == noted


def test_the_elicitation_of_a_real_server_is_declined() -> None:
    """The call goes on, and the turn ends well."""
    dialect = stream()
    replies = [said(reply) for each in recorded("elicitation") for reply in dialect.feed(each).replies]

    assert [reply["response"]["response"] for reply in replies] == 2 * [{"action": "decline"}]


# What it is told


def test_a_message_of_a_person_is_plain() -> None:
    """Commands and file names in it mean what they mean at the keyboard."""
    sent = said(stream().message(Outgoing(message_id=MESSAGE, text="/review @src\nplease\u2028now")))

    assert sent == {
        "type": "user", "message": {"role": "user", "content": "/review @src\nplease\u2028now"}, "parent_tool_use_id": None,
        "uuid": MESSAGE, "priority": "later",
    }  # fmt: skip


def test_odd_line_ends_in_a_message_do_not_end_its_line() -> None:
    """Some readers take U+2028 for a line end."""
    data = stream().message(Outgoing(message_id=MESSAGE, text="a\u2028b\u2029c\x85d\r\ne"))

    assert len(data.decode().splitlines()) <= 2  # U+0085 is none to JavaScript
    assert "\u2028" not in data.decode()


@pytest.mark.parametrize(
    ("origin", "sender"),
    [(Origin(kind="session", cli="codex", id="w2"), "codex w2"), (Origin(kind="harness"), "harness")],
)
def test_a_message_that_no_person_wrote_says_so(origin: Origin, sender: str) -> None:
    """It is a peer's, and is not searched for commands."""
    sent = said(stream().message(Outgoing(message_id=MESSAGE, text="/clear", origin=origin)))

    assert sent["origin"] == {"kind": "peer", "from": sender}
    assert sent["client_composed"] is True


@pytest.mark.parametrize(
    ("placing", "priority"), [(Placing.QUEUE, "later"), (Placing.STEER, "next"), (Placing.INTERRUPT, "now")]
)
def test_the_placing_of_a_message_is_its_priority(placing: Placing, priority: str) -> None:
    """Only a steering message may join the turn under way."""
    assert said(stream().message(Outgoing(message_id=MESSAGE, text="x", placing=placing)))["priority"] == priority


@pytest.mark.parametrize(
    "message",
    [
        Outgoing(message_id=MESSAGE, text="x", submit=False),
        Outgoing(message_id=MESSAGE, text="", only_submit=True),
        Outgoing(message_id=MESSAGE, text="half \ud800 a letter"),
    ],
)
def test_what_cannot_be_said_is_refused_before_anything_is_written(message: Outgoing) -> None:
    """There is no input line, and JSON holds no half letters."""
    with pytest.raises(UsageError):
        stream().message(message)


def test_only_what_is_under_way_is_interrupted() -> None:
    """At the prompt there is nothing to end."""
    dialect = stream()
    assert dialect.interrupt() == b""

    first, *rest = recorded("continued")[1:]
    dialect.feed(first)
    assert said(dialect.interrupt())["request"] == {"subtype": "interrupt"}

    for each in rest:
        dialect.feed(each)
    assert dialect.interrupt() == b""

    dialect = stream()
    dialect.feed(line(type="system", subtype="init", uuid="t1"))  # of a program that does not tell its state
    assert dialect.interrupt() != b""


def test_the_answer_to_a_probe_is_a_sign_of_life() -> None:
    """Every probe has an id of its own; that it failed is as good an answer as any."""
    dialect = stream()
    first, second = said(dialect.probe()), said(dialect.probe())

    reply = {"subtype": "error", "request_id": first["request_id"], "error": "no"}
    step = dialect.feed(line(type="control_response", response=reply))

    assert first["request_id"] != second["request_id"]
    assert step.reports == (Progress(what="heartbeat"),)


def test_an_answer_that_comes_again_is_none() -> None:
    """A greeting is answered once; what looks like it later changes no state."""
    dialect = stream()
    answer = recorded("allowed_and_denied")[0]
    assert states(told([answer], dialect)) == [(State.PROMPT, "")]

    assert told([answer], dialect) == []


def test_a_refused_request_of_ours_is_noted() -> None:
    """Such as an interruption that the program does not know."""
    dialect = stream()
    dialect.feed(recorded("continued")[1])
    request_id = said(dialect.interrupt())["request_id"]

    reports = told(
        [line(type="control_response", response={"subtype": "error", "request_id": request_id, "error": "no"})], dialect
    )

    assert reports == [facts.Noted(kind="control_error", text="interrupt: no")]
