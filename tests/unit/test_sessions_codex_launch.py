"""How Codex is started: what is ours, what is the user's, and who wins."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import UsageError
from harness.sessions.dialects.codex.options import ThreadOptions
from harness.sessions.dialects.codex_launch import CommandLine, Wishes, command_line
from harness.sessions.facts import Mode

THREAD = "01a22912-6562-75e1-9023-f3c8ec7105d4"


def line(mode: Mode, *args: str, **wishes: Any) -> CommandLine:
    return command_line(mode, program="codex", agent_args=args, wishes=Wishes(**wishes))


# -- app-server


def test_the_server_is_given_settings_and_asked_for_the_rest() -> None:
    """What its command line does not take is asked for with the thread."""
    given = line(
        Mode.APP_SERVER, "-m", "gpt-x", "-c", "a=1", "--sandbox=read-only", "-a", "never", "-C", "sub", "--add-dir", "/more",
        "--enable", "x", "--ephemeral", cwd="/w", overrides=("b=2",),
    )  # fmt: skip

    assert given.argv == ("codex", "app-server", "-c", "b=2", "-c", "a=1", "--enable", "x")
    assert given.thread == ThreadOptions(
        cwd="/w/sub", model="gpt-x", approval_policy="never", sandbox="read-only", roots=("/more",), ephemeral=True
    )
    assert given.model == "gpt-x"


def test_a_wish_stands_where_the_user_said_nothing() -> None:
    """And gives way where he did."""
    wished = {"model": "ours", "sandbox": "read-only", "approval_policy": "on-request"}

    assert line(Mode.APP_SERVER, **wished).thread == ThreadOptions(**wished)
    theirs = line(Mode.APP_SERVER, "-m", "theirs", "-s", "workspace-write", "-a", "never", **wished).thread
    assert (theirs.model, theirs.sandbox, theirs.approval_policy) == ("theirs", "workspace-write", "never")


def test_nothing_is_lifted_unless_the_user_lifts_it() -> None:
    """The bypass is a flag of the user's own; automatic review is not a bypass."""
    assert line(Mode.APP_SERVER).thread == ThreadOptions()
    lifted = line(Mode.APP_SERVER, "--dangerously-bypass-approvals-and-sandbox").thread
    assert (lifted.approval_policy, lifted.sandbox) == ("never", "danger-full-access")
    reviewed = line(Mode.APP_SERVER, "--approve-for-me").thread
    assert (reviewed.approval_policy, reviewed.sandbox, reviewed.reviewer) == ("on-request", "workspace-write", "auto_review")
    for mode in (Mode.APP_SERVER, Mode.ONCE, Mode.PTY):
        assert not any(
            "bypass" in part or "yolo" in part for part in line(mode, prompt="" if mode is Mode.APP_SERVER else "x").argv
        )


@pytest.mark.parametrize(
    "args", [("--oss",), ("-p", "work"), ("--search",), ("-i", "a.png"), ("--output-schema", "f"), ("--new",)]
)
def test_what_the_server_cannot_do_is_refused(args: tuple[str, ...]) -> None:
    """Rather than left out in silence."""
    with pytest.raises(UsageError, match="use --mode pty"):
        line(Mode.APP_SERVER, *args)


@pytest.mark.parametrize("args", [("fix it",), ("resume", "--last"), ("--", "fix it")])
def test_the_server_takes_no_prompt_as_an_argument(args: tuple[str, ...]) -> None:
    """Its first message is sent."""
    with pytest.raises(UsageError, match=r"does not take|takes no command and no prompt"):
        line(Mode.APP_SERVER, *args)


def test_the_server_takes_a_thread_up_again() -> None:
    """In the folder of today, not where it was."""
    given = line(Mode.APP_SERVER, resume=THREAD, cwd="/w")

    assert given.vendor_session == THREAD
    assert (given.thread.resume, given.thread.cwd) == (THREAD, "/w")


