"""Hooks for one session: what Claude Code's and Codex's tell, and how they drop it and get their answers."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import NotFound, UsageError
from harness.sessions import facts
from harness.sessions.dialects.claude_hooks import EVENTS, ClaudeHooks
from harness.sessions.dialects.codex_notify import TurnTold, parse_notification
from harness.sessions.dialects.turns import Turns
from harness.sessions.facts import Source, State
from harness.sessions.reports import ApprovalAsked, ApprovalSettled, Progress, Reading, Receipt, Report
from harness.sessions.transports.hooks import ASKING, HookDrop, allowed, denied, with_notify, with_settings

PATIENCE_SECONDS = 20.0


def told(event: str, **fields: Any) -> bytes:
    return json.dumps({"hook_event_name": event, "session_id": "s1", **fields}).encode()


def states(reports: list[Report]) -> list[tuple[State, str]]:
    assert all(report.source is Source.HOOK for report in reports if isinstance(report, Reading))
    return [(report.state, report.detail) for report in reports if isinstance(report, Reading)]


def only(reports: list[Report], kind: type[Any]) -> list[Any]:
    return [report for report in reports if isinstance(report, kind)]


# What the hooks tell


@pytest.fixture
def hooks() -> ClaudeHooks:
    return ClaudeHooks(Turns())


@pytest.fixture
def turns(hooks: ClaudeHooks) -> Turns:
    return hooks._turns


def test_a_session_says_who_it_is(hooks: ClaudeHooks) -> None:
    """Its id, its model and where its own record is."""
    reports = hooks.feed(told("SessionStart", transcript_path="/t.jsonl", model="claude-opus-5-5", source="startup"))

    assert reports == [facts.Identified(vendor_session="s1", model="claude-opus-5-5", transcript="/t.jsonl")]


def test_a_prompt_is_the_receipt_of_its_message(hooks: ClaudeHooks, turns: Turns) -> None:
    """Whatever it did to tabs and line ends."""
    turns.sent("m1", "line one\n\tline two  ")

    reports = hooks.feed(told("UserPromptSubmit", prompt="line one\n    line two", prompt_id="p1"))

    assert only(reports, facts.TurnStarted) == [facts.TurnStarted(turn="p1", message_ids=("m1",))]
    assert only(reports, Receipt) == [Receipt(stage="accepted", message_id="m1", turn="p1", proof="hook UserPromptSubmit")]
    assert states(reports) == [(State.BUSY, "")]


def test_somebody_elses_prompt_is_no_receipt(hooks: ClaudeHooks, turns: Turns) -> None:
    """A person typed another one, and ours still waits."""
    turns.sent("m1", "run the tests")

    reports = hooks.feed(told("UserPromptSubmit", prompt="what is the time?", prompt_id="p1"))

    assert only(reports, Receipt) == []
    assert turns.waits("m1")


def test_a_short_message_is_not_found_within_another(hooks: ClaudeHooks, turns: Turns) -> None:
    """`ok` stands in many a prompt."""
    turns.sent("m1", "ok")

    assert only(hooks.feed(told("UserPromptSubmit", prompt="look at this")), Receipt) == []


def test_a_turn_answers_all_that_was_merged_into_it(hooks: ClaudeHooks, turns: Turns) -> None:
    """What is sent while it works joins the turn, and is done with it."""
    turns.sent("m1", "first")
    hooks.feed(told("UserPromptSubmit", prompt="first", prompt_id="p1"))
    turns.sent("m2", "a second message")
    steered = hooks.feed(told("UserPromptSubmit", prompt="a second message", prompt_id="p2"))

    ended = hooks.feed(told("Stop", last_assistant_message="done", background_tasks=[], session_crons=[]))

    assert [receipt.turn for receipt in only(steered, Receipt)] == ["p1"]
    assert only(ended, facts.TurnCompleted) == [
        facts.TurnCompleted(turn="p1", outcome="success", summary="done", message_ids=("m1", "m2"))
    ]
    assert states(ended) == [(State.PROMPT, "")]


def test_a_turn_goes_on_with_what_was_queued(hooks: ClaudeHooks, turns: Turns) -> None:
    """Claude stops, and answers what was typed meanwhile without another hook: only then is that message done."""
    hooks.works = lambda: True
    for id_, prompt in (("m1", "first"), ("m2", "second")):
        turns.sent(id_, prompt)
        hooks.feed(told("UserPromptSubmit", prompt=prompt, prompt_id=id_))

    stopped = hooks.feed(told("Stop", last_assistant_message="one"))
    again = hooks.feed(told("Stop", last_assistant_message="two"))

    assert (only(stopped, facts.TurnCompleted), states(stopped)) == ([], [])
    assert [(ended.summary, ended.message_ids) for ended in only(again, facts.TurnCompleted)] == [("two", ("m1", "m2"))]
    assert hooks.rested() == []


def test_a_turn_that_had_taken_all_is_over_when_it_rests(hooks: ClaudeHooks, turns: Turns) -> None:
    """What was typed came into the turn itself: there is no second stop, and the status says that it rests."""
    hooks.works = lambda: True
    for id_, prompt in (("m1", "first"), ("m2", "second")):
        turns.sent(id_, prompt)
        hooks.feed(told("UserPromptSubmit", prompt=prompt, prompt_id=id_))
    hooks.feed(told("Stop", last_assistant_message="both"))

    rested = hooks.rested()

    assert [(ended.summary, ended.message_ids) for ended in only(rested, facts.TurnCompleted)] == [("both", ("m1", "m2"))]
    assert states(rested) == [(State.PROMPT, "")]


def test_enter_alone_is_taken_by_whatever_prompt_comes(hooks: ClaudeHooks, turns: Turns) -> None:
    """Nobody here knows what was in the composer."""
    turns.sent("m1", "")

    assert [receipt.message_id for receipt in only(hooks.feed(told("UserPromptSubmit", prompt="typed by hand")), Receipt)] == [
        "m1"
    ]


def test_a_turn_that_leaves_work_behind_says_so(hooks: ClaudeHooks) -> None:
    """It is at its prompt, and not done for good."""
    hooks.feed(told("UserPromptSubmit", prompt="x", prompt_id="p1"))

    reports = hooks.feed(told("Stop", background_tasks=[{"id": "b1"}]))

    assert only(reports, facts.TurnCompleted)[0].more
    assert states(reports) == [(State.PROMPT, "background work goes on")]
    assert hooks.background


@pytest.mark.parametrize(("error", "outcome", "limits"), [("server_error", "error", 0), ("rate_limit", "limit", 1)])
def test_a_turn_that_died_says_of_what(hooks: ClaudeHooks, error: str, outcome: str, limits: int) -> None:
    """A usage limit is told apart from other errors."""
    hooks.feed(told("UserPromptSubmit", prompt="x", prompt_id="p1"))

    reports = hooks.feed(told("StopFailure", error=error, last_assistant_message="API Error: 529"))

    (ended,) = only(reports, facts.TurnCompleted)
    assert (ended.outcome, ended.error) == (outcome, "API Error: 529")
    assert len(only(reports, facts.Limited)) == limits


def test_a_tool_is_followed(hooks: ClaudeHooks) -> None:
    """It begins, it ends, and the same call has the same digest."""
    call = {"tool_name": "Bash", "tool_input": {"command": "make"}, "tool_use_id": "t1"}
    began = hooks.feed(told("PreToolUse", **call))
    ended = hooks.feed(told("PostToolUse", **call, duration_ms=110, tool_response={"stdout": ""}))
    again = hooks.feed(told("PostToolUseFailure", **{**call, "tool_use_id": "t2"}, error="Exit code 2\nmake: ***"))

    assert only(began, Progress) == [Progress(what="tool", in_tool=True)]
    (item,) = only(ended, facts.ItemCompleted)
    assert (item.kind, item.name, item.summary, item.ok, item.duration_ms) == ("tool", "Bash", "make", True, 110)
    assert only(ended, Progress) == [Progress(what="tool", in_tool=False)]
    (failed,) = only(again, facts.ItemCompleted)
    assert (failed.ok, failed.exit_code, failed.call) == (False, 2, item.call)


def test_it_is_in_a_tool_until_the_last_has_ended(hooks: ClaudeHooks) -> None:
    """Two at once."""
    for number in ("t1", "t2"):
        hooks.feed(told("PreToolUse", tool_name="Read", tool_use_id=number))

    first = hooks.feed(told("PostToolUse", tool_name="Read", tool_use_id="t1"))
    second = hooks.feed(told("PostToolUse", tool_name="Read", tool_use_id="t2"))

    assert [only(reports, Progress)[0].in_tool for reports in (first, second)] == [True, False]


def test_leave_is_asked_and_settled_elsewhere(hooks: ClaudeHooks) -> None:
    """A person who allows it at the terminal settles it: the tool has run."""
    call = {"tool_name": "Bash", "tool_input": {"command": "touch x"}}
    asked = hooks.feed(told("PermissionRequest", **call), "r1")
    other = hooks.feed(told("PostToolUse", tool_name="Bash", tool_input={"command": "ls"}))
    settled = hooks.feed(told("PostToolUse", **call))

    assert only(asked, ApprovalAsked) == [
        ApprovalAsked(request="r1", tool="Bash", arguments={"command": "touch x"}, summary="touch x")
    ]
    assert states(asked) == [(State.BLOCKED, "permission")]
    assert (only(other, ApprovalSettled), states(other)) == ([], [])
    assert only(settled, ApprovalSettled)[0].decision == "allow"
    assert not hooks.answered("r1")


def test_a_question_is_no_permission(hooks: ClaudeHooks) -> None:
    """It is blocked all the same, by something that cannot be allowed."""
    questions = {"questions": [{"question": "Which colour?"}]}

    reports = hooks.feed(told("PermissionRequest", tool_name="AskUserQuestion", tool_input=questions), "r1")

    assert states(reports) == [(State.BLOCKED, "question")]
    assert only(reports, ApprovalAsked)[0].summary == "Which colour?"


@pytest.mark.parametrize("event", ["Stop", "StopFailure", "UserPromptSubmit", "SessionEnd"])
def test_what_was_asked_is_withdrawn_with_its_turn(hooks: ClaudeHooks, event: str) -> None:
    """Nothing stays open that nobody waits for."""
    hooks.feed(told("PermissionRequest", tool_name="Bash", tool_input={}), "r1")

    assert [settled.decision for settled in only(hooks.feed(told(event)), ApprovalSettled)] == ["withdrawn"]
    assert hooks.asked == ()


def test_a_turn_cut_short_ends_without_a_hook(hooks: ClaudeHooks, turns: Turns) -> None:
    """After Esc none comes: the turn is over, and what the hooks said last holds no more."""
    turns.sent("m1", "work")
    hooks.feed(told("UserPromptSubmit", prompt="work", prompt_id="p1"))

    reports = hooks.cut_short()

    assert only(reports, facts.TurnCompleted) == [facts.TurnCompleted(turn="p1", outcome="interrupted", message_ids=("m1",))]
    assert states(reports) == [(State.UNKNOWN, "")]
    assert hooks.cut_short()[:-1] == []


@pytest.mark.parametrize("data", [b"", b"no json", b"[]", b"null", b"\xff\xfe", b'{"hook_event_name": 5}', b"[" * 100_000])
def test_garbage_is_told_and_nothing_raised(hooks: ClaudeHooks, data: bytes) -> None:
    """A hook's input comes from outside."""
    (report,) = hooks.feed(data)

    assert isinstance(report, facts.Noted | facts.Unrecognised)


