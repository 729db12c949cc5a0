"""Is this the step that was recorded? Hashes of inputs, and what to do about a recorded step. Pure.

The input hash covers everything that could change an answer; the core hash everything but the prompt. The tools
that a model was shown are compared one by one, so a tool that was added since breaks no older step.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, cast

import msgspec

from harness.errors import UsageError
from harness.kernel.ports import Message, ModelCallOptions
from harness.kernel.records import ModelInputs

ReplayPolicy = Literal["strict", "allow_prompt_drift", "fork_on_drift"]
POLICIES: tuple[str, ...] = ("strict", "allow_prompt_drift", "fork_on_drift")

MAX_PROMPT_BYTES = 16 << 20
_HASH_CHARACTERS = 32
_encode = msgspec.json.Encoder(order="deterministic").encode
_SHOWN = 60


class Match(StrEnum):
    """How a call relates to the recorded step of the same id."""

    SAME = "same"
    PROMPT_DRIFT = "prompt_drift"  # only the prompt changed
    CHANGED = "changed"


@functools.lru_cache(maxsize=256)
def core_hash(model: str, options: ModelCallOptions, output_schema: str, visible: tuple[str, ...] | None) -> str:
    """The hash of a model step's inputs without its prompt and its tools."""
    return _digest(_encode(("model", model, options, output_schema, visible)))


def model_input_hash(core: str, messages: Sequence[Message]) -> str:
    """The hash of a model step's inputs."""
    try:
        data = _encode(messages)
    except (UnicodeEncodeError, TypeError) as error:
        raise UsageError(f"the messages are no JSON: {error}") from None
    if len(data) > MAX_PROMPT_BYTES:
        raise UsageError(f"the messages have {len(data):,} bytes, which is over the limit of {MAX_PROMPT_BYTES:,}")
    return _digest(core.encode() + data)


def tool_input_hash(name: str, arguments_json: bytes) -> str:
    """The hash of a tool step's inputs; `arguments_json` is canonical."""
    return _digest(b"tool\0" + name.encode() + b"\0" + arguments_json)


def idempotency_key(run_id: str, step: str, input_hash: str) -> str:
    """The key that a side effect carries to the outside: the same for every attempt at the same step."""
    return _digest(_encode(("effect", run_id, step, input_hash)))


def digest_of(value: object) -> str:
    """The hash of any JSON value."""
    return _digest(_encode(value))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_HASH_CHARACTERS]


def prefix_digests(messages: Sequence[Message]) -> list[bytes]:
    """For each message a digest of it and all before it, to find the part that two conversations share."""
    digests: list[bytes] = []
    before = b""
    for message in messages:
        before = hashlib.sha256(before + _encode(message)).digest()
        digests.append(before)
    return digests


def compare(*, recorded_input: str, recorded_core: str, input: str, core: str) -> Match:
    """Compare the hashes of a call with the recorded ones."""
    if recorded_input == input:
        return Match.SAME
    return Match.PROMPT_DRIFT if core and recorded_core == core else Match.CHANGED


def changed_tools(recorded: Mapping[str, str], current: Mapping[str, str]) -> tuple[str, ...]:
    """The recorded tools that are gone or have another signature; added ones do not count."""
    return tuple(f"tools.{name}" for name, digest in sorted(recorded.items()) if current.get(name) != digest)


def changed_fields(recorded: ModelInputs, current: ModelInputs) -> tuple[str, ...]:
    """The names of a model step's inputs that differ. Both must hold all their messages."""
    fields = [name for name in ("model", "output_schema", "visible") if getattr(recorded, name) != getattr(current, name)]
    fields += [
        f"options.{name}"
        for name in ModelCallOptions.__struct_fields__
        if getattr(recorded.options, name) != getattr(current.options, name)
    ]
    if recorded.messages != current.messages:
        fields.append("prompt")
    return tuple("visible_tool_names" if name == "visible" else name for name in fields)


def difference(field: str, recorded: ModelInputs, current: ModelInputs) -> str:
    """The nearest difference of one field, in one line."""
    if field == "prompt":
        return _message_difference(recorded.messages, current.messages)
    if field.startswith("options."):
        name = field.removeprefix("options.")
        return nearest(getattr(recorded.options, name), getattr(current.options, name), field)
    name = "visible" if field == "visible_tool_names" else field
    before, now = getattr(recorded, name, None), getattr(current, name, None)
    if isinstance(before, tuple) and isinstance(now, tuple):
        return _names_difference(cast("tuple[str, ...]", before), cast("tuple[str, ...]", now), field)
    return f"{field}: recorded {before!r}, now {now!r}"


