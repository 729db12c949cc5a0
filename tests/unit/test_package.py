"""What importing costs and gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

import harness
import harness.errors

HEAVY = (
    *("pydantic", "typer", "rich", "httpx", "fastapi", "nicegui", "cel_expr_python", "cryptography", "anthropic", "openai"),
    *("sqlite3", "asyncio", "anyio", "msgspec"),
)


def test_importing_harness_loads_nothing_heavy() -> None:
    """`import harness` is cheap wherever it stands."""
    script = f"import sys, harness; print([name for name in {HEAVY!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", harness.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """What is promised can be imported."""
    assert getattr(harness, name).__name__ in (name, "Literal", "str")


def test_every_error_class_is_public() -> None:
    """A caller can catch each by name."""
    errors = {
        name
        for name, value in vars(harness.errors).items()
        if isinstance(value, type) and issubclass(value, harness.errors.HarnessError)
    }

    assert errors <= set(harness.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """Laziness does not hide mistakes."""
    with pytest.raises(AttributeError, match="nonsense"):
        _ = harness.nonsense
