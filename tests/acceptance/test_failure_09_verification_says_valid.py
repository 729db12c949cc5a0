"""Failure 9: verification says "valid" for a run that does not exist, for deleted rows, for a cut tail and for a history
that was rewritten; and artifacts and status are read without verification.

Each damage is done to the file, as somebody with a database client would, and then everything that reads the run is asked.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from harness import Kernel, MockModelPort, ModelInput, NotFound, SQLiteStore, TenantContext, Unproven
from harness.cli import main

TENANT = TenantContext(tenant_id="t")
RUN = "night-7"
OF_RUN = f"stream = (SELECT id FROM streams WHERE name = 'run/{RUN}')"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A run of five events: its beginning, two answers, an artifact, its end. Another run beside it."""
    path = tmp_path / "state.db"
    asyncio.run(_write(path))
    return path


async def _write(path: Path) -> None:
    async with SQLiteStore(path) as store, Kernel(store=store, model_port=MockModelPort(text="all is well")) as kernel:
        for run in (RUN, "other"):
            await kernel.start_run(tenant=TENANT, run_id=run)
            for key in ("a", "b"):
                await kernel.step_model(run_id=run, tenant=TENANT, model="m", input=ModelInput.from_prompt(key), step_key=key)
            await kernel.set_artifact(run_id=run, tenant=TENANT, key="plan", value="sleep")
            await kernel.finish_run(run_id=run, reason="all is well")


def damage(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0, statement
    connection.close()


DAMAGES = {
    "changed": (f"UPDATE events SET data = replace(data, 'well', 'lost') WHERE {OF_RUN} AND seq = 2",),
    "renamed": (f"UPDATE events SET actor = 'nobody' WHERE {OF_RUN} AND seq = 3",),
    "gap": (f"DELETE FROM events WHERE {OF_RUN} AND seq = 3",),
    "truncated": (f"DELETE FROM events WHERE {OF_RUN} AND seq >= 4",),
    "emptied": (f"DELETE FROM events WHERE {OF_RUN}",),
    "rewritten": (f"UPDATE streams SET hash = zeroblob(32) WHERE name = 'run/{RUN}'",),
}
PLACES = {"changed": 2, "renamed": 3, "gap": 3, "truncated": 4, "emptied": None, "rewritten": 5}


async def test_an_untouched_run_verifies(ledger: Path) -> None:
    """The control: without damage everything says yes."""
    async with SQLiteStore(ledger) as store:
        found = await store.verify_run_chain(RUN)
        assert (bool(found), found.events, found.problems) == (True, 5, ())
        assert await store.verify()


async def test_a_run_that_nobody_knows_is_an_error_not_a_yes(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing to verify, so nothing is valid."""
    async with SQLiteStore(ledger) as store, Kernel(store=store) as kernel:
        asked: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.verify_run_chain("nobody"),
            lambda: kernel.load_run(run_id="nobody"),
            lambda: kernel.get_run_status(run_id="nobody"),
            lambda: kernel.get_events(run_id="nobody"),
        ]
        for ask in asked:
            with pytest.raises(NotFound, match="nobody"):
                await ask()


@pytest.mark.parametrize("kind", DAMAGES)
async def test_a_damaged_run_is_named_with_place_and_reason(ledger: Path, kind: str) -> None:
    """Verification is false, says where and what, and loading the run is refused with the same place."""
    damage(ledger, *DAMAGES[kind])
    async with SQLiteStore(ledger) as store, Kernel(store=store) as kernel:
        found = await store.verify_run_chain(RUN)
        assert not found
        problem = found.problems[0]
        assert (problem.stream, problem.seq) == (f"run/{RUN}", PLACES[kind])
        assert problem.kind in {kind, "changed", "missing"}
        assert problem.detail
        if kind == "emptied":  # there is nothing to load
            with pytest.raises(NotFound):
                await kernel.load_run(run_id=RUN)
        else:
            with pytest.raises(Unproven) as caught:
                await kernel.load_run(run_id=RUN)
            assert (caught.value.stream, caught.value.seq) == (f"run/{RUN}", PLACES[kind])
        assert await store.verify_run_chain("other")


async def test_a_history_with_valid_hashes_of_its_own_is_found_out_by_a_seal(ledger: Path, tmp_path: Path) -> None:
    """Who recomputes every hash changes the head, which a signed statement outside of the ledger remembers."""
    from harness.ledger import signing_key, write_seal

    async with SQLiteStore(ledger) as store:
        seal = await write_seal(store, tmp_path / "seals", signing_key(tmp_path / "key.pem"))
    forged = tmp_path / "forged.db"
    async with SQLiteStore(forged) as store, Kernel(store=store, model_port=MockModelPort(text="lies")) as kernel:
        await kernel.start_run(tenant=TENANT, run_id=RUN)
        for key in "abcd":
            await kernel.step_model(run_id=RUN, tenant=TENANT, model="m", input=ModelInput.from_prompt(key), step_key=key)
    async with SQLiteStore(forged) as store:
        assert await store.verify_run_chain(RUN)
        found = await store.verify(f"run/{RUN}", seals=[seal])
        assert [problem.kind for problem in found.problems] == ["rewritten"]


async def test_artifacts_and_status_are_verified_when_they_are_read(ledger: Path) -> None:
    """A changed artifact is not handed out, a changed status not believed."""
    damage(
        ledger,
        f"UPDATE events SET data = replace(data, 'sleep', 'awake') WHERE {OF_RUN} AND seq = 4",
        f"UPDATE events SET type = 'run.cancelled' WHERE {OF_RUN} AND seq = 5",
    )
    async with SQLiteStore(ledger) as store, Kernel(store=store) as kernel:
        with pytest.raises(Unproven):
            await kernel.get_artifact(run_id=RUN, key="plan")
        with pytest.raises(Unproven):
            await kernel.get_run_status(run_id=RUN)
        assert await kernel.get_artifact(run_id="other", key="plan") == "sleep"


def test_the_command_line_ends_with_1(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`harness ledger verify` says no for an unknown run and for a damaged one."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / ".harness"
    home.mkdir(mode=0o700)
    ledger.rename(home / "harness.db")
    assert main(("ledger", "verify", f"run/{RUN}", "--home", str(home))) == 0
    assert main(("ledger", "verify", "run/nobody", "--home", str(home))) == 1
    damage(home / "harness.db", *DAMAGES["gap"])
    capsys.readouterr()

    assert main(("ledger", "verify", f"run/{RUN}", "--home", str(home))) == 1
    assert f"gap: run/{RUN}#3" in capsys.readouterr().out
