"""What verifying finds in a ledger that somebody changed behind Harness's back, and what a bundle shows."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import LedgerError, Unproven
from harness.ledger import (
    Draft,
    Head,
    Problem,
    SQLiteStore,
    Write,
    export_bundle,
    parse_bundle,
    read_seal,
    signing_key,
    write_seal,
)  # fmt: skip
from harness.ledger.events import hash_of

VERIFIER = Path(__file__).parents[2] / "tools" / "verify_bundle.py"


def note(stream: str, count: int) -> Write:
    return Write(stream, tuple(Draft(type="note.taken", payload={"n": n, "text": "x"}) for n in range(count)))


async def make(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await store.append(note("item/a", 5))
        await store.append(note("item/b", 5))
        await store.append(note("item/a", 5))


def harm(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0
    connection.close()


async def problems(path: Path, **options: object) -> list[Problem]:
    async with SQLiteStore(path, read_only=True) as store:
        return list((await store.verify(**options)).problems)  # type: ignore[arg-type]


A = "stream = (SELECT id FROM streams WHERE name = 'item/a')"
HARMS = [
    pytest.param(f"UPDATE events SET data = '{{}}' WHERE {A} AND seq = 3", "item/a", 3, "changed", id="payload"),
    pytest.param(f"UPDATE events SET actor = 'mallory' WHERE {A} AND seq = 3", "item/a", 3, "changed", id="actor"),
    pytest.param(f"UPDATE events SET ts = ts + 1 WHERE {A} AND seq = 3", "item/a", 3, "changed", id="time"),
    pytest.param(f"UPDATE events SET salt = NULL WHERE {A} AND seq = 3", "item/a", 3, "changed", id="salt"),
    pytest.param(f"DELETE FROM events WHERE {A} AND seq IN (3, 4)", "item/a", 3, "gap", id="middle"),
    pytest.param(f"DELETE FROM events WHERE {A} AND seq > 8", "item/a", 9, "truncated", id="tail"),
    pytest.param(f"DELETE FROM events WHERE {A}", "item/a", None, "missing", id="all"),
    pytest.param("UPDATE streams SET hash = zeroblob(32) WHERE name = 'item/a'", "item/a", 10, "rewritten", id="head"),
    pytest.param("UPDATE streams SET seq = 9 WHERE name = 'item/a'", "item/a", 9, "rewritten", id="listed elsewhere"),
    pytest.param("DELETE FROM streams WHERE name = 'item/a'", "?/1", None, "missing", id="unlisted"),
    pytest.param(f"UPDATE events SET actor = CAST(x'ff' AS TEXT) WHERE {A} AND seq = 3", "item/a", 3, "changed", id="no text"),
    pytest.param(f"UPDATE events SET type = x'41' WHERE {A} AND seq = 3", "item/a", 3, "changed", id="bytes"),
    pytest.param(f"UPDATE events SET ts = 'x' WHERE {A} AND seq = 3", "item/a", 3, "changed", id="no time"),
    pytest.param(f"UPDATE events SET salt = 'x' WHERE {A} AND seq = 3", "item/a", 3, "changed", id="text as salt"),
    pytest.param(f"UPDATE events SET prev = 7 WHERE {A} AND seq = 3", "item/a", 3, "changed", id="number as link"),
    pytest.param(f"UPDATE events SET seq = 2.5 WHERE {A} AND seq = 3", "item/a", 3, "changed", id="half"),
    pytest.param(f"UPDATE events SET seq = 'x' WHERE {A} AND seq = 10", "item/a", None, "changed", id="no sequence"),
    pytest.param("UPDATE streams SET seq = 'x' WHERE name = 'item/a'", "item/a", None, "rewritten", id="listed nowhere"),
    pytest.param("UPDATE streams SET name = x'41' WHERE name = 'item/a'", "b'A'", 1, "changed", id="no name"),
    pytest.param("UPDATE streams SET name = CAST(x'ff' AS TEXT) WHERE id = 1", "\ufffd", 1, "changed", id="odd name"),
]


@pytest.mark.parametrize(("statement", "stream", "seq", "kind"), HARMS)
async def test_harm_is_found_with_place_and_kind(
    tmp_path: Path, statement: str, stream: str, seq: int | None, kind: str
) -> None:
    """Each way to change history is named, with the stream and the first event concerned."""
    await make(tmp_path / "l.db")

    harm(tmp_path / "l.db", statement)

    found = (await problems(tmp_path / "l.db"))[0]
    assert (found.stream, found.seq, found.kind) == (stream, seq, kind)


async def test_a_stream_that_vanished_with_its_head_leaves_a_hole(tmp_path: Path) -> None:
    """Positions have no holes, so what is missing in the middle shows even if every trace in the stream was removed."""
    await make(tmp_path / "l.db")

    harm(
        tmp_path / "l.db",
        "DELETE FROM events WHERE stream = (SELECT id FROM streams WHERE name = 'item/b')",
        "DELETE FROM streams WHERE name = 'item/b'",
    )

    [found] = await problems(tmp_path / "l.db")
    assert found.kind == "missing"
    assert "5 events are missing" in found.detail
    assert "position 6" in found.detail


async def rewrite(path: Path) -> None:
    """Replace the whole ledger by another one that verifies."""
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        name.unlink(missing_ok=True)
    async with SQLiteStore(path) as store:
        await store.append(note("item/a", 10))
        await store.append(note("item/b", 5))


async def cut(path: Path) -> None:
    """Cut the newest events and mend everything that would show it."""
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM events WHERE position > 13")
        connection.execute(
            f"UPDATE streams SET seq = 8, position = 13, hash = (SELECT hash FROM events WHERE {A} AND seq = 8)"
            " WHERE name = 'item/a'"
        )
    connection.close()


@pytest.mark.parametrize(("attack", "kind"), [(rewrite, "rewritten"), (cut, "truncated")])
async def test_a_seal_shows_what_the_ledger_alone_cannot(tmp_path: Path, attack: Callable[[Path], object], kind: str) -> None:
    """A cut tail and a whole rewrite verify by themselves, but not against a seal."""
    path = tmp_path / "l.db"
    await make(path)
    async with SQLiteStore(path) as store:
        sealed = await write_seal(store, tmp_path / "seals", signing_key(tmp_path / "key.pem"))
        assert await store.verify(seals=[sealed])
    harm(path, "DELETE FROM streams WHERE name = 'ledger/seals'", "DELETE FROM events WHERE type = 'ledger.sealed'")

    await attack(path)  # type: ignore[misc]

    assert await problems(path) == []
    found = await problems(path, seals=[sealed])
    assert (found[0].stream, found[0].kind) == ("item/a", kind)


async def test_seals_are_chained_private_and_signed(tmp_path: Path) -> None:
    """Each names the one before; a changed one proves nothing; the key's file is for its owner only."""
    await make(tmp_path / "l.db")
    key = tmp_path / "keys" / "key.pem"
    async with SQLiteStore(tmp_path / "l.db") as store:
        first = await write_seal(store, tmp_path / "seals", signing_key(key))
        await store.append(note("item/c", 1))
        second = await write_seal(store, tmp_path / "seals", signing_key(key))
        assert await store.verify(seals=[first, second])

    assert key.stat().st_mode & 0o777 == 0o600
    assert read_seal(first).previous is None
    assert read_seal(second).previous is not None
    assert read_seal(second).events == 16
    second.write_text(second.read_text().replace("item/c", "item/d"))
    with pytest.raises(LedgerError, match="signature is not good"):
        read_seal(second)
    with pytest.raises(LedgerError, match="another key"):
        read_seal(first, public_key="00" * 32)
    with pytest.raises(LedgerError, match="not a seal"):
        read_seal(key)


