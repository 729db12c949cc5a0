"""Importing a library without modules that it can do without: what starts often, or a hundred times, gains by it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator


@contextlib.contextmanager
def leaving_out(*modules: str) -> Generator[None]:
    """What is imported within finds these missing, unless they are loaded already; what comes later finds them."""
    here = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(here))  # type: ignore[arg-type] - None is how an import is made to fail
    try:
        yield
    finally:
        for name in here:
            del sys.modules[name]
