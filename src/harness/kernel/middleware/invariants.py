"""What must hold of a tool's arguments, as a short expression: `amount <= 500 and currency in ("EUR", "USD")`. Pure.

An expression knows comparisons, `and`, `or`, `not`, `in`, numbers, texts, lists, names of arguments with their parts
(`payment.amount`), `len(…)`, and the methods `startswith`, `endswith` and `lower` of texts. Nothing else is run, and
what cannot be evaluated does not hold.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, cast

from harness.errors import UsageError

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
_METHODS = frozenset({"startswith", "endswith", "lower"})
_CONSTANTS = {"true": True, "false": False, "null": None}
_MAX_CHARACTERS = 2000


class Unresolved(Exception):
    """A name that the arguments do not have, or a comparison that makes no sense."""


class Expression:
    """A parsed expression. Raises `UsageError` for what it does not know."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            if len(text) > _MAX_CHARACTERS:
                raise UsageError(f"an invariant has at most {_MAX_CHARACTERS} characters: {text[:60]!r}…")
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError) as error:
            raise UsageError(f"the invariant {text!r} is no expression: {error}") from error
        _check(self._tree, text)

    def holds(self, arguments: Mapping[str, Any]) -> bool:
        """Whether it is true of these arguments. Raises `Unresolved` if that cannot be said."""
        try:
            value = _value(self._tree, arguments)
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise Unresolved(str(error)) from error
        if not isinstance(value, bool):
            raise Unresolved(f"it gives {type(value).__name__}, not true or false")
        return value


def _check(node: ast.expr, text: str) -> None:
    match node:
        case ast.BoolOp():
            parts = node.values
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            parts = [node.operand]
        case ast.Compare() if all(type(each) in _COMPARE for each in node.ops):
            parts = [node.left, *node.comparators]
        case ast.List() | ast.Tuple() | ast.Set():
            parts = node.elts
        case ast.Call(func=ast.Name(id="len"), keywords=[]) if len(node.args) == 1:
            parts = node.args
        case ast.Call(func=ast.Attribute(value=owner, attr=name), keywords=[]) if name in _METHODS:
            parts = [owner, *node.args]
        case ast.Attribute(value=owner):
            parts = [owner]
        case ast.Name() | ast.Constant(value=str() | int() | float() | bool() | None):
            parts = []
        case _:
            raise UsageError(f"the invariant {text!r} holds {ast.unparse(node)!r}, which an invariant cannot")
    for part in parts:
        _check(part, text)


def _value(node: ast.expr, arguments: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return _named(node.id, arguments)
        case ast.Attribute():
            return _part(_value(node.value, arguments), node.attr)
        case ast.BoolOp():
            values = (_truth(_value(each, arguments)) for each in node.values)
            return all(values) if isinstance(node.op, ast.And) else any(values)
        case ast.UnaryOp():
            value = _value(node.operand, arguments)
            return not _truth(value) if isinstance(node.op, ast.Not) else -value
        case ast.Compare():
            return _compared(node, arguments)
        case ast.List() | ast.Tuple() | ast.Set():
            return [_value(each, arguments) for each in node.elts]
        case ast.Call(func=ast.Name()):
            return len(_value(node.args[0], arguments))
        case ast.Call(func=ast.Attribute(value=owner, attr=name)):
            text = _value(owner, arguments)
            if not isinstance(text, str):
                raise Unresolved(f"{ast.unparse(owner)} is no text")
            return getattr(text, name)(*(_value(each, arguments) for each in node.args))
        case _:
            raise Unresolved(ast.unparse(node))


def _named(name: str, arguments: Mapping[str, Any]) -> Any:
    if name in arguments:
        return arguments[name]
    if name in _CONSTANTS:
        return _CONSTANTS[name]
    raise Unresolved(f"there is no argument {name!r}")


def _part(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        raise Unresolved(f"there is no part {name!r}")
    return cast("Mapping[str, Any]", value)[name]


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Unresolved(f"{value!r:.40} is neither true nor false")
    return value


def _compared(node: ast.Compare, arguments: Mapping[str, Any]) -> bool:
    left = _value(node.left, arguments)
    for op, each in zip(node.ops, node.comparators, strict=True):
        right = _value(each, arguments)
        if not _COMPARE[type(op)](left, right):
            return False
        left = right
    return True