async def test_erased_bytes_are_nowhere_in_the_files(tmp_path: Path) -> None:
    """Neither the database nor its write-ahead log keeps what was erased."""
    async with SQLiteStore(tmp_path / "l.db") as store:
        await store.append(Write("item/a", (Draft(type="note.taken", payload={"secret": "correct horse battery"}),)))
        await store.erase("item/a", 1, reason="leaked")

        kept = b"".join(file.read_bytes() for file in tmp_path.glob("l.db*"))

    assert b"correct horse" not in kept


@pytest.fixture
async def bundle(tmp_path: Path) -> Path:
    await make(tmp_path / "l.db")
    async with SQLiteStore(tmp_path / "l.db") as store:
        await store.append(
            Write("item/a", (Draft(type="a.b", payload={"ä": "漢\u2028", "f": 1e100}, key="ü", parent="x/y#1", actor="ö"),))
        )
        await store.erase("item/a", 2, reason="x")
        lines = [line async for line in export_bundle(store, ["item/a", "item/b"])]
    path = tmp_path / "bundle.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def verify_alone(path: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", str(VERIFIER), str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout + done.stderr


async def test_a_bundle_verifies_without_harness(bundle: Path) -> None:
    """The standalone verifier, run without our package, agrees."""
    assert verify_alone(bundle) == (0, f"{bundle}: verified, 17 events in 2 streams\n")
    assert len(parse_bundle(bundle.read_text(encoding="utf-8"))) == 2


