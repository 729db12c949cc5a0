"""Installing skills touches only what it wrote, and the shipped texts are whole."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import NotFound
from harness.sessions.guide import skills, texts

DISPATCH = "harness-dispatch"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def text_of(root: Path, name: str = DISPATCH, program: str = ".claude") -> Path:
    return root / program / "skills" / name / "SKILL.md"


def deeds(outcomes: list[skills.Outcome]) -> list[str]:
    return [outcome.deed for outcome in outcomes]


def everything(root: Path) -> dict[str, str]:
    """All files below a folder and what is in them, links by where they lead."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(root))] = f"-> {path.readlink()}"
        elif path.is_file():
            found[str(path.relative_to(root))] = path.read_text()
    return found


def own(root: Path, name: str, program: str = ".claude") -> Path:
    """A skill of an earlier version of ours."""
    path = text_of(root, name, program)
    path.parent.mkdir(parents=True)
    path.write_text(skills.marked("---\nname: old\n---\nOld words.\n"))
    return path


def test_both_programs_find_the_skills(root: Path) -> None:
    """Claude Code in its folder, Codex by a relative link to it, so that the whole home can be moved."""
    assert deeds(skills.install(root)) == ["installed", "linked"] * 2

    for name in skills.SKILLS:
        link = root / ".codex" / "skills" / name
        assert str(link.readlink()) == f"../../.claude/skills/{name}"
        assert text_of(root, name, ".codex").read_text() == skills.marked(skills.shipped(name))


def test_doing_it_again_changes_nothing(root: Path) -> None:
    """Not even a file's time."""
    skills.install(root)
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}

    assert set(deeds(skills.install(root))) == {"unchanged"}

    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize(
    ("given", "meant"), [(["harness"], DISPATCH), (["dispatch"], DISPATCH), (["chain-implement"], "harness-chain")]
)
def test_other_names_are_understood(root: Path, given: list[str], meant: str) -> None:
    """They lead to the one folder and make none of their own."""
    skills.install(root, given)

    assert [path.name for path in (root / ".claude" / "skills").iterdir()] == [meant]


def test_a_name_that_nobody_knows_is_told_and_nothing_is_written(root: Path) -> None:
    """Also where another name beside it is known."""
    with pytest.raises(NotFound, match="no skill 'nonsense'; there are harness-dispatch, harness-chain"):
        skills.install(root, [DISPATCH, "nonsense"])

    assert everything(root) == {}


def test_an_earlier_version_is_brought_up_to_date(root: Path) -> None:
    """Nobody had edited it."""
    own(root, DISPATCH)

    assert deeds(skills.install(root, [DISPATCH])) == ["updated", "linked"]

    assert text_of(root).read_text() == skills.marked(skills.shipped(DISPATCH))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("agent", "colleague", 1),
        lambda text: text + "And mine.\n",
        lambda text: re.sub(r"<!-- written by .*\n", "", text),
        lambda _: "---\nname: mine\n---\n",
        lambda _: "",
    ],
)
def test_what_somebody_edited_is_kept_unless_forced(root: Path, change: Callable[[str], str]) -> None:
    """With force the shipped text comes back, and theirs stays beside it."""
    skills.install(root, [DISPATCH])
    path = text_of(root)
    edited = change(path.read_text())
    path.write_text(edited)

    (kept, *_) = skills.install(root, [DISPATCH])
    assert (kept.deed, kept.path, path.read_text()) == ("kept", path, edited)
    assert "--force" in kept.reason

    assert deeds(skills.install(root, [DISPATCH], force=True)) == ["updated", "unchanged"]
    assert path.read_text() == skills.marked(skills.shipped(DISPATCH))
    assert path.with_name("SKILL.md.bak").read_text() == edited


def test_somebody_elses_skill_of_the_same_name_is_not_linked_to(root: Path) -> None:
    """Codex is not given a text that is not ours in our name."""
    path = text_of(root)
    path.parent.mkdir(parents=True)
    path.write_text("mine")

    assert deeds(skills.install(root, [DISPATCH])) == ["kept"]

    assert everything(root) == {".claude/skills/harness-dispatch/SKILL.md": "mine"}


def test_somebody_elses_link_or_folder_at_codex_is_kept(root: Path) -> None:
    """And with force only the link is replaced, never what it leads to."""
    theirs = root / "theirs"
    theirs.mkdir()
    (theirs / "SKILL.md").write_text("theirs")
    link = root / ".codex" / "skills" / DISPATCH
    link.parent.mkdir(parents=True)
    link.symlink_to(theirs)

    assert deeds(skills.install(root, [DISPATCH])) == ["installed", "kept"]
    assert link.resolve() == theirs
    assert deeds(skills.uninstall(root, [DISPATCH])) == ["kept", "removed"]

    assert deeds(skills.install(root, [DISPATCH], force=True)) == ["installed", "linked"]
    assert (theirs / "SKILL.md").read_text() == "theirs"


def test_where_links_cannot_be_made_there_is_a_copy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept up to date and removed like the text itself."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert deeds(skills.install(root, [DISPATCH])) == ["installed", "copied"]
    copy = text_of(root, program=".codex")
    assert not copy.parent.is_symlink()
    assert deeds(skills.install(root, [DISPATCH])) == ["unchanged", "unchanged"]

    copy.write_text(skills.marked("old\n"))
    assert deeds(skills.install(root, [DISPATCH])) == ["unchanged", "updated"]
    assert deeds(skills.uninstall(root, [DISPATCH])) == ["removed", "removed"]
    assert everything(root) == {}


