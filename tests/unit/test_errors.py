"""One line for a person, however many things went wrong together."""

from __future__ import annotations

from harness.errors import Busy, HarnessError, ProcessError, told_of


def test_a_group_of_our_own_errors_is_told_by_its_first() -> None:
    """Nested groups of errors that Harness raises on purpose are one of them."""
    first, second = ProcessError("first"), Busy("x", holder_pid=None, waited_seconds=1)

    assert told_of(ExceptionGroup("", [ExceptionGroup("", [first]), second])) is first


def test_a_group_with_a_defect_in_it_is_not_told_as_one_line() -> None:
    """A traceback is what a defect needs."""
    assert told_of(ExceptionGroup("", [HarnessError("x"), ExceptionGroup("", [ValueError("y")])])) is None
