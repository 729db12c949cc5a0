"""Finding the home, reading harness.toml, precedence, and errors that say where."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.settings import find_root, load_settings, places, prepare_home


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """A section as a package would own it."""

    host: str = "127.0.0.1"
    port: int = 8000
    timeout_seconds: float = 5.0
    open: bool = False
    names: tuple[str, ...] = ()


def project(folder: Path, text: str) -> Path:
    (folder / "harness.toml").write_text(text, encoding="utf-8")
    return folder


def test_without_a_file_everything_is_default(tmp_path: Path) -> None:
    """No configuration is a configuration; nothing is written by reading it."""
    found = load_settings(directory=tmp_path, environment={})

    assert found.home == tmp_path / ".harness"
    assert found.section("web", Door) == Door()
    assert found.database == str(tmp_path / ".harness" / "harness.db")
    assert list(tmp_path.iterdir()) == []


def test_flag_wins_over_environment_over_file(tmp_path: Path) -> None:
    """Each level is seen where the levels above say nothing."""
    project(tmp_path, '[web]\nport = 1\nhost = "file"\ntimeout_seconds = 1\n')
    environment = {"HARNESS_WEB_PORT": "2", "HARNESS_WEB_HOST": "environment", "HARNESS_WEB_OPEN": "true"}

    found = load_settings(directory=tmp_path, environment=environment, flags={"web.port": 3, "web.host": None})

    assert found.section("web", Door) == Door(port=3, host="environment", timeout_seconds=1.0, open=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[web]\n\nprot = 1\n", "harness.toml:3: unknown key 'prot' in [web]; did you mean 'port'?"),
        ('[web]\nhost = "x"\nport = "many"\n', "harness.toml:3: web.port: expected `int`, got `str`"),
        ("[wbe]\n", "harness.toml:1: unknown key 'wbe'; did you mean 'web'?"),
        ("web = 3\n", "harness.toml:1: web must be a table, as [web]"),
        ("\n[web]\nport = \n", "harness.toml:3: not valid TOML"),
        ("[web]\nport = 1\nport = 2\n", "harness.toml:3: not valid TOML"),
        ("database = 3\n", "harness.toml:1: database: expected a path"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    """Unknown keys, wrong types and broken TOML: one line that leads to the place."""
    project(tmp_path, text)

    with pytest.raises(UsageError) as caught:
        _ = (found := load_settings(directory=tmp_path, environment={})).section("web", Door), found.database

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_variable_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    """The environment's mistakes are told in the environment's words."""
    found = load_settings(directory=tmp_path, environment={"HARNESS_WEB_PORT": "many"})

    with pytest.raises(UsageError, match="HARNESS_WEB_PORT='many': expected `int`"):
        found.section("web", Door)


def test_a_variable_without_effect_is_refused(tmp_path: Path) -> None:
    """HARNESS_WEB_PROT would be read by nobody."""
    found = load_settings(directory=tmp_path, environment={"HARNESS_WEB_PROT": "1"})

    with pytest.raises(UsageError, match="did you mean 'HARNESS_WEB_PORT'"):
        found.section("web", Door)


def test_several_values_in_a_variable_are_separated_by_commas(tmp_path: Path) -> None:
    """The environment has no lists, so a comma makes one."""
    found = load_settings(directory=tmp_path, environment={"HARNESS_WEB_NAMES": "a,b"})

    assert found.section("web", Door).names == ("a", "b")


def test_a_misspelt_variable_is_refused_and_a_foreign_one_is_not(tmp_path: Path) -> None:
    """HARNESS_HOMES was meant to be HARNESS_HOME; HARNESS_RACING is somebody else's."""
    load_settings(directory=tmp_path, environment={"HARNESS_RACING": "1", "HARNESS_TAG": "x"})

    with pytest.raises(UsageError, match="did you mean HARNESS_HOME"):
        load_settings(directory=tmp_path, environment={"HARNESS_HOMES": "x"})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """What was asked for by name is not silently left out."""
    with pytest.raises(UsageError, match=r"missing\.toml: cannot be read"):
        load_settings(directory=tmp_path, config="missing.toml", environment={})


