"""Prices, slices and budgets."""

from __future__ import annotations

import subprocess
import sys

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import BudgetExceeded
from harness.ledger import MemoryStore
from harness.spend import Budgets, Price, Slice, cost_micro_usd, estimate_micro_usd, price_of
from harness.spend.budgets import usd
from harness.spend.prices import PRICES
from harness.spend.slices import slice_size


@pytest.mark.parametrize(
    ("model", "per_input"),
    [
        ("claude-haiku-4-5", 1),
        ("anthropic:claude-sonnet-4-5", 3),
        ("openai/gpt-5-mini-2025-08-07", 0.25),
        ("gpt-5", 1.25),
        ("my-own-model", None),
    ],
)
def test_the_longest_known_name_gives_the_price(model: str, per_input: float | None) -> None:
    """A model's price is found by its name, and an unknown model has none."""
    price = price_of(model)

    assert (price.input if price else None) == per_input


@pytest.mark.parametrize("model", PRICES)
def test_the_table_says_what_is_published(model: str) -> None:
    """Each price of the table is the one that the community's list has for this very name."""
    from genai_prices import Usage, calc_price

    found = calc_price(Usage(input_tokens=1), model).model_price.__dict__
    published = {name: found.get(f"{name}_mtok") for name in ("input", "output", "cache_read", "cache_write")}
    price = PRICES[model]

    for name, value in published.items():
        mine = getattr(price, name)
        if value is not None:
            assert (price.input if mine is None else mine) == float(getattr(value, "base", value)), name


def test_a_model_that_the_table_lacks_is_looked_up() -> None:
    """An exact name elsewhere is better than a beginning here; what nobody lists is a guess by its family, or unknown."""
    mini = price_of("gpt-5-image-mini")
    unheard_of = price_of("gpt-5-unheard-of-model")

    assert mini is not None
    assert mini.input == 2.5
    assert unheard_of is not None
    assert price_of("gemini-2.5-flash") is not None
    assert price_of("llama-that-nobody-lists-anywhere") is None
    assert price_of("default") is None


def test_a_small_process_asks_the_table_alone() -> None:
    """Looking a model up elsewhere loads what a session's host has no room for."""
    code = """if True:
        import sys
        from harness.spend import price_of
        print(price_of("gpt-5-image-mini", published=False).input, price_of("llama", published=False))
        print([name for name in ("genai_prices", "pydantic", "httpx") if name in sys.modules])
    """

    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout

    assert told == "1.25 None\n[]\n"


def test_own_prices_come_first() -> None:
    """What the caller says a model costs is what it costs."""
    own = {"gpt": Price(input=7, output=8), "local": Price(input=0, output=0)}

    assert price_of("gpt-5", own) == own["gpt"]
    assert price_of("local-llama", own) == own["local"]


def test_costs_are_rounded_up() -> None:
    """A part of a micro-dollar is a whole one; cached tokens have their own price."""
    price = Price(input=0.25, output=2, cache_read=0.025)

    assert cost_micro_usd(price, input_tokens=1) == 1
    assert cost_micro_usd(price, input_tokens=1000, output_tokens=100, cache_read_tokens=1000) == 250 + 200 + 25
    assert estimate_micro_usd(price, prompt_characters=3000, max_output_tokens=100) == 250 + 200


@pytest.mark.parametrize(("micro", "text"), [(0, "$0.00"), (1, "$0.000001"), (1_500_000, "$1.50"), (12_345_678, "$12.345678")])
def test_amounts_read_well(micro: int, text: str) -> None:
    """An amount is written in dollars with at least two decimals."""
    assert usd(micro) == text


calls = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 2000)), max_size=30)


@given(calls)
def test_a_slice_never_spends_what_the_counter_does_not_hold(steps: list[tuple[int, int]]) -> None:
    """Whatever is reserved and whatever it costs in the end, what was granted covers it."""
    slice_ = Slice()
    taken = 0
    for amount, cost in steps:
        more = slice_.missing(amount)
        slice_.granted += more
        taken += more
        slice_.reserve(amount)
        taken += slice_.settle(reserved=amount, cost=cost)

        assert slice_.granted == taken
        assert slice_.spent + slice_.reserved <= slice_.granted


@given(missing=st.integers(1, 10**9), needed=st.integers(1, 10**9), left=st.integers(0, 10**12))
def test_a_run_asks_for_what_it_lacks_and_little_more(missing: int, needed: int, left: int) -> None:
    """A slice covers what is missing, and beyond that no more than a part of what the tenant has left."""
    amount = slice_size(missing, needed=needed, left=left)

    assert amount >= missing
    assert amount == missing or amount <= left / 4


async def test_reserved_before_and_settled_after() -> None:
    """A reservation counts until the real cost is known, and settling twice changes nothing."""
    budgets = Budgets(MemoryStore())
    reservation = await budgets.reserve("t", 100, limit=150, what="analysis")

    with pytest.raises(BudgetExceeded, match=r"budget of tenant 't' is \$0\.00015"):
        await budgets.reserve("t", 60, limit=150, what="analysis")
    await budgets.settle(reservation, 30)
    await budgets.settle(reservation, 30)

    assert await budgets.used("t") == 30
    assert await budgets.used("other") == 0


async def test_many_reservations_at_once_never_pass_the_limit() -> None:
    """The guard decides inside the append, so a race cannot overspend."""
    budgets = Budgets(MemoryStore())
    granted: list[int] = []

    async def one() -> None:
        try:
            granted.append((await budgets.reserve("t", 10, limit=95, what="race")).amount)
        except BudgetExceeded:
            return

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(one)

    assert sum(granted) == await budgets.used("t") == 90
