"""Finding a project's home, opening its ledger, and running a command's coroutine.

Reading opens the ledger for reading only and never makes one; writing makes none either: `init` and `run` do.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from harness.ledger import Store
    from harness.settings import Settings

T = TypeVar("T")


def settings_of(home: Path | None) -> Settings:
    """What the project's `harness.toml`, the environment and `--home` say; nothing is written."""
    from harness.cli.options import home_option
    from harness.settings import load_settings

    return load_settings(home=home_option(home))


def actor() -> str:
    """Who types this command, as the ledger names people."""
    import getpass

    try:
        return f"person:{getpass.getuser()}"
    except (KeyError, OSError):  # a user id without a name
        import os

        return f"person:{os.getuid()}"


@asynccontextmanager
async def reading(home: Path | None) -> AsyncGenerator[Store]:
    """The home's ledger, opened for reading only."""
    from harness.ledger import open_store

    async with open_store(settings_of(home).database, actor=actor(), create=False, read_only=True) as store:
        yield store


@asynccontextmanager
async def writing(home: Path | None) -> AsyncGenerator[Store]:
    """The home's ledger, for a person's own entries."""
    from harness.ledger import open_store

    async with open_store(settings_of(home).database, actor=actor(), create=False) as store:
        yield store


def execute(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine to its end."""
    import asyncio

    return asyncio.run(main())