@pytest.mark.parametrize("event", EVENTS)
def test_a_hook_without_its_fields_raises_nothing(hooks: ClaudeHooks, event: str) -> None:
    """Nor one whose fields have other types."""
    odd = dict.fromkeys(("prompt", "tool_name", "tool_input", "tool_use_id", "duration_ms", "error", "background_tasks"), 7)

    hooks.feed(told(event))
    hooks.feed(told(event, **{**odd, "background_tasks": "yes", "tool_input": [1]}), "r1")


def test_codex_tells_of_its_turns_only() -> None:
    """Codex makes titles in threads of their own, and notifies of those too."""
    turn = {"type": "agent-turn-complete", "thread-id": "t1", "turn-id": "u1", "last-assistant-message": "Hello."}
    title = {**turn, "input-messages": ["Generate a concise, single-line task title of at most 36 characters"]}

    assert parse_notification(json.dumps({**turn, "input-messages": ["hi"]}).encode()) == TurnTold(
        thread="t1", turn="u1", summary="Hello.", prompts=("hi",)
    )
    assert parse_notification(json.dumps(title).encode()) is None
    assert parse_notification(b'{"type": "something-else"}') is None
    assert parse_notification(b"no json") is None


# Turns


def test_a_message_of_the_programs_own_commands_is_done_without_a_turn() -> None:
    """`/clear` begins nothing, and must not be waited for."""
    turns = Turns()
    turns.sent("m1", "/clear")

    assert [receipt.stage for receipt in only(turns.done_without_turn("m1", proof="screen"), Receipt)] == ["accepted", "done"]
    assert turns.done_without_turn("m1", proof="screen") == []
    assert turns.ended("success") == []


