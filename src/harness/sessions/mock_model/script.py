"""What a script may say, how it is read from JSON or TOML, and what is said about one that makes no sense.

Owns the format and its errors. Which turn answers which request is decided in `choosing`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec

from harness.errors import UsageError
from harness.settings import nearest

MAX_WAIT_SECONDS = 600.0
"""No delay and no gate holds an answer back for longer."""

_MAX_FILE_BYTES = 16 * 1024 * 1024

Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT_SECONDS)]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Status = Annotated[int, msgspec.Meta(ge=400, le=599)]


class FileWrite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file to be written, whatever the client calls its tool."""

    path: str
    content: str


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One tool call: `shell`, `write` and `read` in the client's own terms, or `name` with `input` exactly as given."""

    shell: str | None = None  # a command line
    write: FileWrite | None = None
    read: str | None = None  # a path
    name: str | None = None
    input: dict[str, Any] | str = {}  # text is sent as it is, for arguments that are no JSON


class Usage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the answer is said to have used; the same in every protocol, whatever its way of counting."""

    input: Tokens = 100  # without what was read from or written to the cache
    output: Tokens | None = None  # None: guessed from the text
    cache_read: Tokens = 0
    cache_write: Tokens = 0


class Failure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An answer that is an error: before anything else, or in the middle of a stream."""

    status: Status
    type: str = ""  # empty: what the provider calls this status
    message: str = ""
    midstream: bool = False


class Turn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One answer of the model."""

    text: str = ""
    thinking: str = ""
    tools: tuple[Call, ...] = ()
    usage: Usage = Usage()
    stop: str = ""  # `length`, `refusal`, or the protocol's own word
    times: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    delay: Seconds = 0.0  # before the first byte
    chunk_delay: Seconds = 0.0  # before each further piece of a stream
    hold: str = ""  # a gate: the answer begins when it is opened
    error: Status | Failure | None = None
    disconnect: Literal["before", "midstream"] | None = None
    headers: dict[str, str] = {}

    @property
    def failure(self) -> Failure | None:
        """The error, also where only its status is given."""
        return Failure(status=self.error) if isinstance(self.error, int) else self.error

    @property
    def fails(self) -> bool:
        """Whether the client gets no whole answer, so that it is likely to ask the same again."""
        return self.error is not None or self.disconnect is not None


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The turns that answer a prompt, which is told by a regular expression."""

    prompt: str
    turns: tuple[Turn, ...] = ()


DONE = Turn(text="Done.")


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one base path is answered with."""

    turns: tuple[Turn, ...] = ()
    rules: tuple[Rule, ...] = ()
    default: Turn = DONE
    side: Turn | Literal["main"] | None = None  # None: `ok`, or the smallest JSON that fits the schema asked for


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a server answers with: the scenario without a name, and those that have one."""

    main: Scenario = Scenario()
    scenarios: dict[str, Scenario] = {}

    def as_data(self) -> dict[str, Any]:
        """The script as plain data, as `make_script` takes it."""
        data: dict[str, Any] = msgspec.to_builtins(self.main)
        if self.scenarios:
            data["scenarios"] = msgspec.to_builtins(self.scenarios)
        return data


def read_script(path: Path) -> Script:
    """A script from a `.toml` or `.json` file. Raises `UsageError` that names the file and the place in it."""
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise UsageError(f"{path}: cannot be read: {problem.strerror}") from problem
    if len(content) > _MAX_FILE_BYTES:
        raise UsageError(f"{path}: {len(content)} bytes are too many for a script")
    if path.suffix.lower() not in (".toml", ".json"):
        raise UsageError(f"{path}: a script is a .toml or a .json file")
    parse = _from_toml if path.suffix.lower() == ".toml" else _from_json
    return make_script(parse(content, str(path)), source=str(path))


def parse_json(content: bytes, source: str) -> Script:
    """A script from a JSON text. Raises `UsageError`."""
    return make_script(_from_json(content, source), source=source)


