"""What all parts of the kernel's face stand on. Owns no method that a user calls."""

from __future__ import annotations

from harness.errors import KernelError
from harness.kernel.artifacts import Artifacts
from harness.kernel.lifecycle import Lifecycle
from harness.kernel.steps import Steps
from harness.ledger import Store


class Face:
    """The parts of a kernel that more than one group of its methods uses."""

    _store: Store
    _steps: Steps
    _lifecycle: Lifecycle
    _artifacts: Artifacts
    _closed: bool = False

    @property
    def store(self) -> Store:
        """The ledger that the kernel writes to."""
        return self._store

    def _open(self) -> None:
        if self._closed:
            raise KernelError("this kernel is closed; make another one")
