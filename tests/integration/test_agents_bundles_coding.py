"""The coding tools against real git, real files, real test runs, and paths that attack."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import Kernel, MemoryStore, StepRejected, TenantContext, ToolRejected, UsageError
from harness.agents.bundles.coding import EXECUTE, READ, WORKTREE, WRITE, CommandLimits
from harness.errors import CapabilityDenied
from harness.processes import ResourceLimits
from harness.tools import CodingHarnessTools

TENANT = TenantContext(tenant_id="coder", capabilities=frozenset({WORKTREE, READ, WRITE, EXECUTE}))
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist")


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=T", "-c", "user.email=t@localhost")
    return subprocess.run(("git", *names, *arguments), cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one commit, below a directory that holds a secret."""
    (tmp_path / "secret").write_text("do not show")
    root = tmp_path / "box"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "app.py").write_text("def add(a, b):\n    return a - b\n")
    (root / "test_app.py").write_text("from app import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "begin")
    return root


class Box:
    """A kernel with the tools, and one run."""

    def __init__(self, root: Path, kernel: Kernel) -> None:
        self.root = root
        self.kernel = kernel

    async def use(self, tool: str, tenant: TenantContext = TENANT, /, **arguments: Any) -> Any:
        done = await self.kernel.step_tool(run_id="r", tenant=tenant, tool_name=tool, arguments=arguments)
        return json.loads(done.result_json)

    async def types(self) -> list[str]:
        return [event.type for event in await self.kernel.get_events(run_id="r")]


@pytest.fixture
async def box(root: Path) -> AsyncIterator[Box]:
    tools = CodingHarnessTools(sandbox_root=root, tests=PYTEST, commands=[PYTEST[:3], ("ls",), (sys.executable, "-c")])
    async with Kernel(store=MemoryStore(), tool_port=tools) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")
        yield Box(root, kernel)


async def test_a_bug_is_found_fixed_and_committed_in_a_worktree(box: Box) -> None:
    """The whole way of a coding agent, in a checkout of its own; the main one stays as it was."""
    tree = await box.use("create_worktree", name="fix-1")
    before = await box.use("run_tests", directory=tree["path"])
    patch = "--- a/app.py\n+++ b/app.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n-    return a - b\n+    return a + b\n"

    applied = await box.use("apply_patch", patch=patch, directory=tree["path"])
    after = await box.use("run_tests", directory=tree["path"])
    diff = await box.use("git_diff", directory=tree["path"])
    commit = await box.use("git_commit", message="Add, not subtract", directory=tree["path"])

    assert (before["passed"], before["exit_code"]) == (False, 1)
    assert (after["passed"], after["exit_code"]) == (True, 0)
    assert applied == {"written": ["app.py"], "removed": []}
    assert "+    return a + b" in diff
    assert git(box.root / tree["path"], "show", "--format=%s", "--stat", commit["commit"]).startswith("Add, not subtract")
    assert "a - b" in (box.root / "app.py").read_text()
    assert git(box.root, "status", "--porcelain") == ""


async def test_new_and_removed_files_are_in_the_diff_and_the_commit(box: Box) -> None:
    """What git does not know yet is shown too."""
    await box.use("write_file", path="lib/new.py", content="x = 1\n")
    (box.root / "test_app.py").unlink()

    diff = await box.use("git_diff")
    await box.use("git_commit", message="Turn it round")

    assert "+x = 1" in diff
    assert "deleted file" in diff
    assert git(box.root, "ls-files").split() == ["app.py", "lib/new.py"]
    assert (await box.use("git_commit", message="Again"))["commit"] is None


async def test_two_who_look_at_once_do_not_get_in_each_others_way(box: Box) -> None:
    """A diff neither waits for git's own index nor changes it."""
    import anyio

    (box.root / "new").write_text("n\n")
    (box.root / ".git" / "index.lock").touch()  # as somebody who is at work on it leaves it
    seen: list[str] = []

    async def look(key: str) -> None:
        done = await box.kernel.step_tool(run_id="r", tenant=TENANT, tool_name="git_diff", arguments={}, step_key=key)
        seen.append(json.loads(done.result_json))

    async with anyio.create_task_group() as group:
        for n in range(4):
            group.start_soon(look, f"look-{n}")
    (box.root / ".git" / "index.lock").unlink()

    assert all("+n" in diff for diff in seen)
    assert len(seen) == 4
    assert git(box.root, "status", "--porcelain") == "?? new\n"


OUT = [
    "../secret",
    "lib/../../secret",
    "/etc/passwd",
    "~/x",
    "a\0b",
    "..",
    "x/..",
    ".git/config",
    "sub/.GIT/hooks/x",
    "a\\..\\b",
]


@pytest.mark.parametrize("path", OUT)
@pytest.mark.parametrize("tool", ["read_file", "write_file"])
async def test_no_path_leads_out(box: Box, tool: str, path: str) -> None:
    """By `..`, absolute, NUL, backslash, or into git's own files: a rejection before anything is done."""
    more = {"content": "owned"} if tool == "write_file" else {}

    with pytest.raises(StepRejected):
        await box.use(tool, path=path, **more)

    assert (await box.types())[-1] == "step.rejected"
    assert "step.started" not in await box.types()
    assert (box.root.parent / "secret").read_text() == "do not show"


async def test_a_sibling_with_the_same_prefix_is_outside(box: Box) -> None:
    """`/box-evil` begins like `/box`, and is another place."""
    evil = box.root.with_name("box-evil")
    evil.mkdir()
    (evil / "x").write_text("evil")
    (box.root / "link").symlink_to("../box-evil")

    with pytest.raises(ToolRejected, match="out of the sandbox root"):
        await box.use("read_file", path="link/x")


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "../box-evil", "a/../../secret"])
async def test_a_link_that_leads_out_is_neither_read_nor_written_through(box: Box, target: str) -> None:
    """A link is walked by hand, and may not lead above the root."""
    (box.root / "a").mkdir()
    (box.root / "link").symlink_to(target)

    for tool, more in (("read_file", {}), ("write_file", {"content": "owned"})):
        with pytest.raises(ToolRejected, match="out of the sandbox root"):
            await box.use(tool, path="link", **more)

    assert (box.root.parent / "secret").read_text() == "do not show"


