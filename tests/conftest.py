"""Fixtures that every kind of test may use."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Harness runs on asyncio."""
    return "asyncio"
