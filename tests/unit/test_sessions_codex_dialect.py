"""Codex's dialects on lines that the real program has said, and on lines that it might say one day."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import NotFound, UsageError
from harness.sessions.dialects.base import LineDialect
from harness.sessions.dialects.codex import asked
from harness.sessions.dialects.codex.options import ThreadOptions
from harness.sessions.dialects.codex.server import CodexServer
from harness.sessions.dialects.codex_exec import CodexExec
from harness.sessions.facts import (
    Identified,
    ItemCompleted,
    Limited,
    Noted,
    Placing,
    Retried,
    State,
    TurnCompleted,
    TurnStarted,
    Unrecognised,
)
from harness.sessions.reports import (
    ApprovalAsked,
    ApprovalSettled,
    Cumulative,
    Decision,
    Outgoing,
    Progress,
    Reading,
    Receipt,
    Report,
    Step,
)

RECORDED = Path(__file__).parent / "recorded" / "codex"
SERVER = sorted(path.stem for path in RECORDED.glob("*.jsonl") if not path.stem.startswith("exec_"))
EXEC = sorted(path.stem for path in RECORDED.glob("exec_*.jsonl"))
NOW = 1_795_988_000.0
R = TypeVar("R", bound=Report)


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RECORDED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


class Played:
    """A recorded conversation, played again: what was done is done again, and what was sent must be sent again."""

    def __init__(self, name: str) -> None:
        self.reports: list[Report] = []
        self._unsent: list[dict[str, Any]] = []
        recorded = lines(name)
        self.dialect = CodexServer(_options(recorded), now=lambda: NOW)
        self._said(self.dialect.opening())
        for line in recorded:
            if "do" in line:
                self._said([_do(self.dialect, line["do"])])
            elif "sent" in line:
                assert self._unsent.pop(0) == line["sent"]
            else:
                step = self.dialect.feed(json.dumps(line).encode())
                self.reports += step.reports
                self._said(step.replies)
        assert self._unsent == []

    def _said(self, data: Iterable[bytes]) -> None:
        self._unsent += [json.loads(line) for each in data for line in each.splitlines()]

    def all(self, kind: type[R]) -> list[R]:
        return of(kind, self.reports)

    def turn(self, message_id: str) -> TurnCompleted:
        return next(turn for turn in self.all(TurnCompleted) if message_id in turn.message_ids)

    def of_message(self, message_id: str) -> list[str]:
        return [receipt.stage for receipt in self.all(Receipt) if receipt.message_id == message_id]


def of(kind: type[R], reports: Iterable[Report]) -> list[R]:
    return [report for report in reports if isinstance(report, kind)]


def _options(recorded: list[dict[str, Any]]) -> ThreadOptions:
    sent = next(line["sent"] for line in recorded if line.get("sent", {}).get("method", "").startswith("thread/"))
    wanted = sent["params"]
    return ThreadOptions(
        cwd=wanted["cwd"], model=wanted["model"], approval_policy=wanted.get("approvalPolicy", ""), sandbox=wanted["sandbox"],
        resume=wanted.get("threadId", ""),
    )  # fmt: skip


def _do(dialect: LineDialect, deed: dict[str, Any]) -> bytes:
    match deed["what"]:
        case "message":
            return dialect.message(Outgoing(message_id=deed["id"], text=deed["text"], placing=Placing(deed["placing"])))
        case "decide":
            decision = Decision(allow=deed["allow"], reason=deed["reason"], interrupt=deed["interrupt"])
            return dialect.decide(deed["request"], decision)
        case "interrupt":
            return dialect.interrupt()
        case _:
            return dialect.probe()


def ready(**options: Any) -> CodexServer:
    """A dialect whose thread `t` is there."""
    dialect = CodexServer(ThreadOptions(**options), now=lambda: NOW)
    dialect.opening()
    say(dialect, id=0, result={"userAgent": "harness/0.169.0 (Linux)"})
    say(dialect, id=1, result={"thread": {"id": "t", "status": {"type": "idle"}, "path": "/r.jsonl"}, "model": "m"})
    return dialect


def busy() -> CodexServer:
    """A dialect with turn `u` under way, begun by message `m-1`."""
    dialect = ready()
    dialect.message(Outgoing(message_id="m-1", text="go"))
    say(dialect, id=2, result={"turn": {"id": "u"}})
    status(dialect, "active", activeFlags=[])
    say(dialect, method="turn/started", params={"threadId": "t", "turn": {"id": "u"}})
    return dialect


def say(dialect: LineDialect, **message: Any) -> Step:
    return dialect.feed(json.dumps(message).encode())


def tell(dialect: LineDialect, method: str, **params: Any) -> tuple[Report, ...]:
    return say(dialect, method=method, params={"threadId": "t", **params}).reports


def status(dialect: LineDialect, kind: str, **more: Any) -> tuple[Report, ...]:
    return tell(dialect, "thread/status/changed", status={"type": kind, **more})


def end(dialect: LineDialect, status_: str = "completed", **turn: Any) -> tuple[Report, ...]:
    return tell(dialect, "turn/completed", turn={"id": "u", "status": status_, **turn})


def states(reports: Iterable[Report]) -> list[tuple[State, str]]:
    return [(reading.state, reading.detail) for reading in of(Reading, reports)]


def ask(dialect: LineDialect, method: str, *, id_: int | str = 0, **params: Any) -> Step:
    return say(dialect, id=id_, method=method, params={"threadId": "t", "turnId": "u", **params})


def reply(data: bytes) -> Any:
    return json.loads(data)


# -- recorded conversations


@pytest.mark.parametrize("name", SERVER)
def test_a_conversation_is_held_again_to_the_letter(name: str) -> None:
    """What was sent to the real program is what the dialect sends today, and it knows all that the program said."""
    played = Played(name)

    assert played.all(Unrecognised) == []
    assert [noted for noted in played.all(Noted) if noted.kind not in ("configuration", "warning", "thread")] == []


def test_the_program_says_who_it_is() -> None:
    """Version, thread, model, and the vendor's own record."""
    told = Played("tool").all(Identified)

    assert told[0].cli_version == "0.169.0"
    assert told[1].vendor_session
    assert told[1].model == "gpt-5.5-codex"
    assert told[1].transcript.endswith(f"{told[1].vendor_session}.jsonl")


