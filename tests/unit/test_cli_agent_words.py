"""The words of `harness run <agent>`."""

from __future__ import annotations

import pytest

from harness.cli.agent_words import VALUES, read
from harness.errors import UsageError


def test_without_an_agent_it_is_the_project_that_runs() -> None:
    """`harness run` and its own options start what the project declares."""
    assert read([]) is None
    assert read(["--no-service", "-q", "--port", "9000"]) is None


@pytest.mark.parametrize(
    "words", [["--id", "w1", "--detach", "claude"], ["claude", "--id", "w1", "--detach"], ["--id=w1", "claude", "--detach"]]
)
def test_options_stand_before_or_after_the_agent(words: list[str]) -> None:
    """The same options mean the same on either side of the name."""
    found = read(words)

    assert found is not None
    assert (found.agent, found.values, found.flags, found.agent_args) == ("claude", {"id": "w1"}, {"detach"}, [])


def test_unknown_flags_and_what_follows_two_dashes_go_to_the_agent() -> None:
    """Ours are taken out, the rest keeps its order; behind `--` nothing is ours."""
    found = read(["claude", "--model", "opus", "--detach", "fix it", "-v", "--", "--id", "x"])

    assert found is not None
    assert found.agent_args == ["--model", "opus", "fix it", "-v", "--id", "x"]
    assert found.values == {}


def test_a_command_may_stand_behind_two_dashes() -> None:
    """`harness run --detach -- python x.py` runs python."""
    found = read(["--detach", "--", "python", "x.py"])

    assert found is not None
    assert (found.agent, found.agent_args) == ("python", ["x.py"])


@pytest.mark.parametrize(
    ("words", "agent", "name"),
    [
        (["--tmux", "claude"], "claude", None),
        (["--tmux", "win", "claude"], "claude", "win"),
        (["claude", "--tmux"], "claude", None),
        (["claude", "--tmux", "win"], "claude", "win"),
        (["claude", "--tmux", "--detach"], "claude", None),
        (["--tmux=win", "claude"], "claude", "win"),
    ],
)
def test_an_optional_value_is_taken_only_if_it_is_one(words: list[str], agent: str, name: str | None) -> None:
    """The name of the window is the next word unless that is a flag, or the agent's name is still missing."""
    found = read(words)

    assert found is not None
    assert (found.agent, found.optional["tmux"]) == (agent, name)


@pytest.mark.parametrize("words", [["--id"], ["--detach"], ["--watch", "--id", "x"], ["claude", "--id"]])
def test_what_cannot_be_meant_is_a_usage_error(words: list[str]) -> None:
    """An option without its value, or of an agent that is not named."""
    with pytest.raises(UsageError):
        read(words)


def test_numbers_and_json_are_checked_where_they_are_given() -> None:
    """A bad value names its option."""
    found = read(["claude", "--max-turns", "x", "--meta", "{", "--max-budget-usd", "-1", "--max-wall", "x"])

    assert found is not None
    for look in (
        lambda: found.whole("max-turns"),
        lambda: found.json("meta"),
        lambda: found.number("max-budget-usd"),
        lambda: found.duration("max-wall"),
    ):
        with pytest.raises(UsageError, match="--m"):
            look()


@pytest.mark.parametrize(
    "words",
    [["sh", "--id="], ["sh", "--id", ""], ["sh", "--resume", ""], ["sh", "--watch="], ["sh", "--detach=1"], ["sh", "--id"]],
)
def test_a_value_that_is_missing_or_too_much_is_said(words: list[str]) -> None:
    """An unset variable in a script must not become a random id, a fresh session, or a flag of the agent's."""
    with pytest.raises(UsageError, match=r"needs a value|takes no value"):
        read(words)


@pytest.mark.parametrize("name", sorted(VALUES))
@pytest.mark.parametrize("next_", ["--detach", "--id=w1", "--"])
def test_the_next_option_is_no_value(name: str, next_: str) -> None:
    """`--resume --detach` lacks a value; one that begins with two dashes stands behind an equals sign."""
    with pytest.raises(UsageError, match=rf"^--{name} needs a value"):
        read([f"--{name}", next_, "claude"])
    found = read([f"--{name}=--x", "claude"])

    assert found is not None
    assert found.values == {name: "--x"}


def test_an_empty_description_or_context_is_none() -> None:
    """These two may be empty, as when a script has nothing to say."""
    found = read(["sh", "--description", "", "--context="])

    assert found is not None
    assert found.values == {"description": "", "context": ""}


def test_an_optional_value_before_two_dashes_is_the_agent_if_a_flag_follows() -> None:
    """`harness run --tmux sh -- -c true` runs sh, and `--tmux win -- sh` runs sh in a window `win`."""
    found = read(["--tmux", "sh", "--", "-c", "true"])
    named = read(["--tmux", "win", "--", "sh"])

    assert found is not None
    assert (found.agent, found.agent_args, found.optional) == ("sh", ["-c", "true"], {"tmux": None})
    assert named is not None
    assert (named.agent, named.optional) == ("sh", {"tmux": "win"})