async def test_a_link_that_stays_inside_is_followed(box: Box) -> None:
    """Links are no offence by themselves, also such that lead up and down again."""
    (box.root / "a" / "b").mkdir(parents=True)
    (box.root / "a" / "b" / "up").symlink_to("../../app.py")
    (box.root / "docs").symlink_to("a/b")

    read = await box.use("read_file", path="docs/up")
    await box.use("write_file", path="docs/new", content="n")

    assert read["content"].startswith("def add")
    assert (box.root / "a" / "b" / "new").read_text() == "n"


async def test_a_circle_of_links_ends(box: Box) -> None:
    """Two links that lead to each other are refused, not walked for ever."""
    (box.root / "one").symlink_to("two")
    (box.root / "two").symlink_to("one")

    with pytest.raises(ToolRejected, match="too many links"):
        await box.use("read_file", path="one")


@pytest.fixture
def swapping(root: Path) -> Iterator[threading.Event]:
    """Somebody who all the time puts a link to the outside where a directory and a file are, and takes it away again."""
    over = threading.Event()
    (root / "d").mkdir()
    (root / "d" / "f").write_text("inside")
    (root.parent / "out").mkdir()
    (root.parent / "out" / "f").write_text("do not show")
    (root / "evil-d").symlink_to("../out")
    (root / "evil-f").symlink_to("../out/f")

    def swap_directory() -> None:
        (root / "kept").mkdir(exist_ok=True)
        (root / "d").rename(root / "kept" / "d")
        try:
            (root / "evil-d").rename(root / "d")
            (root / "d").rename(root / "evil-d")
        finally:  # a write may have made the directory anew meanwhile
            shutil.rmtree(root / "d", ignore_errors=True)
            (root / "kept" / "d").rename(root / "d")

    def swap_file() -> None:
        os.link(root / "evil-f", root / "swap", follow_symlinks=False)
        (root / "swap").rename(root / "d" / "f")
        (root / "fresh").write_text("inside")
        (root / "fresh").rename(root / "d" / "f")

    def swap() -> None:
        while not over.is_set():
            for step in (swap_directory, swap_file):
                with contextlib.suppress(OSError):  # two who rename at once get in each other's way
                    step()
            (root / "d").mkdir(exist_ok=True)
            (root / "swap").unlink(missing_ok=True)
            shutil.rmtree(root / "kept", ignore_errors=True)

    thread = threading.Thread(target=swap)
    thread.start()
    yield over
    over.set()
    thread.join()