def make_script(data: object, *, source: str = "script") -> Script:
    """A script from plain data, known as `source` in errors. Raises `UsageError`."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{source}: a script is an object with keys such as 'turns'")
    rest = {str(key): value for key, value in cast("Mapping[object, object]", data).items()}
    named = rest.pop("scenarios", {})
    if not isinstance(named, Mapping):
        raise UsageError(f"{source}: scenarios: expected an object of scenarios by name")
    scenarios: dict[str, Scenario] = {}
    for name, inner in cast("Mapping[object, object]", named).items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name):
            raise UsageError(f"{source}: scenarios: {name!r} cannot be part of an address; use letters, digits, '.', '_', '-'")
        scenarios[name] = _scenario(inner, source, f"scenarios.{name}")
    return Script(main=_scenario(rest, source, ""), scenarios=scenarios)


def _from_toml(content: bytes, source: str) -> object:
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as problem:
        raise UsageError(f"{source}: not UTF-8 at byte {problem.start}") from problem
    except tomllib.TOMLDecodeError as problem:
        raise UsageError(f"{source}: not valid TOML: {problem}") from problem


def _from_json(content: bytes, source: str) -> object:
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError as problem:
        byte = re.search(r"\(byte (\d+)\)", str(problem))
        line = content.count(b"\n", 0, int(byte[1]) if byte else len(content)) + 1
        raise UsageError(f"{source}:{line}: not valid JSON: {problem}") from problem


# -- what makes no sense

_SHAPES: dict[str, type[msgspec.Struct]] = {
    "": Scenario,
    "turns": Turn,
    "default": Turn,
    "side": Turn,
    "rules": Rule,
    "tools": Call,
    "usage": Usage,
    "error": Failure,
    "write": FileWrite,
}


def _scenario(data: object, source: str, place: str) -> Scenario:
    try:
        scenario = msgspec.convert(data, Scenario, strict=True)
    except msgspec.ValidationError as problem:
        said, _, at = str(problem).partition(" - at `$")
        inner = at.removesuffix("`").removeprefix(".")
        where = ".".join(part for part in (place, inner) if part)
        raise UsageError(_sentence(source, where, _explained(said, inner, top=not place))) from problem
    for where, what in _nonsense(scenario):
        raise UsageError(_sentence(source, ".".join(part for part in (place, where) if part), what))
    return scenario


def _sentence(source: str, where: str, what: str) -> str:
    return f"{source}: {where}: {what}" if where else f"{source}: {what}"


def _explained(said: str, inner: str, *, top: bool) -> str:
    """The decoder's words, with what may have been meant for a key that nobody knows."""
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", said)
    if unknown is None:
        return said[:1].lower() + said[1:]
    last = re.sub(r"\[\d+\]", "", inner).rpartition(".")[2]
    shape = _SHAPES.get(last, Scenario)
    known = [*shape.__struct_fields__, *(("scenarios",) if shape is Scenario and top else ())]
    return f"unknown key {unknown[1]!r}{nearest(unknown[1], known)}"


def _nonsense(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Every place whose parts fit their types and still say nothing that could be done."""
    for number, rule in enumerate(scenario.rules):
        try:
            re.compile(rule.prompt)
        except re.error as problem:
            yield f"rules[{number}].prompt", f"{rule.prompt!r} is no regular expression: {problem}"
        if not rule.turns:
            yield f"rules[{number}]", "a rule without turns says nothing; give it 'turns'"
    for place, turn in _turns(scenario):
        yield from ((f"{place}{where}", what) for where, what in _senseless_turn(turn))


def _turns(scenario: Scenario) -> Iterator[tuple[str, Turn]]:
    yield from ((f"turns[{number}]", turn) for number, turn in enumerate(scenario.turns))
    for number, rule in enumerate(scenario.rules):
        yield from ((f"rules[{number}].turns[{inner}]", turn) for inner, turn in enumerate(rule.turns))
    yield "default", scenario.default
    if isinstance(scenario.side, Turn):
        yield "side", scenario.side


def _senseless_turn(turn: Turn) -> Iterator[tuple[str, str]]:
    says = bool(turn.text or turn.thinking or turn.tools)
    failure = turn.failure
    if failure is not None and turn.disconnect is not None:
        yield "", "'error' and 'disconnect' exclude each other"
    if failure is not None and not failure.midstream and says:
        yield ".error", "an error comes instead of an answer; leave out the text and tools, or set 'midstream = true'"
    if turn.disconnect == "before" and says:
        yield ".disconnect", "nothing is said before this disconnect; leave out the text and tools, or use 'midstream'"
    for number, call in enumerate(turn.tools):
        wanted = [word for word in ("shell", "write", "read", "name") if getattr(call, word) is not None]
        if len(wanted) != 1:
            given = " and ".join(map(repr, wanted)) or "none"
            yield f".tools[{number}]", f"a call is exactly one of 'shell', 'write', 'read' and 'name', not {given}"
        elif call.name is None and call.input:
            yield f".tools[{number}]", f"'input' belongs to 'name'; {wanted[0]!r} says everything itself"
    for name, value in turn.headers.items():
        if not re.fullmatch(r"[A-Za-z0-9-]+", name) or not re.fullmatch(r"[\t -~]*", value):
            yield ".headers", f"{name!r} cannot be sent as a header"
        elif name.lower() in ("content-length", "transfer-encoding", "connection", "content-type"):
            yield ".headers", f"{name!r} is set by the server itself"
