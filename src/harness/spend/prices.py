"""What models cost: a table that anybody can override, and the arithmetic. Pure.

Amounts are micro-USD, rounded up, so that a sum of parts never understates. A model that the table does not know
has no price, which is not the same as free.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

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


# List prices of the providers' pages. They change: override them. A test compares them with `genai_prices`.
PRICES: Mapping[str, Price] = {
    "claude-opus-5-5": Price(input=4, output=20, cache_read=0.2, cache_write=5),
    "claude-opus-5": _anthropic(5),
    "claude-opus-4-8": _anthropic(5),
    "claude-opus-4-7": _anthropic(5),
    "claude-opus-4-6": _anthropic(5),
    "claude-opus-4-5": _anthropic(5),
    "claude-opus-4-1": _anthropic(15),
    "claude-opus-4-0": _anthropic(15),
    "claude-opus-4": _anthropic(15),
    "claude-sonnet-5-5": Price(input=2, output=10, cache_read=0.1, cache_write=2.5),
    "claude-sonnet-5": _anthropic(2),
    "claude-sonnet-4-6": _anthropic(3),
    "claude-sonnet-4-5": _anthropic(3),
    "claude-sonnet-4-0": _anthropic(3),
    "claude-sonnet-4": _anthropic(3),
    "claude-haiku-5-5": _anthropic(0.1),
    "claude-haiku-4-5": _anthropic(1),
    "claude-3-7-sonnet": _anthropic(3),
    "claude-3-5-sonnet": _anthropic(3),
    "claude-3-5-haiku": _anthropic(0.8),
    "claude-3-opus": _anthropic(15),
    "gpt-5.6-sol": Price(input=4, output=20, cache_read=0.4, cache_write=5),
    "gpt-5.6-terra": Price(input=2, output=12, cache_read=0.2, cache_write=2.5),
    "gpt-5.6-luna": Price(input=0.2, output=1.2, cache_read=0.02, cache_write=0.25),
    "gpt-5.5": _openai(5, 30, 0.5),
    "gpt-5.5-pro": Price(input=30, output=180),
    "gpt-5.4": _openai(2.5, 15, 0.25),
    "gpt-5.4-mini": _openai(0.75, 4.5, 0.075),
    "gpt-5.4-nano": _openai(0.2, 1.25, 0.02),
    "gpt-5.4-pro": Price(input=30, output=180),
    "gpt-5.3-codex": _openai(1.75, 14, 0.175),
    "gpt-5.2": _openai(1.75, 14, 0.175),
    "gpt-5.2-pro": Price(input=21, output=168),
    "gpt-5.1": _openai(1.25, 10, 0.125),
    "gpt-5.1-codex-mini": _openai(0.25, 2, 0.025),
    "gpt-5": _openai(1.25, 10, 0.125),
    "gpt-5-mini": _openai(0.25, 2, 0.025),
    "gpt-5-nano": _openai(0.05, 0.4, 0.005),
    "gpt-5-pro": Price(input=15, output=120),
    "gpt-4.1": _openai(2, 8, 0.5),
    "gpt-4.1-mini": _openai(0.4, 1.6, 0.1),
    "gpt-4.1-nano": _openai(0.1, 0.4, 0.025),
    "gpt-4o-2024-05-13": Price(input=5, output=15),
    "gpt-4o": _openai(2.5, 10, 1.25),
    "gpt-4o-mini": _openai(0.15, 0.6, 0.075),
    "o1": _openai(15, 60, 7.5),
    "o3": _openai(2, 8, 0.5),
    "o3-mini": _openai(1.1, 4.4, 0.55),
    "o3-pro": Price(input=20, output=80),
    "o4-mini": _openai(1.1, 4.4, 0.275),
}
_DATED = re.compile(r"(?:[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|latest))?")  # what may follow a name and is the same model
_LISTED = re.compile(
    r"claude|gpt|chatgpt|o\d|gemini|gemma|[a-z]*stral|mixtral|grok|deepseek|llama|command|qwen|kimi|glm|nova|sonar|codex",
    re.IGNORECASE,
)


def price_of(model: str, overrides: Mapping[str, Price] | None = None, *, published: bool = True) -> Price | None:
    """The price of a model. None: nobody knows.

    `overrides` come first, by the longest one that the name begins with; then the table by the name itself, then
    `genai_prices` where that is installed, and for a name that it does not know either, the longest name of the table that
    it begins with: a guess, which is nearer than nothing. A provider's prefix (`anthropic:`, `openai/`) does not count.
    Without `published` that package is not loaded, which takes a second and tens of megabytes.
    """
    name = model.rpartition(":")[2].rpartition("/")[2]
    return (
        _longest(overrides or {}, model, name)
        or next(
            (price for known, price in PRICES.items() if name.startswith(known) and _DATED.fullmatch(name[len(known) :])), None
        )
        or (_published(name) if published else None)
        or _longest(PRICES, model, name)
    )


def _longest(table: Mapping[str, Price], model: str, name: str) -> Price | None:
    matching = [known for known in table if model == known or name.startswith(known)]
    return table[max(matching, key=len)] if matching else None


def _published(name: str) -> Price | None:
    """What `genai_prices` says of a model, if it is installed. Loading it takes half a second, so only for likely names."""
    if not _LISTED.match(name):
        return None
    try:
        from genai_prices import Usage, calc_price
    except ImportError:
        return None
    try:
        found = calc_price(Usage(input_tokens=1), name).model_price
    except (LookupError, ValueError):
        return None
    input, output = _base(found, "input_mtok"), _base(found, "output_mtok")
    if input is None or output is None:
        return None
    return Price(
        input=input, output=output, cache_read=_base(found, "cache_read_mtok"), cache_write=_base(found, "cache_write_mtok")
    )


def _base(prices: object, field: str) -> float | None:
    """A price, in its lowest tier if it depends on the length."""
    found: Any = getattr(prices, field, None)
    return None if found is None else float(getattr(found, "base", found))


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
