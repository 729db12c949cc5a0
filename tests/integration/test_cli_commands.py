"""The commands, run in this process over a real home."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.cli.document import commands, render
from harness.ledger import Draft, MemoryStore, SQLiteStore, Write
from harness.recovery import facts
from harness.recovery.response import escalation
from harness.work import Item, Items, Status

ROOT = Path(__file__).parents[2]


class Cli:
    """Runs a command line and gives its exit code, its stdout and its stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = main(words)
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, *words: str) -> Any:
        code, out, err = self(*words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, with this process in it."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("HARNESS_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def cli(project: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def home(project: Path, cli: Cli) -> Path:
    """The same with a home and an empty ledger."""
    assert cli("init")[0] == 0
    return project / ".harness"


def write(home: Path, work: Callable[[SQLiteStore], Any]) -> None:
    """Write to the home's ledger."""

    async def run() -> None:
        async with SQLiteStore(home / "harness.db", actor="test") as store:
            await work(store)

    asyncio.run(run())


def event(stream: str, **payload: Any) -> Write:
    return Write(stream, (Draft(type="thing.happened", payload=payload),))


# The tree of commands


def test_every_command_is_documented() -> None:
    """docs/cli.md is what the commands say of themselves."""
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == render()


@pytest.mark.parametrize(("name", "command"), [pytest.param(name, command, id=name) for name, command in commands()])
def test_every_command_has_examples_that_name_it(name: str, command: Any) -> None:
    """A reader can copy a line."""
    assert "Examples:" in (command.help or "")
    assert name in command.help


async def test_every_command_of_a_hand_over_is_understood(cli: Cli) -> None:
    """A person who takes over at night pastes lines that work."""
    item = Item(id="t1", title="api is down", status=Status.BLOCKED, labels={"target": "api"})
    proposed = facts.IncidentActionProposed(ticket="t1", action_id="a", kind=facts.ActionKind.RESTART_SERVICE, target="api")
    decision = facts.Decision(verdict=facts.Verdict.SUGGEST, level=facts.Level.SUGGEST, reason="only suggested")
    decided = facts.IncidentActionDecided(ticket="t1", action_id="a", decision=decision)
    async with MemoryStore() as store:
        written = await store.append(Write("incident/t1", (facts.draft(proposed), facts.draft(decided))))

    commands = escalation(item, written.events, (), "it did not help").next_commands

    assert "harness services restart api" in commands
    for command in commands:
        assert cli(*shlex.split(command)[1:], "--help")[0] == 0, command


def test_help_costs_no_heavy_import() -> None:
    """The overview and a list's parsing load neither pydantic nor rich nor a web framework, nor asyncio."""
    code = (
        "import sys; from harness.cli import main; main(['--help']); main(['tickets', 'list', '--help']);"
        "print([name for name in ('pydantic', 'rich', 'fastapi', 'nicegui', 'asyncio', 'sqlite3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_a_long_running_process_carries_no_command_line() -> None:
    """Its plain form is read without typer, whatever order its options have."""
    code = (
        "import sys; from harness.cli import lean; request = lean.parse(['monitor', '--home=/x']);"
        "assert request and request.values == {'home': '/x'};"
        "assert lean.parse(['run', '-q', '--port', '9']).flags == {'quiet'};"
        "assert lean.parse(['run', '--help']) is None and lean.parse(['web', '--port']) is None;"
        "assert lean.parse(['tickets', 'list']) is None;"
        "import harness.cli.entries, harness.cli.run;"
        "print([name for name in ('typer', 'rich', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_lean_options_are_those_of_the_commands() -> None:
    """The short table and the documented options are the same."""
    from harness.cli import lean

    for name, command in commands():
        word = name.removeprefix("harness ")
        if word in lean.VALUES:
            options = {param.opts[0].removeprefix("--") for param in command.params}
            assert options == lean.VALUES[word] | lean.FLAGS[word], word


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["tickts"], "Did you mean 'tickets'"),
        (["tickets", "lst"], "Did you mean 'list'"),
        (["tickets", "list", "--limit", "many"], "whole number"),
        (["tickets", "list", "--limit", "0"], "from 1"),
        (["demo", "--chaos", "flood"], "kill, hang, slow, 503"),
        (["ledger", "erase", "item/1"], "Missing"),
        (["completion", "tcsh"], "bash, zsh, fish"),
        (["run", "--port", "x"], "whole number"),
    ],
)
def test_a_mistake_in_the_words_is_2_and_helps(cli: Cli, words: list[str], hint: str) -> None:
    """Nothing is done, stdout stays empty, and the message says what would be right."""
    code, out, err = cli(*words)

    assert (code, out) == (2, "")
    assert hint in err
    assert "Traceback" not in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed(cli: Cli, shell: str) -> None:
    """A script that asks this program."""
    code, out, _ = cli("completion", shell)

    assert code == 0
    assert "_HARNESS_COMPLETE" in out


# Reading never writes


@pytest.mark.parametrize(
    "words",
    [
        ["ledger", "verify"], ["ledger", "streams"], ["ledger", "events", "item/1"], ["tickets", "list"], ["services", "list"],
        ["checks", "list"], ["incident", "list"], ["incident", "show", "x"], ["tickets", "show", "x"], ["pause"],
        ["services", "restart", "x"], ["chaos", "kill", "x"], ["ledger", "rebuild", "--check"],
    ],
)  # fmt: skip
def test_without_a_ledger_nothing_is_made(cli: Cli, project: Path, words: list[str]) -> None:
    """One line that says what to do, exit code 1, and not one file."""
    code, out, err = cli(*words)

    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "harness init" in err
    assert list(project.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [["ledger", "verify"], ["tickets", "list"], ["services", "list"], ["checks", "list"], ["doctor"], ["incident", "list"]],
)
def test_reading_leaves_the_ledger_as_it_is(cli: Cli, home: Path, words: list[str]) -> None:
    """Not one byte of the database changes."""
    before = (home / "harness.db").read_bytes()

    code, _, _ = cli(*words)

    assert code == 0
    assert (home / "harness.db").read_bytes() == before


# The ledger


def test_verify_says_what_holds(cli: Cli, home: Path) -> None:
    """The exact JSON of the contract, for all and for one stream."""
    write(home, lambda store: store.append(event("item/1", n=1), event("item/2", n=2)))

    assert cli.json("ledger", "verify") == {"ok": True, "streams": 2, "events": 2, "problems": []}
    assert cli.json("ledger", "verify", "item/1") == {"ok": True, "streams": 1, "events": 1, "problems": []}


def test_verify_finds_a_change_and_says_where(cli: Cli, home: Path) -> None:
    """Exit code 1, the place and the kind."""
    import sqlite3

    write(home, lambda store: store.append(event("item/1", n=1)))
    with sqlite3.connect(home / "harness.db") as connection:
        connection.execute("UPDATE events SET data = ?", ('{"n":2}',))
    connection.close()

    code, out, err = cli("ledger", "verify", "--json")

    found = json.loads(out)
    assert (code, err) == (1, "")
    assert (found["ok"], found["problems"][0]["stream"], found["problems"][0]["seq"]) == (False, "item/1", 1)
    assert found["problems"][0]["kind"] == "changed"


def test_an_unknown_stream_is_an_error(cli: Cli, home: Path) -> None:
    """Never a valid one."""
    for words in (["ledger", "verify", "item/nope"], ["ledger", "events", "item/nope"], ["ledger", "export", "item/nope"]):
        code, out, err = cli(*words)
        assert (code, out) == (1, "")
        assert "item/nope" in err


def test_events_are_json_lines(cli: Cli, home: Path) -> None:
    """One stream or all that begin so, in order."""
    write(home, lambda store: store.append(event("item/1", n=1), event("item/10", n=2), event("run/1", n=3)))

    def numbers(*words: str) -> list[int]:
        code, out, _ = cli("ledger", "events", *words)
        assert code == 0
        return [json.loads(line)["payload"]["n"] for line in out.splitlines()]

    assert numbers("item/1") == [1]
    assert numbers("item/") == [1, 2]
    assert numbers("/") == [1, 2, 3]


def test_what_is_no_bundle_and_no_place_for_one_is_told_in_one_line(cli: Cli, home: Path, tmp_path: Path) -> None:
    """Also if it is not even text; and nothing half-written is left."""
    write(home, lambda store: store.append(event("item/1", n=1)))
    (tmp_path / "noise").write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()

    for words in (["import", str(tmp_path / "noise")], ["export", "item/1", "-o", str(tmp_path / "folder")]):
        code, out, err = cli("ledger", *words)
        assert (code, out, err.count("\n")) == (1, "", 1)

    assert not (tmp_path / "folder.new").exists()


def test_the_doctor_tells_of_a_ledger_it_may_not_look_at(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds out what is wrong with this home, and so never ends at the first thing that is."""
    exists = Path.exists

    def denied(path: Path, **more: Any) -> bool:
        if path.name == "harness.db":
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path, **more)

    monkeypatch.setattr(Path, "exists", denied)
    code, out, _ = cli("doctor")

    assert code == 1
    assert "broken   ledger" in out
    assert "Permission denied" in out


def test_a_bundle_may_go_to_what_is_no_file(home: Path, tmp_path: Path) -> None:
    """A device, a pipe or a link is written to, never replaced by a file; a full one is told."""
    write(home, lambda store: store.append(event("item/1", n=1)))
    link, full = tmp_path / "out", tmp_path / "full"
    link.symlink_to("/dev/stdout")
    full.symlink_to("/dev/full")

    export = (sys.executable, "-m", "harness", "ledger", "export", "item/1", "-o")
    done = subprocess.run((*export, str(link)), capture_output=True, text=True, timeout=60, cwd=home.parent, check=True)
    failed = subprocess.run((*export, str(full)), capture_output=True, text=True, timeout=60, cwd=home.parent, check=False)

    assert len(done.stdout.splitlines()) == 3
    assert [link.is_symlink(), full.is_symlink()] == [True, True]
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == f"harness: {full}: No space left on device\n"


def test_a_bundle_that_is_none_is_named(cli: Cli, home: Path, tmp_path: Path) -> None:
    """The file and its line are told, not the line alone."""
    bundle = tmp_path / "empty.jsonl"
    bundle.touch()

    code, _, err = cli("ledger", "import", str(bundle))

    assert code == 1
    assert err.startswith(f"harness: {bundle}: line 1: not a bundle")


def test_a_key_that_is_not_there_is_not_made(cli: Cli, home: Path, tmp_path: Path) -> None:
    """A mistyped `--key` would sign with a key that nobody trusts."""
    code, _, err = cli("ledger", "seal", "--key", str(tmp_path / "harnes.pem"))

    assert code == 1
    assert "no such key" in err
    assert not (tmp_path / "harnes.pem").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_standard_streams_are_no_trap(home: Path, closed: str) -> None:
    """What the command opens never becomes its stdout; the ledger stays whole."""
    write(home, lambda store: store.append(event("item/1", n=1)))
    command = f"{sys.executable} -m harness ledger streams"
    done = subprocess.run(
        f"{command} {closed}", shell=True, capture_output=True, text=True, timeout=60, cwd=home.parent, check=False
    )

    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_a_bundle_goes_from_one_ledger_to_another(cli: Cli, home: Path, tmp_path: Path) -> None:
    """Exported, verified and imported as it is; a second time it is refused."""
    write(home, lambda store: store.append(event("item/1", n=1)))
    bundle, other = tmp_path / "bundle.jsonl", tmp_path / "other"
    assert cli("ledger", "export", "item/1", "-o", str(bundle))[0] == 0
    assert cli("--home", str(other), "init")[0] == 0

    first = cli("ledger", "import", str(bundle), "--home", str(other))[0]
    again = cli("ledger", "import", str(bundle), "--home", str(other))

    assert first == 0
    assert again[0] == 1
    assert len(again[2].splitlines()) == 1
    assert cli.json("ledger", "verify", "item/1", "--home", str(other))["ok"] is True


def test_an_erased_payload_is_gone_and_the_chain_holds(cli: Cli, home: Path) -> None:
    """And the erasing is recorded."""
    write(home, lambda store: store.append(event("item/1", secret="s3cret")))

    assert cli("ledger", "erase", "item/1", "1", "--reason", "personal")[0] == 0

    _, out, _ = cli("ledger", "events", "/")
    assert "s3cret" not in out
    assert '"erased":true' in out
    assert cli.json("ledger", "verify")["ok"] is True


def test_a_seal_finds_a_cut_tail(cli: Cli, home: Path) -> None:
    """What the ledger alone cannot know."""
    import sqlite3

    write(home, lambda store: store.append(event("item/1", n=1)))
    write(home, lambda store: store.append(event("item/1", n=2)))
    seal = cli.json("ledger", "seal")["seal"]
    with sqlite3.connect(home / "harness.db") as connection:
        connection.execute("DELETE FROM events WHERE seq = 2")
    connection.close()

    code, out, _ = cli("ledger", "verify", "--seal", seal, "--json")

    assert code == 1
    assert "truncated" in {problem["kind"] for problem in json.loads(out)["problems"]}


def test_the_tables_are_checked_and_rebuilt(cli: Cli, home: Path) -> None:
    """Folding anew gives the same; a table that was tampered with is found."""
    import sqlite3

    write(home, lambda store: Items(store).create(title="one"))
    assert cli.json("ledger", "rebuild", "--check")["ok"] is True
    with sqlite3.connect(home / "harness.db") as connection:
        connection.execute("UPDATE items SET title = 'two'")
    connection.close()

    broken = cli("ledger", "rebuild", "--check", "--json")
    rebuilt = cli.json("ledger", "rebuild")

    assert broken[0] == 1
    assert "items" in json.loads(broken[1])["differing"]
    assert rebuilt["ok"] is True
    assert cli.json("ledger", "rebuild", "--check")["ok"] is True


# Tickets


def test_a_ticket_lives_on_the_command_line(cli: Cli, home: Path) -> None:
    """Created, listed, noted, shown, closed."""
    created = cli.json("tickets", "create", "Rotate the logs", "--priority", "high")
    cli("tickets", "note", created["id"], "soon")
    listed = cli.json("tickets", "list", "--status", "ready")
    shown = cli.json("tickets", "show", created["id"])
    closed = cli.json("tickets", "close", created["id"], "--reason", "done")

    assert [ticket["id"] for ticket in listed] == [created["id"]]
    assert [each["type"] for each in shown["events"]] == ["item.created", "item.described", "item.noted"]
    assert (closed["status"], closed["verified"]) == ("completed", False)
    assert cli.json("tickets", "list", "--status", "open") == []


def test_closing_what_has_gates_hands_it_to_the_verifier(cli: Cli, home: Path) -> None:
    """A person's word is not enough where checks can prove it."""
    write(home, lambda store: Items(store).create(title="heal", gates=("checks",), id="t1"))

    assert cli.json("tickets", "close", "t1")["status"] == "verifying"
    assert cli("tickets", "close", "t1")[0] == 1


@pytest.mark.parametrize("words", [["show", "nope"], ["note", "nope", "x"], ["close", "nope"], ["approve", "nope"]])
def test_an_unknown_ticket_is_1_with_one_line(cli: Cli, home: Path, words: list[str]) -> None:
    """Not a traceback."""
    code, out, err = cli("tickets", *words)

    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "nope" in err


def test_hostile_titles_are_shown_harmless(cli: Cli, home: Path) -> None:
    """Escapes reach no terminal; JSON keeps them encoded."""
    write(home, lambda store: Items(store).create(title="\x1b[2J\u202eevil\nline", id="t1"))

    _, out, _ = cli("tickets", "list")
    _, shown, _ = cli("tickets", "show", "t1")

    assert "\x1b[2J" not in out + shown
    assert "\u202e" not in out + shown


# What is declared


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[monitor]\nattemps = 2", "harness.toml:3: unknown key 'attemps' in [monitor]; did you mean 'attempts'?"),
        ("[agent]\nmodel = 'antropic:x'", "[agent] model: 'antropic:x' names no model port; did you mean 'anthropic'"),
        ("[supervisor]\nx = 1", "harness.toml:2: unknown key 'supervisor'"),
        ("[web]\nport = 99999", "harness.toml:3: web.port: expected `int` <= 65535"),
        ("[agent]\nat_once = 0", "harness.toml:3: agent.at_once: expected `int` >= 1"),
        ("[agent]\nmodel_seconds = inf", "harness.toml:3: agent.model_seconds: expected `float` <= 1000000000.0"),
        ("[monitor]\nanalyst_seconds = nan", "harness.toml:3: monitor.analyst_seconds: expected `float`"),
        ("[invariants.a]\nquery = 'process:api'\ncondition = 'runing'", "harness.toml:4: check a: condition `runing` names"),
    ],
)  # fmt: skip
def test_what_could_never_work_is_told_before_anything_starts(project: Path, cli: Cli, text: str, told: str) -> None:
    """Without it the services would run and nobody would watch them; the doctor says the same."""
    (project / "harness.toml").write_text(f"services.api.command = ['sleep', '600']\n{text}\n", encoding="utf-8")

    ran = subprocess.run([sys.executable, "-m", "harness", "run"], capture_output=True, text=True, timeout=60)
    code, out, _ = cli("doctor")

    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert told in ran.stderr
    assert (code, told in out) == (1, True)
    assert not (project / ".harness").exists()