def test_nothing_may_be_sent_before_the_prompt_and_then_everything() -> None:
    """Starting until the thread is there, then at the prompt; busy and at the prompt again with the turn."""
    played = Played("tool")

    seen = [state for state, _ in states(played.reports)]
    assert seen == [State.STARTING, State.PROMPT, State.BUSY, State.BUSY, State.PROMPT, State.PROMPT]


def test_a_turn_is_told_with_all_that_happened_in_it() -> None:
    """Words, a failed command, a patch, and what was said last."""
    played = Played("tool")

    told = played.turn("m-1")
    assert (told.outcome, told.summary, told.more, told.duration_ms) == ("success", "All done.", False, told.duration_ms)
    assert told.duration_ms is not None
    assert [started.message_ids for started in played.all(TurnStarted)] == [("m-1",)]
    items = played.all(ItemCompleted)
    assert [(item.kind, item.name, item.ok) for item in items] == [
        ("reasoning", "", True), ("text", "", True), ("tool", "Bash", False), ("file", "apply_patch", True), ("text", "", True),
    ]  # fmt: skip
    assert (items[2].exit_code, items[2].summary) == (3, "echo hi; exit 3\n\nhi")
    assert items[3].paths == ("/place/work/new.txt",)
    assert all(item.turn == told.turn for item in items)


def test_the_end_of_a_turn_is_told_before_the_prompt() -> None:
    """The program says idle first; who reads prompt must know already how the turn ended."""
    reports = Played("tool").reports

    ended = next(place for place, report in enumerate(reports) if isinstance(report, TurnCompleted))
    assert states(reports[:ended])[-1] == (State.BUSY, "")
    assert states(reports[ended:])[0] == (State.PROMPT, "")


def test_input_is_what_no_cache_held() -> None:
    """The program counts cached tokens as input; here they are apart. Totals are the thread's."""
    totals = Played("tool").all(Cumulative)

    assert (totals[0].input_tokens, totals[0].cached_tokens, totals[0].output_tokens) == (60, 40, 10)
    assert (totals[-1].input_tokens, totals[-1].cached_tokens) == (210, 190)
    assert {each.before for each in totals} == {False}


def test_tools_turn_the_clocks_of_the_watch() -> None:
    """In a tool from its start to its end, and nothing of that is an event."""
    moves = [each.in_tool for each in Played("tool").all(Progress) if each.in_tool is not None]

    assert moves == [True, False, True, False]


def test_what_is_asked_names_tool_and_arguments() -> None:
    """A command without its shell, a patch with its changes, a question, permissions, a form and a tool of a server."""
    waits = Played("approvals").all(ApprovalAsked)

    assert [each.tool for each in waits] == [
        "Bash", "Bash", "Bash", "apply_patch", "question", "permissions", "mcp__lab__ask", "mcp__lab__danger", "Bash",
    ]  # fmt: skip
    assert waits[0].arguments["command"] == "echo yes > yes.txt"
    assert (waits[3].arguments["path"], waits[3].arguments["changes"][0]["diff"]) == ("/place/work/new.txt", "hello\n")
    assert waits[4].summary == "Which one?"
    assert waits[5].arguments["permissions"]["network"] == {"enabled": True}
    assert waits[7].summary == 'Allow the lab MCP server to run tool "danger"?'
    assert len({each.request for each in waits}) == len(waits)


def test_what_waits_for_leave_is_blocked() -> None:
    """On a permission, or on a question; and busy again once it is answered."""
    seen = states(Played("approvals").reports)

    assert (State.BLOCKED, "question") in seen
    for place, state in enumerate(seen):
        if state[0] is State.BLOCKED:
            assert seen[place + 1][0] in (State.BUSY, State.PROMPT)


def test_an_answer_of_ours_is_not_told_as_somebody_elses() -> None:
    """The program says of every request that it is resolved; only the one that was cut with its turn was withdrawn."""
    played = Played("approvals")

    cut = played.all(ApprovalAsked)[-1]
    assert played.all(ApprovalSettled) == [ApprovalSettled(request=cut.request, reason="its turn is over")]
    assert played.turn("m-cut").outcome == "interrupted"
    assert played.turn("m-end").outcome == "interrupted"
    assert played.turn("m-no").outcome == "success"


def test_a_declined_command_is_on_record_as_such() -> None:
    """It did not fail, it was not run."""
    items = [item for item in Played("approvals").all(ItemCompleted) if item.kind == "tool"]

    declined = next(item for item in items if "no.txt" in item.summary)
    assert (declined.ok, declined.exit_code, declined.summary) == (False, None, "echo no > no.txt\ndeclined")
    failed = next(item for item in items if item.name == "mcp__lab__boom")
    assert (failed.ok, failed.summary) == (False, "boom!")


def test_a_steering_message_is_accepted_and_done_with_the_turn_that_read_it() -> None:
    """One turn, two messages."""
    played = Played("steer")

    assert played.turn("m-1").message_ids == ("m-1", "m-2")
    assert played.of_message("m-2") == ["accepted", "accepted", "done"]


def test_a_steering_message_that_was_never_read_has_failed() -> None:
    """The program takes it and loses it with the turn, so it is no message of that turn."""
    played = Played("steer")

    assert played.of_message("m-4") == ["accepted", "failed"]
    assert played.turn("m-3").message_ids == ("m-3",)


def test_a_steering_message_at_the_prompt_starts_a_turn() -> None:
    """There is nothing to steer, and it need not be lost for that."""
    played = Played("steer")

    assert played.turn("m-6").message_ids == ("m-6",)
    assert played.of_message("m-6") == ["accepted", "done"]


def test_an_interrupted_turn_takes_its_commands_with_it() -> None:
    """Recorded: the list is asked for, and what the turn had running is ended; the early interrupt is said again."""
    played = Played("interrupt")
    sent = [line["sent"]["method"] for line in lines("interrupt") if "method" in line.get("sent", {})]

    assert [played.turn(each).outcome for each in ("m-1", "m-2", "m-3")] == ["interrupted", "interrupted", "success"]
    assert sent.count("turn/interrupt") == 2
    assert sent[-3:-1] == ["thread/backgroundTerminals/list", "thread/backgroundTerminals/terminate"]
    assert not played.turn("m-2").more


def test_a_command_in_the_background_outlives_its_turn() -> None:
    """More goes on after the turn, and the command's end is told when it comes."""
    played = Played("interrupt")

    told = played.turn("m-3")
    after = played.reports[played.reports.index(told) :]
    assert told.more
    assert [(item.name, item.exit_code, item.turn) for item in of(ItemCompleted, after)] == [("Bash", 0, told.turn)]


