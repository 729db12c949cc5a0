"""docs/agents.md says what the agent programs that are at hand really do: every aspect is tried again in every mode."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.session_rigs import real_program

from harness.sessions.facts import Mode
from harness.sessions.probing import probe_program
from harness.sessions.trials import MODES, Trial, try_program

ROOT = Path(__file__).parents[2]
AT_HAND = {
    "claude": real_program("claude"), "claude-2": os.environ.get("HARNESS_TEST_CLAUDE_2", ""), "codex": real_program("codex"),
}  # fmt: skip
TRIED = [(name, mode) for name, path in AT_HAND.items() if path or name != "claude-2" for mode in MODES[name.partition("-")[0]]]
pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def matrix() -> ModuleType:
    """The program that writes the table."""
    spec = importlib.util.spec_from_file_location("agents_matrix", ROOT / "tools" / "agents_matrix.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["agents_matrix"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "mode"), TRIED)
async def test_the_table_says_what_a_program_does(name: str, mode: Mode, matrix: ModuleType, tmp_path: Path) -> None:
    """Its row is the one that a trial gives; if it is not, run tools/agents_matrix.py and see whether that is good."""
    program = name.partition("-")[0]
    if not AT_HAND[name]:
        pytest.skip(f"{program} is missing: install it, or name it in HARNESS_TEST_{program.upper()}")

    trial = await try_program(program, AT_HAND[name], mode, tmp_path)

    assert trial.problem == ""
    assert matrix.row(trial) in matrix.rows(matrix.DOCUMENT.read_text(encoding="utf-8"))


def test_the_table_is_written_as_it_stands(matrix: ModuleType) -> None:
    """Rows of versions that were not tried again stay, those that were are replaced, and the newest comes first."""
    document = matrix.DOCUMENT.read_text(encoding="utf-8")
    does = dict.fromkeys(matrix.ASPECTS, False)
    newer = matrix.row(Trial(program="claude", version="99.0.0", mode=Mode.PTY, does=does))

    with_newer = matrix.with_rows(document, [newer])

    assert matrix.with_rows(document, []) == document
    assert matrix.rows(with_newer) == [newer, *matrix.rows(document)]
    assert matrix.with_rows(with_newer, [newer]) == with_newer


@pytest.mark.parametrize("program", ["claude", "codex"])
async def test_the_real_programs_show_all_signs(program: str) -> None:
    """What `harness doctor --agents` looks for is there, in the modes that there are."""
    if not AT_HAND[program]:
        pytest.skip(f"{program} is missing: install it, or name it in HARNESS_TEST_{program.upper()}")

    probed = await probe_program(program, AT_HAND[program])

    assert (probed.problem, probed.lacks) == ("", ())
    assert set(probed.modes) == {str(mode) for mode in MODES[program]}
