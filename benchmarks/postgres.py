"""The ledger in PostgreSQL: appends and kernel steps against a raw psycopg insert and commit on the same server."""

from __future__ import annotations

import asyncio
import json
import statistics
import time

import psycopg
from pydantic import BaseModel

from benchmarks.following import follow
from benchmarks.measure import PAYLOAD, Figures
from harness.kernel import Kernel, MockModelPort, ModelInput, TenantContext
from harness.ledger import Draft, PostgresStore, Write
from harness.ledger.postgres.temporary import TemporaryServer


class RawInsert:
    """What plain psycopg needs for one durable row of 1 KB: an insert and a commit, by the driver's own defaults."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn)
        self._connection.execute("CREATE TABLE raw (id bigserial PRIMARY KEY, data text, hash bytea)")
        self._connection.commit()
        self.seconds: list[float] = []

    def run(self, count: int) -> None:
        data, hash_ = json.dumps(PAYLOAD), bytes(32)
        for _ in range(count):
            began = time.perf_counter()
            self._connection.execute("INSERT INTO raw (data, hash) VALUES (%s, %s)", (data, hash_))
            self._connection.commit()
            self.seconds.append(time.perf_counter() - began)

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Rows per second of one writer."""
        return len(self.seconds) / sum(self.seconds)

    def close(self) -> None:
        self._connection.close()


class Said(BaseModel):
    """What the model answers: about 1 KB."""

    text: str


async def run(figures: Figures) -> None:
    with TemporaryServer() as server:
        await _single(figures, server.create_database("single"))
        await _steps(figures, server.create_database("steps"))
        await _concurrent(figures, server)
        await _follow(figures, server.create_database("follow"))
        await _verify(figures, server.create_database("verify"))


def _event(stream: str) -> Write:
    return Write(stream, (Draft(type="step.completed", payload=PAYLOAD),))


async def _single(figures: Figures, dsn: str) -> None:
    raw = RawInsert(dsn)
    seconds: list[float] = []
    async with PostgresStore(dsn) as store:
        await store.append(_event("run/a"))
        for _ in range(25):  # in turns, so that both meet the same weather
            raw.run(20)
            for _ in range(20):
                began = time.perf_counter()
                await store.append(_event("run/a"))
                seconds.append(time.perf_counter() - began)
    figures.add("raw psycopg insert and commit of 1 KB, p50", f"{raw.p50 * 1e6:.0f} µs")
    figures.at_most("one durable append of 1 KB, p50", statistics.median(seconds) / raw.p50, 2, "x raw")
    raw.close()


async def _steps(figures: Figures, dsn: str) -> None:
    raw = RawInsert(dsn)
    tenant = TenantContext(tenant_id="t")
    seconds: list[float] = []
    async with Kernel(store=PostgresStore(dsn), model_port=MockModelPort(output={"text": PAYLOAD["text"]})) as kernel:
        await kernel.start_run(tenant=tenant, run_id="r")
        for turn in range(25):
            raw.run(20)
            for index in range(20):
                prompt = ModelInput.from_prompt(f"{turn}/{index}")
                began = time.perf_counter()
                await kernel.step_model(run_id="r", tenant=tenant, model="m", input=prompt, output_schema=Said)
                seconds.append(time.perf_counter() - began)
    figures.at_most("one durable model step, p50", statistics.median(seconds) / raw.p50, 2, "x raw")
    raw.close()


async def _concurrent(figures: Figures, server: TemporaryServer) -> None:
    for writers in (8, 64):
        dsn = server.create_database(f"concurrent_{writers}")
        raw = RawInsert(dsn)
        rates: list[float] = []
        async with PostgresStore(dsn) as store:

            async def write(name: int, store: PostgresStore = store) -> None:
                for _ in range(12):
                    await store.append(_event(f"run/{name}"))

            for _ in range(6):
                raw.run(100)
                began = time.perf_counter()
                await asyncio.gather(*[write(name) for name in range(writers)])
                rates.append(writers * 12 / (time.perf_counter() - began))
        figures.add(f"{writers} concurrent writers, events per second", f"{statistics.median(rates):,.0f}")
        figures.add("the same, against one raw writer", f"{statistics.median(rates) / raw.rate:.2f} x raw")
        raw.close()


async def _follow(figures: Figures, dsn: str) -> None:
    async with PostgresStore(dsn) as store:
        await follow(figures, store, dsn)


async def _verify(figures: Figures, dsn: str) -> None:
    async with PostgresStore(dsn) as store:
        for index in range(40):
            drafts = tuple(Draft(type="step.completed", payload={"index": n, "text": "a" * 80}) for n in range(500))
            await store.append(Write(f"run/{index % 20}", drafts))
        began = time.perf_counter()
        result = await store.verify()
        seconds = time.perf_counter() - began
    assert result
    figures.add("verify 20,000 events of 100 bytes", f"{result.events / seconds:,.0f} events/s")
