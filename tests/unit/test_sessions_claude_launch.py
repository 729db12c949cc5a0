"""Command lines of Claude Code: what is added for each mode, and what the user's own arguments keep us from adding."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.sessions.dialects.claude_launch import CommandLine, Wishes, command_line
from harness.sessions.facts import Mode

SESSION = "0f3a9c21-7a4e-4c55-9d3c-0d8f1f0f6c11"
OTHER = "7b0e4f6e-52f3-4d0e-8a53-2f6f5c1b9f00"
STATES = {"CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1"}


def line(mode: Mode, *agent_args: str, **wishes: object) -> CommandLine:
    return command_line(mode, program="claude", agent_args=agent_args, wishes=Wishes(**wishes))


def test_stream_has_both_formats_and_asks_on_its_streams() -> None:
    """Everything that the dialect speaks, and nothing else."""
    assert line(Mode.STREAM) == CommandLine(
        argv=(
            "claude", "--print", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose",
            "--permission-prompt-tool", "stdio", "--replay-user-messages",
        ),
        env=STATES,
    )  # fmt: skip


def test_one_prompt_stands_behind_two_dashes() -> None:
    """A list of tools before it would swallow it, and it may begin with a dash itself."""
    given = line(Mode.ONCE, "--allowedTools", "Bash", prompt="- do it")

    assert given.argv == (
        "claude", "--print", "--output-format", "stream-json", "--verbose", "--allowedTools", "Bash", "--", "- do it",
    )  # fmt: skip
    assert given.env == STATES


def test_a_terminal_gets_nothing_that_was_not_asked_for() -> None:
    """Its state comes from hooks, which stand in a file of settings."""
    assert line(Mode.PTY) == CommandLine(argv=("claude",))
    given = line(Mode.PTY, settings=Path("/s/hooks.json"), prompt="[harness session id=w1] go", max_turns=3, max_budget_usd=2)
    assert given.argv == ("claude", "--settings", "/s/hooks.json", "--", "[harness session id=w1] go")


def test_wishes_become_flags() -> None:
    """Model, permissions, the session's id and the second line of defence."""
    given = line(Mode.STREAM, session=SESSION, model="opus", permission_mode="acceptEdits", max_turns=8, max_budget_usd=2.5)

    assert given.argv[-10:] == (
        "--session-id", SESSION, "--model", "opus", "--permission-mode", "acceptEdits", "--max-turns", "8",
        "--max-budget-usd", "2.5",
    )  # fmt: skip
    assert given.vendor_session == SESSION


def test_a_continued_session_keeps_its_id() -> None:
    """It is resumed, not begun under the same id, which the program refuses."""
    given = line(Mode.STREAM, resume=OTHER, session=SESSION)

    assert given.argv[-2:] == ("--resume", OTHER)
    assert "--session-id" not in given.argv
    assert given.vendor_session == OTHER


@pytest.mark.parametrize(
    ("agent_args", "vendor_session"),
    [
        (("--session-id", OTHER), OTHER),
        ((f"--session-id={OTHER}",), OTHER),
        (("--resume", OTHER), OTHER),
        (("-r", OTHER), OTHER),
        (("--resume", "my title"), ""),
        (("--resume", OTHER, "--fork-session"), ""),
        (("--continue",), ""),
        (("-c",), ""),
    ],
)
def test_a_session_that_the_user_names_is_the_one(agent_args: tuple[str, ...], vendor_session: str) -> None:
    """Ours is left out, and its id is known only where it can be."""
    given = line(Mode.STREAM, *agent_args, session=SESSION)

    assert SESSION not in given.argv
    assert given.vendor_session == vendor_session


@pytest.mark.parametrize(
    "agent_args",
    [
        ("--model", "haiku"),
        ("--model=haiku",),
        ("--permission-mode", "plan"),
        ("--max-turns", "1"),
        ("--max-budget-usd=1",),
        ("-p",),
        ("--print", "--verbose"),
        ("--replay-user-messages",),
        ("--output-format", "stream-json"),
        ("--permission-prompt-tool", "mcp__a__b"),
    ],
)
def test_a_flag_that_the_user_gave_is_not_given_twice(agent_args: tuple[str, ...]) -> None:
    """And it stands where the user put it."""
    given = line(Mode.STREAM, *agent_args, model="opus", permission_mode="manual", max_turns=9, max_budget_usd=9)

    long = {"-p": "--print"}
    flags = [long.get(argument, argument).partition("=")[0] for argument in given.argv if argument.startswith("-")]
    assert len(flags) == len(set(flags))
    assert given.argv[-len(agent_args) :] == agent_args


def test_who_answers_is_left_to_the_user_who_says_so() -> None:
    """`--permission-prompts none` denies everything; asking us as well would undo it."""
    assert "--permission-prompt-tool" not in line(Mode.STREAM, "--permission-prompts", "none").argv


def test_what_stands_after_two_dashes_is_no_flag() -> None:
    """It is the user's prompt."""
    given = line(Mode.ONCE, "--", "--model", model="opus")

    assert given.argv[-4:] == ("--model", "opus", "--", "--model")


@pytest.mark.parametrize("mode", [Mode.STREAM, Mode.ONCE, Mode.PTY])
def test_permissions_are_never_lifted(mode: Mode) -> None:
    """Not even where a wish says so; an argument of the user's own is passed on."""
    with pytest.raises(UsageError, match="permission-mode bypassPermissions"):
        line(mode, permission_mode="bypassPermissions")
    assert not any("dangerously" in argument or "bypass" in argument for argument in line(mode, session=SESSION).argv)
    assert line(mode, "--dangerously-skip-permissions").argv[-1] == "--dangerously-skip-permissions"


@pytest.mark.parametrize(
    ("mode", "agent_args", "wishes", "says"),
    [
        (Mode.STREAM, ("--output-format", "json"), {}, "needs --output-format stream-json, not 'json'"),
        (Mode.STREAM, ("--input-format=text",), {}, "needs --input-format stream-json"),
        (Mode.ONCE, ("--output-format=text",), {}, "needs --output-format"),
        (Mode.STREAM, ("--", "do it"), {}, "--context"),
        (Mode.STREAM, ("-p", "do it"), {}, "--context"),
        (Mode.STREAM, (), {"prompt": "do it"}, "--context"),
        (Mode.ONCE, ("--", "do it"), {"prompt": "do that"}, "two prompts"),
        (Mode.PTY, ("-p",), {}, "--mode once"),
        (Mode.APP_SERVER, (), {}, "stream, pty and once"),
    ],
)
def test_what_cannot_work_is_refused(mode: Mode, agent_args: tuple[str, ...], wishes: dict[str, object], says: str) -> None:
    """Before anything is started, with what to do instead."""
    with pytest.raises(UsageError, match=says):
        line(mode, *agent_args, **wishes)