def test_errors_end_turns_and_not_sessions() -> None:
    """Each turn that failed is followed by a prompt, though the program's status stays an error's."""
    played = Played("errors")

    assert [played.turn(f"m-{each}").outcome for each in ("e500", "e400", "cut", "near", "limit", "good")] == [
        "error", "error", "error", "success", "limit", "success",
    ]  # fmt: skip
    assert "internalServerError" in played.turn("m-e500").error
    assert (State.PROMPT, "after an error") in states(played.reports)
    assert State.UNKNOWN not in [state for state, _ in states(played.reports)]


def test_tries_of_the_program_itself_are_counted() -> None:
    """It says which try this is, of how many, and why."""
    tries = Played("errors").all(Retried)

    assert [(each.attempt, each.maximum) for each in tries] == [(1, 1), (1, 1)]
    assert "disconnected" in tries[1].error


def test_a_limit_is_warned_of_and_then_tells_when_it_is_over() -> None:
    """Both once; the state is limited until then."""
    played = Played("errors")

    until = 4_102_444_800 * 1_000_000
    assert [(each.kind, each.until_us) for each in played.all(Limited)] == [("usage_warning", until), ("usage_limit", until)]
    limited = [each for each in played.all(Reading) if each.state is State.LIMITED]
    assert [each.until_us for each in limited] == [until]


def test_a_limit_of_which_no_end_is_known_is_over_when_somebody_asks() -> None:
    """Nobody could tell when else."""
    played = Played("quota")

    assert [(each.kind, each.until_us) for each in played.all(Limited)] == [("usage_limit", None)]
    assert states(played.reports)[-2:] == [(State.LIMITED, "usage_limit"), (State.PROMPT, "after an error")]


def test_a_turn_that_was_cut_by_a_kill_comes_back_as_interrupted() -> None:
    """Before the prompt, with the message that began it."""
    played = Played("resume")

    cut = played.all(TurnCompleted)[0]
    assert (cut.outcome, cut.message_ids) == ("interrupted", ("m-cut",))
    assert played.reports.index(cut) < next(
        place for place, each in enumerate(played.reports) if isinstance(each, Reading) and each.state is State.PROMPT
    )


def test_tokens_of_before_are_told_apart() -> None:
    """The program repeats what the thread had used before this process."""
    totals = Played("resume").all(Cumulative)

    assert [(each.input_tokens, each.before, bool(each.turn)) for each in totals] == [(100, True, False), (200, False, True)]


def test_without_a_thread_there_is_no_session() -> None:
    """It says why, and refuses messages for that reason."""
    played = Played("no_thread")

    assert states(played.reports)[-1] == (State.UNKNOWN, "no thread")
    assert "no rollout found" in played.dialect.failed
    with pytest.raises(UsageError, match="no rollout found"):
        played.dialect.message(Outgoing(message_id="m", text="go"))


def test_a_sub_agent_says_nothing_of_this_threads_state() -> None:
    """It was idle twice while the turn went on; its words bear its name, and its tokens are counted."""
    played = Played("agents")

    assert [state for state, _ in states(played.reports)].count(State.PROMPT) == 2
    assert len(played.all(TurnCompleted)) == len(played.all(TurnStarted)) == 1
    assert {item.agent for item in played.all(ItemCompleted) if item.kind == "text"} == {"/root/helper", ""}
    assert played.all(Cumulative)[-1].input_tokens == 400


def test_a_goal_goes_on_by_itself() -> None:
    """The turn that set it is over, more goes on, and the turns that follow belong to no message."""
    played = Played("goal")

    first, second = played.all(TurnCompleted)
    assert (first.message_ids, first.more) == (("m-1",), True)
    assert (second.message_ids, second.more) == ((), False)


# -- what we say


def test_messages_are_refused_before_the_thread_is_there() -> None:
    """Nothing is written then."""
    dialect = CodexServer(ThreadOptions())
    dialect.opening()

    with pytest.raises(UsageError, match="wait for the prompt"):
        dialect.message(Outgoing(message_id="m", text="go"))
    assert dialect.probe() == dialect.interrupt() == b""


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (Outgoing(message_id="m", text="x", submit=False), "no input line"),
        (Outgoing(message_id="m", text="", only_submit=True), "no input line"),
        (Outgoing(message_id="m", text=" \n"), "about nothing"),
    ],
)
def test_what_the_protocol_cannot_say_is_refused(message: Outgoing, why: str) -> None:
    """There is no composer, and an empty message starts no turn."""
    with pytest.raises(UsageError, match=why):
        ready().message(message)


@pytest.mark.parametrize("placing", [Placing.QUEUE, Placing.INTERRUPT])
def test_a_message_during_a_turn_is_refused_unless_it_steers(placing: Placing) -> None:
    """The program would put it into the turn under way."""
    with pytest.raises(UsageError, match="a turn is under way"):
        busy().message(Outgoing(message_id="m-2", text="more", placing=placing))


def test_a_second_message_is_refused_while_the_first_starts_its_turn() -> None:
    """Nobody knows yet which turn that will be."""
    dialect = ready()
    dialect.message(Outgoing(message_id="m-1", text="go"))

    with pytest.raises(UsageError, match="a turn is under way"):
        dialect.message(Outgoing(message_id="m-2", text="more", placing=Placing.STEER))


def test_a_steering_message_names_the_turn_that_it_is_for() -> None:
    """So that it cannot end up in another one."""
    sent = reply(busy().message(Outgoing(message_id="m-2", text="more", placing=Placing.STEER)))

    assert sent["method"] == "turn/steer"
    assert sent["params"] == {
        "threadId": "t", "clientUserMessageId": "m-2", "input": [{"type": "text", "text": "more"}], "expectedTurnId": "u",
    }  # fmt: skip


def test_a_refused_steering_message_has_failed_in_the_programs_words() -> None:
    """As after a wrong expected turn."""
    dialect = busy()
    dialect.message(Outgoing(message_id="m-2", text="more", placing=Placing.STEER))

    step = say(dialect, id=3, error={"code": -32600, "message": "expected active turn id `u` but found `v`"})

    assert step.reports == (
        Receipt(stage="failed", message_id="m-2", turn="u", proof="expected active turn id `u` but found `v`"),
    )  # fmt: skip