def test_the_standalone_verifier_is_short_and_needs_nothing_of_ours() -> None:
    """Anybody can read it in a few minutes."""
    source = VERIFIER.read_text()

    assert len(source.splitlines()) < 120
    assert "harness." not in "".join(line for line in source.splitlines() if "import" in line)


def changed(number: int, **fields: object) -> Callable[[list[str]], list[str]]:
    def change(lines: list[str]) -> list[str]:
        line = json.loads(lines[number])
        line.update(fields)
        return [*lines[:number], json.dumps(line), *lines[number + 1 :]]

    return change


@pytest.mark.parametrize(
    ("change", "word"),
    [
        pytest.param(changed(3, data="{}"), "changed", id="payload"),
        pytest.param(changed(3, actor="mallory"), "changed", id="field"),
        pytest.param(changed(3, prev="00" * 32), "rewritten", id="link"),
        pytest.param(lambda lines: lines[:3] + lines[4:], "gap", id="middle"),
        pytest.param(lambda lines: lines[:-1], "truncated", id="end"),
        pytest.param(lambda lines: lines[:-2] + lines[-1:], "truncated", id="last event"),
        pytest.param(lambda lines: lines[:1] + lines[-1:], "missing|truncated", id="no events"),
    ],
)
async def test_a_changed_bundle_is_refused_by_both(bundle: Path, change: Callable[[list[str]], list[str]], word: str) -> None:
    """Ours names the place, the standalone one finds it too."""
    lines = change(bundle.read_text(encoding="utf-8").rstrip("\n").split("\n"))
    bundle.write_text("\n".join(lines), encoding="utf-8")

    with pytest.raises(Unproven) as caught:
        parse_bundle("\n".join(lines))
    code, output = verify_alone(bundle)

    assert caught.value.kind in word.split("|") or word == "rewritten"
    assert code == 1
    assert any(kind in output for kind in word.split("|"))


