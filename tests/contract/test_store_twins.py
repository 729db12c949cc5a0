"""The stores are twins: whatever is appended, they accept, refuse and remember the same."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from harness.clock import VirtualClock
from harness.errors import HarnessError
from harness.ledger import (
    Acquire,
    Draft,
    Expect,
    Fence,
    Free,
    Guard,
    MemoryStore,
    PostgresStore,
    Release,
    Reserve,
    SQLiteStore,
    Store,
    Unique,
    Write,
)  # fmt: skip

STREAMS = st.sampled_from(["item/a", "item/b", "run/c"])
NAMES = st.sampled_from(["k", "l"])
GUARDS = st.lists(
    st.one_of(
        st.builds(Expect, STREAMS, st.integers(0, 4)),
        st.builds(Unique, NAMES),
        st.builds(Free, NAMES),
        st.builds(Acquire, NAMES, st.sampled_from(["ann", "bob"]), st.integers(1, 4), st.integers(1, 20)),
        st.builds(Fence, NAMES, st.integers(1, 4)),
        st.builds(Release, NAMES, st.integers(1, 4)),
        st.builds(Reserve, NAMES, st.integers(-3, 5), st.one_of(st.none(), st.integers(0, 9))),
    ),
    max_size=3,
)
VALUES = st.one_of(st.none(), st.integers(-(2**53), 2**53), st.text(), st.floats(allow_nan=False, allow_infinity=False))
PAYLOADS = st.dictionaries(st.text(max_size=3), VALUES)
DRAFTS = st.lists(st.builds(Draft, type=st.just("note.taken"), payload=PAYLOADS, key=st.none() | NAMES), min_size=1, max_size=3)
WRITES = st.lists(st.builds(Write, STREAMS, DRAFTS.map(tuple)), min_size=1, max_size=2)


class Twins(RuleBasedStateMachine):
    """Does the same to a store and to the one in memory, and compares everything that can be seen."""

    def open(self) -> Store:
        """The store beside the one in memory, anew."""
        return SQLiteStore(self.path, clock=self.clock, durability="process")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = VirtualClock()
        self.runner = asyncio.Runner()
        self.path = Path(self.folder.name) / "l.db"
        self.memory = MemoryStore(clock=self.clock)
        self.other = self.open()

    async def attempt(self, store: Store, writes: list[Write], guards: list[Guard]) -> str:
        try:
            appended = await store.append(*writes, guards=guards)
        except HarnessError as error:
            return f"{type(error).__name__}: {error}"
        return " ".join(event.ref for event in appended.events)

    @rule(writes=WRITES, guards=GUARDS)
    def append(self, writes: list[Write], guards: list[Guard]) -> None:
        results = [self.runner.run(self.attempt(store, writes, guards)) for store in (self.memory, self.other)]
        assert results[0] == results[1]

    @rule(name=NAMES, token=st.integers(1, 4))
    def renew(self, name: str, token: int) -> None:
        async def attempt(store: Store) -> str:
            try:
                return str(await store.renew(name, token, 10))
            except HarnessError as error:
                return str(error)

        assert self.runner.run(attempt(self.memory)) == self.runner.run(attempt(self.other))

    @rule(seconds=st.integers(1, 15))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.other.close())
        self.other = self.open()

    @invariant()
    def same(self) -> None:
        async def seen(store: Store) -> object:
            events = [(e.position, e.ref, e.type, e.payload, e.key, e.ts) for e in await store.read_all()]
            latest = [(await store.latest(s, k)) for s in ("item/a", "run/c") for k in ("k", "l")]
            return (
                events,
                [e and e.ref for e in latest],
                [(h.stream, h.seq, h.position) for h in await store.heads()],
                await store.leases(),
                [await store.holder_of(k) for k in ("k", "l")],
                [await store.reserved(k) for k in ("k", "l")],
            )

        assert self.runner.run(seen(self.memory)) == self.runner.run(seen(self.other))

    def teardown(self) -> None:
        async def end() -> None:
            assert await self.memory.verify()
            assert await self.other.verify()
            await self.memory.close()
            await self.other.close()

        self.runner.run(end())
        self.runner.close()
        self.folder.cleanup()


def test_memory_and_sqlite_are_twins() -> None:
    """Random appends, guards, waits and reopenings: no difference can be seen."""
    run_state_machine_as_test(
        Twins,
        settings=settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)),
    )


def test_memory_and_postgres_are_twins(postgres_schema: str) -> None:
    """The same for the database whose own function judges the guards."""
    schemas = itertools.count(1)

    class PostgresTwins(Twins):
        """Each example has a schema of its own."""

        def __init__(self) -> None:
            self.schema = f"twin_{next(schemas)}"
            super().__init__()

        def open(self) -> Store:
            return PostgresStore(f"{postgres_schema}_{self.schema}", clock=self.clock)

    run_state_machine_as_test(
        PostgresTwins,
        settings=settings(max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)),
    )