def test_a_message_that_joins_a_turn_of_the_program_is_read_there() -> None:
    """The program had begun one by itself in the same moment, so the message is steered; it is done when it was read."""
    dialect = ready()
    dialect.message(Outgoing(message_id="m-1", text="go"))
    tell(dialect, "turn/started", turn={"id": "u"})
    say(dialect, id=2, result={"turn": {"id": "u"}})

    read = tell(dialect, "item/started", turnId="u", item={"type": "userMessage", "id": "i", "clientId": "m-1"})
    status(dialect, "idle")
    ended = end(dialect)

    assert of(Receipt, read)[0].stage == "accepted"
    assert of(TurnCompleted, ended)[0].message_ids == ("m-1",)


def test_an_interrupt_names_the_turn() -> None:
    """And is said again by nobody."""
    dialect = busy()

    sent = reply(dialect.interrupt())

    assert (sent["method"], sent["params"]) == ("turn/interrupt", {"threadId": "t", "turnId": "u"})


def test_at_the_prompt_there_is_nothing_to_interrupt() -> None:
    """Empty says so."""
    dialect = busy()
    status(dialect, "idle")
    end(dialect)

    assert dialect.interrupt() == b""


def test_an_interrupt_before_the_turn_has_an_id_is_said_when_it_has_begun() -> None:
    """The program would refuse it until then."""
    dialect = ready()
    dialect.message(Outgoing(message_id="m-1", text="go"))
    assert reply(dialect.interrupt())["method"] == "thread/read"
    say(dialect, id=2, result={"turn": {"id": "u"}})

    step = say(dialect, method="turn/started", params={"threadId": "t", "turn": {"id": "u"}})

    assert [reply(each)["method"] for each in step.replies] == ["turn/interrupt"]


def test_a_turn_that_has_an_id_and_has_not_begun_is_no_prompt() -> None:
    """The thread is called idle still; an interrupt asks how it is, and is said when the turn has begun."""
    dialect = ready()
    dialect.message(Outgoing(message_id="m-1", text="go"))
    say(dialect, id=2, result={"turn": {"id": "u"}})

    asking = reply(dialect.interrupt())
    answered = say(dialect, id=asking["id"], result={"thread": {"id": "t", "status": {"type": "idle"}}})
    begun = say(dialect, method="turn/started", params={"threadId": "t", "turn": {"id": "u"}})

    assert asking["method"] == "thread/read"
    assert states(answered.reports) == []
    assert [reply(each)["method"] for each in begun.replies] == ["turn/interrupt"]


def test_a_command_that_never_ran_does_not_go_on() -> None:
    """An interrupt drops what waited for leave without a word; the program's list of what runs tells."""
    dialect = busy()
    tell(dialect, "item/started", turnId="u", item={"type": "commandExecution", "id": "i", "command": "ls"})
    dialect.interrupt()
    status(dialect, "idle")
    ended = say(dialect, method="turn/completed", params={"threadId": "t", "turn": {"id": "u", "status": "interrupted"}})
    listing = reply(ended.replies[0])
    step = say(dialect, id=listing["id"], result={"data": [], "nextCursor": None})
    tell(dialect, "turn/started", turn={"id": "v"})
    status(dialect, "idle")

    following = tell(dialect, "turn/completed", turn={"id": "v", "status": "completed"})

    assert listing["method"] == "thread/backgroundTerminals/list"
    assert step.replies == ()
    assert not of(TurnCompleted, following)[0].more


def test_a_turn_that_ends_in_a_tool_is_in_no_tool() -> None:
    """The item is never said to be over, or only long after."""
    dialect = busy()
    tell(dialect, "item/started", turnId="u", item={"type": "commandExecution", "id": "i", "command": "ls"})
    status(dialect, "idle")

    assert Progress(what="tool", in_tool=False) in end(dialect, "interrupted")


def test_an_answer_to_nobody_is_an_error() -> None:
    """A request is answered once."""
    dialect = busy()
    ask(dialect, "item/commandExecution/requestApproval", command="ls")
    dialect.decide("0-u", Decision(allow=True))

    with pytest.raises(NotFound):
        dialect.decide("0-u", Decision(allow=True))


def test_the_reason_of_a_no_is_steered_into_the_turn() -> None:
    """The program's own answer has no room for it."""
    dialect = busy()
    ask(dialect, "item/commandExecution/requestApproval", command="/bin/bash -lc 'rm x'")

    answer, steer = dialect.decide("0-u", Decision(allow=False, reason="it is needed")).splitlines()

    assert reply(answer) == {"id": 0, "result": {"decision": "decline"}}
    assert reply(steer)["method"] == "turn/steer"
    assert reply(steer)["params"]["input"][0]["text"] == "[harness] The request to use Bash was declined: it is needed"


def test_a_probe_reads_the_thread_without_its_history() -> None:
    """And its answer is a sign of life, whatever it says."""
    dialect = ready()
    sent = reply(dialect.probe())

    step = say(dialect, id=sent["id"], error={"code": -32600, "message": "thread not loaded"})

    assert (sent["method"], sent["params"]) == ("thread/read", {"threadId": "t"})
    assert step.reports == (Progress(what="heartbeat"),)


def test_a_probe_finds_a_prompt_whose_turn_ended_unheard() -> None:
    """A turn's end that never came must not hold the session for ever."""
    dialect = busy()
    sent = reply(dialect.probe())

    step = say(dialect, id=sent["id"], result={"thread": {"id": "t", "status": {"type": "idle"}}})

    assert states(step.reports) == [(State.PROMPT, "")]
    assert reply(dialect.message(Outgoing(message_id="m-2", text="next")))["method"] == "turn/start"


def test_a_thread_is_taken_up_with_what_was_asked_for() -> None:
    """Only what was given; the history stays away but for the last turn."""
    options = ThreadOptions(cwd="/w", sandbox="read-only", roots=("/a",), resume="t")

    assert options.request() == (
        "thread/resume",
        {
            "threadId": "t", "excludeTurns": True, "initialTurnsPage": {"limit": 1, "itemsView": "summary"}, "cwd": "/w",
            "sandbox": "read-only", "runtimeWorkspaceRoots": ["/w", "/a"],
        },
    )  # fmt: skip
    assert ThreadOptions(ephemeral=True).request() == ("thread/start", {"ephemeral": True})


# -- what we are waits

COMMAND = "item/commandExecution/requestApproval"


