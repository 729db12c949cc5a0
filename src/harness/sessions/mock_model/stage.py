"""The state of a rehearsal: the script, where each scenario stands, the gates, and what has been asked so far.

It may be used from any thread; it sends nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from harness.sessions.mock_model.asking import Asked
from harness.sessions.mock_model.choosing import Choice, Cursor
from harness.sessions.mock_model.gates import Gates
from harness.sessions.mock_model.recording import Records
from harness.sessions.mock_model.script import Script

_MAX_CURSORS = 10_000


class Stage:
    """Everything that a request, a person or a test may look at or change."""

    def __init__(self, script: Script, log: Path | None = None) -> None:
        self.changed = threading.Condition()
        self.gates = Gates(self.changed)
        self.records = Records(self.changed, log)
        self._script = script
        self._cursors: OrderedDict[str, Cursor] = OrderedDict()

    @property
    def script(self) -> Script:
        with self.changed:
            return self._script

    def load(self, script: Script) -> None:
        """Another script, from its beginning, with all gates closed."""
        with self.changed:
            self._script = script
            self.reset()

    def reset(self) -> None:
        """Every scenario from its beginning, with all gates closed and no request kept."""
        with self.changed:
            self._cursors.clear()
            self.gates.close()
            self.records.forget()

    def choose(self, scenario: str, asked: Asked) -> Choice:
        """The next answer of a scenario. A name that the script does not know plays the script's main one, on its own."""
        with self.changed:
            cursor = self._cursors.pop(scenario, None)
            if cursor is None:
                cursor = Cursor(self._script.scenarios.get(scenario, self._script.main))
            self._cursors[scenario] = cursor
            if len(self._cursors) > _MAX_CURSORS:
                self._cursors.popitem(last=False)
            return cursor.choose(asked)
