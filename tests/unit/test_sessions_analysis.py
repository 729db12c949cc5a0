"""What a session's events amount to, told by hand-written ones."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.ledger import Event
from harness.sessions import facts
from harness.sessions.analysis import Analysis, analyse
from harness.sessions.facts import ExitReason, Mode, Origin, Source, State

KEY = "w1@0f3a9c21"
START_US = 1_750_000_000_000_000


class Story:
    """A stream that is written by hand."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.us = START_US
        self.tell(facts.CLAIMED, facts.Claimed(
            id="w1", cli="claude", mode=Mode.STREAM, argv=("claude", "-p"), cwd="/w", machine="m", guard_pid=1, guard_started=1,
            host_pid=2, host_started=2,
        ))  # fmt: skip

    def pass_(self, seconds: float) -> Story:
        self.us += round(seconds * 1e6)
        return self

    def tell(self, type_: str, payload: msgspec.Struct | None) -> Story:
        data = None if payload is None else msgspec.json.encode(payload)
        self.events.append(
            Event(
                position=len(self.events) + 1, stream=f"session/{KEY}", seq=len(self.events) + 1, type=type_, ts=self.us,
                actor="host", tenant="default", parent=None, key=None, schema=1, data=data, salt=b"", stored_digest=b"",
                prev=b"", hash=b"",
            )
        )  # fmt: skip
        return self

    def state(self, state: State, **more: object) -> Story:
        changed = facts.StateChanged(state=state, source=Source.PROTOCOL, confidence=1.0, **more)  # type: ignore[arg-type]
        return self.tell(facts.STATE_CHANGED, changed)

    def begin(self, turn: str) -> Story:
        return self.tell(facts.TURN_STARTED, facts.TurnStarted(turn=turn))

    def over(self, turn: str, outcome: str = "success", **more: object) -> Story:
        return self.tell(facts.TURN_COMPLETED, facts.TurnCompleted(turn=turn, outcome=outcome, **more))  # type: ignore[arg-type]

    def tool(self, name: str, **more: object) -> Story:
        return self.tell(facts.ITEM_COMPLETED, facts.ItemCompleted(kind="tool", name=name, **more))  # type: ignore[arg-type]

    def item(self, kind: str, **more: object) -> Story:
        return self.tell(facts.ITEM_COMPLETED, facts.ItemCompleted(kind=kind, **more))  # type: ignore[arg-type]

    def usage(self, **more: object) -> Story:
        return self.tell(facts.USAGE, facts.Usage(**more))  # type: ignore[arg-type]

    def exit(self, reason: ExitReason, **more: object) -> Story:
        return self.tell(facts.EXITED, facts.Exited(reason=reason, **more))  # type: ignore[arg-type]

    def analysed(self, now_us: int | None = None) -> Analysis:
        return analyse(KEY, self.events, now_us=now_us)


def test_time_is_shared_out_among_the_states() -> None:
    """Each second belongs to the state that held then, from the start to the end."""
    story = Story().pass_(1).state(State.PROMPT).pass_(2).state(State.BUSY).pass_(10)
    story.state(State.BLOCKED, detail="permission").pass_(30).state(State.BUSY).pass_(5).state(State.LIMITED).pass_(100)
    story.state(State.PROMPT).pass_(7).exit(ExitReason.STOPPED)

    made = story.analysed()

    assert made.seconds_in == {"starting": 1, "prompt": 9, "busy": 15, "blocked": 30, "limited": 100}
    assert (made.busy_seconds, made.blocked_seconds, made.limited_seconds) == (15, 30, 100)
    assert made.wall_seconds == pytest.approx(sum(made.seconds_in.values()))


def test_a_living_session_is_counted_up_to_now() -> None:
    """What is open is as long as it has lasted; of one that has ended now means nothing."""
    living = Story().state(State.BUSY).pass_(5)
    dead = Story().state(State.BUSY).pass_(5).exit(ExitReason.SUCCESS, code=0)

    assert living.analysed(living.us + 10_000_000).busy_seconds == 15
    assert living.analysed().busy_seconds == 0
    assert dead.analysed(dead.us + 10_000_000).wall_seconds == 5


def test_tools_are_counted_by_name() -> None:
    """Calls, failures, times where they are known, and the longest row of identical ones."""
    story = Story().begin("t1")
    story.tool("Bash", call="a", duration_ms=1500).tool("Bash", call="a", duration_ms=500).tool("Bash", call="b", ok=False)
    story.tool("Read", call="c").tool("Bash", call="b")

    tools = story.analysed().tools

    bash, read = tools["Bash"], tools["Read"]
    assert (bash.calls, bash.failures, bash.timed, bash.seconds, bash.longest_seconds) == (4, 1, 2, 2.0, 1.5)
    assert (bash.longest_row, read.longest_row, read.calls) == (2, 1, 1)


