"""The command line on a ledger in PostgreSQL: `database = "postgresql://…"` in harness.toml, or HARNESS_DATABASE."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

PASSWORD = "correct-horse"


def harness(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=folder, env={**kept, "HOME": str(folder), **environment}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, postgres_dsn: str) -> Path:
    """A folder whose harness.toml names the database, with a password that the server does not ask for."""
    address = postgres_dsn.replace("postgres@", f"postgres:{PASSWORD}@")
    (tmp_path / "harness.toml").write_text(f'database = "{address}"\n', encoding="utf-8")
    return tmp_path


def test_a_ledger_in_a_database_is_made_written_read_and_verified(project: Path, tmp_path: Path) -> None:
    """init makes it; tickets, events, streams, seal, export, erase, import and verify work on it."""
    before = harness(project, "ledger", "verify")
    made = json.loads(harness(project, "init", "--json").stdout)
    again = json.loads(harness(project, "init", "--json").stdout)
    added = harness(project, "tickets", "create", "Rotate the keys", "--json")
    listed = harness(project, "tickets", "list", "--json")
    streams = json.loads(harness(project, "ledger", "streams", "--json").stdout)
    stream = next(row["stream"] for row in streams if row["stream"].startswith("item/"))
    events = harness(project, "ledger", "events", stream)
    sealed = harness(project, "ledger", "seal")
    exported = harness(project, "ledger", "export", stream, "-o", "bundle.jsonl")
    rebuilt = harness(project, "ledger", "rebuild", "--check", "--json")
    erased = harness(project, "ledger", "erase", stream, "1", "--reason", "test")
    verified = harness(project, "ledger", "verify", "--json")

    assert before.returncode == 1
    assert "there is no ledger here" in before.stderr
    assert len(before.stderr.splitlines()) == 1
    assert (made["created"], again["created"]) == (True, False)
    assert PASSWORD not in json.dumps(made) + before.stderr
    assert added.returncode == 0, added.stderr
    assert "Rotate the keys" in listed.stdout
    assert [json.loads(line)["seq"] for line in events.stdout.splitlines()][:2] == [1, 2]
    for done in (sealed, exported, erased, rebuilt, verified):
        assert done.returncode == 0, done.stderr
    assert json.loads(verified.stdout)["ok"] is True
    assert not (project / ".harness" / "harness.db").exists()


def test_doctor_names_what_holds_followers_back(
    project: Path, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A transaction that somebody left open, with its process and its age."""
    from harness.cli import doctor, main

    monkeypatch.chdir(project)
    monkeypatch.setattr(doctor, "_LONG_SECONDS", 0.0)
    assert main(["init"]) == 0
    with psycopg.connect(postgres_dsn, application_name="old report") as old:
        old.execute("SELECT pg_current_xact_id()")
        assert main(["doctor", "--json"]) == 1
        findings = capsys.readouterr().out

        assert f"process {old.info.backend_pid} (postgres, old report, idle in transaction)" in findings
    assert "events in" in findings
    assert "followers wait for its end" in findings
    assert PASSWORD not in findings


@pytest.mark.parametrize(
    ("address", "said", "code"),
    [
        ("postgresql://postgres:correct-horse@127.0.0.1:1/x", "cannot be reached", 1),
        ("postgresql://postgres:correct-horse@127.0.0.1:notaport/x", "notaport", 1),
        ("mysql://root:correct-horse@localhost/x", "no ledger is kept in 'mysql'", 2),
    ],
)
def test_an_address_that_leads_nowhere_is_told_in_one_line(tmp_path: Path, address: str, said: str, code: int) -> None:
    """Without a traceback, and without the password."""
    done = harness(tmp_path, "ledger", "verify", HARNESS_DATABASE=address)

    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert PASSWORD not in done.stderr
