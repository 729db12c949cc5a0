"""Calling what a subclass overrides: with the arguments it has a place for, whether it is async or not. Knows no harness."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import anyio.to_thread

from harness.errors import UsageError

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


async def call(function: Callable[..., Any], *positional: Any, in_thread: bool = False, **offered: Any) -> Any:
    """Call an overridden method and wait for it; what it does not accept of `offered` is left out.

    A synchronous one runs in a thread if `in_thread`, so that it holds up nothing else. Raises `UsageError` for a method
    with more parameters than there are arguments.
    """
    accepted, positional = _accepted(function, positional, offered)
    if in_thread and not inspect.iscoroutinefunction(function):
        result = await anyio.to_thread.run_sync(lambda: function(*positional, **accepted))
    else:
        result = function(*positional, **accepted)
    return await result if inspect.isawaitable(result) else result


def _accepted(
    function: Callable[..., Any], positional: tuple[Any, ...], offered: dict[str, Any]
) -> tuple[dict[str, Any], tuple[Any, ...]]:
    parameters = list(inspect.signature(function).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return offered, positional
    open_ = [parameter for parameter in parameters if parameter.kind in _NAMED][len(positional) :]
    accepted = {parameter.name: offered[parameter.name] for parameter in open_ if parameter.name in offered}
    left = [value for name, value in offered.items() if name not in accepted]
    for parameter in open_:
        if parameter.default is parameter.empty and parameter.name not in accepted:
            if not left:
                raise UsageError(
                    f"{function.__qualname__} has a parameter {parameter.name!r} that nothing is there for; it may have:"
                    f" {', '.join((*('the first' for _ in positional), *offered)) or 'none'}"
                )
            accepted[parameter.name] = left.pop(0)
    return accepted, positional
