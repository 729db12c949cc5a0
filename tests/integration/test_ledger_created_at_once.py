"""Several that create one ledger at the same instant: each gets it, none takes it for another program's."""

from __future__ import annotations

import threading
from pathlib import Path

from harness.ledger.database import connect

OPENERS, LEDGERS = 4, 40


def test_who_creates_a_ledger_together_with_others_gets_it(tmp_path: Path) -> None:
    """They meet in the change to the write-ahead log, and between two looks at the file's header."""
    errors: list[Exception] = []

    def open_(path: Path, start: threading.Barrier) -> None:
        start.wait(20)
        try:
            connect(path, create=True, read_only=False, durability="process").close()
        except Exception as error:  # noqa: BLE001 - it is looked at below
            errors.append(error)

    for number in range(LEDGERS):
        start = threading.Barrier(OPENERS)
        openers = [threading.Thread(target=open_, args=(tmp_path / f"{number}.db", start)) for _ in range(OPENERS)]
        for opener in openers:
            opener.start()
        for opener in openers:
            opener.join(60)

    assert errors == []