def forged(**fields: object) -> str:
    """A bundle of one event that verifies, but that no ledger would have taken."""
    event: dict[str, Any] = {
        "stream": "item/a", "type": "a.b", "actor": "x", "tenant": "x", "seq": 1, "ts": 1, "schema": 1, "parent": None,
        "key": None, "data": "{}", "salt": "00" * 16, "prev": "00" * 32,
    } | fields  # fmt: skip
    event["digest"] = hashlib.sha256(bytes.fromhex(event["salt"] or "") + event["data"].encode()).hexdigest()
    names = ("stream", "seq", "type", "ts", "actor", "tenant", "parent", "key", "schema")
    event["hash"] = hash_of(*(event[name] for name in names), bytes.fromhex(event["digest"]), bytes(32)).hex()
    end = {"ends": {event["stream"]: {"seq": event["seq"], "hash": event["hash"]}}}
    return "\n".join(
        json.dumps(line, separators=(",", ":")) for line in ({"format": "harness.bundle", "version": 1}, event, end)
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": "no slash"},
        {"stream": "item/a\x1b[2J"},
        {"type": "SHOUTED"},
        {"actor": "a\0b"},
        {"key": "x" * 2000},
        {"ts": 2**70},
        {"schema": 2**70},
        {"seq": 0},
        {"seq": -1},
        {"salt": None},
        {"data": "no JSON"},
        {"data": "[1]"},
        {"data": '{"a":' * 10_000},
    ],
)
def test_a_bundle_that_no_ledger_wrote_is_refused(fields: dict[str, object]) -> None:
    """Hashes that fit do not make a stream that this ledger could live with."""
    assert parse_bundle(forged()).keys() == {"item/a"}
    with pytest.raises(LedgerError, match=r"line 2|gap"):
        parse_bundle(forged(**fields))


@pytest.mark.parametrize("ends", ["{}", '{"item/a":{}}', '{"item/a":{"seq":1,"hash":"zz"}}', '{"item/a":[]}', "7"])
def test_a_bundle_with_an_odd_end_is_refused(ends: str) -> None:
    """By a `LedgerError`, whatever it holds."""
    with pytest.raises(LedgerError):
        parse_bundle(forged().rpartition("\n")[0] + f'\n{{"ends":{ends}}}')


async def test_a_stream_named_twice_is_exported_once(tmp_path: Path) -> None:
    """Else the bundle would not verify."""
    await make(tmp_path / "l.db")
    async with SQLiteStore(tmp_path / "l.db") as store:
        lines = [line async for line in export_bundle(store, ["item/a", "item/b", "item/a"])]

    assert parse_bundle("\n".join(lines)).keys() == {"item/a", "item/b"}


async def test_two_sealers_never_take_one_number(tmp_path: Path) -> None:
    """A seal that is there is not written over, foreign files are left alone, and the order is that of numbers."""
    await make(tmp_path / "l.db")
    seals, key = tmp_path / "seals", signing_key(tmp_path / "key.pem")
    others: list[Path] = []

    class Slow(SQLiteStore):
        """The other sealer is faster."""

        async def heads(self, prefix: str = "") -> list[Head]:
            found = await super().heads(prefix)
            others.append(await write_seal(store, seals, key))
            return found

    async with SQLiteStore(tmp_path / "l.db") as store, Slow(tmp_path / "l.db") as slow:
        (await write_seal(store, seals, key)).rename(seals / "999999.json")
        (seals / "notes.json").write_text("{}")

        mine = await write_seal(slow, seals, key)

    assert [path.name for path in (*others, mine)] == ["1000000.json", "1000001.json"]
    assert sorted(path.name for path in seals.iterdir()) == ["1000000.json", "1000001.json", "999999.json", "notes.json"]
    assert read_seal(mine).previous == hashlib.sha256(json.loads(others[0].read_bytes())["statement"].encode()).hexdigest()


@pytest.mark.parametrize(
    "text", ["", "[]", "not json", "[" * 100_000, '{"format":"other"}', '{"format":"harness.bundle","version":9}']
)
def test_what_is_no_bundle_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    """Exit 2 of the standalone verifier, a `LedgerError` of ours, and never a traceback."""
    path = tmp_path / "x.jsonl"
    path.write_text(text)

    code, output = verify_alone(path)

    assert code == 2
    assert output.count("\n") == 1
    with pytest.raises(LedgerError):
        parse_bundle(text)
