"""Every code block of the README and of `docs/` runs, in the order of its page, and prints what the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(
    r"^(?P<mark><!-- not run: [^\n]+ -->\n+)?```(?P<language>[\w-]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """One fenced block, where it is, and what the block after it says it prints."""

    line: int
    language: str
    body: str
    runs: bool
    output: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(text))
    result: list[Block] = []
    for index, match in enumerate(found):
        following = found[index + 1] if index + 1 < len(found) else None
        output = following["body"] if following is not None and following["language"] == "output" else None
        line = text.count("\n", 0, match.start()) + 1
        result.append(Block(line, match["language"], match["body"], match["mark"] is None, output))
    return result


def run(block: Block, folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "COLUMNS": "120",
    }
    environment.pop("HARNESS_HOME", None)
    command = (
        [sys.executable, "-c", block.body] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", block.body]
    )
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"line {block.line} exits with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs_and_prints_what_the_page_says(page: Path, tmp_path: Path) -> None:
    """A reader who copies the blocks of a page into an empty folder gets what the page shows."""
    for block in blocks(page):
        match block.language:
            case "python" | "bash" if block.runs:
                printed = run(block, tmp_path)
                if block.output is not None:
                    assert printed == block.output, f"line {block.line} prints something else"
            case "json" if block.runs:
                json.loads(block.body)
            case "toml":
                tomllib.loads(block.body)
            case _:
                pass


@pytest.mark.parametrize("page", [*PAGES, ROOT / "ARCHITECTURE.md"], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Every relative link and picture exists."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_can_be_found_from_the_readme() -> None:
    """No page is known only to who wrote it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [page.name for page in PAGES if page.parent.name == "docs" and f"(docs/{page.name})" not in readme] == []