def test_what_was_typed_is_taken_by_whatever_shows_that() -> None:
    """Without hooks the status says that something was taken, not what."""
    turns = Turns()
    turns.sent("m1", "hello")
    turns.sent("m2", "world")
    turns.withdrawn("m2")

    reports = turns.taken(None, proof="status: working")

    assert only(reports, facts.TurnStarted)[0].message_ids == ("m1",)
    assert not turns.waiting


# The drop


@pytest.fixture
def drop(tmp_path: Path) -> Iterator[Callable[[], tuple[HookDrop, list[tuple[str, bytes]]]]]:
    """Makes a host's side; what it was told is in the list."""
    made: list[HookDrop] = []

    def make() -> tuple[HookDrop, list[tuple[str, bytes]]]:
        got: list[tuple[str, bytes]] = []
        made.append(HookDrop(tmp_path / "session's folder", lambda request, data: got.append((request, data))))
        made[-1].open()
        return made[-1], got

    yield make
    for each in made:
        each.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


async def run(command: str, data: bytes) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", command, stdin=-1, stdout=-1, stderr=-1)
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.close()
    return process


async def output(process: asyncio.subprocess.Process) -> tuple[bytes, bytes, int | None]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        out, errors = await process.communicate()
    return out, errors, process.returncode


async def test_a_hook_drops_its_input(drop: Callable[..., Any]) -> None:
    """The host has all of it, the program sees nothing, and nothing is left behind."""
    host, got = drop()
    data = told("PostToolUse", tool_response="x" * 300_000)

    process = await run(host.command("PostToolUse"), data)

    assert await output(process) == (b"", b"", 0)
    await until(lambda: got)
    assert got[0][0].startswith("PostToolUse.")
    assert got[0][1] == data
    assert [file.name for file in host.folder.iterdir()] == ["drop"]


