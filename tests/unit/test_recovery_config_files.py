"""Editing a configuration by one key: nothing else moves, every version is kept, any can be put back."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.recovery.config_files import ABSENT, ConfigFile, difference, edited, version_of

TOML = b"""# limits
capacity = 100   # at once
name = "a # b"

[deep.er]
x = 1\r
[last]
"""


@pytest.mark.parametrize(
    ("key", "value", "before", "after"),
    [
        ("capacity", 7, b"capacity = 100   # at once", b"capacity = 7   # at once"),
        ("name", 'q"\n', b'name = "a # b"', b'name = "q\\"\\n"'),
        ("deep.er.x", True, b"x = 1\r", b"x = true\r"),
        ("fresh", 1.5, b'name = "a # b"\n', b'name = "a # b"\nfresh = 1.5\r\n'),
        ("last.y", "z", b"[last]\n", b'[last]\ny = "z"\r\n'),
        ("other.y", 1, b"[last]\n", b"[last]\n\r\n[other]\r\ny = 1\r\n"),
    ],
)
def test_one_value_of_toml_changes_and_no_other_byte(key: str, value: object, before: bytes, after: bytes) -> None:
    """Comments, blank lines, line ends and order stay as they were."""
    assert edited(TOML, key, value, suffix=".toml") == TOML.replace(before, after)  # type: ignore[arg-type]


def test_a_missing_file_begins_with_the_key() -> None:
    """Setting a key makes the file, in either format."""
    assert edited(None, "a", 1, suffix=".toml") == b"a = 1\n"
    assert edited(None, "a.b", 1, suffix=".toml") == b"[a]\nb = 1\n"
    assert json.loads(edited(None, "a.b", 1, suffix=".json")) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("content", "key", "value", "suffix", "message"),
    [
        (b"a = [1]\n", "a", 1, ".toml", "a is a table or a list"),
        (b"a = 1\n", "a.b", 1, ".toml", "a is a value, so it has no b"),
        (b"a = {b = 1}\n", "a.b", 2, ".toml", "cannot be set here"),
        (b"a = \n", "a", 1, ".toml", "not valid TOML"),
        (b"\xff", "a", 1, ".toml", "not UTF-8"),
        (b"", "a b", 1, ".toml", "no dotted key"),
        (b"", "", 1, ".toml", "no dotted key"),
        (b"", "a", None, ".toml", "no null"),
        (b"[]", "a", 1, ".json", "not a JSON object"),
        (b"{", "a", 1, ".json", "not valid JSON"),
        (b"", "a", 1, ".ini", "only .toml and .json"),
    ],
)
def test_what_cannot_be_set_is_refused(content: bytes, key: str, value: object, suffix: str, message: str) -> None:
    """An edit that would guess, or change something else, is not made."""
    with pytest.raises(UsageError, match=message):
        edited(content, key, value, suffix=suffix)  # type: ignore[arg-type]


_VALUES = st.one_of(
    st.integers(-(2**53), 2**53), st.booleans(), st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False)
)
_KEYS = st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=3).map(".".join)


@settings(deadline=None)
@given(st.lists(st.tuples(_KEYS, _VALUES), max_size=6))
def test_after_any_edits_each_key_has_its_last_value(edits: list[tuple[str, int | bool | str | float]]) -> None:
    """Whatever is set, in whatever order, is what a reader finds; a refusal leaves everything as it was."""
    content: bytes | None = None
    for key, value in edits:
        try:
            content = edited(content, key, value, suffix=".toml")
        except UsageError:
            continue
        found: object = tomllib.loads(content.decode())
        for part in key.split("."):
            found = found[part]  # type: ignore[index]
        assert found == value


def test_versions_are_kept_and_put_back_byte_for_byte(tmp_path: Path) -> None:
    """Two changes, then back to the first bytes, then to no file at all."""
    path, config = tmp_path / "x.toml", ConfigFile(tmp_path / "x.toml", tmp_path / "versions")
    path.write_bytes(TOML)
    path.chmod(0o640)

    first = config.set("capacity", 1, action_id="1")
    second = config.set("capacity", 2, action_id="2")
    back = config.revert(first.before, action_id="3")

    assert (first.after, second.before, back.after) == (second.before, first.after, version_of(TOML))
    assert path.read_bytes() == TOML
    assert path.stat().st_mode & 0o777 == 0o640
    assert "-capacity = 100   # at once\n+capacity = 1   # at once" in first.diff
    config.revert(ABSENT, action_id="4")
    assert not path.exists()
    assert config.revert(second.after, action_id="5").before == ABSENT


def test_the_same_value_again_changes_nothing(tmp_path: Path) -> None:
    """No version, no event, for what is so already."""
    config = ConfigFile(tmp_path / "x.toml", tmp_path / "versions")
    config.set("a", 1, action_id="1")

    assert config.set("a", 1, action_id="2").nothing


@pytest.mark.parametrize("version", ["../../etc/passwd", "0" * 64, "x"])
def test_only_kept_versions_can_be_put_back(tmp_path: Path, version: str) -> None:
    """A version is a digest of kept bytes, never a path."""
    config = ConfigFile(tmp_path / "x.toml", tmp_path / "versions")

    with pytest.raises(UsageError, match=r"no version|not kept"):
        config.revert(version, action_id="1")


def test_a_kept_version_with_other_bytes_is_not_put_back(tmp_path: Path) -> None:
    """What was tampered with is refused."""
    config = ConfigFile(tmp_path / "x.toml", tmp_path / "versions")
    before = config.set("a", 1, action_id="1").after
    config.set("a", 2, action_id="2")
    (tmp_path / "versions" / before).write_bytes(b"a = 666\n")

    with pytest.raises(UsageError, match="has other bytes"):
        config.revert(before, action_id="3")


def test_after_a_crash_it_is_known_whether_the_change_was_made(tmp_path: Path) -> None:
    """The intent is compared with the file: not begun, not made, made, or somebody else was there."""
    path, config = tmp_path / "x.toml", ConfigFile(tmp_path / "x.toml", tmp_path / "versions")
    path.write_bytes(b"a = 0\n")
    change = config.set("a", 1, action_id="../made")

    assert config.resolve("never begun") is None
    assert config.resolve("../made") == change
    path.write_bytes(b"a = 0\n")
    assert config.resolve("../made") is None
    path.write_bytes(b"a = 5\n")
    with pytest.raises(UsageError, match="somebody else"):
        config.resolve("../made")


def test_a_diff_shows_no_secret() -> None:
    """Values of keys that look like secrets are masked on both sides."""
    before, after = b'api_key = "old-s3cret"\nport = 1\n', b'api_key = "new-s3cret"\nport = 2\n'

    found = difference("x.toml", before, after)

    assert "s3cret" not in found
    assert "+port = 2" in found


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A folder in the way is named; nothing is left half-written."""
    (tmp_path / "versions").write_text("in the way")
    config = ConfigFile(tmp_path / "x.toml", tmp_path / "versions")

    with pytest.raises(UsageError, match=r"x\.toml: cannot be changed"):
        config.set("a", 1, action_id="1")
    assert not (tmp_path / "x.toml").exists()