# -- exec


def test_exec_is_given_its_prompt_last() -> None:
    """Behind `--`, whatever it begins with."""
    given = line(Mode.ONCE, "-m", "x", "--skip-git-repo-check", prompt="-do it", overrides=("a=1",), sandbox="read-only")

    assert given.argv == (
        "codex", "exec", "--json", "-c", "a=1", "--sandbox", "read-only", "-m", "x", "--skip-git-repo-check", "--", "-do it",
    )  # fmt: skip
    assert given.model == "x"


def test_exec_takes_the_flags_of_the_terminal_before_its_name() -> None:
    """It refuses them behind it."""
    given = line(Mode.ONCE, "-a", "never", "-s", "read-only", prompt="go", approval_policy="on-request")

    assert given.argv == (
        "codex", "-a", "never", "exec", "--json", "-c", 'approval_policy="on-request"', "-s", "read-only", "--", "go",
    )  # fmt: skip


def test_exec_continues_a_thread_with_flags_before_resume() -> None:
    """`resume` takes fewer of them."""
    given = line(Mode.ONCE, "-s", "read-only", "--json", prompt="go", resume=THREAD)

    assert given.argv == ("codex", "exec", "--json", "-s", "read-only", "resume", THREAD, "--", "go")
    assert given.vendor_session == THREAD


def test_exec_may_have_its_prompt_among_the_users_arguments() -> None:
    """With `--` or without, but only one."""
    assert line(Mode.ONCE, "go").argv[-2:] == ("--", "go")
    assert line(Mode.ONCE, "-m", "x", "--", "go").argv[-2:] == ("--", "go")
    with pytest.raises(UsageError, match="two prompts"):
        line(Mode.ONCE, "go", prompt="stop")


@pytest.mark.parametrize("args", [(), ("-",), ("exec", "go")])
def test_exec_needs_a_prompt_of_its_own(args: tuple[str, ...]) -> None:
    """It would wait for its input, or run another command."""
    with pytest.raises(UsageError, match=r"needs a prompt|leave out 'exec'"):
        line(Mode.ONCE, *args)


# -- the terminal


def test_the_terminal_program_leaves_no_server_behind() -> None:
    """And our settings come before the user's, so that his count."""
    given = line(Mode.PTY, "-c", "b=2", "--new-flag", prompt="go", overrides=("notify=[]",), model="m")

    assert given.argv == (
        "codex", "--no-daemon", "-c", "notify=[]", "--model", "m", "-c", "b=2", "--new-flag", "--", "go",
    )  # fmt: skip


@pytest.mark.parametrize("args", [("--no-daemon",), ("--remote", "unix://")])
def test_who_says_where_the_server_is_is_left_alone(args: tuple[str, ...]) -> None:
    """A second flag would be refused by the program."""
    assert line(Mode.PTY, *args).argv == ("codex", *args)


def test_the_terminal_program_continues_a_thread() -> None:
    """With the user's flags, and the prompt behind the id."""
    given = line(Mode.PTY, "-s", "read-only", prompt="-go", resume=THREAD)

    assert given.argv == ("codex", "resume", "--no-daemon", "-s", "read-only", THREAD, "--", "-go")
    assert given.vendor_session == THREAD


def test_a_command_of_the_users_own_is_run_as_it_is() -> None:
    """It has no room for ours."""
    assert line(Mode.PTY, "resume", "--last").argv == ("codex", "--no-daemon", "resume", "--last")
    with pytest.raises(UsageError, match="a command of their own"):
        line(Mode.PTY, "resume", "--last", prompt="go")
    with pytest.raises(UsageError, match="two prompts"):
        line(Mode.PTY, "fix it", prompt="go")


def test_a_stream_is_not_among_its_modes() -> None:
    """That is another program's."""
    with pytest.raises(UsageError, match="app-server, pty and once"):
        line(Mode.STREAM)
