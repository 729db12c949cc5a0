"""The part of the kernel's face that is about reading an answer while it comes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection
from typing import TYPE_CHECKING, cast

from harness.errors import NotFound
from harness.kernel.face import Face
from harness.kernel.matching import ReplayPolicy
from harness.kernel.ports import ModelCallOptions, OutputSchema
from harness.kernel.results import ModelInput
from harness.kernel.runs import stream_of
from harness.kernel.tenant import TenantContext
from harness.kernel.tools import ToolRegistry

if TYPE_CHECKING:
    from harness.kernel.kernel import Kernel
    from harness.kernel.streaming import ModelStream, TextDelta


class StreamMethods(Face):
    """Methods of `Kernel`."""

    def stream_model(
        self,
        *,
        run_id: str,
        tenant: TenantContext,
        model: str,
        input: ModelInput,
        output_schema: OutputSchema | None = None,
        step_key: str | None = None,
        visible_tool_names: Collection[str] | None = None,
        model_options: ModelCallOptions | None = None,
        replay_policy: ReplayPolicy = "strict",
        parent_step_key: str | None = None,
        retry_failed_step: bool = False,
        tools: ToolRegistry | None = None,
    ) -> ModelStream:
        """As `step_model`, with the text to be read while it comes: `async for delta in stream`, `await stream.result()`.

        The answer is recorded once, when it is complete; the same step may be asked for by `step_model` later, and the
        other way round. A replay gives the recorded text at once. A port without `stream` says everything at the end.
        """
        from harness.kernel.streaming import ModelStream, Sink, live_texts

        sink = Sink(live_texts(self._store, run_id))
        call = cast("Kernel", self).step_model(
            run_id=run_id, tenant=tenant, model=model, input=input, output_schema=output_schema, step_key=step_key,
            visible_tool_names=visible_tool_names, model_options=model_options, replay_policy=replay_policy,
            parent_step_key=parent_step_key, retry_failed_step=retry_failed_step, tools=tools, sink=sink,
        )  # fmt: skip
        return ModelStream(call, sink)

    async def follow_text(self, *, run_id: str) -> AsyncGenerator[TextDelta]:
        """What is being said in a run: the text so far of answers that are coming, then each piece, pushed.

        Of all kernels of this process on this ledger, from streamed steps only. It is a sample: what counts is what is
        recorded. Never ends by itself; close or cancel it. Raises `NotFound`.
        """
        from harness.kernel.streaming import live_texts

        if await self._store.head(stream_of(run_id)) is None:
            raise NotFound(f"no run {run_id!r} in {self._store.location}")
        live = live_texts(self._store, run_id)
        async with contextlib.aclosing(live.follow()) as deltas:
            async for delta in deltas:
                yield delta