def test_the_home_is_found_upwards(tmp_path: Path) -> None:
    """From a folder inside the project, the project's root is meant."""
    project(tmp_path, "")
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)

    assert find_root(inside) == tmp_path


def test_a_home_given_brings_its_project_along(tmp_path: Path) -> None:
    """`--home /x/.harness` means the project /x; a home of another name leaves the project where one stands."""
    project(tmp_path, "[web]\nport = 7\n")
    other = tmp_path / "other"
    other.mkdir()

    by_flag = load_settings(home=tmp_path / ".harness", directory=other, environment={})
    by_variable = load_settings(directory=tmp_path, environment={"HARNESS_HOME": str(other)})

    assert (by_flag.root, by_flag.section("web", Door).port) == (tmp_path, 7)
    assert (by_variable.home, by_variable.section("web", Door).port) == (other, 7)


def test_a_linked_worktree_shares_the_main_ones_home(tmp_path: Path) -> None:
    """As with git itself, all worktrees of a repository have one home."""
    main = tmp_path / "main"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(main)]
    subprocess.run(["git", "init", "-q", str(main)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    subprocess.run([*git, "worktree", "add", "-q", str(tmp_path / "linked")], check=True)

    assert find_root(tmp_path / "linked") == main


def test_the_home_is_for_its_owner_and_not_for_git(tmp_path: Path) -> None:
    """Mode 0700, and a .gitignore that covers all of it."""
    home = prepare_home(prepare_home(tmp_path / "new" / ".harness"))

    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / ".gitignore").read_text() == "*\n"


def test_a_home_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """A file in the way is named."""
    (tmp_path / "file").write_text("")

    with pytest.raises(UsageError, match="the home cannot be made"):
        prepare_home(tmp_path / "file" / ".harness")


def test_places_finds_lines_and_values_in_awkward_toml() -> None:
    """Strings over lines, quotes at their ends, comments, dotted and quoted keys, inline tables, arrays."""
    text = '''# first
a = """x
[no] = 1
""""
"b c".d = [ # a comment ]
  "]", 2,
]
[t."u.v"]
e = { f = 1, g = "}" } # h = 2
i = 'x\\'
[[l]]
j = 1
'''
    found = places(text)

    tomllib.loads(text)
    assert {key: place.line for key, place in found.items()} == {
        ("a",): 2, ("b c", "d"): 5, ("t", "u.v"): 8, ("t", "u.v", "e"): 9, ("t", "u.v", "i"): 10, ("l",): 11, ("l", "j"): 12,
    }  # fmt: skip
    assert text[found[("t", "u.v", "e")].start : found[("t", "u.v", "e")].end] == '{ f = 1, g = "}" }'


_WORDS = st.text("abcd_-0", min_size=1, max_size=4)
_SCALARS = st.one_of(
    st.integers(-5, 5).map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.text('ab]}#="\\', max_size=5).map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'),
    st.text("ab]}#=[\\", max_size=5).map(lambda text: f"'{text}'"),
)


@settings(deadline=None)
@given(st.dictionaries(_WORDS, st.dictionaries(_WORDS, _SCALARS, max_size=4), max_size=4), st.sampled_from(["\n", "\r\n"]))
def test_every_value_of_a_text_is_found_where_it_stands(tables: dict[str, dict[str, str]], newline: str) -> None:
    """Cutting at a place gives exactly the value that was written there."""
    text = newline.join(
        f"[{name}]{newline}" + "".join(f"{k} = {v}  # c{newline}" for k, v in t.items()) for name, t in tables.items()
    )

    found = places(text)

    for name, table in tables.items():
        for key, written in table.items():
            place = found[(name, key)]
            assert text[place.start : place.end] == written
