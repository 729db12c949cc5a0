"""Worktrees of a real repository: two processes at once, half-made ones, and git's own refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import ProcessError, UsageError
from harness.repo import Git, Worktrees


@pytest.fixture
async def repository(tmp_path: Path) -> Path:
    """One commit, made without anybody having said who commits."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git = Git(folder)
    await git.run("init", "--quiet", "--initial-branch=main")
    (folder / "file").write_text("x\n")
    assert await git.commit("begin") is not None
    return folder


async def test_a_worktree_is_made_found_and_removed(repository: Path, tmp_path: Path) -> None:
    """One with changes in it is only removed by force."""
    trees = Worktrees(repository)
    tree = await trees.add(tmp_path / "t", branch="work/one")
    (tree.path / "file").write_text("y\n")

    assert (tree.branch, tree.whole, (await trees.find(tmp_path / "t")) == tree) == ("work/one", True, True)
    assert [each.branch for each in await trees.list()] == ["main", "work/one"]
    with pytest.raises(ProcessError, match="modified"):
        await trees.remove(tree.path)
    await trees.remove(tree.path, force=True)
    assert await trees.find(tmp_path / "t") is None


async def test_the_branch_of_a_removed_worktree_is_taken_up_again(repository: Path, tmp_path: Path) -> None:
    """What was committed there is there."""
    trees = Worktrees(repository)
    tree = await trees.add(tmp_path / "t", branch="work")
    (tree.path / "new").write_text("n\n")
    commit = await Git(tree.path).commit("new")
    await trees.remove(tree.path)

    again = await trees.add(tmp_path / "t2", branch="work")

    assert again.head == commit


async def test_one_that_was_left_half_made_is_made_anew(repository: Path, tmp_path: Path) -> None:
    """git locks a worktree as "initializing" while it makes it; a kill leaves that."""
    trees = Worktrees(repository)
    tree = await trees.add(tmp_path / "t", branch="work")
    (repository / ".git" / "worktrees" / "t" / "locked").write_text("initializing")
    (tree.path / "file").unlink()
    assert not (await trees.list())[1].whole

    again = await trees.add(tmp_path / "t", branch="work")

    assert again.whole
    assert (again.path / "file").read_text() == "x\n"


async def test_wrong_names_bases_and_places_are_refused(repository: Path, tmp_path: Path) -> None:
    """In words, and nothing is left."""
    trees = Worktrees(repository)
    for branch in ("-x", "a b", "x.lock", ".."):
        with pytest.raises(UsageError, match="worktree's name"):
            await trees.add(tmp_path / "t", branch=branch)
    for base in ("nowhere", "--help"):
        with pytest.raises(UsageError, match="is no commit"):
            await trees.add(tmp_path / "t", branch="b", base=base)
    with pytest.raises(ProcessError, match=r"git .*not a git repository"):
        await Worktrees(tmp_path).list()
    assert not (tmp_path / "t").exists()


ADD = """
import sys
from pathlib import Path

import anyio

from harness.repo import Worktrees

repository, path, branch = sys.argv[1:]
anyio.run(lambda: Worktrees(Path(repository)).add(Path(path), branch=branch))
"""


async def test_processes_that_add_at_once_wait_for_each_other(repository: Path, tmp_path: Path) -> None:
    """Five processes, five worktrees."""
    running = [
        subprocess.Popen([sys.executable, "-c", ADD, str(repository), str(tmp_path / f"t{n}"), f"b{n}"]) for n in range(5)
    ]

    assert [process.wait(timeout=60) for process in running] == [0] * 5
    assert sorted(tree.branch for tree in await Worktrees(repository).list()) == ["b0", "b1", "b2", "b3", "b4", "main"]