async def test_a_link_swapped_in_between_check_and_use_is_not_followed(root: Path, swapping: threading.Event) -> None:
    """Thousands of reads and writes while links come and go: none is read or written through."""
    from harness.agents.bundles.rooted import Rooted

    rooted = Rooted(root)
    seen: set[bytes] = set()
    refused = 0
    until = time.monotonic() + 3
    while time.monotonic() < until:
        for _ in range(50):
            try:
                seen.add(rooted.read("d/f", max_bytes=100))
                rooted.write("d/f", b"inside")
            except (OSError, ValueError):
                refused += 1

    assert seen == {b"inside"}
    assert refused > 0, "the links were never met, so nothing was tried"
    assert (root.parent / "out" / "f").read_text() == "do not show"
    assert [path.name for path in (root.parent / "out").iterdir()] == ["f"]


async def test_a_second_name_of_an_outer_file_is_replaced_not_written_through(box: Box) -> None:
    """A hard link is another name of the same file; writing makes a new one."""
    os.link(box.root.parent / "secret", box.root / "hard")

    await box.use("write_file", path="hard", content="mine")

    assert (box.root.parent / "secret").read_text() == "do not show"
    assert (box.root / "hard").read_text() == "mine"


async def test_special_files_are_refused_and_do_not_block(box: Box) -> None:
    """A FIFO nobody writes to would hang a reader for ever."""
    os.mkfifo(box.root / "fifo")

    with pytest.raises(ToolRejected, match="no regular file"):
        await box.use("read_file", path="fifo")
    with pytest.raises(ToolRejected, match="no regular file"):
        await box.use("write_file", path="fifo", content="x")


async def test_files_that_are_missing_binary_or_too_long_are_refused_in_words(box: Box) -> None:
    """One line each that says what is wrong."""
    (box.root / "binary").write_bytes(b"\0\1\2")
    with (box.root / "long").open("wb") as file:
        file.truncate(9 << 20)

    for path, words in (("none", "no such file"), ("binary", "no text file"), ("long", "over the limit")):
        with pytest.raises(ToolRejected, match=words):
            await box.use("read_file", path=path)


async def test_a_long_file_is_read_in_pages(box: Box) -> None:
    """`offset` and `limit` count lines; `more` says whether there are others."""
    (box.root / "lines").write_text("".join(f"{n}\n" for n in range(1, 101)))

    page = await box.use("read_file", path="lines", offset=11, limit=2)

    assert page == {"content": "11\n12\n", "lines": 100, "more": True}


async def test_a_patch_that_does_not_fit_is_refused_with_the_reason_and_changes_nothing(box: Box) -> None:
    """Of two files one does not fit, so neither is touched."""
    patch = (
        "--- a/test_app.py\n+++ b/test_app.py\n@@ -1,3 +1,3 @@\n-from app import add\n+from app import *\n \n \n"
        "--- a/app.py\n+++ b/app.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n-    return a * b\n+    return a + b\n"
    )

    with pytest.raises(ToolRejected, match=r"does not apply: patch failed: app.py:1"):
        await box.use("apply_patch", patch=patch)

    assert git(box.root, "status", "--porcelain") == ""
    assert (await box.types())[-1] == "step.rejected"


@pytest.mark.parametrize(
    "patch",
    [
        "--- a/../secret\n+++ b/../secret\n@@ -1 +1 @@\n-do not show\n+owned\n",
        "--- /dev/null\n+++ b/../new\n@@ -0,0 +1 @@\n+owned\n",
        "--- /etc/hostname\n+++ /etc/hostname\n@@ -1 +1 @@\n-x\n+y\n",
        "--- a/link\n+++ b/link\n@@ -1 +1 @@\n-do not show\n+owned\n",
        "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+../secret\n"
        "\\ No newline at end of file\n",
        "--- a/.git/config\n+++ b/.git/config\n@@ -1 +1 @@\n-[core]\n+[evil]\n",
        'diff --git "a/\\056\\056/secret" "b/\\056\\056/secret"\n'
        '--- "a/\\056\\056/secret"\n+++ "b/\\056\\056/secret"\n@@ -1 +1 @@\n-do not show\n+owned\n',
        "",
        "no patch at all",
    ],
)
async def test_a_patch_that_leads_out_or_is_none_is_refused(box: Box, patch: str) -> None:
    """By its names, by a link that is there, or by a link that it would make."""
    (box.root / "link").symlink_to("../secret")

    with pytest.raises(StepRejected):
        await box.use("apply_patch", patch=patch)

    assert (box.root.parent / "secret").read_text() == "do not show"
    assert not (box.root.parent / "new").exists()
    assert not (box.root / "l").is_symlink()


