"""Numbers, times and texts that a caller gives: one rule and one sentence each."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from harness import ModelCallOptions, RetryPolicy, TenantContext, UsageError
from harness.kernel.bounds import check_count, check_limit, check_number, check_seconds, check_text
from harness.middleware import Approval, CallLimit, Quota

NO_NUMBERS = [True, "5", math.nan, math.inf, -math.inf, None, [], -1]


@pytest.mark.parametrize(
    ("check", "good", "bad", "words"),
    [
        (check_number, (0, 0.5, 7), NO_NUMBERS, "is a finite number from 0 on, not"),
        (check_seconds, (0.001, 7), [*NO_NUMBERS, 0], "is a number of seconds above 0, not"),
        (check_count, (1, 7), [*NO_NUMBERS, 0, 1.0], "is a whole number from 1 on, not"),
        (
            check_limit,
            (None, 0, 2.5),
            [each for each in NO_NUMBERS if each is not None] + [10**12],
            "to a million million, not",
        ),
        (check_text, ("a", " a"), ["", " ", 3, None, b"a"], "is a text that is not empty, not"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    check: Callable[[str, object], None], good: tuple[object, ...], bad: list[object], words: str
) -> None:
    """With what it is called, and its value."""
    for each in good:
        check("it", each)

    for each in bad:
        with pytest.raises(UsageError) as refused:
            check("it", each)
        assert str(refused.value).startswith("it is ")
        assert f"{words}" in str(refused.value)
        assert str(refused.value).endswith(repr(each))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Quota(calls=1, window_seconds="5"),  # type: ignore[arg-type]
        lambda: CallLimit(calls=1, window_seconds="5"),  # type: ignore[arg-type]
        lambda: Approval(deadline_seconds="5"),  # type: ignore[arg-type]
        lambda: RetryPolicy(max_seconds="5"),  # type: ignore[arg-type]
        lambda: ModelCallOptions(timeout="5"),  # type: ignore[arg-type]
        lambda: TenantContext(tenant_id="t", wall_seconds_limit="5"),  # type: ignore[arg-type]
    ],
)
def test_a_time_given_as_text_is_a_usage_error(make: Callable[[], object]) -> None:
    """And no failed comparison somewhere below."""
    with pytest.raises(UsageError, match="not '5'"):
        make()
