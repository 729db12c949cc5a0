"""Tickets under contention and after a death, on a real ledger."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from harness.errors import IllegalTransition
from harness.ledger import MemoryStore, SQLiteStore
from harness.recovery.analyst import fallback
from harness.recovery.facts import IncidentRecurred
from harness.recovery.failures import Failure, Severity
from harness.recovery.tickets import Tickets
from harness.work import Role, Status

REPORTER = """
import asyncio, sys
from harness.ledger import SQLiteStore
from harness.recovery.analyst import fallback
from harness.recovery.failures import Failure, Severity
from harness.recovery.tickets import Tickets

async def main(path, process):
    store = await SQLiteStore.open(path, actor=f"monitor-{process}", durability="process")
    tickets = Tickets(store)
    sys.stdin.readline()
    for number in range(50):
        failure = Failure(
            subject=f"s{number % 5}", target=f"s{number % 5}", severity=Severity.DOWN, root="r", kind="http", observed="down",
            detected_us=1, ref=f"check/r#{process * 50 + number + 1}",
        )
        await tickets.report(failure, fallback(failure, "test"))
    await store.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def failure(subject: str = "api", **fields: object) -> Failure:
    given: dict[str, object] = {
        "subject": subject, "target": subject, "severity": Severity.DOWN, "root": "api_healthy", "kind": "http",
        "observed": "503", "detected_us": 1, "ref": "check/api_healthy#1", **fields,
    }  # fmt: skip
    return Failure(**given)  # type: ignore[arg-type]


async def test_failure_10_sixteen_processes_open_five_tickets_with_exact_counts(tmp_path: Path) -> None:
    """800 failures on 5 fingerprints, reported by 16 processes at once: 5 tickets, and every report counted once."""
    path = tmp_path / "harness.db"
    store = await SQLiteStore.open(path, actor="test")
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", REPORTER, str(path), str(number), stdin=asyncio.subprocess.PIPE
        )
        for number in range(16)
    ]

    async with asyncio.timeout(110):
        await asyncio.gather(*(process.communicate(b"go\n") for process in processes))

    tickets = Tickets(store)
    items = await tickets.items.list(limit=None)
    recurred = [
        event for item in items for event in await store.read(f"incident/{item.id}") if event.type == "incident.recurred"
    ]
    assert [process.returncode for process in processes] == [0] * 16
    assert sorted(item.labels["subject"] for item in items) == ["s0", "s1", "s2", "s3", "s4"]
    assert [item.occurrences for item in items] == [160] * 5
    assert len(recurred) == 795
    assert (await store.verify()).ok
    await store.close()


async def test_failure_10_a_closed_ticket_is_not_counted_on() -> None:
    """The same failure after its ticket was closed is a new ticket."""
    tickets = Tickets(MemoryStore())
    first, fresh = await tickets.report(failure(), fallback(failure(), "test"))
    await tickets.items.transition(first.id, Status.CANCELLED, reason="no", role=Role.PERSON)

    second, again = await tickets.report(failure(), fallback(failure(), "test"))

    assert (fresh, again) == (True, True)
    assert first.id != second.id
    with pytest.raises(IllegalTransition):
        await tickets.recur(first.id, failure())


@pytest.mark.parametrize("status", [Status.BLOCKED, Status.PARKED])
async def test_failure_3_blocked_and_parked_count_as_open(status: Status) -> None:
    """A ticket that waits for a person takes the recurrence; no second one is opened."""
    tickets = Tickets(MemoryStore())
    first, _ = await tickets.report(failure(), fallback(failure(), "test"))
    await tickets.items.transition(first.id, status, reason="waits", role=Role.PERSON)

    again, fresh = await tickets.report(failure(ref="check/api_healthy#2"), fallback(failure(), "test"))

    assert (again.id, again.occurrences, fresh) == (first.id, 2, False)


async def test_failure_3_one_target_does_not_suppress_another() -> None:
    """Equal checks of two services are two tickets."""
    tickets = Tickets(MemoryStore())

    one, _ = await tickets.report(failure("one"), fallback(failure("one"), "test"))
    two, fresh = await tickets.report(failure("two"), fallback(failure("two"), "test"))

    assert fresh
    assert one.id != two.id


async def test_a_timeline_that_was_never_begun_is_mended() -> None:
    """Whoever opened the ticket died right after: the next monitor writes the beginning, once."""
    store = MemoryStore()
    tickets = Tickets(store)
    item, _ = await tickets.report(failure(), fallback(failure(), "test"))
    lost = MemoryStore()
    bare = Tickets(lost)
    copy = await bare.items.create(title=item.title, payload=item.payload, labels=item.labels, fingerprint=item.fingerprint)

    await bare.mend(copy)
    await bare.mend(copy)
    await bare.mend(await bare.items.create(title="a person's"))

    assert [event.type for event in await lost.read(f"incident/{copy.id}")] == ["incident.opened", "incident.analysed"]


async def test_what_a_ticket_has_counted_is_on_the_ledger() -> None:
    """After a restart the monitor knows which evidence was counted, so that none counts twice."""
    store = MemoryStore()
    tickets = Tickets(store)
    item, _ = await tickets.report(failure(), fallback(failure(), "test"))
    await tickets.recur(item.id, failure(ref="service/api#7"))

    assert await tickets.told(item.id) == {"check/api_healthy#1", "service/api#7"}
    assert (await store.read(f"incident/{item.id}"))[-1].load(IncidentRecurred).count == 2
