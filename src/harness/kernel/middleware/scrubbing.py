"""Scrubbing for one kernel: a tenant's key, a scrubber for each tenant, and every place where a run writes texts of others.

The key is the caller's, or a random one that the tenant's first scrubbed value puts on the ledger (stream
`scrub/TENANT`), where other processes find it. Whoever erases that event makes sure that nobody can ever test a guess
against a placeholder again. Steps that were recorded with it are then no longer recognised.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from harness.errors import KeyTaken, StepRejected
from harness.kernel.middleware.detectors import Detector
from harness.kernel.middleware.placeholders import NoKeyYet, Scrubber, placeholders_in
from harness.kernel.ports import Message, Native, ToolCall
from harness.kernel.records import Answer, Recorded, RunChanged, raw
from harness.kernel.threads import in_thread
from harness.ledger import Draft, Store, Unique, Write

T = TypeVar("T")
E = TypeVar("E", bound=Recorded)

KEYED = "scrub.keyed"
_KEY = "scrub-key"
_MANY = 100_000  # characters take so long to look at that others should not wait for it
_encode = msgspec.json.Encoder(order="sorted").encode


class ScrubKeyed(msgspec.Struct, frozen=True, kw_only=True):
    """The key of a tenant's placeholders."""

    key: str


class Scrubbing:
    """The scrubbers of one kernel. Without a store, keys last as long as this object."""

    def __init__(
        self, store: Store | None, detectors: Sequence[Detector], *, allow: Collection[str], key: bytes | None,
        restore: bool | Collection[str],
    ) -> None:  # fmt: skip
        self._store = store
        self._detectors = detectors
        self._allow = allow
        self._own = key or (secrets.token_bytes(32) if store is None else None)
        self._keys: dict[str, bytes] = {}
        self._scrubbers: dict[str, Scrubber] = {}
        self._restore = restore

    def _scrubber(self, tenant_id: str) -> Scrubber:
        scrubber = self._scrubbers.get(tenant_id)
        if scrubber is None:
            key = self._own or self._keys.get(tenant_id)
            scrubber = self._scrubbers[tenant_id] = Scrubber(self._detectors, allow=self._allow, key=key)
        return scrubber

    async def _with(self, tenant_id: str, size: int, scrub: Callable[[Scrubber], T]) -> T:
        """What `scrub` gives; `size` is about how many characters it has to look at."""
        scrubber = self._scrubber(tenant_id)

        async def once() -> T:
            return scrub(scrubber) if size < _MANY else await in_thread(lambda: scrub(scrubber))

        try:
            return await once()
        except NoKeyYet:
            scrubber.key = await self._key(tenant_id)
            return await once()

    async def _key(self, tenant_id: str) -> bytes:
        """The tenant's key; made if there is none."""
        assert self._store is not None
        stream = f"scrub/{quote(tenant_id, safe='')}"
        while tenant_id not in self._keys:
            known = await self._store.latest(stream, _KEY)
            if known is not None and not known.erased:
                self._keys[tenant_id] = bytes.fromhex(known.load(ScrubKeyed).key)
                break
            event = Draft(type=KEYED, payload=ScrubKeyed(key=secrets.token_hex(32)), key=_KEY, tenant=tenant_id)
            guard = Unique(f"{stream}#{known.seq if known else 0}")
            try:
                await self._store.append(Write(stream, (event,)), guards=[guard])
            except KeyTaken:  # somebody was faster
                continue
        return self._keys[tenant_id]

    # What is written

    async def text(self, tenant_id: str, text: str) -> str:
        """A text as it may be recorded."""
        return await self._with(tenant_id, len(text), lambda scrubber: scrubber.text(text))

    async def json(self, tenant_id: str, data: bytes) -> bytes:
        """JSON text as it may be recorded: the same bytes, or canonical ones with placeholders."""
        return await self._with(tenant_id, len(data), lambda scrubber: scrubber.json(data))

    async def value(self, tenant_id: str, value: Any) -> Any:
        """A JSON value as it may be recorded."""
        return await self._with(tenant_id, 0, lambda scrubber: scrubber.value(value))

    async def messages(self, tenant_id: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """A conversation as a model may see it."""
        size = sum(len(message.text) for message in messages)
        return await self._with(tenant_id, size, lambda scrubber: tuple(_message(scrubber, each) for each in messages))

    async def answer(self, tenant_id: str, answer: Answer) -> Answer:
        """A model's answer as it may be recorded."""
        size = len(answer.text) + len(bytes(answer.output))
        return await self._with(tenant_id, size, lambda scrubber: _answer(scrubber, answer))

    async def ended(self, tenant_id: str, ended: E) -> E:
        """The end of a tool step as it may be recorded."""
        result = bytes(ended.result)
        message = getattr(ended, "message", "")
        changes: dict[str, Any] = {}
        if result and (scrubbed := await self.json(tenant_id, result)) is not result:
            changes["result"] = raw(scrubbed)
        if message:
            changes["message"] = await self.text(tenant_id, message)
        return msgspec.structs.replace(ended, **changes) if changes else ended

    async def changed(self, tenant_id: str, changed: RunChanged) -> RunChanged:
        """A change of a run's status as it may be recorded: people write reasons, and say things."""
        plain = (changed.reason, msgspec.to_builtins(changed.context), msgspec.to_builtins(changed.human_input))
        reason, context, human_input = await self.value(tenant_id, list(plain))
        return msgspec.structs.replace(changed, reason=reason, context=context, human_input=human_input)

    # What is done

    def real(self, tenant_id: str, tool_name: str, arguments_json: bytes) -> bytes:
        """The arguments that a tool really receives. Raises `StepRejected` for a placeholder that nobody here can resolve."""
        if b"<" not in arguments_json or not self._restores(tool_name):
            return arguments_json
        arguments = self._scrubber(tenant_id).restored(msgspec.json.decode(arguments_json))
        unknown = next(placeholders_in(arguments), None)
        if unknown is not None:
            raise StepRejected(
                f"arguments of {tool_name} hold {unknown}, and this process has not seen the value that it stands for;"
                " call the step with the value itself"
            )
        return _encode(arguments)

    def _restores(self, tool_name: str) -> bool:
        return self._restore if isinstance(self._restore, bool) else tool_name in self._restore


def _message(scrubber: Scrubber, message: Message) -> Message:
    text = scrubber.text(message.text)
    calls = _calls(scrubber, message.tool_calls)
    native = _native(scrubber, message.native)
    if text == message.text and calls == message.tool_calls and native is message.native:
        return message
    return msgspec.structs.replace(message, text=text, tool_calls=calls, native=native)


def _calls(scrubber: Scrubber, calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
    return tuple(msgspec.structs.replace(call, arguments_json=_json_text(scrubber, call.arguments_json)) for call in calls)


def _json_text(scrubber: Scrubber, text: str) -> str:
    """JSON that a model wrote, which may be none."""
    try:
        data = text.encode()
        scrubbed = scrubber.json(data)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return scrubber.text(text)
    return text if scrubbed is data else scrubbed.decode()


def _native(scrubber: Scrubber, native: Native | None) -> Native | None:
    return native if native is None or scrubber.blocks(native.blocks) else None


def _answer(scrubber: Scrubber, answer: Answer) -> Answer:
    output = bytes(answer.output)
    scrubbed = scrubber.json(output, numbers=False) if output else output
    return msgspec.structs.replace(
        answer, output=answer.output if scrubbed is output else raw(scrubbed), text=scrubber.text(answer.text),
        tool_calls=_calls(scrubber, answer.tool_calls), native=_native(scrubber, answer.native),
    )  # fmt: skip