async def test_a_patch_may_rename_remove_make_and_change_modes(box: Box) -> None:
    """What git can say in a diff."""
    patch = (
        "diff --git a/app.py b/lib/math.py\nsimilarity index 100%\nrename from app.py\nrename to lib/math.py\n"
        "diff --git a/test_app.py b/test_app.py\ndeleted file mode 100644\n--- a/test_app.py\n+++ /dev/null\n@@ -1,5 +0,0 @@\n"
        "-from app import add\n-\n-\n-def test_add():\n-    assert add(1, 2) == 3\n"
        "diff --git a/run b/run\nnew file mode 100755\n--- /dev/null\n+++ b/run\n@@ -0,0 +1 @@\n+#!/bin/sh\n"
    )

    told = await box.use("apply_patch", patch=patch)

    assert told == {"written": ["lib/math.py", "run"], "removed": ["app.py", "test_app.py"]}
    assert os.access(box.root / "run", os.X_OK)
    assert (box.root / "lib" / "math.py").read_text().startswith("def add")


@pytest.mark.parametrize(
    "argv",
    [
        ["rm", "-rf", "x"], ["sh", "-c", "true"], ["ls", "/etc"], ["ls", "../"], ["ls", "--x=/etc"], ["ls", "-I../x"],
        ["/bin/ls"], ["ls", "a\0b"], [],
    ],
)  # fmt: skip
async def test_only_allowed_commands_run_and_name_nothing_outside(box: Box, argv: list[str]) -> None:
    """A rejection, and no process was started."""
    with pytest.raises(StepRejected):
        await box.use("run_command", argv=argv)

    assert (await box.types())[-1] == "step.rejected"


async def test_there_is_no_shell(box: Box) -> None:
    """What a shell would make of a word is just the word."""
    done = await box.use("run_command", argv=["ls", "$(touch owned); touch owned"])

    assert done["exit_code"] != 0
    assert not (box.root / "owned").exists()


async def test_a_command_is_ended_as_a_tree(root: Path) -> None:
    """After the time is over nobody is left, also not a grandchild in a session of its own that ignores TERM."""
    pids = root / "pids"
    script = (
        "import os, signal, subprocess, sys, time\n"
        "child = 'import os,signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(600)'\n"
        "p = subprocess.Popen([sys.executable, '-c', child], start_new_session=True)\n"
        f"open({str(pids)!r}, 'w').write(f'{{p.pid}} {{os.getpid()}}'); time.sleep(600)"
    )
    tools = CodingHarnessTools(
        sandbox_root=root, commands=[(sys.executable,)], limits=CommandLimits(seconds=2)
    )  # fmt: skip
    async with Kernel(store=MemoryStore(), tool_port=tools) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")
        (root / "s.py").write_text(script)

        done = await Box(root, kernel).use("run_command", argv=[sys.executable, "s.py"])

    assert done["timed_out"] is True
    for pid in pids.read_text().split():
        assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_command_is_limited_in_memory_processor_output_and_files(root: Path) -> None:
    """A greedy program hurts itself only, and what it floods out is shortened in the middle."""
    limits = CommandLimits(
        seconds=60, output_bytes=1000, processes=ResourceLimits(memory_bytes=512 << 20, cpu_seconds=2, file_bytes=1 << 20)
    )
    tools = CodingHarnessTools(sandbox_root=root, commands=[(sys.executable,)], limits=limits)
    async with Kernel(store=MemoryStore(), tool_port=tools) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")
        box = Box(root, kernel)
        for name, code in {
            "memory": "x = bytearray(1 << 30)",
            "processor": "while True: pass",
            "output": "print('x' * 1_000_000)",
            "file": "import signal; signal.signal(25, signal.SIG_IGN); open('big', 'wb').write(bytes(2 << 20))",
        }.items():
            (root / f"{name}.py").write_text(code)

        told = {
            name: await box.use("run_command", argv=[sys.executable, f"{name}.py"])
            for name in ("memory", "processor", "output", "file")
        }

    assert "MemoryError" in told["memory"]["output"]
    assert told["processor"]["signal"] is not None
    assert "bytes left out" in told["output"]["output"]
    assert len(told["output"]["output"]) < 2000
    assert "File too large" in told["file"]["output"]
    assert (root / "big").stat().st_size <= 1 << 20


