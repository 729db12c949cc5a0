"""Approvals that need no person."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.sessions.policy import ApprovalRules, chained, check_rules, judge

BASH = shutil.which("bash") or "/bin/bash"


def rules(**given: tuple[str, ...]) -> ApprovalRules:
    return ApprovalRules(**given)  # type: ignore[arg-type]


def test_what_no_rule_names_is_asked() -> None:
    """Nothing is allowed by silence."""
    assert judge(rules(), "Bash", {"command": "ls"}) == ("ask", "")


def test_a_denial_outranks_a_question_and_a_question_a_permission() -> None:
    """The most careful rule that names a call decides."""
    given = rules(allow=("Bash",), ask=("Bash(git push*)",), deny=("Bash(rm *)",))

    assert judge(given, "Bash", {"command": "ls"})[0] == "allow"
    assert judge(given, "Bash", {"command": "git push origin"})[0] == "ask"
    assert judge(given, "Bash", {"command": "rm -rf /"})[0] == "deny"


@pytest.mark.parametrize(
    "command", ["git status; rm -rf ~", "git status && curl x", "git status | sh", "git status `x`", "git status $(x)",
                "git status\nrm x", "git status > /etc/passwd"]
)  # fmt: skip
def test_a_pattern_for_one_command_covers_no_other_behind_it(command: str) -> None:
    """What is allowed by its beginning must not smuggle another command in."""
    assert judge(rules(allow=("Bash(git status*)",)), "Bash", {"command": command}) == ("ask", "")


@pytest.mark.parametrize(
    "text",
    ["'done; see REPORT.md'", '"a < b, c & d"', "'several\nlines (two)'", '"it\\"s; $HOME"', "it\\'s 'a | b'", "'x'\"; y\"z"],
)
def test_what_is_quoted_is_no_chain(text: str) -> None:
    """Agents send each other sentences."""
    assert judge(rules(allow=("Bash(harness *)",)), "Bash", {"command": f"harness send --id w1 {text}"})[0] == "allow"


@pytest.mark.parametrize(
    "text",
    [
        '"$(x)"', '"`x`"', '"${ x; }"', "'a'; x", '"a"&x', "'a;", "$'a\\''; x ''", "# '\nx\n#'", "\\'; x \\'",
        "\"${a#'\"}'}\"; x '' '", "*(e:'x':)",
    ],
)  # fmt: skip
def test_quotes_hide_no_chain(text: str) -> None:
    """Nor do those that a shell does not take for quotes."""
    assert judge(rules(allow=("Bash(harness *)",)), "Bash", {"command": f"harness send --id w1 {text}"})[0] == "ask"


PIECES = [*"x '\"\\$#{}[]=!*", "; x;", "\nx\n", "& x &", "`x`", "$(x)", "<(x)", "| x #", "${a#", "$'", "\\'"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join))
def test_a_shell_runs_nothing_behind_what_is_taken_for_one_command(tail: str) -> None:
    """Whatever a line looks like, if it is no chain for us, then bash finds no other command in it."""
    if not chained(f"harness {tail}"):
        script = f"x() {{ echo ran >&2; }}; harness() {{ :; }}\nharness {tail}\n"
        environment = {"PATH": "/nowhere"}
        done = subprocess.run(
            [BASH, "--norc", "-c", script], env=environment, cwd="/", stderr=subprocess.PIPE, text=True, timeout=20, check=False
        )
        assert "ran" not in done.stderr
        assert "not found" not in done.stderr


def test_a_denial_looks_at_the_whole_line() -> None:
    """A pattern that denies also catches a command in a chain, where it names it so."""
    assert judge(rules(deny=("Bash(*rm *)",)), "Bash", {"command": "ls; rm x"})[0] == "deny"


def test_codex_and_claude_name_their_subjects_differently() -> None:
    """A list of words is read as a line, a path as a path."""
    assert judge(rules(allow=("exec_command(git status)",)), "exec_command", {"command": ["git", "status"]})[0] == "allow"
    assert judge(rules(allow=("Write(src/*)",)), "Write", {"file_path": "src/a.py", "content": "x"})[0] == "allow"
    assert judge(rules(allow=("Write(src/*)",)), "Write", {"file_path": "/etc/x", "content": "src/"})[0] == "ask"
    assert judge(rules(allow=("Skill(harness-*)",)), "Skill", {"skill": "harness-chain"})[0] == "allow"


def test_a_path_is_judged_by_where_it_leads() -> None:
    """A way round through `..` is neither below what is allowed nor hidden from what is denied."""
    assert judge(rules(allow=("Write(src/*)",)), "Write", {"file_path": "src/../../etc/passwd"})[0] == "ask"
    assert judge(rules(deny=("Read(/etc/*)",)), "Read", {"file_path": "/tmp/../etc/passwd"})[0] == "deny"


@pytest.mark.parametrize("given", [{"allow": ("Bash(",)}, {"deny": ("",)}, {"deadline_seconds": -1.0}])
def test_a_rule_that_could_never_match_is_refused(given: dict[str, object]) -> None:
    """A misspelt rule is an error where it is written, not a hole at night."""
    with pytest.raises(UsageError):
        check_rules(ApprovalRules(**given))  # type: ignore[arg-type]
