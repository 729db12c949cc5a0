"""Reading option values of the plain kinds without pydantic, which would double every command's start-up time.

typer 0.29 builds a pydantic adapter per option when the value is read. Where a parameter has that slot and its kind is
text, number, path, choice, flag or a list of these, it is filled with `Plain`; everywhere else typer's own way stays.
"""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

_SLOT = "_runtime_param"


class Plain:
    """Turns the words of one parameter into its type."""

    def __init__(self, kind: type[Any], *, many: bool, low: float | None, high: float | None) -> None:
        self._kind, self._many, self._low, self._high = kind, many, low, high

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value in the parameter's type. Raises `typer.BadParameter`."""
        if self._many:
            return [self._one(item, param, ctx) for item in value or ()]
        return None if value is None else self._one(value, param, ctx)

    def _one(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            result = self._kind(value)
        except ValueError as error:
            raise typer.BadParameter(f"{value!r} is not {self._wanted()}.", param=param, ctx=ctx) from error
        if isinstance(result, int | float) and not self._fits(result):
            raise typer.BadParameter(f"{value!r} is not {self._wanted()}.", param=param, ctx=ctx)
        return result

    def _fits(self, number: float) -> bool:
        low = -math.inf if self._low is None else self._low
        high = math.inf if self._high is None else self._high
        return math.isfinite(number) and low <= number <= high

    def _wanted(self) -> str:
        if issubclass(self._kind, StrEnum):
            return "one of " + ", ".join(self._kind)
        noun = "a whole number" if self._kind is int else "a number"
        match self._low, self._high:
            case None, None:
                return noun
            case low, None:
                return f"{noun} from {low:g}"
            case None, high:
                return f"{noun} up to {high:g}"
            case low, high:
                return f"{noun} from {low:g} to {high:g}"


def plain(params: list[Any]) -> list[Any]:
    """The same parameters, their slots filled. Does nothing where typer has no such slot."""
    for param in params:
        descriptor = getattr(param, "type_descriptor", None)
        if descriptor is None or getattr(param, _SLOT, "absent") is not None:
            continue
        many = get_origin(descriptor.annotation) is list
        kind = get_args(descriptor.annotation)[0] if many else descriptor.annotation
        if isinstance(kind, type) and (kind in (bool, str, int, float, Path) or issubclass(kind, StrEnum)):
            info = descriptor.parameter_info
            setattr(param, _SLOT, Plain(kind, many=many, low=info.min, high=info.max))
    return params
