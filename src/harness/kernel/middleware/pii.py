"""Personal data and secrets: kept from models and from the ledger, and given to the tools that need them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Any, ClassVar, cast

from harness.errors import UsageError
from harness.kernel.middleware.base import SCRUB, KernelMiddleware, ModelInvocation
from harness.kernel.middleware.detectors import Detector, built_in
from harness.kernel.middleware.scrubbing import Scrubbing
from harness.kernel.results import newest_prompt
from harness.ledger import Store


class PIIScrubberMiddleware(KernelMiddleware):
    """Puts placeholders such as `<EMAIL_3f9a2c51d07b>` where a model or the ledger would get a personal value or a secret.

    * A tool receives what its caller gave, and for a placeholder that a model wrote the value it stands for, as long as
      this process has seen that value. Otherwise the step is rejected and nothing is done. `restore` of False
      or of some tools' names limits that to none or to those.
    * What is recorded (arguments, results, answers, errors, artifacts, summaries, what people say) holds placeholders, and
      so does what steps give back, at first as on replay.
    * A value has the same placeholder in all runs of a tenant, so changed values are noticed on replay. They are made with
      `key`; without one, with a key that the ledger keeps for the tenant (see `docs/middleware.md`).

    `detectors` are used instead of the built-in ones, `more` beside them; `allow` are values that are never hidden.
    """

    rank: ClassVar[int] = SCRUB

    def __init__(
        self,
        *,
        detectors: Iterable[Detector] | None = None,
        more: Iterable[Detector] = (),
        allow: Collection[str] = (),
        key: bytes | str | None = None,
        restore: bool | Collection[str] = True,
    ) -> None:
        self._detectors = (*(built_in() if detectors is None else detectors), *more)
        for detector in self._detectors:
            if isinstance(detector, type) or not isinstance(cast("object", detector), Detector):
                raise UsageError(f"{detector!r} is no detector: it needs a method find(text) that gives Findings")
        if isinstance(allow, str) or isinstance(restore, str):
            raise UsageError("allow and restore are collections of texts, not one text")
        self._allow = frozenset(allow)
        self._key = key.encode() if isinstance(key, str) else key
        if self._key is not None and len(self._key) < 16:
            raise UsageError("the key of a scrubber has 16 bytes or more")
        self._restore = restore if isinstance(restore, bool) else frozenset(restore)
        self.scrubbing = self._made(None)

    def _made(self, store: Store | None) -> Scrubbing:
        return Scrubbing(store, self._detectors, allow=self._allow, key=self._key, restore=self._restore)

    def bound(self, store: Store) -> PIIScrubberMiddleware:
        """This middleware for one kernel."""
        mine = PIIScrubberMiddleware.__new__(type(self))
        mine.__dict__.update(self.__dict__, scrubbing=self._made(store))
        return mine

    async def prepare_model(self, invocation: ModelInvocation) -> ModelInvocation:
        """What a model may see."""
        messages = await self.scrubbing.messages(invocation.tenant.tenant_id, invocation.messages)
        if messages == invocation.messages and newest_prompt(messages) == invocation.prompt:
            return invocation
        prompt = await self.scrubbing.text(invocation.tenant.tenant_id, invocation.prompt)
        return dataclasses.replace(invocation, prompt=prompt, messages=messages)

    async def prepare_tool_result(self, **kwargs: Any) -> str:
        """What may be recorded and returned."""
        data = str(kwargs["result_json"]).encode()
        return (await self.scrubbing.json(kwargs["tenant"].tenant_id, data)).decode()