def test_a_row_of_calls_ends_with_the_turn() -> None:
    """The same call in the next turn is another row."""
    story = Story().begin("t1").tool("Bash", call="a").tool("Bash", call="a").over("t1").begin("t2").tool("Bash", call="a")

    assert story.analysed().tools["Bash"].longest_row == 2


def test_a_turn_knows_what_it_did_and_cost() -> None:
    """Tools, tokens, money, words and outcome belong to the turn that they name, or to the one under way."""
    story = Story().begin("t1").pass_(2).tool("Bash", ok=False).item("text", summary="on it").tool("Edit")
    story.usage(input_tokens=100, output_tokens=10, cost_usd=0.5, model="m", turn="t1")
    story.pass_(3).over("t1", summary="all green").usage(input_tokens=7, model="m", turn="t1").begin("t2").usage(
        output_tokens=1
    )

    first, second = story.analysed().turns

    assert (first.turn, first.outcome, first.seconds, first.tools, first.failures) == ("t1", "success", 5, 2, 1)
    assert (first.words, first.spent.input_tokens, first.spent.cost_usd) == ("all green", 107, 0.5)
    assert (second.outcome, second.seconds, second.spent.output_tokens) == ("", None, 1)


def test_a_turn_that_the_end_cuts_says_so() -> None:
    """Nobody told its end, but there was one."""
    story = Story().begin("t1").pass_(4).exit(ExitReason.KILLED, signal=9)

    turn = story.analysed().turns[0]

    assert (turn.outcome, turn.seconds) == ("cut", 4)


def test_a_turn_whose_beginning_was_never_told_is_there() -> None:
    """Its own duration says when it began."""
    turn = Story().pass_(10).over("t1", duration_ms=4000).analysed().turns[0]

    assert (turn.turn, turn.seconds) == ("t1", 4)


def test_money_and_tokens_are_summed_by_model() -> None:
    """A model without a price leaves the sum of the others as it is; without any the cost is not known."""
    story = Story().usage(input_tokens=10, cached_tokens=5, cost_usd=0.25, model="big").usage(input_tokens=1, model="small")
    story.usage(input_tokens=20, reasoning_tokens=2, cost_usd=0.25, model="big")

    made = story.analysed()

    assert {name: spent.input_tokens for name, spent in made.models.items()} == {"big": 30, "small": 1}
    assert (made.total.input_tokens, made.total.cached_tokens, made.total.reasoning_tokens) == (31, 5, 2)
    assert (made.total.cost_usd, made.models["small"].cost_usd) == (0.5, None)


def test_errors_are_all_in_one_list_in_order() -> None:
    """Failed tools, errors, turns, lost messages, retries, stalls and a bad end."""
    story = Story().begin("t1").pass_(1).tool("Bash", ok=False, summary="make test", exit_code=2)
    story.item("error", name="api", summary="529")
    story.tell(facts.RETRIED, facts.Retried(attempt=1, maximum=10, error="overloaded"))
    story.tell(facts.STALLED, facts.Stalled(clock="quiet", idle_seconds=480, rung="probe", reason="silent for 8.0m"))
    story.tell(facts.QUEUED, facts.Queued(message_id="m1", text="hello", expires_us=0))
    story.tell(facts.EXPIRED, facts.Moved(message_id="m1", reason="too late"))
    story.over("t1", "error", error="gave up").exit(ExitReason.FAILURE, code=7)

    made = story.analysed()

    assert [(each.kind, each.text) for each in made.failures] == [
        ("tool", "Bash: make test (code 2)"), ("error", "api: 529"), ("retry", "attempt 1 of 10: overloaded"),
        ("stall", "silent for 8.0m, so probe"), ("message", "expired: too late"), ("turn", "gave up"),
        ("exit", "failure, code 7"),
    ]  # fmt: skip
    assert (made.failures[0].turn, made.failures[-1].turn) == ("t1", "")
    assert (made.retries, made.stalls) == (1, 1)


@pytest.mark.parametrize("reason", [ExitReason.SUCCESS, ExitReason.STOPPED])
def test_a_good_end_is_no_error(reason: ExitReason) -> None:
    """It is a line of the timeline."""
    made = Story().exit(reason, code=0).analysed()

    assert made.failures == []
    assert made.timeline[-1].text == f"{reason}, code 0"


