"""Try every aspect of the agent programs that are at hand, and write what they do into docs/agents.md.

    uv run python tools/agents_matrix.py [NAME=PATH ...]

Without arguments it takes `claude` and `codex` from HARNESS_TEST_CLAUDE, HARNESS_TEST_CODEX (or PATH), and a second Claude
Code from HARNESS_TEST_CLAUDE_2. Rows of versions that are not at hand stay as they are. Their model is a scripted one on
loopback; nothing is spent.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.sessions.trials import ASPECTS, MODES, Trial, try_program

DOCUMENT = Path(__file__).parents[1] / "docs" / "agents.md"
BEGIN, END = "<!-- agents matrix: begin -->", "<!-- agents matrix: end -->"
TITLES = {"claude": "Claude Code", "codex": "Codex"}

Row = tuple[str, ...]


def at_hand() -> list[tuple[str, str]]:
    """The programs that can be tried, by name and path."""
    named = [(name, os.environ.get(f"HARNESS_TEST_{name.upper()}") or shutil.which(name) or "") for name in TITLES]
    named.insert(1, ("claude", os.environ.get("HARNESS_TEST_CLAUDE_2", "")))
    return [(name, path) for name, path in named if path]


def row(trial: Trial) -> Row:
    """One line of the table, cell by cell."""
    return (TITLES[trial.program], trial.version, trial.mode, *("yes" if trial.does[aspect] else "no" for aspect in ASPECTS))


def rows(document: str) -> list[Row]:
    """The lines of the table as the document has it."""
    lines = document.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:] if line.startswith("|")]


def with_rows(document: str, found: Iterable[Row]) -> str:
    """The document with these lines in its table, beside those of other versions."""
    fresh = {line[:3]: line for line in found}
    table = sorted({**{line[:3]: line for line in rows(document)}, **fresh}.values(), key=_order)
    head = ("program", "version", "mode", *ASPECTS)
    lines = [head, ("---",) * len(head), *table]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    meaning = "\n".join(f"* **{aspect}**: {words}" for aspect, words in ASPECTS.items())
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n{text}\n\n{meaning}\n{END}{rest.partition(END)[2]}"


def _order(line: Row) -> tuple[str, tuple[int, ...], int]:
    """By program, the newest version first, modes as they are listed."""
    name = next(name for name, title in TITLES.items() if title == line[0])
    version = tuple(-int(number) for number in re.findall(r"\d+", line[1]))
    return line[0], version, [str(mode) for mode in MODES[name]].index(line[2])


async def tried(programs: Iterable[tuple[str, str]]) -> Mapping[Row, str]:
    """The lines of these programs, each with what cut its trial short."""
    found: dict[Row, str] = {}
    for name, path in programs:
        for mode in MODES[name]:
            with tempfile.TemporaryDirectory(prefix="agents-matrix-", ignore_cleanup_errors=True) as folder:
                trial = await try_program(name, path, mode, Path(folder))
            found[row(trial)] = trial.problem
            print(f"{name} {trial.version} {mode}: {trial.problem or ', '.join(a for a in ASPECTS if trial.does[a])}")
    return found


def main(words: list[str]) -> int:
    """Write the table; 1 if a trial was cut short."""
    given = [(name, path) for name, _, path in (word.partition("=") for word in words)]
    found = asyncio.run(tried(given or at_hand()))
    if any(found.values()):
        return 1
    document = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(with_rows(document, found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
