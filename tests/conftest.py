"""Fixtures that every kind of test may use, and the rule that CI skips nothing."""

from __future__ import annotations

import os

import pytest

_skipped: list[str] = []


@pytest.fixture
def anyio_backend() -> str:
    """Harness runs on asyncio."""
    return "asyncio"


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