@pytest.mark.parametrize(
    ("method", "params", "decision", "result"),
    [
        (COMMAND, {"command": "ls"}, Decision(allow=True), {"decision": "accept"}),
        (COMMAND, {"command": "ls"}, Decision(allow=False), {"decision": "decline"}),
        (COMMAND, {"command": "ls"}, Decision(allow=False, interrupt=True), {"decision": "cancel"}),
        ("item/fileChange/requestApproval", {"itemId": "i"}, Decision(allow=True), {"decision": "accept"}),
        ("item/fileChange/requestApproval", {"itemId": "i"}, Decision(allow=False), {"decision": "decline"}),
        (
            "item/permissions/requestApproval", {"permissions": {"network": {"enabled": True}}}, Decision(allow=True),
            {"permissions": {"network": {"enabled": True}}, "scope": "turn"},
        ),
        (
            "item/permissions/requestApproval", {"permissions": {"network": {"enabled": True}}}, Decision(allow=False),
            {"permissions": {}, "scope": "turn"},
        ),
        ("execCommandApproval", {"command": ["ls", "-l"]}, Decision(allow=True), {"decision": "approved"}),
        (
            "execCommandApproval", {"command": ["ls", "-l"]}, Decision(allow=False, reason="no"),
            {"decision": {"denied": {"rejection": "no"}}},
        ),
        ("applyPatchApproval", {"fileChanges": {"/a": {}}}, Decision(allow=False, interrupt=True), {"decision": "abort"}),
        (
            "item/tool/requestUserInput", {"questions": [{"id": "q", "question": "?", "options": [{"label": "A"}]}]},
            Decision(allow=True), {"answers": {"q": {"answers": ["A"]}}},
        ),
        (
            "mcpServer/elicitation/request", {"mode": "form", "requestedSchema": {"type": "object", "properties": {}}},
            Decision(allow=True), {"action": "accept", "content": {}},
        ),
        (
            "mcpServer/elicitation/request", {"mode": "form", "requestedSchema": {"required": ["name"]}},
            Decision(allow=True), {"action": "decline", "content": None},
        ),
        (
            "mcpServer/elicitation/request", {"mode": "form", "requestedSchema": {"required": ["name"]}},
            Decision(allow=True, reason="Bo"), {"action": "accept", "content": {"name": "Bo"}},
        ),
        (
            "mcpServer/elicitation/request", {"_meta": {"codex_approval_kind": "mcp_tool_call", "tool_name": "x"}},
            Decision(allow=False, interrupt=True), {"action": "cancel", "content": None},
        ),
    ],
)  # fmt: skip
def test_a_decision_is_put_in_the_words_of_what_was_asked(
    method: str, params: dict[str, Any], decision: Decision, result: dict[str, Any]
) -> None:
    """Every request that waits for a person has its yes and its no."""
    dialect = busy()
    waits = of(ApprovalAsked, ask(dialect, method, **params).reports)[0]

    said = dialect.decide(waits.request, decision).splitlines()[0]

    assert reply(said) == {"id": 0, "result": result}


def test_a_question_that_nobody_answers_tells_the_agent_to_decide() -> None:
    """An empty answer would leave it guessing."""
    dialect = busy()
    ask(dialect, "item/tool/requestUserInput", questions=[{"id": "q", "question": "Which?"}])

    said = reply(dialect.decide("0-u", Decision(allow=False, reason="nobody was there")))

    assert said["result"]["answers"]["q"]["answers"][0].endswith("nobody was there")


@pytest.mark.parametrize(
    ("method", "params", "result"),
    [
        ("currentTime/read", {}, {"currentTimeAt": int(NOW)}),
        (
            "item/tool/call", {"tool": "lookup", "arguments": {}},
            {"contentItems": [{"type": "inputText", "text": "This session has no tool 'lookup'."}], "success": False},
        ),
        ("mcpServer/elicitation/request", {"mode": "url", "url": "http://x"}, {"action": "decline", "content": None}),
        (
            "mcpServer/elicitation/request", {"mode": "form", "requestedSchema": {"required": ["a", "b"]}},
            {"action": "decline", "content": None},
        ),
    ],
)  # fmt: skip
def test_what_no_person_can_answer_is_answered_at_once(method: str, params: dict[str, Any], result: dict[str, Any]) -> None:
    """Nothing may hang; what was answered is reported where it matters."""
    step = ask(busy(), method, **params)

    assert [reply(each) for each in step.replies] == [{"id": 0, "result": result}]
    assert of(ApprovalAsked, step.reports) == []
    assert bool(of(Noted, step.reports)) is (method != "currentTime/read")


def test_what_cannot_be_shown_is_declined() -> None:
    """Arguments so deep that no JSON of ours holds them are judged by nobody."""
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]

    taken = asked.take(0, COMMAND, {"command": "ls", "more": deep}, {}, NOW)

    assert isinstance(taken, asked.Answered)
    assert (taken.result, bool(taken.note)) == ({"decision": "decline"}, True)


@pytest.mark.parametrize("method", ["account/chatgptAuthTokens/refresh", "attestation/generate", "nobody/knows"])
def test_what_cannot_be_given_is_refused_aloud(method: str) -> None:
    """As an error of the protocol, so that the program goes on."""
    step = ask(busy(), method, id_="x")

    assert reply(step.replies[0])["error"]["code"] == -32601
    assert reply(step.replies[0])["id"] == "x"
    assert of(Noted, step.reports)
    assert [each.kind for each in of(Unrecognised, step.reports)] == (["nobody/knows"] if method == "nobody/knows" else [])


def test_both_sides_number_their_requests_for_themselves() -> None:
    """The program's request 3 is not the answer to ours."""
    dialect = busy()
    sent = reply(dialect.probe())

    step = ask(dialect, COMMAND, id_=sent["id"], command="ls")

    assert of(ApprovalAsked, step.reports)
    assert say(dialect, id=sent["id"], result={"thread": {"status": {"type": "active", "activeFlags": []}}}).reports


