"""One attempt through an official SDK: the lazy import, the time limit, and failures as Harness's errors.

Owns nothing of a provider's dialect; those modules turn a request into a body and bytes into a result.
The SDKs are used for what they know better: credentials, headers, base addresses and connections. Their retries are
off, since the kernel records every attempt, and their response models are not used, since they accept anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import msgspec

from harness.errors import ModelError, ModelMalformed, ModelUnavailable, UsageError
from harness.kernel.ports import ModelRequest, ModelResult, Native, OutputSchema, StopReason, ToolCall, Usage, json_schema_of
from harness.kernel.providers.schemas import Target, target

T = TypeVar("T")

DEFAULT_TIMEOUT_SECONDS = 300.0
_MESSAGE_LIMIT = 300
_PASSING = frozenset({408, 409, 425, 429})  # and every 5xx
_SECRET = re.compile(r"\b(?:(?:sk|pk|rk|key)[-_]|Bearer )[A-Za-z0-9*_\-.]{6,}")


def need_sdk(name: str) -> None:
    """Raise `UsageError`, naming the extra, if the SDK is not installed. Imports nothing."""
    if find_spec(name) is None:
        raise UsageError(f"the {name} SDK is not installed; add it with: pip install 'agentharness[{name}]'")


def chosen_model(requested: str, own: str, kind: str) -> str:
    """The model to ask for: the request's, unless it only says `default`; with or without the port's own prefix."""
    name = requested.removeprefix(f"{kind}:")
    return own if name in ("", "default") else name


def refuse_options(request: ModelRequest, kind: str, *names: str) -> None:
    """Raise `ModelError` if the request sets an option that this provider does not have."""
    for name in names:
        if getattr(request.options, name) not in (None, ()):
            raise ModelError(f"{kind} has no option {name!r}; leave it out")


def asked_target(schema: OutputSchema | None) -> Target | None:
    """What to ask the provider for, where a structured answer was asked for."""
    return None if schema is None else target(json_schema_of(schema))


def decoded(body: bytes, shape: type[T], kind: str) -> T:
    """The provider's bytes as `shape`. Raises `ModelMalformed`."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        start = body[:60].decode("utf-8", "replace")
        raise ModelMalformed(one_line(f"{kind} answered what is not its protocol ({error}): {start!r}")) from error


def answered(
    request: ModelRequest, *, text: str, tool_calls: Sequence[ToolCall], stop_reason: StopReason, usage: Usage, model: str,
    native: Native | None, kind: str,
) -> ModelResult:  # fmt: skip
    """The result, with the structured output taken out of the text. Raises `ModelMalformed`."""
    output = None
    asked = asked_target(request.output_schema)
    if asked is not None and not tool_calls:
        output = _structured(text, asked, stop_reason, kind)
    return ModelResult(
        output=output, text=text, tool_calls=tuple(tool_calls), usage=usage, stop_reason=stop_reason, model=model, native=native
    )


def _structured(text: str, asked: Target, stop_reason: StopReason, kind: str) -> Any:
    if stop_reason == "refusal":
        raise ModelMalformed(one_line(f"{kind}: the model refused to answer: {text!r}"))
    try:
        return asked.unwrap(msgspec.json.decode(_unfenced(text)))
    except (msgspec.DecodeError, ValueError, UnicodeEncodeError) as error:
        cut = " (it was cut off at max_tokens)" if stop_reason == "max_tokens" else ""
        raise ModelMalformed(
            one_line(f"{kind}: the answer is not the JSON that was asked for{cut}: {error}: {text[:80]!r}")
        ) from error


