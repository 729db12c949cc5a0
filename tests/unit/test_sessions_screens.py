"""What is read off screens: recorded ones of the real programs, and the guard around the terminal emulator."""

from __future__ import annotations

from pathlib import Path
from unicodedata import combining

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.sessions.dialects.rule_files import find_rules
from harness.sessions.dialects.screen_rules import ScreenRule, ScreenRules, TitleRule
from harness.sessions.dialects.screens import Ask, Look, ScreenReader, Snapshot, load_rules
from harness.sessions.facts import Source, State
from harness.sessions.screen import Screen, render

RECORDED = Path(__file__).parent / "recorded" / "screens"

EXPECTED = {
    "claude-auto-dialog": (State.BLOCKED, "dialog"),
    "claude-background": (State.PROMPT, ""),
    "claude-busy": (State.BUSY, ""),
    "claude-busy-text": (State.BUSY, ""),
    "claude-bypass": (State.BLOCKED, "dialog"),
    "claude-command-dialog": (State.BLOCKED, "dialog"),
    "claude-error": (State.PROMPT, ""),
    "claude-idle": (State.PROMPT, ""),
    "claude-interrupted": (State.PROMPT, ""),
    "claude-key": (State.BLOCKED, "dialog"),
    "claude-menu": (State.PROMPT, ""),
    "claude-pasted": (State.PROMPT, ""),
    "claude-permission": (State.BLOCKED, "permission"),
    "claude-permission-file": (State.BLOCKED, "permission"),
    "claude-permission-lines": (State.BLOCKED, "permission"),
    "claude-question": (State.BLOCKED, "question"),
    "claude-queued": (State.BUSY, ""),
    "claude-quote": (State.PROMPT, ""),
    "claude-retrying": (State.BUSY, "retrying"),
    "claude-text": (State.PROMPT, ""),
    "claude-trust": (State.BLOCKED, "trust"),
    "codex-busy": (State.BUSY, ""),
    "codex-busy-text": (State.BUSY, ""),
    "codex-error": (State.PROMPT, ""),
    "codex-hooks": (State.BLOCKED, "dialog"),
    "codex-idle": (State.PROMPT, ""),
    "codex-interrupted": (State.PROMPT, ""),
    "codex-loading": (State.UNKNOWN, ""),
    "codex-pasted": (State.PROMPT, ""),
    "codex-permission": (State.BLOCKED, "permission"),
    "codex-permission-lines": (State.BLOCKED, "permission"),
    "codex-queued": (State.BUSY, ""),
    "codex-quote": (State.PROMPT, ""),
    "codex-text": (State.PROMPT, ""),
    "codex-trust": (State.BLOCKED, "trust"),
}
EMPTY = {
    "claude-background", "claude-busy", "claude-error", "claude-idle", "claude-interrupted", "claude-queued", "claude-quote",
    "claude-retrying", "codex-busy", "codex-error", "codex-idle", "codex-interrupted", "codex-queued", "codex-quote",
}  # fmt: skip
WRITTEN = {"claude-busy-text", "claude-menu", "claude-pasted", "claude-text", "codex-busy-text", "codex-pasted", "codex-text"}


def recorded(name: str) -> tuple[Snapshot, str]:
    """A recorded screen and its title."""
    head, _, body = (RECORDED / f"{name}.txt").read_text(encoding="utf-8").partition("\n---\n")
    cursor, title = head.split("\n")
    row, column = cursor.removeprefix("cursor: ").split()
    return Snapshot(lines=body.split("\n")[:-1], cursor=(int(row), int(column))), title.removeprefix("title: ")


def reader(name: str) -> ScreenReader:
    return load_rules(name.partition("-")[0])


def look(name: str) -> Look:
    return reader(name).look(recorded(name)[0])


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_recorded_screen_is_read(name: str) -> None:
    """Each screen that the real programs have shown is read as what it was."""
    reading = look(name).reading

    assert (reading.state, reading.detail) == EXPECTED[name]
    assert reading.source is Source.SCREEN


def test_every_recorded_screen_is_expected_to_be_something() -> None:
    """A screen that is recorded is also tested."""
    assert {file.stem for file in RECORDED.glob("*.txt")} == EXPECTED.keys()


@pytest.mark.parametrize("name", sorted(EMPTY | WRITTEN))
def test_a_hint_in_the_composer_is_no_text(name: str) -> None:
    """What the program itself shows in an empty composer is told from what was typed there."""
    seen = look(name)

    assert seen.composer is not None
    assert seen.empty == (name in EMPTY)