def test_a_request_that_somebody_else_answered_is_closed() -> None:
    """Nobody is left to decide about it."""
    dialect = busy()
    ask(dialect, COMMAND, id_=7, command="ls")

    told = tell(dialect, "serverRequest/resolved", requestId=7)

    assert [each.request for each in of(ApprovalSettled, told)] == ["7-u"]
    with pytest.raises(NotFound):
        dialect.decide("7-u", Decision(allow=True))


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("/bin/bash -lc 'git status'", "git status"),
        ("bash -c 'a && b'", "a && b"),
        ("git status", "git status"),
        ("/bin/bash -lc 'a' extra", "/bin/bash -lc 'a' extra"),
        ("python -c 'print(1)'", "python -c 'print(1)'"),
        ("bash -lc 'unbalanced", "bash -lc 'unbalanced"),
    ],
)
def test_only_the_shell_that_the_program_adds_is_taken_off(command: str, shown: str) -> None:
    """A rule for `git *` must see `git`, and no rule must see less than what runs."""
    waits = of(ApprovalAsked, ask(busy(), COMMAND, command=command).reports)[0]

    assert waits.arguments["command"] == shown


def test_several_files_are_no_single_path() -> None:
    """A rule for one folder must not cover a patch that also reaches elsewhere: the paths stand on lines of their own."""
    dialect = busy()
    changes = [{"path": "src/a", "kind": {"type": "update", "move_path": "/etc/b"}, "diff": ""}]
    tell(dialect, "item/started", turnId="u", item={"type": "fileChange", "id": "i", "changes": changes})

    waits = of(ApprovalAsked, ask(dialect, "item/fileChange/requestApproval", itemId="i").reports)[0]

    assert waits.arguments["path"] == "src/a\n/etc/b"


# -- what we are told


@pytest.mark.parametrize(
    ("kind", "flags", "state"),
    [
        ("active", [], (State.BUSY, "")),
        ("active", ["waitingOnApproval"], (State.BLOCKED, "permission")),
        ("active", ["waitingOnUserInput"], (State.BLOCKED, "question")),
        ("active", ["waitingOnUserInput", "waitingOnApproval"], (State.BLOCKED, "permission")),
        ("active", ["somethingNew"], (State.BUSY, "")),
        ("idle", [], (State.PROMPT, "")),
        ("notLoaded", [], (State.UNKNOWN, "notLoaded")),
        ("fresh", [], (State.UNKNOWN, "fresh")),
    ],
)
def test_a_status_is_a_state(kind: str, flags: list[str], state: tuple[State, str]) -> None:
    """A status that is not known is unknown, never idle."""
    assert states(status(ready(), kind, activeFlags=flags)) == [state]


def test_an_error_nobody_has_seen_is_unknown() -> None:
    """A thread that is taken up in error may be anything."""
    dialect = CodexServer(ThreadOptions(resume="t"), now=lambda: NOW)
    dialect.opening()
    say(dialect, id=0, result={})

    step = say(dialect, id=1, result={"thread": {"id": "t", "status": {"type": "systemError"}}})

    assert states(step.reports) == [(State.UNKNOWN, "systemError")]


def test_the_status_of_another_thread_is_not_ours() -> None:
    """A sub-agent that is idle leaves this thread busy, and one at work keeps more going on."""
    dialect = busy()

    told = tell(dialect, "thread/status/changed", threadId="other", status={"type": "active", "activeFlags": []})
    status(dialect, "idle")
    ended = end(dialect)

    tell(dialect, "thread/status/changed", threadId="other", status={"type": "idle"})
    tell(dialect, "turn/started", turn={"id": "v"})
    last = tell(dialect, "turn/completed", turn={"id": "v", "status": "completed"})

    assert states(told) == []
    assert of(TurnCompleted, ended)[0].more
    assert not of(TurnCompleted, last)[0].more


@pytest.mark.parametrize(
    ("info", "outcome"),
    [
        ("usageLimitExceeded", "limit"), ("sessionBudgetExceeded", "limit"), ("cyberPolicy", "refused"),
        ("contextWindowExceeded", "error"), ({"httpConnectionFailed": {"httpStatusCode": 502}}, "error"), (None, "error"),
    ],
)  # fmt: skip
def test_how_a_turn_failed_is_told(info: object, outcome: str) -> None:
    """By the program's code, which stands in the error's words too."""
    dialect = busy()
    status(dialect, "systemError")

    told = of(TurnCompleted, end(dialect, "failed", error={"message": "no", "codexErrorInfo": info}))[0]

    assert told.outcome == outcome
    assert told.error.startswith("no")
    if isinstance(info, dict):
        assert told.error == "no (httpConnectionFailed 502)"


def test_a_limit_is_over_at_its_time() -> None:
    """A probe after it finds the prompt."""
    moment = NOW
    dialect = CodexServer(ThreadOptions(), now=lambda: moment)
    dialect.opening()
    say(dialect, id=0, result={})
    say(dialect, id=1, result={"thread": {"id": "t", "status": {"type": "idle"}}})
    window = {"usedPercent": 100, "resetsAt": int(NOW) + 60}
    tell(dialect, "account/rateLimits/updated", rateLimits={"limitId": "codex", "primary": window, "secondary": None})
    tell(dialect, "turn/started", turn={"id": "u"})
    status(dialect, "systemError")
    limited = end(dialect, "failed", error={"message": "limit", "codexErrorInfo": "usageLimitExceeded"})

    def probed() -> list[tuple[State, str]]:
        sent = reply(dialect.probe())
        return states(say(dialect, id=sent["id"], result={"thread": {"status": {"type": "systemError"}}}).reports)

    assert states(limited) == [(State.LIMITED, "usage_limit")]
    assert probed() == [(State.LIMITED, "usage_limit")]
    moment += 61
    assert probed() == [(State.PROMPT, "after an error")]


def test_limits_are_told_once_for_each_window() -> None:
    """What is left out stays as it was; the last of several windows counts."""
    dialect = ready()

    def told(**snapshot: Any) -> list[tuple[str, int | None]]:
        reports = tell(dialect, "account/rateLimits/updated", rateLimits={"limitId": "codex", **snapshot})
        return [(each.kind, each.until_us) for each in of(Limited, reports)]

    assert told(primary={"usedPercent": 50, "resetsAt": 10}) == []
    assert told(primary={"usedPercent": 91, "resetsAt": 10}) == [("usage_warning", 10_000_000)]
    assert told(primary={"usedPercent": 95, "resetsAt": 10}) == []
    assert told(primary={"usedPercent": 100, "resetsAt": 10}) == [("usage_limit", 10_000_000)]
    assert told(secondary={"usedPercent": 100, "resetsAt": 20}) == [("usage_limit", 20_000_000)]
    assert told(rateLimitReachedType="workspace_owner_credits_depleted") == [("usage_limit", 20_000_000)]
    assert told(primary={"usedPercent": 91, "resetsAt": 30}) == [("usage_warning", 30_000_000)]


