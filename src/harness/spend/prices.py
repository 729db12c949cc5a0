"""What models cost: a small table that anybody can override, and the arithmetic. Pure.

Amounts are micro-USD, rounded up, so that a sum of parts never understates. A model that the table does not know
has no price, which is not the same as free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """USD for a million tokens, which is the same number as micro-USD for one token."""

    input: float
    output: float
    cache_read: float | None = None  # None: as input
    cache_write: float | None = None  # None: as input


def _anthropic(base: float) -> Price:
    return Price(input=base, output=5 * base, cache_read=base / 10, cache_write=1.25 * base)


def _openai(base: float, output: float, cached: float) -> Price:
    return Price(input=base, output=output, cache_read=cached)


# List prices of the providers' pages, by the longest prefix of the model's name. They change: override them.
PRICES: Mapping[str, Price] = {
    "claude-opus-4-1": _anthropic(15),
    "claude-opus-4-2025": _anthropic(15),
    "claude-opus": _anthropic(5),
    "claude-sonnet": _anthropic(3),
    "claude-haiku": _anthropic(1),
    "claude-3-5-haiku": _anthropic(0.8),
    "gpt-5": _openai(1.25, 10, 0.125),
    "gpt-5-mini": _openai(0.25, 2, 0.025),
    "gpt-5-nano": _openai(0.05, 0.4, 0.005),
    "gpt-5-pro": Price(input=15, output=120),
    "gpt-4.1": _openai(2, 8, 0.5),
    "gpt-4.1-mini": _openai(0.4, 1.6, 0.1),
    "gpt-4.1-nano": _openai(0.1, 0.4, 0.025),
    "gpt-4o": _openai(2.5, 10, 1.25),
    "gpt-4o-mini": _openai(0.15, 0.6, 0.075),
    "o3": _openai(2, 8, 0.5),
    "o4-mini": _openai(1.1, 4.4, 0.275),
}


def price_of(model: str, overrides: Mapping[str, Price] | None = None) -> Price | None:
    """The price of a model by the longest known beginning of its name; overrides come first. None: nobody knows.

    A provider's prefix (`anthropic:`, `openai/`) does not count.
    """
    name = model.rpartition(":")[2].rpartition("/")[2]
    for table in (overrides or {}, PRICES):
        matching = [known for known in table if model == known or name.startswith(known)]
        if matching:
            return table[max(matching, key=len)]
    return None


def cost_micro_usd(
    price: Price, *, input_tokens: int = 0, output_tokens: int = 0, cache_read_tokens: int = 0, cache_write_tokens: int = 0
) -> int:
    """What a call cost; every token counts in one field."""
    read = price.input if price.cache_read is None else price.cache_read
    write = price.input if price.cache_write is None else price.cache_write
    exact = input_tokens * price.input + output_tokens * price.output + cache_read_tokens * read + cache_write_tokens * write
    return math.ceil(round(exact, 6))


def estimate_micro_usd(price: Price, *, prompt_characters: int, max_output_tokens: int) -> int:
    """What a call may cost at most, about: three characters a token, and the longest answer allowed."""
    dearest = max(price.input, price.cache_write or 0)
    return math.ceil(prompt_characters / 3 * dearest + max_output_tokens * price.output)