@pytest.mark.parametrize("command", ["run", "web", "service"])
def test_a_port_that_there_cannot_be_is_told(project: Path, command: str) -> None:
    """In one line, before anything starts."""
    ran = subprocess.run(
        [sys.executable, "-m", "harness", command, "--port", "99999"], capture_output=True, text=True, timeout=60, cwd=project
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", "harness: --port takes a port up to 65535, not 99999\n")


# Services and checks


def test_before_the_first_run_the_lists_show_what_is_declared(project: Path, cli: Cli) -> None:
    """With and without a ledger; not the built-in demo where nothing is declared."""
    nothing = cli("services", "list")
    (project / "harness.toml").write_text(
        "[services.api]\ncommand = ['sleep', '600']\n[invariants.up]\nquery = 'process:api'\n", encoding="utf-8"
    )
    before = [cli(kind, "list", "--json") for kind in ("services", "checks")]
    cli("init")
    after = [cli(kind, "list", "--json") for kind in ("services", "checks")]

    assert nothing[0] == 1
    for listed in (before, after):
        (services, checks) = [json.loads(out) for _, out, _ in listed]
        assert [(row["name"], row["state"]) for row in services] == [("api", "not started")]
        assert [(row["name"], row["target"], row["observed"]) for row in checks] == [("up", "api", "not started")]


def test_services_are_listed_as_the_ledger_has_them(cli: Cli, home: Path) -> None:
    """Without a supervisor nobody knows what runs."""
    declared = facts.ServiceDeclared(name="api", command=("python", "-m", "api"), address="127.0.0.1:9000")
    ready = facts.ServiceReady(epoch=1, pid=7, seconds=0.1)
    write(home, lambda store: store.append(Write("service/api", (facts.draft(declared), facts.draft(ready)))))

    (row,) = cli.json("services", "list")

    assert (row["name"], row["state"], row["ready"], row["address"]) == ("api", "unknown", False, "127.0.0.1:9000")


def test_acting_without_a_supervisor_is_refused_at_once(cli: Cli, home: Path) -> None:
    """Nobody could answer, so nobody is asked."""
    declared = facts.ServiceDeclared(name="api", command=("x",))
    write(home, lambda store: store.append(Write("service/api", (facts.draft(declared),))))

    for words in (["services", "restart", "api"], ["chaos", "kill", "api"]):
        code, out, err = cli(*words)
        assert (code, out) == (1, "")
        assert "harness run" in err
    assert cli("services", "stop", "nope")[2].startswith("harness: no service 'nope'")


def test_a_check_is_added_silenced_and_listed(cli: Cli, home: Path) -> None:
    """While everything runs; what could never work is refused."""
    added = cli.json("checks", "add", "api_up", "http://localhost:9000/health", "status == 200")
    refused = cli("checks", "add", "bad", "http://localhost:9000/", "status = 200")
    silenced = cli.json("checks", "silence", "api_up", "--minutes", "5")

    assert (added["name"], added["result"]) == ("api_up", "unknown")
    assert (refused[0], refused[1]) == (2, "")
    assert silenced["subject"] == "api_up"
    assert [row["name"] for row in cli.json("checks", "list")] == ["api_up"]
    assert [row["name"] for row in cli.json("checks", "list", "--target", "api_up")] == ["api_up"]
    assert cli.json("checks", "list", "--target", "other") == []
    assert cli("checks", "silence", "nope")[0] == 1


def test_a_check_that_fails_is_1(cli: Cli, project: Path, home: Path) -> None:
    """Looked at here and now; nothing is recorded."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (project / "harness.toml").write_text(f'[invariants.up]\nquery = "http://127.0.0.1:{port}/"\n', encoding="utf-8")

    code, out, _ = cli("checks", "run", "--json")

    assert code == 1
    assert json.loads(out)[0]["result"] == "fail"
    assert cli.json("ledger", "streams") == []


def test_pausing_is_kept(cli: Cli, home: Path) -> None:
    """On the ledger, until it is taken back."""
    assert cli.json("pause", "--reason", "release")["paused"] is True
    assert "release" in cli.json("pause")["reason"]
    assert cli.json("unpause") == {"paused": False, "was_paused": True}
    assert cli.json("unpause")["was_paused"] is False


# The home


def test_init_keeps_what_exists(cli: Cli, project: Path) -> None:
    """And finds what a Procfile names, unless it takes a shell."""
    (project / "Procfile").write_text("web: python -m http.server 9000\nworker: sh -c 'a | b'\n", encoding="utf-8")

    first = cli.json("init")
    text = (project / "harness.toml").read_text(encoding="utf-8")
    again = cli.json("init")

    assert (first["written"], first["created"], first["services"]) == (True, True, ["web"])
    assert 'command = ["python", "-m", "http.server", "9000"]' in text
    assert (again["written"], again["created"]) == (False, False)
    assert cli("doctor")[0] == 0


def test_a_broken_configuration_is_2_with_file_and_line(cli: Cli, project: Path, home: Path) -> None:
    """And the nearest key that is known."""
    (project / "harness.toml").write_text("[web]\nprot = 1\n\n[servces.a]\n", encoding="utf-8")

    code, out, err = cli("tickets", "list")

    assert (code, out) == (2, "")
    assert "harness.toml:4" in err
    assert "services" in err


def test_a_foreign_file_as_ledger_is_a_clear_error(cli: Cli, home: Path) -> None:
    """One line, no traceback."""
    (home / "harness.db").write_bytes(b"this is no database at all, but long enough to look at" * 100)

    code, out, err = cli("tickets", "list")

    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    """`harness ledger events / | head -1`."""

    async def many(store: SQLiteStore) -> None:
        for number in range(200):
            await store.append(event("item/1", n=number, text="x" * 1000))

    write(home, many)
    done = subprocess.run(
        f"{sys.executable} -m harness ledger events / | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=60, cwd=home.parent, check=True,
    )  # fmt: skip

    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_a_table_that_is_behind_is_not_called_wrong(cli: Cli, home: Path) -> None:
    """Its next reader lets it catch up; only what it has folded can differ."""
    write(home, lambda store: Items(store).create(title="one"))
    created = Draft(type="item.created", payload={"priority": 5})
    described = Draft(type="item.described", payload={"title": "two"})
    write(home, lambda store: store.append(Write("item/2", (created, described))))  # by a store that knows no view

    assert cli.json("ledger", "rebuild", "--check")["differing"] == []
    assert len(cli.json("tickets", "list")) == 2