def test_tokens_go_to_the_model_that_used_them() -> None:
    """When the program changes the model, the thread's total goes on, and the new model begins at nothing."""
    dialect = busy()

    def used(tokens: int) -> list[tuple[str, int]]:
        usage = {"total": {"inputTokens": tokens, "cachedInputTokens": 0, "outputTokens": 0}}
        reports = tell(dialect, "thread/tokenUsage/updated", turnId="u", tokenUsage=usage)
        return [(each.model, each.input_tokens) for each in of(Cumulative, reports)]

    assert used(100) == [("m", 100)]
    tell(dialect, "model/rerouted", fromModel="m", toModel="n", reason="highRisk")
    assert used(130) == [("n", 30)]


@pytest.mark.parametrize(
    ("method", "params", "kind"),
    [
        ("warning", {"message": "careful"}, "warning"),
        ("configWarning", {"summary": "odd key"}, "configuration"),
        ("deprecationNotice", {"summary": "old"}, "deprecation"),
        ("hook/completed", {"run": {"eventName": "stop", "status": "blocked", "entries": [{"text": "why"}]}}, "hook"),
        ("item/autoApprovalReview/completed", {"review": {"status": "denied", "rationale": "risky"}}, "review"),
        ("mcpServer/startupStatus/updated", {"name": "lab", "status": "failed", "error": "gone"}, "tools"),
        ("model/rerouted", {"fromModel": "m", "toModel": "n", "reason": "x"}, "model"),
        ("error", {"error": {"message": "no"}, "willRetry": False, "turnId": "unknown"}, "error"),
    ],
)
def test_what_is_worth_a_line_is_noted(method: str, params: dict[str, Any], kind: str) -> None:
    """Warnings, failures of what stands beside the turn, and changes of the model."""
    assert [noted.kind for noted in of(Noted, tell(ready(), method, **params))] == [kind]


def test_a_warning_is_noted_once() -> None:
    """However often it is repeated."""
    dialect = ready()
    tell(dialect, "warning", message="careful")

    assert tell(dialect, "warning", message="careful") == (Progress(what="heartbeat"),)


@pytest.mark.parametrize("method", ["thread/closed", "thread/archived", "thread/deleted", "thread/reverted"])
def test_a_thread_that_is_taken_away_is_unknown(method: str) -> None:
    """Somebody else has done something to it."""
    assert states(tell(ready(), method)) == [(State.UNKNOWN, method.partition("/")[2])]


def test_what_is_not_known_is_reported_once_with_its_words() -> None:
    """And counts as a sign of life after that."""
    dialect = ready()

    first = tell(dialect, "thread/teleported", where="x" * 9_000)
    again = tell(dialect, "thread/teleported", where="y")

    told = of(Unrecognised, first)[0]
    assert (told.kind, told.raw.startswith('{"method": "thread/teleported"'), len(told.raw) <= 2_000) == (
        "thread/teleported",
        True,
        True,
    )
    assert again == (Progress(what="heartbeat"),)


def test_an_item_that_is_not_known_is_reported_once() -> None:
    """With its kind."""
    dialect = busy()
    item = {"type": "hologram", "id": "h"}

    first = tell(dialect, "item/completed", turnId="u", item=item)
    again = tell(dialect, "item/completed", turnId="u", item=item)

    assert [each.kind for each in of(Unrecognised, (*first, *again))] == ["item/hologram"]


def test_what_is_no_json_is_noted() -> None:
    """A panic of the program, say."""
    assert (
        of(Noted, ready().feed(b"thread 'main' panicked at \x1b[31mhere").reports)[0].text == "thread 'main' panicked at here"
    )


def test_an_empty_line_is_nothing() -> None:
    """Not even a sign of life."""
    assert ready().feed(b"  \r") == Step()


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"type": "plan", "text": "do it"}, ("plan", "", "do it")),
        ({"type": "webSearch", "query": "rust"}, ("tool", "web_search", "rust")),
        ({"type": "imageView", "path": "/p.png"}, ("tool", "view_image", "/p.png")),
        ({"type": "contextCompaction"}, ("compaction", "", "")),
        ({"type": "enteredReviewMode", "review": "all"}, ("notice", "review", "all")),
        ({"type": "sleep", "durationMs": 5}, ("tool", "sleep", "")),
        ({"type": "dynamicToolCall", "tool": "x", "arguments": {"a": 1}, "success": True}, ("tool", "x", '{"a":1}')),
        ({"type": "collabAgentToolCall", "tool": "spawnAgent", "prompt": "help"}, ("tool", "agent:spawnAgent", "help")),
        ({"type": "subAgentActivity", "agentPath": "/root/a", "kind": "started"}, ("notice", "sub-agent", "/root/a started")),
        ({"type": "hookPrompt", "fragments": [{"text": "go on"}]}, ("notice", "hook", "go on")),
    ],
)
def test_an_item_is_a_deed(item: dict[str, Any], told: tuple[str, str, str]) -> None:
    """Of every kind that the program has."""
    done = of(ItemCompleted, tell(busy(), "item/completed", turnId="u", item={"id": "i", **item}))[0]

    assert (done.kind, done.name, done.summary) == told


def test_the_same_call_has_the_same_digest() -> None:
    """So that a loop is seen; another folder is another call."""
    dialect = busy()

    def digest(command: str, cwd: str) -> str:
        item = {"type": "commandExecution", "id": "i", "command": command, "cwd": cwd, "status": "completed", "exitCode": 0}
        return of(ItemCompleted, tell(dialect, "item/completed", turnId="u", item=item))[0].call

    assert digest("/bin/bash -lc 'make'", "/w") == digest("bash -c make", "/w") != digest("make", "/v")


def test_a_plan_is_told_with_what_is_done() -> None:
    """As a list."""
    steps = [
        {"step": "one", "status": "completed"},
        {"step": "two", "status": "inProgress"},
        {"step": "three", "status": "pending"},
    ]

    told = of(ItemCompleted, tell(busy(), "turn/plan/updated", turnId="u", plan=steps))[0]

    assert (told.kind, told.summary) == ("plan", "[x] one\n[>] two\n[ ] three")


# -- codex exec