async def test_what_is_dropped_is_private(drop: Callable[..., Any]) -> None:
    """Prompts and arguments are nobody else's business, whatever the umask is."""
    host, _ = drop()
    os.set_blocking(host._fd, False)
    asyncio.get_running_loop().remove_reader(host._fd)  # so that the file stays

    mask = os.umask(0)
    try:
        await output(await run(host.command("Stop"), b"{}"))
    finally:
        os.umask(mask)

    (file,) = host.folder.glob("Stop.*")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(host.folder.stat().st_mode) == 0o700


async def test_hooks_of_many_at_once_are_all_heard(drop: Callable[..., Any]) -> None:
    """Names come as whole lines."""
    host, got = drop()

    processes = [await run(host.command("PreToolUse"), str(number).encode()) for number in range(20)]
    for process in processes:
        await output(process)
    await until(lambda: len(got) == 20)

    assert {data for _, data in got} == {str(number).encode() for number in range(20)}
    assert len({request for request, _ in got}) == 20


@pytest.mark.parametrize("answer", [allowed(), denied("not on 'this' branch \\ \"x\"", interrupt=True)])
async def test_leave_is_answered(drop: Callable[..., Any], answer: str) -> None:
    """The hook waits, and prints the answer as it is."""
    host, got = drop()
    process = await run(host.command(ASKING), told(ASKING))
    await until(lambda: got)
    assert process.returncode is None

    host.answer(got[0][0], answer)

    assert await output(process) == (answer.encode() + b"\n", b"", 0)
    assert [file.name for file in host.folder.iterdir()] == ["drop"]