@pytest.mark.parametrize("name", sorted(name for name, (state, _) in EXPECTED.items() if state is State.BLOCKED))
def test_a_dialog_has_no_composer(name: str) -> None:
    """Nobody can take the chosen entry of a dialog for the place to type a message into."""
    seen = look(name)

    assert seen.blocked
    assert seen.composer is None


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_idle_title_never_says_prompt(name: str) -> None:
    """Claude's idle glyph also stands over a permission dialog, so a title may say busy or blocked, but never prompt."""
    _, title = recorded(name)
    reading = reader(name).title(title)

    assert reading.state in (State.BUSY, State.BLOCKED, State.UNKNOWN)
    assert (reading.state is State.BUSY) <= (EXPECTED[name][0] is State.BUSY)


def test_codex_title_asks_for_action() -> None:
    """Codex's title says by itself that it waits."""
    reading = reader("codex").title("[ ! ] Action Required | fake title | w")

    assert (reading.state, reading.detail, reading.source) == (State.BLOCKED, "permission", Source.TITLE)


@pytest.mark.parametrize(
    ("name", "tool", "command"),
    [
        ("claude-permission", "Bash", "touch made.txt"),
        ("claude-permission-lines", "Bash", "echo one > a.txt\necho two > b.txt"),
        ("codex-permission", "exec_command", "touch made.txt"),
        ("codex-permission-lines", "exec_command", "echo one > a.txt\necho two > b.txt"),
    ],
)
def test_a_permission_dialog_says_what_it_is_about(name: str, tool: str, command: str) -> None:
    """The whole command is read off the dialog, however many lines it has."""
    ask = look(name).ask

    assert ask is not None
    assert (ask.tool, dict(ask.arguments)) == (tool, {"command": command})
    assert ask.deny == b"\x1b"


def test_only_a_dialog_can_be_answered() -> None:
    """A quoted dialog in an answer asks nothing."""
    assert [name for name in EXPECTED if look(name).ask is not None] == [
        "claude-permission", "claude-permission-lines", "codex-permission", "codex-permission-lines",
    ]  # fmt: skip


def changed(name: str, old: str, new: str) -> Snapshot:
    """A recorded screen with one line changed."""
    snapshot, _ = recorded(name)
    assert any(old in line for line in snapshot.lines)
    return Snapshot(lines=[line.replace(old, new) for line in snapshot.lines], cursor=snapshot.cursor)


@pytest.mark.parametrize(
    "text", ["esc to interrupt", "Do you want to proceed?", "Esc to cancel", "✻ Thinking…", "\u276f 1. Yes"]
)
def test_text_in_the_composer_changes_nothing(text: str) -> None:
    """A person may type whatever a dialog or a busy program shows."""
    seen = reader("claude").look(changed("claude-text", "some text in the composer", text))

    assert seen.reading.state is State.PROMPT
    assert not seen.empty


@pytest.mark.parametrize(
    "text", ["Would you like to run the following command?", "• Working (1s • esc to interrupt)", "1. Yes"]
)
def test_text_in_codex_composer_changes_nothing(text: str) -> None:
    """The same of Codex, whose composer has no box."""
    assert reader("codex").look(changed("codex-text", "some text in the composer", text)).reading.state is State.PROMPT


@pytest.mark.parametrize("name", ["claude-idle", "claude-permission", "codex-idle", "codex-permission"])
def test_a_program_that_does_not_fill_the_window_is_read_as_well(name: str) -> None:
    """Below what it shows there may be nothing."""
    snapshot, _ = recorded(name)
    taller = Snapshot(lines=[*snapshot.lines, *[""] * 40], cursor=snapshot.cursor)

    assert reader(name).look(taller) == look(name)


@pytest.mark.parametrize("name", ["claude-busy-text", "codex-busy-text"])
def test_a_stale_prompt_above_is_none(name: str) -> None:
    """With earlier prompts in the scrollback and text in the composer it is busy all the same."""
    assert look(name).reading.state is State.BUSY


def test_an_option_that_looks_like_a_footer_opens_no_composer() -> None:
    """Codex's dialog quotes the command in its options: that must not make it a place to type."""
    snapshot = changed("codex-permission", "`touch made.txt` (p)", "`echo a · /tmp` (p)")

    seen = reader("codex").look(snapshot)

    assert seen.blocked