def test_links_lead_right_where_the_folders_are_links_themselves(root: Path) -> None:
    """As with settings that are kept in another folder."""
    (root / "dotfiles" / "codex").mkdir(parents=True)
    (root / ".codex").symlink_to(root / "dotfiles" / "codex")

    skills.install(root, [DISPATCH])

    assert text_of(root, program=".codex").read_text() == skills.marked(skills.shipped(DISPATCH))


@pytest.mark.parametrize("name", skills.DEPRECATED)
def test_what_earlier_versions_left_under_other_names_is_cleaned(root: Path, name: str) -> None:
    """Folders of ours and links to them."""
    own(root, name)
    (root / ".codex" / "skills").mkdir(parents=True)
    (root / ".codex" / "skills" / name).symlink_to(f"../../.claude/skills/{name}")

    assert deeds(skills.install(root, [DISPATCH])) == ["removed", "removed", "installed", "linked"]

    assert sorted(everything(root)) == [".claude/skills/harness-dispatch/SKILL.md", ".codex/skills/harness-dispatch"]


def test_of_the_deprecated_names_only_what_is_ours_and_unedited_is_removed(root: Path) -> None:
    """Another tool's skill, an edited one, other files beside it, and a link to elsewhere stay."""
    for name, text in (("harnex", "by another tool\n"), ("dispatch", skills.marked("ours\n") + "edited\n")):
        path = text_of(root, name)
        path.parent.mkdir(parents=True)
        path.write_text(text)
    own(root, "harnex-chain").with_name("notes.md").write_text("mine")
    (root / ".codex" / "skills").mkdir(parents=True)
    (root / ".codex" / "skills" / "chain-implement").symlink_to("../../.claude/skills/harness-chain")
    before = everything(root)

    skills.install(root)
    skills.uninstall(root)

    gone = {".claude/skills/harnex-chain/SKILL.md"}
    assert everything(root) == {name: text for name, text in before.items() if name not in gone}


def test_uninstalling_removes_all_of_it_and_nothing_else(root: Path) -> None:
    """Doing it again is no mistake."""
    mine = text_of(root, "mine")
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    skills.install(root)

    assert deeds(skills.uninstall(root)) == ["removed"] * 4
    assert deeds(skills.uninstall(root)) == ["absent"] * 4

    assert everything(root) == {".claude/skills/mine/SKILL.md": "mine"}


def test_uninstalling_keeps_what_was_edited_unless_forced(root: Path) -> None:
    """And what is not ours even then."""
    skills.install(root)
    with text_of(root).open("a") as file:
        file.write("Mine.\n")
    text_of(root, "harness-chain").write_text("mine")

    assert deeds(skills.uninstall(root)) == ["kept"] * 4
    assert deeds(skills.uninstall(root, force=True)) == ["removed", "removed", "kept", "kept"]

    assert text_of(root, "harness-chain").read_text() == "mine"


def test_the_listing_tells_how_each_stands(root: Path) -> None:
    """Absent, installed, outdated, edited, not ours."""
    standing: list[skills.Standing] = []
    path = text_of(root)
    for write in (
        lambda: None,
        lambda: skills.install(root, [DISPATCH]),
        lambda: path.write_text(skills.marked("old\n")),
        lambda: path.write_text(skills.marked("old\n").replace("old", "new")),
        lambda: path.write_text("mine"),
    ):
        write()
        standing.append(skills.listing(root)[0].standing)

    assert standing == ["absent", "installed", "outdated", "edited", "not ours"]


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(root: Path) -> None:
    """Nothing half written is left."""
    (root / ".claude").write_text("a file")

    with pytest.raises(OSError, match=re.escape(str(root / ".claude"))):
        skills.install(root)

    assert everything(root) == {".claude": "a file"}


@pytest.mark.parametrize("name", skills.SKILLS)
def test_a_skill_begins_with_what_the_programs_read(name: str) -> None:
    """Its name, one line of description, and the one command that it needs."""
    match = re.match(r"---\nname: (.+)\ndescription: (.+)\nallowed-tools: (.+)\n---\n\n# ", skills.shipped(name))

    assert match is not None
    assert (match[1], match[3]) == (name, "Bash(harness *)")
    assert 50 < len(match[2]) < 1024
    assert ": " not in match[2]  # or it would be no plain value in YAML


def test_recipes_are_numbered_and_found_by_number_and_name() -> None:
    """From 1 on, each with a title and a line that says what it is for."""
    found = texts.recipes()

    assert [recipe.name for recipe in found] == ["fire-and-watch", "chain", "buddy"]
    for number, recipe in enumerate(found, 1):
        assert texts.recipe(str(number)) == texts.recipe(recipe.name) == recipe
        assert recipe.title
        assert 20 < len(recipe.summary) < 200
    with pytest.raises(NotFound, match=r"no recipe '4'; there are 1 \(fire-and-watch\)"):
        texts.recipe("4")


def test_texts_are_readable_where_they_are_installed() -> None:
    """They are files of the package and no code is needed to make them."""
    assert texts.guide().startswith("# ")
    assert all(os.access(path, os.R_OK) for path in texts.FOLDER.rglob("*.md"))
