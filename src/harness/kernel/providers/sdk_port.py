"""What the ports over official SDKs have in common: a client, a body, an answer. A dialect fills in the rest."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from harness.kernel.ports import ModelRequest, ModelResult
from harness.kernel.providers.assembling import ChatAssembly, MessagesAssembly, ResponsesAssembly
from harness.kernel.providers.calling import DEFAULT_TIMEOUT_SECONDS, SDKClient, chosen_model


class SDKPort(ABC):
    """A model behind one API of one SDK. See `ModelPort` for the promises.

    Credentials and address come from the arguments, else from the environment as the SDK reads it (the key from one of
    `KEY_VARIABLES`). `timeout_seconds` limits a call that names no timeout.
    """

    KIND: ClassVar[str]
    SDK: ClassVar[str]
    FACTORY: ClassVar[str]
    KEY_VARIABLES: ClassVar[tuple[str, ...]]
    ASSEMBLY: ClassVar[type[MessagesAssembly | ResponsesAssembly | ChatAssembly]]
    STREAMED: ClassVar[Mapping[str, Any]] = MappingProxyType({})  # what to ask for besides, where the answer is streamed
    RESOURCE: ClassVar[str]  # what is called on the SDK's client, such as `chat.completions`

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        self.model = model
        self._client = SDKClient(
            kind=self.KIND, sdk=self.SDK, factory=self.FACTORY, key_variables=self.KEY_VARIABLES,
            api_key=api_key, base_url=base_url, timeout_seconds=timeout_seconds,
        )  # fmt: skip

    async def complete(self, request: ModelRequest) -> ModelResult:
        body = self.body_of(request, chosen_model(request.model, self.model, self.KIND))
        return self.result_of(await self._client.post(self.RESOURCE, body, request.options.timeout), request)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[str | ModelResult]:
        """The answer's text piece by piece, and then the result. See `StreamingModelPort`."""
        body = {**self.body_of(request, chosen_model(request.model, self.model, self.KIND)), **self.STREAMED}
        assembly = self.ASSEMBLY(self.KIND)
        async with contextlib.aclosing(self._client.stream(self.RESOURCE, body, request.options.timeout)) as events:
            async for data in events:
                if text := assembly.take(data):
                    yield text
        yield self.result_of(assembly.body(), request)

    @staticmethod
    @abstractmethod
    def body_of(request: ModelRequest, model: str) -> dict[str, Any]:
        """The call's JSON body. Raises `ModelError` for what this API cannot be asked."""

    @staticmethod
    @abstractmethod
    def result_of(body: bytes, request: ModelRequest) -> ModelResult:
        """The answer's bytes as a result. Raises `ModelMalformed`, and `ModelError` for a failure that they tell of."""

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        await self._client.close()