def test_half_a_screen_is_told_with_little_confidence() -> None:
    """After a flood only a part is known: no dialog is answered by it, and nobody is sure of it."""
    snapshot, _ = recorded("codex-permission")
    seen = reader("codex").look(Snapshot(lines=snapshot.lines, cursor=snapshot.cursor, whole=False))

    assert seen.reading.state is State.BLOCKED
    assert seen.reading.confidence <= 0.3
    assert seen.ask is None


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("user@host:~$ ", State.PROMPT),
        (">>> ", State.PROMPT),
        ("Overwrite? [y/N] ", State.BLOCKED),
        ("Are you sure you want to continue connecting (yes/no/[fingerprint])? ", State.BLOCKED),
        ("[sudo] password for me: ", State.BLOCKED),
        ("downloading 100%", State.UNKNOWN),
        ("compiling", State.UNKNOWN),
    ],
)
def test_a_line_program_is_read_at_its_cursor(line: str, state: State) -> None:
    """Only what stands before the cursor counts; a prompt further up is an old one."""
    snapshot = Snapshot(lines=["$ make", "old prompt $", line.rstrip(), ""], cursor=(2, len(line)))

    assert load_rules("shell").look(snapshot).reading.state is state


def test_blocked_goes_before_busy_and_busy_before_prompt() -> None:
    """Whatever the order in the file, the more serious state wins."""
    rules = ScreenRules(
        rules=(
            ScreenRule(name="prompt", state=State.PROMPT, all=("x",)),
            ScreenRule(name="busy", state=State.BUSY, all=("x",)),
            ScreenRule(name="dialog", state=State.BLOCKED, all=("x",), none=("calm",)),
        )
    )

    assert ScreenReader(rules).look(Snapshot(lines=["x"])).reading.state is State.BLOCKED
    assert ScreenReader(rules).look(Snapshot(lines=["x calm"])).reading.state is State.BUSY


def test_a_users_own_rules_come_first(tmp_path: Path) -> None:
    """HOME/screens/NAME.toml is used instead of ours, and makes other programs known."""
    (tmp_path / "screens").mkdir()
    (tmp_path / "screens" / "gemini.toml").write_text('[[titles]]\nmatch = "^◇"\nstate = "prompt"\n')

    assert load_rules("gemini", tmp_path).title("◇  Ready").state is State.PROMPT
    assert find_rules("gemini") is None
    assert find_rules("../gemini", tmp_path) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rules]]\nname = 'a'\n", "state"),
        ("[[rules]]\nname = 'a'\nstate = 'asleep'\n", "asleep"),
        ("[[rules]]\nname = 'a'\nstate = 'busy'\nregion = 'cellar'\n", "no region 'cellar'"),
        ("[[rules]]\nname = 'a'\nstate = 'busy'\nall = ['(']\n", "no regular expression"),
        ("[[rules]]\nname = 'a'\nstate = 'busy'\ncolour = 'red'\n", "colour"),
        ("rules = [", "own.toml"),
    ],
)
def test_rules_that_make_no_sense_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """The message names the file and what is wrong with it."""
    (tmp_path / "screens").mkdir()
    (tmp_path / "screens" / "own.toml").write_text(text)

    with pytest.raises(UsageError, match=r"own\.toml") as caught:
        load_rules("own", tmp_path)

    assert said in str(caught.value)


def test_a_program_shows_what_it_is() -> None:
    """Its version, and for Codex the model."""
    assert (look("claude-idle").version, look("claude-idle").model) == ("2.1.329", "")
    assert (look("codex-idle").version, look("codex-idle").model) == ("0.169.0", "gpt-5.5-codex")


@pytest.mark.parametrize(
    ("name", "spinner", "later", "same"),
    [
        ("codex-busy", "Working (1s", "Working (2s", True),
        ("claude-busy", "…", "ly…", True),
        ("codex-busy", "please HOLD", "more words", False),
    ],
)
def test_a_spinner_says_nothing_new(name: str, spinner: str, later: str, *, same: bool) -> None:
    """Only other words are progress."""
    assert (reader(name).look(changed(name, spinner, later)).said == look(name).said) is same


def test_unknown_rules_are_refused() -> None:
    """There is no fallback to somebody else's rules."""
    with pytest.raises(UsageError, match=r"no screen rules 'nobody'"):
        load_rules("nobody")


def test_a_title_that_no_rule_knows_says_nothing() -> None:
    """Unknown, and with no confidence at all."""
    told = ScreenReader(ScreenRules(titles=(TitleRule(match="^busy", state=State.BUSY),))).title("anything")

    assert (told.state, told.confidence) == (State.UNKNOWN, 0.0)


def test_asks_of_the_same_dialog_are_equal() -> None:
    """So that it is known, before keys are typed, whether the dialog is still the same one."""
    assert look("codex-permission").ask == look("codex-permission").ask
    assert look("codex-permission").ask != look("codex-permission-lines").ask
    assert isinstance(look("codex-permission").ask, Ask)


# The emulator


def shown(data: bytes, columns: int = 20, rows: int = 5) -> list[str]:
    return [line for line in render(data, columns, rows) if line]