async def test_secrets_of_the_environment_are_not_given_to_commands(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test run has no business with the operator's keys."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    tools = CodingHarnessTools(sandbox_root=root, commands=[(sys.executable,)])
    (root / "env.py").write_text("import os; print(sorted(os.environ))")
    async with Kernel(store=MemoryStore(), tool_port=tools) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")

        done = await Box(root, kernel).use("run_command", argv=[sys.executable, "env.py"])

    assert "ANTHROPIC_API_KEY" not in done["output"]


async def test_a_hook_that_the_agent_wrote_does_not_run(box: Box) -> None:
    """Neither git's own directory can be written, nor does a hook that is there run."""
    hook = box.root / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch owned\n")
    hook.chmod(0o755)
    await box.use("write_file", path="x", content="x")

    await box.use("git_commit", message="x")

    assert not (box.root / "owned").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", "-b", ".hidden", "x.lock", "a..b", "x" * 200])
async def test_a_worktree_has_a_plain_name(box: Box, name: str) -> None:
    """It becomes a directory and a branch."""
    with pytest.raises(StepRejected, match="worktree's name"):
        await box.use("create_worktree", name=name)


async def test_a_worktree_of_a_wrong_base_or_a_taken_name_is_refused(box: Box) -> None:
    """The reason is git's."""
    await box.use("create_worktree", name="one")

    with pytest.raises(StepRejected, match="is no commit"):
        await box.use("create_worktree", name="two", base="nowhere")
    with pytest.raises(Exception, match=r"already exists|already checked out|already used"):
        await box.use("create_worktree", name="one")


async def test_two_worktrees_at_once_do_not_disturb_each_other(box: Box) -> None:
    """One lock per repository."""
    import anyio

    async with anyio.create_task_group() as group:
        for n in range(6):
            group.start_soon(lambda n=n: box.use("create_worktree", name=f"w{n}"))

    assert sorted(p.name for p in (box.root / "worktrees").iterdir()) == [f"w{n}" for n in range(6)]


async def test_a_tool_without_its_capability_is_denied(box: Box) -> None:
    """Each tool needs its own."""
    nobody = TenantContext(tenant_id="coder", capabilities=frozenset({READ}))

    for tool, more in (("write_file", {"path": "x", "content": ""}), ("run_tests", {}), ("create_worktree", {"name": "x"})):
        with pytest.raises(CapabilityDenied):
            await box.use(tool, nobody, **more)
    assert (await box.use("read_file", nobody, path="app.py"))["lines"] == 2


async def test_a_commit_that_was_made_before_a_crash_is_found_and_not_made_again(box: Box) -> None:
    """The commit carries the step's key; its probe finds it."""
    tool = box.kernel.tools.get("git_commit")
    assert tool is not None
    await box.use("write_file", path="x", content="x")
    made = await box.kernel.step_tool(
        run_id="r", tenant=TENANT, tool_name="git_commit", arguments={"message": "m"}, step_key="c"
    )
    from harness.kernel import ToolExecutionContext

    key = git(box.root, "log", "-1", "--format=%(trailers:key=Harness-Step,valueonly)").strip()
    context = ToolExecutionContext(run_id="r", tenant=TENANT, tool_name="git_commit", step="c", idempotency_key=key)
    other = ToolExecutionContext(run_id="r", tenant=TENANT, tool_name="git_commit", step="c", idempotency_key="f" * 32)

    assert (await tool.ask_probe({"message": "m"}, context)).result == json.loads(made.result_json)
    assert (await tool.ask_probe({"message": "m"}, other)).happened is False


async def test_a_patch_that_was_applied_before_a_crash_is_known(box: Box) -> None:
    """It can be taken back; before it could be applied; in between nobody knows."""
    tool = box.kernel.tools.get("apply_patch")
    assert tool is not None
    patch = "--- a/app.py\n+++ b/app.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n-    return a - b\n+    return a + b\n"
    from harness.kernel import ToolExecutionContext

    context = ToolExecutionContext(run_id="r", tenant=TENANT, tool_name="apply_patch", step="c", idempotency_key="f")
    before = await tool.ask_probe({"patch": patch}, context)
    await box.use("apply_patch", patch=patch)
    after = await tool.ask_probe({"patch": patch}, context)
    (box.root / "app.py").write_text("other\n")
    between = await tool.ask_probe({"patch": patch}, context)

    assert (before.happened, after.happened, between.happened) == (False, True, None)


def test_a_root_that_is_none_is_refused(tmp_path: Path) -> None:
    """At once, and in words."""
    with pytest.raises(UsageError, match="make it first"):
        CodingHarnessTools(sandbox_root=tmp_path / "none")
    with pytest.raises(UsageError, match="at least the program's name"):
        CodingHarnessTools(sandbox_root=tmp_path, commands=[[]])