async def test_an_answer_at_once_is_not_lost(drop: Callable[..., Any], tmp_path: Path) -> None:
    """Policy may answer before the hook has begun to wait."""
    host, _ = drop()
    host._told = lambda request, _data: host.answer(request, "yes")

    for _ in range(10):
        assert await output(await run(host.command(ASKING), told(ASKING))) == (b"yes\n", b"", 0)


async def test_a_released_hook_prints_nothing(drop: Callable[..., Any]) -> None:
    """So that the program goes by its own dialog."""
    host, got = drop()
    process = await run(host.command(ASKING), told(ASKING))
    await until(lambda: got)

    host.release([got[0][0], "another"])

    assert await output(process) == (b"", b"", 0)
    with pytest.raises(NotFound):
        host.answer(got[0][0], "too late")


async def test_a_hook_does_not_outwait_its_host(drop: Callable[..., Any]) -> None:
    """When the host goes, who asks for leave gets no answer, and ends."""
    host, got = drop()
    process = await run(host.command(ASKING), told(ASKING))
    await until(lambda: got)

    host.close()

    assert await output(process) == (b"", b"", 0)
    assert list(host.folder.iterdir()) == []


@pytest.mark.parametrize("event", ["Stop", ASKING])
async def test_without_a_host_a_hook_does_nothing(drop: Callable[..., Any], event: str) -> None:
    """Neither with the folder gone, nor with nobody behind it."""
    host, _ = drop()
    command = host.command(event)
    host.close()

    assert await output(await run(command, b"{}")) == (b"", b"", 0)

    host.folder.rmdir()
    assert await output(await run(command, b"{}")) == (b"", b"", 0)


async def test_nobody_is_asked_whose_host_was_killed(drop: Callable[..., Any]) -> None:
    """The FIFO is still there, and its host is not."""
    host, got = drop()
    gone = subprocess.Popen(["true"])
    gone.wait()
    command = host.command(ASKING).replace(f"kill -0 {os.getpid()}", f"kill -0 {gone.pid}")

    assert await output(await run(command, told(ASKING))) == (b"", b"", 0)
    assert got == []


async def test_a_hook_that_was_killed_leaves_no_trouble(drop: Callable[..., Any]) -> None:
    """The program ends its hook when a person presses Esc at the dialog; the answer then goes nowhere."""
    host, got = drop()
    process = await run(host.command(ASKING), told(ASKING))
    await until(lambda: got)
    process.terminate()
    await output(process)

    host.answer(got[0][0], allowed())
    host.close()

    assert list(host.folder.iterdir()) == []