def test_messages_have_their_times() -> None:
    """Since each was queued: written, accepted, done; and what became of it."""
    story = Story()
    for number, wait in enumerate((0.1, 0.2, 0.4), 1):
        name = f"m{number}"
        sender = Origin(kind="session", id="w2", cli="codex") if number == 2 else Origin()
        story.tell(facts.QUEUED, facts.Queued(message_id=name, text="do it", expires_us=0, origin=sender))
        story.pass_(wait).tell(facts.WRITTEN, facts.Moved(message_id=name))
        story.pass_(wait).tell(facts.ACCEPTED, facts.Moved(message_id=name))
    story.pass_(1).tell(facts.COMPLETED, facts.Moved(message_id="m1")).tell(facts.LOST, facts.Moved(message_id="m3"))
    story.tell(facts.WRITTEN, facts.Moved(message_id="unheard of"))

    made = story.analysed()

    assert [(each.origin, each.status) for each in made.messages.values()] == [
        ("human", "done"), ("session w2", "accepted"), ("human", "unknown"),
    ]  # fmt: skip
    assert made.messages["m1"].done_seconds == pytest.approx(2.4)
    assert made.latency(0.5) == pytest.approx(0.4)
    assert made.latency(0.95, "written") == pytest.approx(0.4)
    assert Story().analysed().latency(0.5) is None


def test_approvals_and_files_are_counted() -> None:
    """By decision, and by path."""
    story = Story().tell(facts.APPROVAL_REQUESTED, facts.ApprovalRequested(request="r1", tool="Bash"))
    story.tell(facts.APPROVAL_REQUESTED, facts.ApprovalRequested(request="r2", tool="Bash"))
    story.tell(facts.APPROVAL_DECIDED, facts.ApprovalDecided(request="r1", decision="deny", by="policy"))
    story.item("file", paths=("a.py", "b.py")).item("file", paths=("a.py",))

    made = story.analysed()

    assert made.approvals == {"deny": 1, "open": 1}
    assert made.files == {"a.py": 2, "b.py": 1}


def test_the_timeline_tells_the_story_in_order() -> None:
    """Each line has its time since the start and a short text."""
    story = Story().pass_(1).state(State.BUSY).begin("t1").pass_(1.5).item("text", summary="x" * 5000).over("t1")
    story.tell(facts.RESUMED, facts.Resumed(number=1, maximum=2, how="vendor", key="w1@ffffffff"))
    story.tell(facts.ESCALATED, facts.Escalated(reason="max resumes reached"))
    story.tell(facts.GIT, facts.GitObserved(phase="change", sha="a" * 40, branch="main"))

    rows = story.analysed().timeline

    assert [(row.kind, row.seconds) for row in rows] == [
        ("started", 0), ("state", 1), ("turn", 1), ("text", 2.5), ("turn", 2.5), ("resumed", 2.5), ("escalated", 2.5),
        ("git", 2.5),
    ]  # fmt: skip
    assert all(len(row.text) <= 300 for row in rows)
    assert rows[5].text == "1/2 by vendor: w1@ffffffff"


def test_an_erased_event_leaves_what_it_told_out() -> None:
    """It is counted, and nothing else is lost."""
    story = Story().begin("t1").tell(facts.ITEM_COMPLETED, None).tool("Bash").over("t1")

    made = story.analysed()

    assert (made.erased, made.tool_calls, made.events[facts.ITEM_COMPLETED]) == (1, 1, 2)


def test_nothing_makes_an_empty_analysis() -> None:
    """A session of which nobody has told anything."""
    made = analyse(KEY, [])

    assert (made.wall_seconds, made.turns, made.timeline) == (0, [], [])
    assert msgspec.json.encode(msgspec.structs.asdict(made))


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e4),
            st.sampled_from(["busy", "prompt", "blocked", "begin", "over", "tool", "bad", "usage", "message", "moved"]),
        ),
        max_size=60,
    )
)
def test_whatever_comes_the_sums_agree(steps: list[tuple[float, str]]) -> None:
    """All time is in some state, every call in some tool, every token in the total."""
    story = Story()
    deeds = {
        "busy": lambda: story.state(State.BUSY), "prompt": lambda: story.state(State.PROMPT),
        "blocked": lambda: story.state(State.BLOCKED), "begin": lambda: story.begin(f"t{len(story.events)}"),
        "over": lambda: story.over("t"), "tool": lambda: story.tool("A", call="x"), "bad": lambda: story.tool("B", ok=False),
        "usage": lambda: story.usage(input_tokens=1, model="m"),
        "message": lambda: story.tell(facts.QUEUED, facts.Queued(message_id="m", text="t", expires_us=0)),
        "moved": lambda: story.tell(facts.WRITTEN, facts.Moved(message_id="m")),
    }  # fmt: skip
    for seconds, deed in steps:
        story.pass_(seconds)
        deeds[deed]()

    made = story.analysed()

    names = [deed for _, deed in steps]
    assert sum(made.seconds_in.values()) == pytest.approx(made.wall_seconds, abs=0.001)
    assert made.tool_calls == names.count("tool") + names.count("bad")
    assert made.total.input_tokens == names.count("usage")
    assert sum(made.events.values()) == len(story.events)
    assert [row.at_us for row in made.timeline] == sorted(row.at_us for row in made.timeline)