def test_text_and_cursor_movements_are_rendered() -> None:
    """What is written over is gone."""
    assert shown(b"one\r\ntwo\x1b[1;1HONE\x1b[2;3H\x1b[K") == ["ONE", "tw"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x1b[>4;2m", b"\x1b[<1u", b"\x1b[>7u", b"\x1b[?u", b"\x1b[=5;1u", b"\x1b[!p", b"\x1b[?2026$p", b"\x1b[38:2::1:2:3m",
        b"\x1b]0;a title\x07", b"\x1b]7501;state=idle\x1b\\", b"\x1bP+q544e\x1b\\", b"\x1b_Gi=31,a=q;AAAA\x1b\\", b"\x1b(B",
        b"\x1b[?2004h", b"\x1b[6n", b"\x1b[c", b"\x1b[22;0t", b"\x1b[1 q", b"\x1b]0;cut\x18", b"\xc2\x9b31m"[:2],
    ],
)  # fmt: skip
def test_what_says_nothing_about_text_leaves_no_trace(data: bytes) -> None:
    """pyte would raise on some of these and print others."""
    assert shown(b"a" + data + b"b") == ["ab"]


def test_a_full_screen_program_gives_the_screen_back() -> None:
    """What stood there before it is there again after it."""
    assert shown(b"before\x1b[?1049h\x1b[2J\x1b[Hinside") == ["inside"]
    assert shown(b"before\x1b[?1049h\x1b[2J\x1b[Hinside\x1b[?1049l after") == ["before after"]


def test_scrolling_and_repeating_are_understood() -> None:
    """Both are in the terminal description that programs go by, and not in pyte."""
    assert shown(b"1\r\n2\r\n3\x1b[1S") == ["2", "3"]
    assert shown(b"1\r\n2\x1b[1T") == ["1", "2"]
    assert shown(b"=\x1b[9b") == ["=" * 10]


def test_letters_without_width_lose_nothing() -> None:
    """pyte drops the rest of a text after an emoji's variation selector or a stray control."""
    assert shown("⚠\ufe0f a\u200bb\x01c".encode()) == ["⚠ abc"]


def test_a_line_is_known_to_be_missing_until_it_is_painted() -> None:
    """A screen that began in the middle is whole once every row was written, or all was erased."""
    screen = Screen(10, 3)
    screen.feed(b"\x1b[1;1Ha\x1b[2;1Hb")
    assert not screen.repainted

    screen.feed(b"\x1b[3;1Hc")
    assert screen.repainted

    other = Screen(10, 3)
    other.feed(b"\x1b[2J")
    assert other.repainted


def test_a_window_can_change_its_size() -> None:
    """There are as many lines as the window has rows."""
    screen = Screen(10, 3)
    screen.feed(b"abcdefghij\r\nx")
    screen.resize(5, 6)

    assert len(screen.lines()) == 6
    assert max(map(len, screen.lines())) <= 5


def test_a_string_without_end_takes_no_memory() -> None:
    """A title of a megabyte is skipped; what comes after the next escape is shown."""
    screen = Screen(20, 3)
    screen.feed(b"a\x1b]0;")
    for _ in range(256):
        screen.feed(b"x" * 4096)
    screen.feed(b"\x07b")

    assert screen.lines()[0] == "ab"


SEQUENCES = [
    b"\x1b[", b"\x1b]", b"\x1bP", b"\x1b\\", b"\x07", b"\x1b[2J", b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[9999;9999H",
    b"\x1b[?6h", b"\x1b[5;1r", b"\x1b[999L", b"\x1b[3b", b"\x1b[>m", b"\xe2\x94", b"\x80", "漢字─é⚠\ufe0f!".encode(),
    b"\x1b#8", b"\r\n",
]  # fmt: skip
PIECES = st.lists(st.one_of(st.binary(max_size=12), st.sampled_from(SEQUENCES)), max_size=30)


@settings(deadline=None)
@given(PIECES)
def test_nothing_makes_it_raise(pieces: list[bytes]) -> None:
    """Whatever comes, there is a screen of the right size."""
    lines = render(b"".join(pieces), 12, 4)

    assert len(lines) == 4
    assert all(sum(not combining(letter) for letter in line) <= 12 for line in lines)


@settings(deadline=None)
@given(PIECES, st.integers(min_value=1, max_value=7))
def test_where_output_is_cut_makes_no_difference(pieces: list[bytes], size: int) -> None:
    """A screen fed byte by byte is the screen fed at once."""
    data = b"".join(pieces)
    screen = Screen(12, 4)
    for start in range(0, len(data), size):
        screen.feed(data[start : start + size])

    assert screen.lines() == render(data, 12, 4)
