"""`harness skills`, `guide` and `recipes`; and every command line in their texts is one that the command line has."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli import agent_words, main
from harness.cli.app import COMMANDS, load
from harness.errors import HarnessError
from harness.sessions.guide import skills, texts


class Cli:
    """Runs a command line and gives its exit code, its stdout and its stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = main(words)
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, *words: str) -> Any:
        code, out, err = self(*words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the test's own, with a project in it where this process is."""
    for name in [name for name in os.environ if name.startswith("HARNESS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project" / "src").mkdir()
    monkeypatch.chdir(tmp_path / "project" / "src")
    return tmp_path


@pytest.fixture
def cli(person: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def test_skills_are_installed_at_home_listed_and_removed(cli: Cli, person: Path) -> None:
    """Three commands, in words and as JSON."""
    done = cli.json("skills", "install")
    assert [(each["name"], each["deed"]) for each in done][:2] == [
        ("harness-dispatch", "installed"),
        ("harness-dispatch", "linked"),
    ]
    assert (person / ".codex" / "skills" / "harness-chain" / "SKILL.md").is_file()

    code, out, _ = cli("skills", "list")
    assert (code, out.count(" installed ")) == (0, 2)
    assert {each["standing"] for each in cli.json("skills", "list")} == {"installed"}
    assert {each["standing"] for each in cli.json("skills", "list", "--local")} == {"absent"}

    code, out, _ = cli("skills", "uninstall")
    assert (code, out.count("removed ")) == (0, 4)
    assert {each["standing"] for each in cli.json("skills", "list")} == {"absent"}


def test_local_means_the_project_wherever_one_is_in_it(cli: Cli, person: Path) -> None:
    """At its root, as git finds it, and not at home."""
    assert cli("skills", "install", "dispatch", "--local")[0] == 0

    assert (person / "project" / ".claude" / "skills" / "harness-dispatch" / "SKILL.md").is_file()
    assert not (person / ".claude").exists()


def test_nothing_else_is_made(cli: Cli, person: Path) -> None:
    """Reading makes neither a home of Harness nor a ledger, and installing only the skills."""
    for words in (("guide",), ("recipes",), ("skills", "list"), ("skills", "install")):
        assert cli(*words)[0] == 0

    assert {path.name for path in person.iterdir()} == {"project", ".claude", ".codex"}


def test_what_was_edited_is_kept_with_an_error_that_says_how_to_go_on(cli: Cli, person: Path) -> None:
    """One line on stderr, exit code 1; with --force it is replaced."""
    cli("skills", "install")
    path = person / ".claude" / "skills" / "harness-dispatch" / "SKILL.md"
    path.write_text(path.read_text() + "mine\n")

    code, out, err = cli("skills", "install")
    assert (code, err.count("\n")) == (1, 1)
    assert f"kept {path}" in out
    assert f"{path}: it was edited; --force replaces it" in err
    assert "mine" in path.read_text()

    assert cli("skills", "install", "--force")[0] == 0
    assert "mine" not in path.read_text()


def test_an_unknown_skill_is_an_error_that_names_the_known_ones(cli: Cli) -> None:
    """Nothing is written."""
    code, out, err = cli("skills", "install", "nonsense")

    assert (code, out) == (1, "")
    assert err == "harness: there is no skill 'nonsense'; there are harness-dispatch, harness-chain\n"


def test_a_place_that_cannot_be_written_is_told_in_one_line(cli: Cli, person: Path) -> None:
    """With its path."""
    (person / ".claude").write_text("a file")

    code, _, err = cli("skills", "install")

    assert (code, err.count("\n")) == (1, 1)
    assert str(person / ".claude") in err


def test_the_guide_is_printed(cli: Cli) -> None:
    """As it is shipped."""
    code, out, _ = cli("guide")

    assert (code, out) == (0, texts.guide())
    assert cli.json("guide")["text"] == texts.guide()


def test_recipes_are_listed_and_shown(cli: Cli) -> None:
    """By number or name; without a word they are listed."""
    listed = cli.json("recipes", "list")

    assert [each["number"] for each in listed] == [1, 2, 3]
    assert cli("recipes") == cli("recipes", "list")
    assert cli.json("recipes") == listed
    assert cli("recipes", "show", "2")[1] == cli("recipes", "show", "chain")[1] == texts.recipe("2").text
    assert cli.json("recipes", "show", "3")["name"] == "buddy"
    assert cli("recipes", "show", "x")[0] == 1


def test_alias_and_skill_are_one(cli: Cli) -> None:
    """Every other name that the listing shows is understood."""
    for each in cli.json("skills", "list"):
        for alias in each["aliases"]:
            assert skills.resolve([alias]) == (each["name"],)


# Every command line in the texts

PAGES = [*sorted(texts.FOLDER.rglob("*.md")), Path(__file__).parents[2] / "docs" / "sessions.md"]
_ALONE = re.compile(r"^\s*(harness [a-z].*)$", re.MULTILINE)
_WITHIN = re.compile(r"`(harness [a-z][^`…]*)`")
_IN_WORDS = re.compile(r": (harness send [^,.\"]*?[A-Z]+)\b")


def command_lines(text: str) -> Iterator[tuple[list[str], bool]]:
    """The words of each command line, and whether it is a whole one; what the shell does with it is left out."""
    for pattern, whole in ((_ALONE, True), (_WITHIN, False), (_IN_WORDS, True)):
        for line in pattern.findall(text):
            words = shlex.split(line, comments=True)[1:]
            end = next((at for at, word in enumerate(words) if word in ("|", "<", ">", "&", "&&", "||")), len(words))
            yield words[:end], whole


def problem(words: list[str], *, whole: bool) -> str:
    """What the command line would refuse about these words; empty: nothing. Nothing is run."""
    name, *rest = words
    if name == "run" and rest:
        return _problem_of_run(rest)
    if name not in COMMANDS:
        return f"no command {name!r}"
    command = load(name)
    while inner := getattr(command, "commands", {}):
        if not rest or rest[0] not in inner:
            return "" if not rest and not whole else f"no command {name!r} {rest[:1]}"
        command = inner[rest.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    if not whole:
        return ", ".join(word for word in rest if word.startswith("--") and word.partition("=")[0] not in {*known, "--help"})
    try:
        command.make_context(name, list(rest))
    except Exception as error:  # noqa: BLE001 - whatever it refuses is a problem of the text
        return f"{type(error).__name__}: {error}"
    return ""


def _problem_of_run(words: list[str]) -> str:
    known = agent_words.VALUES | agent_words.FLAGS | agent_words.OPTIONAL | agent_words.PROJECT_ONLY
    ours = words[: words.index("--")] if "--" in words else words
    unknown = [word for word in ours if word.startswith("--") and word[2:].partition("=")[0] not in known]
    return f"harness run has no {unknown}" if unknown else ("" if agent_words.read(list(words)) else "no agent is named")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_command_line_of_the_texts_is_real(page: Path) -> None:
    """An agent that follows them letter by letter is refused nothing."""
    lines = list(command_lines(page.read_text(encoding="utf-8")))

    assert lines
    wrong = [(shlex.join(words), found) for words, whole in lines if (found := problem(words, whole=whole))]
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "dance --id w1", "skills dance", "skills install --dance", "recipes show", "run claude --dance", "run claude --id",
        "status --dance",
    ],
)  # fmt: skip
def test_a_wrong_command_line_would_be_found(line: str) -> None:
    """The test above can fail."""
    try:
        assert problem(line.split(), whole=True)
    except HarnessError as error:
        assert str(error)  # noqa: PT017 - refused by the words' own reader


def test_the_texts_name_every_command_for_sessions() -> None:
    """Somebody who has read the guide knows that they are there."""
    named = {words[0] for words, _ in command_lines(texts.guide()) if words}

    assert {"run", "send", "wait", "status", "pane", "logs", "events", "why", "approve", "deny", "stop", "inbox"} <= named