def _names_difference(before: Sequence[str], now: Sequence[str], path: str) -> str:
    gone, new = sorted({*before} - {*now}), sorted({*now} - {*before})
    told = [f"{word} {', '.join(names)}" for word, names in (("without", gone), ("with", new)) if names]
    return f"{path}: recorded {', '.join(before) or 'none'}, now {' and '.join(told) or 'in another order'}"


def _message_difference(recorded: Sequence[Message], current: Sequence[Message]) -> str:
    for index, (before, now) in enumerate(zip(recorded, current, strict=False)):
        if before == now:
            continue
        if before.role != now.role:
            return f"prompt: message {index + 1} was {_short(before)}, now {_short(now)}"
        if before.text != now.text:
            return f"prompt: message {index + 1} ({now.role}): {text_difference(before.text, now.text)}"
        path = f"prompt: message {index + 1} ({now.role})"
        return nearest(msgspec.to_builtins(before), msgspec.to_builtins(now), path)
    told = f"prompt: recorded {len(recorded)} messages, now {len(current)}"
    rest = (recorded if len(recorded) > len(current) else current)[min(len(recorded), len(current)) :]
    return f"{told}; the first more is {_short(rest[0])}" if rest else told


def _short(message: Message) -> str:
    text = msgspec.json.encode(message).decode()
    return text if len(text) <= 2 * _SHOWN else f"{text[: 2 * _SHOWN]}…"


def text_difference(before: str, now: str) -> str:
    """Where two texts first differ, with what stands around it."""
    if len(before) + len(now) < 2_000:
        import difflib

        matcher = difflib.SequenceMatcher(None, before, now, autojunk=False)
        _, i1, i2, j1, j2 = next(op for op in matcher.get_opcodes() if op[0] != "equal")
    else:  # difflib is quadratic; the first difference is near enough
        i1 = j1 = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
        i2, j2 = i1 + 1, j1 + 1
    around = slice(max(0, i1 - _SHOWN // 2), None)
    return f"at character {i1 + 1} recorded …{before[around][: _clip(i1, i2)]!r}…, now …{now[around][: _clip(j1, j2)]!r}…"


def _clip(start: int, end: int) -> int:
    return min(start, _SHOWN // 2) + min(end - start, _SHOWN) + 10


def json_difference(before: Any, now: Any, path: str = "arguments") -> tuple[list[str], str]:
    """The names of what differs between two JSON values, and the nearest difference in words."""
    fields = [path]
    if isinstance(before, dict) and isinstance(now, dict):
        old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", now)
        fields = [f"{path}.{name}" for name in sorted({*old, *new}) if not same_json(old.get(name, ...), new.get(name, ...))]
    return fields or [path], nearest(before, now, path)


def same_json(before: Any, now: Any) -> bool:
    """Whether two JSON values are the same, for which 1 and true are not."""
    return before == now and (before is ... or _encode(before) == _encode(now))


def nearest(before: Any, now: Any, path: str) -> str:
    """Where, deepest inside, two JSON values first differ."""
    match before, now:
        case dict(), dict():
            old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", now)
            for name in sorted({*old, *new}):
                if name not in old or name not in new:
                    return f"{path}.{name}: recorded {_value(old, name)}, now {_value(new, name)}"
                if not same_json(old[name], new[name]):
                    return nearest(old[name], new[name], f"{path}.{name}")
        case list() | tuple(), list() | tuple():
            one, other = cast("Sequence[Any]", before), cast("Sequence[Any]", now)
            for index, (old_entry, new_entry) in enumerate(zip(one, other, strict=False)):
                if not same_json(old_entry, new_entry):
                    return nearest(old_entry, new_entry, f"{path}[{index}]")
            return f"{path}: recorded {len(one)} entries, now {len(other)}"
        case str(), str() if before != now and max(len(before), len(now)) > _SHOWN:
            return f"{path}: {text_difference(before, now)}"
        case _:
            pass
    return f"{path}: recorded {before!r:.80}, now {now!r:.80}"


def _value(mapping: Mapping[str, Any], name: str) -> str:
    return f"{mapping[name]!r:.80}" if name in mapping else "nothing"
