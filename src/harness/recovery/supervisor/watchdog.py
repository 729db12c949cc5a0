"""The other end of the monitor's dead man's switch: a monitor that runs but does not look is started anew.

Only looks at the monitor's lease, which it renews as long as it really looks; a process that ends is its unit's part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import Busy, StoreUnavailable
from harness.recovery import facts
from harness.recovery.supervisor import machine
from harness.recovery.supervisor.machine import Intent

if TYPE_CHECKING:
    from harness.ledger import Lease, Store
    from harness.recovery.supervisor.unit import Unit

LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 6.0  # a machine that was suspended lets the lease expire; the next renewal is soon there
START_SECONDS = 30.0  # so long a new one may take until it has the lease


async def watch_monitor(unit: Unit, store: Store) -> None:
    """Look for ever, and have the monitor restarted when it has not proven that it looks."""
    silent = 0.0  # seconds
    while True:
        await store.clock.sleep(LOOK_SECONDS)
        try:
            lease = await store.lease(facts.MONITOR_LEASE)
        except (Busy, StoreUnavailable):
            continue
        age = store.clock.monotonic() - unit.since
        silent = silent + LOOK_SECONDS if is_silent(lease, unit.pid, age_seconds=age, now_us=store.clock.now_us()) else 0.0
        if silent >= PATIENCE_SECONDS and unit.state.phase in machine.ALIVE:
            silent = 0.0
            unit.note(machine.Restart(Intent(reason="it runs, but has not proven any more that it looks")))


def is_silent(lease: Lease | None, pid: int | None, *, age_seconds: float, now_us: int) -> bool:
    """Whether the process runs but nobody proves that anybody looks."""
    if pid is None or (lease is not None and lease.held_at(now_us)):
        return False
    had = lease is not None and (lease.holder or "").split()[:2] == ["pid", str(pid)]
    return had or age_seconds >= START_SECONDS
