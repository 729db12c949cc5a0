"""What is PostgreSQL's own: its order for followers, its tenants, its schema, several machines' worth of processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import anyio
import psycopg
import pytest
from pydantic import BaseModel

from harness import Kernel, MockModelPort, ModelInput, TenantContext
from harness.errors import LedgerError, NotFound, RunExists, StoreUnavailable
from harness.ledger import (
    Acquire,
    Draft,
    Event,
    Expect,
    MemoryStore,
    PostgresStore,
    Statement,
    Unique,
    Write,
    export_bundle,
    parse_bundle,
    signing_key,
    write_seal,
)
from harness.ledger.postgres import migrations
from harness.ledger.postgres.locks import lock_id
from harness.ledger.postgres.statements import Statements


def said(stream: str, *texts: str, tenant: str | None = None) -> Write:
    return Write(stream, tuple(Draft(type="note.taken", payload={"text": text}, tenant=tenant) for text in texts))


def run_sql(dsn: str, sql: str, *values: object) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(sql.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


class Notes:
    """Every note, by stream."""

    name = "notes"
    tables = ("notes",)
    ddl = ("CREATE TABLE IF NOT EXISTS notes (stream TEXT, seq INTEGER, text TEXT, PRIMARY KEY (stream, seq)) WITHOUT ROWID",)
    prefixes = ("item/",)

    def fold(self, event: Event) -> Iterable[Statement]:
        if event.type == "note.taken":
            yield ("INSERT INTO notes VALUES (?, ?, ?)", (event.stream, event.seq, event.payload.get("text")))


# Order


async def test_a_naive_cursor_would_skip_what_commits_late_and_ours_does_not(postgres_dsn: str) -> None:
    """A transaction that began first commits last: whoever went by position alone would never see it."""
    async with PostgresStore(postgres_dsn) as store, PostgresStore(postgres_dsn) as late:
        await store.append(said("item/a", "0"))
        with psycopg.connect(postgres_dsn) as blocker:
            # its transaction has a number and a place already, and waits with its commit for the blocker
            run_sql(
                postgres_dsn,
                "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END'",
            )
            run_sql(
                postgres_dsn,
                "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON harness.events DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW WHEN (NEW.actor = 'late') EXECUTE FUNCTION wait_here()",
            )
            blocker.execute("SELECT pg_advisory_lock(4711)")
            late.actor = "late"
            waiting = asyncio.ensure_future(late.append(said("item/late", "began first")))
            await until_waiting(postgres_dsn)
            early = await store.append(said("item/early", "commits first"))

            naive = run_sql(postgres_dsn, "SELECT max(position) FROM harness.events")[0][0]
            before = await store.read_all()
            held = await store.held_back()
            cursor = before[-1].cursor
            blocker.execute("SELECT pg_advisory_unlock(4711)")
            committed = await waiting

        behind_naive = run_sql(postgres_dsn, f"SELECT count(*) FROM harness.events WHERE position > {naive}")[0][0]
        after = await store.read_all(after=cursor)

    assert committed.first.position < early.first.position
    assert behind_naive == 0, "the naive cursor never sees the event that committed late"
    assert [event.payload["text"] for event in before] == ["0"]
    assert [event.payload["text"] for event in after] == ["began first", "commits first"]
    assert held[0].pid > 0
    assert "followers wait for its end" in str(held[0])


async def until_waiting(dsn: str) -> None:
    with anyio.fail_after(20):
        while not run_sql(dsn, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory'"):
            await asyncio.sleep(0.01)


async def test_a_view_sees_its_own_writes_while_older_transactions_are_open(postgres_dsn: str) -> None:
    """What followers may not see yet is folded all the same, and what commits late is folded then, once."""
    view = Notes()
    async with PostgresStore(postgres_dsn, views=[view]) as store, PostgresStore(postgres_dsn, views=[view]) as other:
        await store.append(said("item/a", "0"))
        with psycopg.connect(postgres_dsn) as old:
            old.execute("SELECT pg_current_xact_id()")
            await store.append(said("item/b", "1"))

            assert await store.query(view, "SELECT text FROM notes ORDER BY text") == [("0",), ("1",)]
            assert await other.query(view, "SELECT text FROM notes WHERE stream = ?", "item/b") == [("1",)]
        await other.append(said("item/a", "2"))
        assert await store.query(view, "SELECT count(*) FROM notes") == [(3,)]
        assert await store.check(view) == []
        assert await other.rebuild(view) == 3


async def test_concurrent_writers_and_folders_skip_and_double_nothing(postgres_dsn: str) -> None:
    """Four stores append and query at once; the view holds each event once, and followers see each once."""
    view = Notes()
    stores = [await PostgresStore.open(postgres_dsn, views=[view]) for _ in range(4)]
    seen: list[str] = []

    async def follow() -> None:
        async with contextlib.aclosing(stores[0].follow(streams=["item/"])) as events:
            async for event in events:
                seen.append(event.ref)
                if len(seen) == 160:
                    return

    async def work(store: PostgresStore, name: int) -> None:
        for index in range(40):
            await store.append(said(f"item/{name}", str(index)))
            [(count,)] = await store.query(view, "SELECT count(*) FROM notes WHERE stream = ?", f"item/{name}")
            assert count == index + 1

    with anyio.fail_after(90):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follow())
            for name, store in enumerate(stores):
                tasks.create_task(work(store, name))

    assert sorted(seen) == sorted(f"item/{name}#{seq}" for name in range(4) for seq in range(1, 41))
    assert await stores[1].check(view) == []
    assert len({event.position for event in await stores[2].read_all()}) == 160
    for store in stores:
        await store.close()


async def test_a_reading_store_folds_in_a_copy_and_writes_nothing(postgres_dsn: str) -> None:
    """Its answers are up to date, the tables are as they were."""
    view = Notes()
    async with PostgresStore(postgres_dsn) as store:
        await store.append(said("item/a", "1", "nul \0 inside"))
        async with PostgresStore(postgres_dsn, read_only=True) as reader:
            assert await reader.query(view, "SELECT seq, text FROM notes WHERE '?' = '?' ORDER BY seq") == [
                (1, "1"),
                (2, "nul \u2400 inside"),
            ]
            with pytest.raises(LedgerError, match="reading only"):
                await reader.append(said("item/a", "no"))
        assert run_sql(postgres_dsn, "SELECT to_regclass('harness_views.notes')") == [(None,)]


# Proof


async def test_a_chain_made_in_the_database_is_the_one_made_here(postgres_dsn: str, tmp_path: Path) -> None:
    """The same drafts at the same times have the same hashes; bundles go from one to the other and back."""
    async with PostgresStore(postgres_dsn) as store, MemoryStore() as memory:
        odd = Draft(
            type="a.b", payload={"ä": "漢 \u0000"}, key="schlüssel:-", parent="run/ä#1", actor="ö", tenant="é", schema=7
        )
        written = (await store.append(Write("item/ü", (odd, Draft(type="c.d"))))).events
        lines = [line async for line in export_bundle(store, ["item/ü"])]
        await memory.restore(parse_bundle("\n".join(lines))["item/ü"])
        back = [line async for line in export_bundle(memory, ["item/ü"])]
        async with PostgresStore(postgres_dsn, schema="copy") as copy:
            await copy.restore(parse_bundle("\n".join(back))["item/ü"])
            await copy.append(said("item/ü", "goes on"), guards=[Expect("item/ü", 2)])
            assert await copy.verify()
            assert [event.hash for event in await copy.read("item/ü")][:2] == [event.hash for event in written]

        assert lines[1:] == back[1:]
        assert await store.verify("item/ü")
        stored = run_sql(postgres_dsn, "SELECT hash FROM harness.events ORDER BY position")
        assert [bytes(row[0]) for row in stored] == [event.hash for event in written]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sql", "kind", "seq"),
    [
        ("""UPDATE harness.events SET data = '{"text":"mallory"}' WHERE seq = 2""", "changed", 2),
        ("UPDATE harness.events SET actor = 'mallory' WHERE seq = 2", "changed", 2),
        ("DELETE FROM harness.events WHERE seq = 2", "gap", 2),
        ("DELETE FROM harness.events WHERE seq = 3", "truncated", 3),
        ("DELETE FROM harness.events", "missing", None),
        ("DELETE FROM harness.streams", "missing", None),
    ],
)
async def test_harm_is_found_with_place_and_kind(postgres_dsn: str, sql: str, kind: str, seq: int | None) -> None:
    """Whoever can write to the tables cannot hide it."""
    async with PostgresStore(postgres_dsn) as store:
        await store.append(said("item/a", "1", "2", "3"))
        run_sql(postgres_dsn, sql)

        found = await store.verify()

    assert not found
    assert (found.problems[0].kind, found.problems[0].seq) == (kind, seq)


async def test_a_seal_finds_a_stream_that_is_gone_wholly(postgres_dsn: str, tmp_path: Path) -> None:
    """Tables and list are consistent, and still it shows."""
    async with PostgresStore(postgres_dsn) as store:
        await store.append(said("item/a", "1"), said("item/b", "2"))
        seal = await write_seal(store, tmp_path / "seals", signing_key(tmp_path / "key.pem"))
        assert await store.verify(seals=[seal])
        run_sql(
            postgres_dsn, "DELETE FROM harness.events WHERE stream = (SELECT id FROM harness.streams WHERE name = 'item/b')"
        )
        run_sql(postgres_dsn, "DELETE FROM harness.streams WHERE name = 'item/b'")

        found = await store.verify(seals=[seal])

    assert [(problem.stream, problem.kind) for problem in found.problems] == [("item/b", "missing")]


async def test_no_common_question_reads_all_events(postgres_dsn: str) -> None:
    """What a step, a follower or a list asks goes by an index, however many events there are."""
    questions: dict[str, tuple[object, ...]] = {
        "head": ("item/a", "default"), "heads": ("item/", "item0"), "read": ("item/a", "default", 5, None),
        "latest": ("item/a", "default", "k"), "tail": (), "settled": (), "written": ("1",), "lease": ("l", "default"),
        "holder_of": ("k", "default"), "reserved": ("c", "default"),
    }  # fmt: skip
    async with PostgresStore(postgres_dsn) as store:
        for _ in range(8):  # so many that the planner has no reason to read them all
            await store.append(*(said(f"item/{name}", *map(str, range(40))) for name in range(50)))
        statements = {name: Statements('"harness"')[name] for name in questions}
    with psycopg.connect(postgres_dsn, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
        connection.execute(b"ANALYZE harness.events, harness.streams")
        plans = {
            name: "\n".join(row[0] for row in connection.execute(f"EXPLAIN {sql}".encode(), questions[name]))
            for name, sql in statements.items()
        }
    assert [name for name, plan in plans.items() if "Seq Scan on events" in plan] == []


# Tenants


async def test_a_bound_role_sees_and_writes_its_tenant_only(postgres_dsn: str) -> None:
    """Row-level security holds whatever SQL the role sends, and the names of others are free to it."""
    run_sql(postgres_dsn, "DROP ROLE IF EXISTS acme_app")
    run_sql(postgres_dsn, "CREATE ROLE acme_app LOGIN")
    view = Notes()
    async with PostgresStore(postgres_dsn) as owner:
        await owner.append(
            said("item/a", "acme's", tenant="acme"), said("item/b", "other's", tenant="other"), guards=[Unique("k")]
        )
        await owner.append(said("item/b", "x", tenant="other"), guards=[Acquire("lease", "them", 1, 60), Unique("theirs")])
        await owner.isolate("acme_app", "acme")
        as_acme = postgres_dsn.replace("postgres@", "acme_app@")

        with pytest.raises(StoreUnavailable, match="belongs to tenant 'acme', not 'default'"):
            await PostgresStore.open(as_acme)
        async with PostgresStore(as_acme, tenant="acme") as acme:
            assert [event.stream for event in await acme.read_all()] == ["item/a"]
            assert [head.stream for head in await acme.heads()] == ["item/a"]
            assert await acme.head("item/b") is None
            assert await acme.lease("lease") is None
            assert await acme.holder_of("theirs") is None
            await acme.append(said("item/b", "a name of ours"), guards=[Unique("theirs"), Acquire("lease", "us", 1, 60)])
            assert [event.payload["text"] for event in await acme.read("item/b")] == ["a name of ours"]
            assert await acme.query(view, "SELECT text FROM notes ORDER BY text") == [("a name of ours",), ("acme's",)]
            assert await acme.verify()
            with pytest.raises(LedgerError, match="may not do that"):
                await acme.append(said("item/c", "in another's name", tenant="other"))
            with pytest.raises(LedgerError):
                await acme.erase("item/a", 1, reason="may not")

        assert run_sql(as_acme, "SELECT count(*) FROM harness.events") == [(2,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run_sql(as_acme, "UPDATE harness.events SET actor = 'me'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run_sql(as_acme, "UPDATE harness.members SET tenant = 'other'")
        assert len(await owner.read_all()) == 4
        async with PostgresStore(postgres_dsn, tenant="other") as other:
            assert [event.tenant for event in await other.read("item/b")] == ["other", "other"]
            assert (await other.lease("lease")).holder == "them"  # type: ignore[union-attr]
        assert await owner.verify()
        with pytest.raises(LedgerError, match="no role"):
            await owner.isolate("nobody_here", "acme")
        with pytest.raises(LedgerError, match="superuser"):
            await owner.isolate("postgres", "acme")


async def test_roles_of_one_tenant_each_have_their_views(postgres_dsn: str) -> None:
    """A role cannot read the tables that another one made; and one that moves to another tenant sees nothing of the first."""
    for role in ("acme_one", 'acme{tenant_text}"two'):
        quoted = role.replace('"', '""')
        run_sql(postgres_dsn, f'DROP ROLE IF EXISTS "{quoted}"')
        run_sql(postgres_dsn, f'CREATE ROLE "{quoted}" LOGIN')
    view = Notes()
    question = "SELECT text FROM notes ORDER BY text"
    async with PostgresStore(postgres_dsn) as owner:
        await owner.append(said("item/a", "acme's", tenant="acme"), said("item/b", "other's", tenant="other"))
        for role in ("acme_one", 'acme{tenant_text}"two'):
            await owner.isolate(role, "acme")
        for user in ("acme_one", "acme%7Btenant_text%7D%22two"):
            async with PostgresStore(postgres_dsn.replace("postgres@", f"{user}@"), tenant="acme") as acme:
                assert await acme.query(view, question) == [("acme's",)]
        await owner.isolate("acme_one", "other")
        async with PostgresStore(postgres_dsn.replace("postgres@", "acme_one@"), tenant="other") as other:
            assert await other.query(view, question) == [("other's",)]


async def test_one_append_that_cannot_be_written_does_not_take_others_of_its_tick_with_it(postgres_dsn: str) -> None:
    """Neither a key that no index holds nor a row of another tenant fails anything but its own append."""
    run_sql(postgres_dsn, "DROP ROLE IF EXISTS acme_app")
    run_sql(postgres_dsn, "CREATE ROLE acme_app LOGIN")
    key = "".join(chr(0x1F000 + index * 37) for index in range(1000))
    async with PostgresStore(postgres_dsn) as owner:
        await owner.isolate("acme_app", "acme")
    async with PostgresStore(postgres_dsn.replace("postgres@", "acme_app@"), tenant="acme") as store:
        ends = await asyncio.gather(
            store.append(said("item/a", "x")),
            store.append(Write("item/b", (Draft(type="note.taken", payload={}, key=key),))),
            store.append(said("item/c", "x", tenant="other")),
            store.append(said("item/d", "x"), guards=[Unique(key * 3)]),
            store.append(said("item/e", "x")),
            return_exceptions=True,
        )

        assert [head.stream for head in await store.heads()] == ["item/a", "item/e"]
    assert ["cannot be written" in str(end) for end in ends] == [False, True, False, True, False]
    assert "may not do that" in str(ends[2])


async def test_what_the_database_has_as_defaults_weakens_no_promise(postgres_dsn: str) -> None:
    """An append sees what was committed while it waited, and is durable, whatever the database's settings are."""
    name = postgres_dsn.rpartition("/")[2]
    run_sql(postgres_dsn, f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'")
    run_sql(postgres_dsn, f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    async with PostgresStore(postgres_dsn) as one, PostgresStore(postgres_dsn) as two:

        async def write(store: PostgresStore) -> None:
            for index in range(30):
                await store.append(said("item/a", str(index)))

        await asyncio.gather(write(one), write(two))
        head = await one.head("item/a")
        assert head is not None
        assert head.seq == 60
        assert await one.query(Notes(), "SELECT current_setting('synchronous_commit')") == [("on",)]


async def test_every_key_begins_with_the_tenant(postgres_dsn: str) -> None:
    """A key without it would let tenants stand in each other's way."""
    async with PostgresStore(postgres_dsn):
        pass
    keys = run_sql(
        postgres_dsn,
        """SELECT c.relname, a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
        WHERE n.nspname = 'harness' AND i.indisunique AND c.relname NOT IN ('meta', 'members')""",
    )

    assert len(keys) >= 6
    assert {column for _, column in keys} == {"tenant"}


# The schema


async def test_stores_that_open_an_empty_database_at_once_make_it_once(postgres_dsn: str) -> None:
    """The migration is under a lock."""
    stores = await asyncio.gather(*[PostgresStore.open(postgres_dsn) for _ in range(8)])
    await asyncio.gather(*[store.append(said(f"item/{index}", "x")) for index, store in enumerate(stores)])

    assert len(await stores[0].heads()) == 8
    for store in stores:
        await store.close()


async def test_several_ledgers_live_in_one_database(postgres_dsn: str) -> None:
    """Each in its schema, by option or in the address; names that could be SQL are refused."""
    async with PostgresStore(postgres_dsn) as one, PostgresStore(f"{postgres_dsn}?schema=two") as two:
        await one.append(said("item/a", "one"))
        assert await two.head("item/a") is None
        await two.append(said("item/a", "two"), guards=[Expect("item/a", 0)])
        assert two.location.endswith("?schema=two")
        assert one.location == postgres_dsn
    for name in ('x"; DROP', "Big", "", "1a"):
        with pytest.raises(StoreUnavailable, match="cannot be the schema"):
            PostgresStore(postgres_dsn, schema=name or "-")


async def test_an_older_schema_is_migrated_and_a_newer_one_refused(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward under the lock, never back."""
    async with PostgresStore(postgres_dsn) as store:
        await store.append(said("item/a", "one"))
    monkeypatch.setattr(migrations, "SCHEMA_VERSION", 2)
    monkeypatch.setitem(migrations.MIGRATIONS, 1, ("CREATE TABLE {schema}.added (n int)",))
    with pytest.raises(StoreUnavailable, match="older version"):
        await PostgresStore.open(postgres_dsn, read_only=True)
    stores = await asyncio.gather(*[PostgresStore.open(postgres_dsn) for _ in range(4)])
    for store in stores:
        assert len(await store.read("item/a")) == 1
        await store.close()
    assert run_sql(postgres_dsn, "SELECT version FROM harness.meta") == [(2,)]
    monkeypatch.undo()

    with pytest.raises(StoreUnavailable, match="newer Harness") as caught:
        await PostgresStore.open(postgres_dsn)
    assert caught.value.reason == "newer"


async def test_a_dump_loaded_into_another_server_goes_on(postgres_dsn: str) -> None:
    """Its transaction numbers have not come here yet: followers and views go on all the same."""
    view = Notes()
    async with PostgresStore(postgres_dsn, views=[view]) as store:
        await store.append(said("item/a", "1"), said("item/b", "2"))
        await store.query(view, "SELECT * FROM notes")
    run_sql(postgres_dsn, "UPDATE harness.events SET xid = (xid::text::bigint + 1000000000)::text::xid8")
    run_sql(postgres_dsn, "UPDATE harness_views.harness_folded SET snapshot = '1000000000:1000000000:'")

    with pytest.raises(StoreUnavailable, match="loaded from a dump"):
        await PostgresStore.open(postgres_dsn, read_only=True)
    async with PostgresStore(postgres_dsn, views=[view]) as store:
        await store.append(said("item/a", "3"))

        assert [event.payload["text"] for event in await store.read_all()] == ["1", "2", "3"]
        assert await store.query(view, "SELECT text FROM notes ORDER BY text") == [("1",), ("2",), ("3",)]
        assert await store.verify()


async def test_a_reader_that_is_cancelled_leaves_no_transaction_behind(postgres_dsn: str) -> None:
    """The connection is as good as new for the next one, and holds no follower back."""
    async with PostgresStore(postgres_dsn) as store:
        await store.append(said("item/a", "1"))
        session = store._session  # pyright: ignore[reportPrivateUsage]
        for sql in ("SELECT pg_sleep(20)", "SELECT pg_current_xact_id(), pg_sleep(20)"):
            with anyio.move_on_after(0.1):
                await session.select(sql, ())
            with anyio.fail_after(10):
                assert [event.payload["text"] for event in await store.read_all()] == ["1"]
        with anyio.fail_after(10):
            while await store.held_back():
                await asyncio.sleep(0.01)


def test_one_store_serves_one_event_loop_after_the_other(postgres_dsn: str) -> None:
    """As scripts do that call asyncio.run several times, and forget to close."""
    store = PostgresStore(postgres_dsn)

    async def work() -> int:
        await store.append(said("item/a", "x"))
        return len(await store.read("item/a"))

    assert [asyncio.run(work()) for _ in range(3)] == [1, 2, 3]


# Processes

_CLAIMER = """
import asyncio, json, sys
from harness import PostgresStore
from harness.errors import Conflict, Fenced, LeaseHeld, KeyTaken
from harness.ledger import Acquire, Draft, Expect, Fence, Unique, Write

async def main(dsn, me):
    won, moved, clashes = [], 0, 0
    async with PostgresStore(dsn, actor=me) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        for item in range(20):
            try:
                claimed = Draft(type="item.claimed", payload={"by": me})
                await store.append(Write(f"item/{item}", (claimed,)),
                    guards=[Expect(f"item/{item}", 0), Unique(f"claim/{item}"), Acquire(f"item/{item}", me, 1, 600)])
                done = Draft(type="item.done", payload={"by": me})
                await store.append(Write(f"item/{item}", (done,)), guards=[Fence(f"item/{item}", 1)])
                won.append(item)
            except Conflict:
                pass
        while moved < 15:
            head = await store.head("item/shared")
            at = head.seq if head else 0
            try:
                moving = Draft(type="count.moved", payload={"n": at + 1, "by": me})
                await store.append(Write("item/shared", (moving,)), guards=[Expect("item/shared", at)])
                moved += 1
            except Conflict:
                clashes += 1
        await asyncio.gather(*[store.append(Write("item/free", (Draft(type="a.b", payload={"by": me}),))) for _ in range(20)])
    print(json.dumps({"won": won, "moved": moved, "clashes": clashes}))

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


async def test_eight_processes_contend_on_one_database(postgres_dsn: str) -> None:
    """Every item is claimed by one, every count is written once, nothing is lost, the chains are good."""
    async with PostgresStore(postgres_dsn) as store:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _CLAIMER, postgres_dsn, f"p{index}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for index in range(8)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [json.loads((await asyncio.to_thread(process.communicate, timeout=100))[0]) for process in processes]

        assert all(process.returncode == 0 for process in processes)
        assert sorted(item for result in results for item in result["won"]) == list(range(20))
        for item in range(20):
            by = [event.payload["by"] for event in await store.read(f"item/{item}")]
            lease = await store.lease(f"item/{item}")
            assert len(by) == 2
            assert lease is not None
            assert by == [lease.holder, lease.holder]
        assert [event.payload["n"] for event in await store.read("item/shared")] == list(range(1, 121))
        assert len(await store.read("item/free")) == 160
        assert len(await store.read_all(limit=10_000)) == 40 + 120 + 160
        assert await store.verify()


class Answer(BaseModel):
    """What the model says."""

    text: str


async def test_a_kernel_runs_on_it_and_another_one_replays(postgres_dsn: str) -> None:
    """Steps are recorded once; a second kernel with its own store pays nothing and appends nothing."""
    tenant = TenantContext(tenant_id="acme", capabilities=frozenset(), budget_usd_limit=5.0)

    async def steps(kernel: Kernel) -> list[str]:
        results = await asyncio.gather(
            *[
                kernel.step_model(
                    run_id="r", tenant=tenant, model="m", input=ModelInput.from_prompt(f"say {n}"), output_schema=Answer
                )
                for n in range(3)
            ]
        )
        return [result.output.text for result in results]

    async with Kernel(store=PostgresStore(postgres_dsn), model_port=MockModelPort(output={"text": "hello"})) as kernel:
        await kernel.start_run(tenant=tenant, run_id="r")
        first = await steps(kernel)
        with pytest.raises(RunExists):
            await kernel.start_run(tenant=tenant, run_id="r")
        events = await kernel.get_events(run_id="r")
    async with Kernel(store=PostgresStore(postgres_dsn), model_port=MockModelPort(output={"text": "other"})) as kernel:
        await kernel.load_run(run_id="r")
        second = await steps(kernel)
        after = await kernel.get_events(run_id="r")

    assert first == second == ["hello"] * 3
    assert len(events) <= len(after) <= len(events) + 1  # a take-over of the lease at most
    async with PostgresStore(postgres_dsn) as store:
        assert await store.verify_run_chain("r")
        assert {event.tenant for event in events} == {"acme"}
        with pytest.raises(NotFound):
            await store.verify_run_chain("nobody")


async def test_a_follower_in_another_process_is_woken_by_the_commit(postgres_dsn: str) -> None:
    """It hears of the event long before its own look once a second."""
    code = """
import asyncio, sys, time
from contextlib import aclosing
from harness import PostgresStore
async def main():
    async with PostgresStore(sys.argv[1], read_only=True) as store, aclosing(store.follow(after=await store.tail())) as events:
        print("ready", flush=True)
        async for event in events:
            print(event.payload["n"], time.time() - event.payload["at"], flush=True)
            if event.payload["n"] == 19:
                return
asyncio.run(main())
"""
    import time

    async with PostgresStore(postgres_dsn) as store:
        await store.append(said("item/a", "x"))
        follower = subprocess.Popen([sys.executable, "-c", code, postgres_dsn], stdout=subprocess.PIPE, text=True)
        assert follower.stdout is not None
        assert follower.stdout.readline() == "ready\n"
        late: list[float] = []
        for index in range(20):
            await store.append(Write("item/a", (Draft(type="a.b", payload={"n": index, "at": time.time()}),)))
            number, seconds = (await asyncio.to_thread(follower.stdout.readline)).split()
            assert int(number) == index
            late.append(float(seconds))
        assert follower.wait(20) == 0
        follower.stdout.close()
    assert sorted(late)[10] < 0.5


def test_the_locks_of_names_differ() -> None:
    """A name of one kind or ledger never locks another's."""
    ids = {lock_id(schema, kind, name) for schema in ("a", "b") for kind in ("stream", "lease") for name in ("x", "y")}

    assert len(ids) == 8
    assert all(-(2**63) <= number < 2**63 for number in ids)
