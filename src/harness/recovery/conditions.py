"""What a check demands of what it saw: one CEL expression, compiled when it is registered.

Only a boolean that is true passes. CEL reports a missing value as a value of type ERROR, which Python
takes for true; here it never passes. Owns no I/O. The CEL library is loaded with the first condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

from harness.errors import DeclarationError
from harness.recovery.facts import CheckResult

Evidence = Mapping[str, object]
"""What a check saw, by field. A field that was not seen is left out or None."""

MAX_LENGTH = 2_000

FIELDS: Mapping[str, Mapping[str, str]] = {
    "http": {"status": "int", "body": "string", "headers": "map", "latency_ms": "number", "json": "any"},
    "latency": {"value": "number", "status": "int"},
    "tcp": {"connected": "bool", "value": "number", "latency_ms": "number"},
    "process": {"running": "bool", "state": "string", "pid": "int", "restarts": "int"},
}
"""The fields of each kind of check. `value` and `latency_ms` are milliseconds; header names are in lower case."""

_SAMPLES: Mapping[str, object] = {"int": 200, "string": "", "map": {}, "number": 1.5, "bool": True}


class Holding(NamedTuple):
    """Whether a condition holds, and why not."""

    result: CheckResult
    detail: str


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that parsed, is boolean and names only fields that its kind of check has."""

    text: str
    kind: str
    _program: Any = field(repr=False, compare=False)

    def holds(self, evidence: Evidence) -> Holding:
        """Pass for true, fail for false, unknown for a field that was not seen, error for anything else."""
        seen = {name: value for name, value in evidence.items() if value is not None}
        try:
            value = self._program.eval(data=seen)
        except RuntimeError as error:
            return Holding(CheckResult.ERROR, f"`{self.text}`: {_first_line(error)}")
        plain = value.value()
        if value.type() == _cel().Type.BOOL and isinstance(plain, bool):
            return Holding(CheckResult.PASS, "") if plain else Holding(CheckResult.FAIL, self._told(seen))
        if "No value with name" in str(plain):
            return Holding(CheckResult.UNKNOWN, f"`{self.text}`: {_missing(str(plain))} was not seen")
        return Holding(CheckResult.ERROR, f"`{self.text}`: {plain}")

    def _told(self, seen: Evidence) -> str:
        shown = (f"{name} is {_short(seen[name])}" for name in FIELDS[self.kind] if name in seen and name in self.text)
        return f"not `{self.text}`: " + (", ".join(shown) or "it is false")


def compile_condition(text: str, kind: str) -> Condition:
    """Check and compile a condition for one kind of check.

    Raises `DeclarationError` if it does not parse, is not boolean, names an unknown field, or if CEL is not installed.
    """
    if not text.strip():
        raise DeclarationError("a condition must not be empty; write for instance `status == 200`")
    if len(text) > MAX_LENGTH:
        raise DeclarationError(f"a condition of {len(text)} characters is over the limit of {MAX_LENGTH}")
    cel = _cel()
    try:
        program = _environment(kind).compile(text)
    except (RuntimeError, ValueError, TypeError, UnicodeError) as error:
        raise DeclarationError(_refusal(text, kind, str(error))) from None
    if program.return_type() != cel.Type.BOOL:
        hint = " (compare it with something: `… == true`)" if program.return_type() == cel.Type.DYN else ""
        raise DeclarationError(f"condition `{text}` gives {_type_name(program.return_type())}, not true or false{hint}")
    _rehearse(text, kind, program)
    return Condition(text, kind, program)


def _rehearse(text: str, kind: str, program: Any) -> None:
    """Find what CEL only notices when it runs: a number compared with a text, a bad regular expression."""
    sample = {name: _SAMPLES[type_] for name, type_ in FIELDS[kind].items() if type_ in _SAMPLES}
    try:
        told = str(program.eval(data=sample).value())
    except RuntimeError as error:
        told = str(error)
    if "No matching overload" in told or "invalid regular expression" in told:
        raise DeclarationError(f"condition `{text}` can never hold: {told.partition(': ')[2] or told}")


@cache
def _cel() -> ModuleType:
    try:
        from cel_expr_python import cel  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise DeclarationError(
            "checks need the CEL library for their conditions: pip install 'agentharness[services]'"
        ) from error
    return cel  # type: ignore[no-any-return]


@cache
def _environment(kind: str) -> Any:
    type_ = _cel().Type
    types = {
        "int": type_.INT, "string": type_.STRING, "bool": type_.BOOL, "map": type_.Map(type_.STRING, type_.STRING),
        "number": type_.DYN, "any": type_.DYN,
    }  # fmt: skip
    return _cel().NewEnv(variables={name: types[of] for name, of in FIELDS[kind].items()})


def _refusal(text: str, kind: str, error: str) -> str:
    name = error.partition("undeclared reference to '")[2].partition("'")[0]
    if name:
        near = get_close_matches(name, FIELDS[kind], n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(FIELDS[kind])
        return f"condition `{text}` names {name}, which a check of kind {kind} does not have (it has {known}){meant}"
    return f"condition `{text}` is refused: {_first_line(error)}"


def _first_line(error: object) -> str:
    line = str(error).partition("\n")[0].removeprefix("INVALID_ARGUMENT: ").removeprefix("ERROR: ")
    return line.replace("<input>:", "at line ").removesuffix("[INVALID_ARGUMENT]").strip()


def _type_name(type_: Any) -> str:
    named = type_.name()
    return {"DYN": "a value of any type"}.get(named, f"a value of type {named.lower()}")


def _missing(error: str) -> str:
    return error.partition('"')[2].partition('"')[0]


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    told = repr(value)
    return told if len(told) <= 80 else told[:77] + "…'"