def run(name: str) -> list[Report]:
    """A recorded run of `codex exec`."""
    dialect = CodexExec(message_id="m-1", model="gpt", resumed=name == "exec_resume")
    return [report for line in lines(name) for report in dialect.feed(json.dumps(line).encode()).reports]


def test_exec_tells_a_turn() -> None:
    """Identity, receipt, start, items, tokens, end; it is busy and at no prompt."""
    reports = run("exec_tool")

    assert of(Identified, reports)[0].vendor_session
    assert [(each.stage, each.message_id) for each in of(Receipt, reports)] == [("accepted", "m-1"), ("done", "m-1")]
    assert [(item.kind, item.name, item.ok) for item in of(ItemCompleted, reports)] == [
        ("reasoning", "", True), ("text", "", True), ("tool", "Bash", False), ("file", "apply_patch", True), ("text", "", True),
    ]  # fmt: skip
    told = of(TurnCompleted, reports)[0]
    assert (told.outcome, told.summary, told.message_ids) == ("success", "All done.", ("m-1",))
    used = of(Cumulative, reports)[0]
    assert (used.model, used.input_tokens, used.cached_tokens) == ("gpt", 260, 40)
    assert states(reports) == [(State.BUSY, "")]


def test_exec_counts_on_over_a_resume() -> None:
    """Its counters are the thread's."""
    first, second = run("exec_tool"), run("exec_resume")

    assert of(Identified, first) == of(Identified, second)
    assert of(Cumulative, second)[0].input_tokens > of(Cumulative, first)[0].input_tokens
    assert [noted.kind for noted in of(Noted, second)] == ["usage"]
    assert of(Noted, first) == []


def test_exec_tells_an_error_from_a_limit_by_its_words() -> None:
    """There are no codes."""
    error, limit = run("exec_error"), run("exec_limit")

    assert (of(TurnCompleted, error)[0].outcome, [(each.attempt, each.maximum) for each in of(Retried, error)]) == (
        "error",
        [(1, 1)],
    )
    assert (of(TurnCompleted, limit)[0].outcome, [each.kind for each in of(Limited, limit)]) == ("limit", ["usage_limit"])


def test_exec_knows_what_it_was_not_seen_to_say() -> None:
    """A list of things to do, a tool of a server, an error that is none of the turn's, and what nobody knows."""
    dialect = CodexExec()

    def item(**fields: Any) -> list[Report]:
        return list(say(dialect, type="item.completed", item={"id": "i", **fields}).reports)

    todo = item(type="todo_list", items=[{"text": "one", "completed": True}, {"text": "two", "completed": False}])
    call = item(type="mcp_tool_call", server="lab", tool="x", arguments={"a": 1}, status="failed", error={"message": "gone"})
    error = item(type="error", message="no such model")
    strange = item(type="hologram")

    assert of(ItemCompleted, todo)[0].summary == "[x] one\n[ ] two"
    assert (of(ItemCompleted, call)[0].name, of(ItemCompleted, call)[0].summary) == ("mcp__lab__x", '{"a":1}\ngone')
    assert of(ItemCompleted, error)[0].kind == "error"
    assert [each.kind for each in of(Unrecognised, strange)] == ["item/hologram"]
    assert [each.kind for each in of(Unrecognised, say(dialect, type="turn.paused").reports)] == ["turn.paused"]
    assert of(Noted, say(dialect, type="error", message="no model").reports)[0].text == "no model"


def test_exec_cannot_be_talked_to() -> None:
    """Not in mid-run, and not at its end."""
    dialect = CodexExec()

    with pytest.raises(UsageError):
        dialect.message(Outgoing(message_id="m", text="x"))
    with pytest.raises(NotFound):
        dialect.decide("0", Decision(allow=True))
    assert (dialect.opening(), dialect.interrupt(), dialect.probe(), dialect.finish()) == ((), b"", b"", b"")


# -- anything at all

SPOKEN = [line for name in (*SERVER, *EXEC) for line in lines(name) if "do" not in line and "sent" not in line]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def dialects() -> Iterator[LineDialect]:
    yield CodexServer(ThreadOptions())
    yield ready()
    yield busy()
    yield CodexExec()


def check(step: Step) -> None:
    """What came of it can be written, whatever it was."""
    assert all(json.loads(line) for data in step.replies for line in data.splitlines())
    assert all(len(report.raw) <= 2_000 for report in of(Unrecognised, step.reports))


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_no_bytes_make_it_raise(garbage: list[bytes]) -> None:
    """Whatever a broken program writes."""
    for dialect in dialects():
        for line in garbage:
            check(dialect.feed(line))


@given(st.lists(json_values, max_size=4))
def test_no_json_makes_it_raise(values: list[Any]) -> None:
    """Whatever another program writes."""
    for dialect in dialects():
        for value in values:
            check(dialect.feed(json.dumps(value).encode()))


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A line that was said, with something else in some place."""
    line = json.loads(json.dumps(draw(st.sampled_from(SPOKEN))))
    for _ in range(draw(st.integers(1, 3))):
        place = line
        while isinstance(place, dict) and place:
            name = draw(st.sampled_from(sorted(place)))
            inner = place[name]
            if isinstance(inner, list) and inner and draw(st.booleans()):
                inner[0] = draw(json_values)
                break
            if not isinstance(inner, dict) or not inner or draw(st.integers(0, 3)) == 0:
                place[name] = draw(json_values)
                break
            place = inner
    return line


@settings(max_examples=300)
@given(st.lists(mutated(), min_size=1, max_size=6))
def test_no_line_that_is_almost_right_makes_it_raise(values: list[Any]) -> None:
    """Fields that are missing, of another type, or of another thread; and what waits can always be answered."""
    for dialect in dialects():
        for value in values:
            step = dialect.feed(json.dumps(value).encode())
            check(step)
            for each in of(ApprovalAsked, step.reports):
                check(Step(replies=(dialect.decide(each.request, Decision(allow=True, reason="yes")),)))


def test_depth_does_not_make_it_raise() -> None:
    """Ten thousand brackets, in a line that begins well."""
    deep = b'{"method":"item/completed","params":{"item":' + b"[" * 10_000 + b"]" * 10_000 + b"}}"
    almost = b'{"id":1,"method":"item/permissions/requestApproval","params":{"permissions":' + b"[" * 900 + b"]" * 900 + b"}}"

    for dialect in dialects():
        check(dialect.feed(deep))
        check(dialect.feed(almost))
