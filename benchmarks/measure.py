"""The floor, and how figures are collected and printed. Times vary with the machine; ratios hold."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

PAYLOAD = {"index": 1, "text": "a" * 980}  # about 1 KB as JSON


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure beside its target; `ok` is None where there is no target."""

    name: str
    value: str
    target: str
    ok: bool | None


@dataclass(slots=True)
class Figures:
    """What one suite measured."""

    suite: str
    rows: list[Figure] = field(default_factory=list)

    def add(self, name: str, value: str, target: str = "", ok: bool | None = None) -> None:
        self.rows.append(Figure(name, value, target, ok))
        mark = {None: " ", True: "✓", False: "✗"}[ok]
        print(f"  {mark} {name}: {value}" + (f"   (target {target})" if target else ""), flush=True)

    def at_most(self, name: str, value: float, limit: float, unit: str) -> None:
        self.add(name, f"{value:.2f} {unit}", f"at most {limit:g} {unit}", value <= limit)

    def at_least(self, name: str, value: float, limit: float, unit: str) -> None:
        self.add(name, f"{value:,.2f} {unit}", f"at least {limit:,g} {unit}", value >= limit)


class Floor:
    """What plain sqlite3 needs for one durable event: canonical JSON, SHA-256 chain, insert, commit (WAL, FULL)."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, data BLOB, hash BLOB)")
        self._hash = b""
        self.seconds: list[float] = []

    def once(self) -> None:
        began = time.perf_counter()
        data = json.dumps(PAYLOAD, sort_keys=True, separators=(",", ":")).encode()
        self._hash = hashlib.sha256(self._hash + data).digest()
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("INSERT INTO events (data, hash) VALUES (?, ?)", (data, self._hash))
        self._connection.execute("COMMIT")
        self.seconds.append(time.perf_counter() - began)

    def run(self, count: int) -> None:
        for _ in range(count):
            self.once()

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Events per second of one writer."""
        return len(self.seconds) / sum(self.seconds)

    def close(self) -> None:
        self._connection.close()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the disk that would be used, since a tmpfs has no durability to pay for."""
    with TemporaryDirectory(prefix="bench-", dir=os.environ.get("HARNESS_BENCH_DIR", Path.cwd())) as name:
        yield Path(name)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