async def test_names_that_are_none_are_ignored(drop: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing outside the folder is read, whatever is written to the FIFO."""
    host, got = drop()
    (tmp_path / "secret.1").write_text("secret")

    with (host.folder / "drop").open("wb", buffering=0) as fifo:
        fifo.write(b"../../secret.1\n/etc/passwd\n\xff\n" + b"x" * 9000 + b"\nMissing.1\n")
    await output(await run(host.command("Stop"), b"{}"))
    await until(lambda: got)

    assert [data for _, data in got] == [b"{}"]
    assert (tmp_path / "secret.1").exists()


async def test_a_hook_costs_a_few_milliseconds(drop: Callable[..., Any]) -> None:
    """It is a shell and a cat; whatever else it would start would be felt at each tool."""
    host, _ = drop()
    command = host.command("PreToolUse")

    assert command.count("cat ") == 1
    assert not any(word in command for word in ("python", "awk", "sed", "jq", "$(", "`"))


# Command lines


async def test_claude_gets_settings_of_its_own(drop: Callable[..., Any]) -> None:
    """In a private file, with every hook; the rest of the command line is as it was."""
    host, _ = drop()

    argv = with_settings(("claude", "--model", "m", "--", "--settings"), host, EVENTS)

    assert (argv[0], argv[1], argv[3:]) == ("claude", "--settings", ("--model", "m", "--", "--settings"))
    file = Path(argv[2])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert set(json.loads(file.read_text())["hooks"]) == set(EVENTS)


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("form", ["apart", "joined"])
async def test_the_users_settings_stay_in_force(drop: Callable[..., Any], tmp_path: Path, *, as_text: bool, form: str) -> None:
    """Claude takes one `--settings` only, so ours has what theirs says; their hooks run first."""
    host, _ = drop()
    theirs = {"permissions": {"allow": ["Bash"]}, "hooks": {"Stop": [{"hooks": [{"type": "command", "command": "theirs"}]}]}}
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    value = json.dumps(theirs) if as_text else str(tmp_path / "theirs.json")
    given = ("--settings", value) if form == "apart" else (f"--settings={value}",)

    argv = with_settings(("claude", *given, "-c"), host, EVENTS)

    settings = json.loads(Path(argv[2]).read_text())
    assert argv[3:] == ("-c",)
    assert settings["permissions"] == {"allow": ["Bash"]}
    assert settings["hooks"]["Stop"][0]["hooks"][0]["command"] == "theirs"
    assert len(settings["hooks"]["Stop"]) == 2


@pytest.mark.parametrize("value", ["/nowhere.json", "{", "[]", '{"hooks": 1}'])
async def test_settings_that_cannot_be_read_are_refused(drop: Callable[..., Any], value: str) -> None:
    """Before the program is started."""
    host, _ = drop()

    with pytest.raises(UsageError, match="--settings"):
        with_settings(("claude", "--settings", value), host, EVENTS)


async def test_codex_notifies_us_and_the_user(drop: Callable[..., Any], tmp_path: Path) -> None:
    """Their own `notify` is run as well, with the same argument."""
    host, got = drop()
    theirs = tmp_path / "theirs"
    (tmp_path / "config.toml").write_text(f'notify = ["/bin/sh", "-c", "echo \\"$1 $2\\" > {theirs}", "x", "first"]\n')

    argv = with_notify(("codex", "resume"), host, {"CODEX_HOME": str(tmp_path)})

    assert (argv[0], argv[1], argv[3:]) == ("codex", "-c", ("resume",))
    command = json.loads(argv[2].removeprefix("notify="))
    process = await asyncio.create_subprocess_exec(*command, '{"type": "it\'s"}')
    assert await process.wait() == 0
    await until(lambda: got)
    assert got[0][0].startswith("notify.")
    assert got[0][1] == b'{"type": "it\'s"}'
    assert theirs.read_text() == 'first {"type": "it\'s"}\n'


async def test_codex_without_a_notify_of_the_users(drop: Callable[..., Any], tmp_path: Path) -> None:
    """Ours alone; and one among the arguments is left alone."""
    host, got = drop()
    env = {"CODEX_HOME": str(tmp_path)}

    (_, _, given) = with_notify(("codex",), host, env)
    process = await asyncio.create_subprocess_exec(*json.loads(given.removeprefix("notify=")), "{}")

    assert await process.wait() == 0
    await until(lambda: got)
    assert with_notify(("codex", "-c", 'notify=["a"]'), host, env) == ("codex", "-c", 'notify=["a"]')