def _unfenced(text: str) -> str:
    """The text without a Markdown fence around all of it, which models add where no schema is enforced."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", text, re.DOTALL)
    return fenced[1] if fenced else text


def one_line(text: str, *secrets: str | None) -> str:
    """The text on one line of bounded length, without the secrets given or anything that looks like a key."""
    for secret in secrets:
        if secret and secret.strip():
            text = text.replace(secret.strip(), "…")
    text = _SECRET.sub("…", " ".join("".join(c if c.isprintable() else " " for c in text).split()))
    return text if len(text) <= _MESSAGE_LIMIT else text[: _MESSAGE_LIMIT - 1] + "…"


class SDKClient:
    """An SDK's client, made at the first call, and one attempt at a time through it."""

    def __init__(
        self, *, kind: str, sdk: str, factory: str, key_variables: Sequence[str], api_key: str | None, base_url: str | None,
        timeout_seconds: float,
    ) -> None:  # fmt: skip
        need_sdk(sdk)
        if api_key is None and not any(os.environ.get(name) for name in key_variables):
            raise UsageError(f"{kind} needs a key: set {key_variables[0]} (any word, where the server asks for none)")
        self.kind = kind
        self._sdk = sdk
        self._factory = factory
        self._key_variables = tuple(key_variables)
        self._api_key = api_key
        self._base_url = base_url
        self._timeout_seconds = timeout_seconds
        self._client: Any = None
        self._making = anyio.Lock()

    async def post(self, resource: str, body: Mapping[str, Any], timeout: float | None) -> bytes:
        """The bytes of the answer of one call of `resource`, such as `chat.completions`."""
        client = await self._made()
        seconds = self._timeout_seconds if timeout is None else timeout
        endpoint: Any = client
        for step in resource.split("."):
            endpoint = getattr(endpoint, step)
        try:
            with anyio.fail_after(seconds):
                answer = await endpoint.with_raw_response.create(**body, timeout=seconds)
        except TimeoutError as error:
            raise ModelUnavailable(f"{self.kind} did not answer within {seconds:g} s") from error
        except (self._errors.APIError, self._base_error, TypeError, ValueError) as error:
            raise self._translated(error, seconds) from error
        return cast("bytes", answer.http_response.content)

    async def stream(self, resource: str, body: Mapping[str, Any], timeout: float | None) -> AsyncGenerator[bytes]:
        """The data of each event of one call of `resource` whose answer is streamed; the time limit is for all of them."""
        client = await self._made()
        seconds = self._timeout_seconds if timeout is None else timeout
        deadline = anyio.current_time() + seconds
        endpoint: Any = client
        for step in resource.split("."):
            endpoint = getattr(endpoint, step)
        manager = endpoint.with_streaming_response.create(**body, stream=True, timeout=seconds)
        try:
            with anyio.fail_after(seconds):
                answer = await manager.__aenter__()
            try:
                lines = cast("AsyncGenerator[str]", answer.iter_lines())
                while True:
                    with anyio.fail_after(deadline - anyio.current_time()):  # around no `yield`
                        line = await anext(lines, None)
                    if line is None:
                        return
                    if line.startswith("data:"):
                        yield line[5:].strip().encode()
            finally:
                with anyio.CancelScope(shield=True):
                    await manager.__aexit__(None, None, None)
        except TimeoutError as error:
            raise ModelUnavailable(f"{self.kind} did not answer within {seconds:g} s") from error
        except (self._errors.APIError, self._base_error, TypeError, ValueError) as error:
            raise self._translated(error, seconds) from error
        except Exception as error:
            if not type(error).__module__.startswith("httpx"):  # each SDK brings its own; in the middle they are not wrapped
                raise
            raise ModelUnavailable(f"{self.kind}: the answer broke off: {self._clean(str(error))}") from error

    async def close(self) -> None:
        """Close the connections. Idempotent; a later call opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _made(self) -> Any:
        async with self._making:
            if self._client is None:
                self._client = await anyio.to_thread.run_sync(self._make)  # the import alone takes a second
            return self._client

    def _make(self) -> Any:
        self._errors: Any = import_module(self._sdk)
        self._base_error: type[Exception] = (
            self._errors.AnthropicError if self._sdk == "anthropic" else self._errors.OpenAIError
        )
        options: dict[str, Any] = {"max_retries": 0}
        if self._api_key is not None:
            options["api_key"] = self._api_key
        if self._base_url is not None:
            options["base_url"] = self._base_url
        try:
            return getattr(self._errors, self._factory)(**options)
        except (self._base_error, ValueError) as error:
            raise ModelError(f"{self.kind}: {self._clean(str(error))}") from error

    def _clean(self, text: str) -> str:
        return one_line(text, self._api_key, *(os.environ.get(name) for name in self._key_variables))

    def _translated(self, error: Exception, seconds: float) -> ModelError:
        errors = self._errors
        if isinstance(error, errors.APITimeoutError):
            return ModelUnavailable(f"{self.kind} did not answer within {seconds:g} s")
        if isinstance(error, errors.APIConnectionError):
            host = urlsplit(str(self._client.base_url)).netloc.rpartition("@")[2] if self._client else "the provider"
            return ModelUnavailable(f"{self.kind}: no answer from {host}: {self._clean(str(error.__cause__ or error))}")
        if isinstance(error, errors.APIResponseValidationError):
            return ModelMalformed(f"{self.kind} answered what is not its protocol: {self._clean(str(error))}")
        if not isinstance(error, errors.APIStatusError):
            return ModelError(f"{self.kind}: {self._clean(str(error))}")
        status: int = cast("Any", error).status_code
        if status in (401, 403):  # the answer may repeat the key, so it is not quoted
            return ModelError(f"{self.kind} refused the key or its rights ({status}); check {self._key_variables[0]}")
        text = f"{self.kind} answered {status}: {self._clean(_said(cast('Any', error).body, error))}"
        return (
            _unavailable(text, cast("Any", error).response.headers) if status in _PASSING or status >= 500 else ModelError(text)
        )


def _said(body: object, error: Exception) -> str:
    """The provider's own words in an error's body."""
    outer = cast("dict[str, object]", body) if isinstance(body, dict) else {}
    inner = outer.get("error", outer)
    message = cast("dict[str, object]", inner).get("message") if isinstance(inner, dict) else None
    return message if isinstance(message, str) else str(error)


def _unavailable(text: str, headers: Mapping[str, str]) -> ModelUnavailable:
    wait = headers.get("retry-after", "")
    return ModelUnavailable(text, retry_after_seconds=float(wait) if re.fullmatch(r"\d{1,6}(\.\d+)?", wait) else None)
