"""What Claude Code's own record of a session tells of tokens: one line of JSON for each block that the model said. Pure.

Source: files of Claude Code 2.1.329. A message has one line for each of its blocks, all under its id, each with the usage as
it was known then. Sub-agents have files of their own. Another session that goes on with what was said (`--fork-session`)
has the earlier lines again, with their ids and times. What the program puts into the model's mouth is `<synthetic>`.
"""

from __future__ import annotations

from harness.sessions.dialects.fields import Object, as_object, count, object_on, part, seconds, text
from harness.sessions.dialects.tally import NOTHING, Counts, Tally, plus
from harness.sessions.reports import Report

_SYNTHETIC = "<synthetic>"
_MAX_MESSAGES = 4096  # that may still get another line
_NAMES_TURN = 1000  # bytes, in which a prompt's line names it
_MAX_PROMPT = 256 << 10  # bytes of such a line; larger ones are results of tools
_MAX_NAME = 200


class ClaudeRecord:
    """Counts each message once, by its last line. `began`: seconds since 1970; what is older is not this run's."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._tally = Tally()
        self._messages: dict[str, tuple[str, Counts]] = {}
        self._turn = ""

    def feed(self, line: bytes, source: str = "") -> None:
        """One line of the session's file or of a sub-agent's. Never raises."""
        if b'"usage"' in line and b'"assistant"' in line:
            self._count(object_on(line))
        elif b'"promptId"' in line[:_NAMES_TURN] and len(line) <= _MAX_PROMPT:
            self._turn = text(object_on(line), "promptId")[:_MAX_NAME] or self._turn

    def told(self) -> list[Report]:
        """The counters that have moved."""
        return self._tally.told(self._turn)

    def _count(self, told: Object) -> None:
        message = part(told, "message")
        id_, model = text(message, "id")[:_MAX_NAME], text(message, "model")[:_MAX_NAME]
        usage = as_object(message.get("usage"))
        if text(told, "type") != "assistant" or usage is None or not id_ or not model or model == _SYNTHETIC:
            return
        now = _counts(usage)
        last_model, last = self._messages.pop(id_, (model, NOTHING))
        before = (seconds(told, "timestamp") or self._began) < self._began
        self._tally.add(last_model, plus(NOTHING, last, -1), before=before)
        self._tally.add(model, now, before=before)
        self._messages[id_] = (model, now)
        if len(self._messages) > _MAX_MESSAGES:
            del self._messages[next(iter(self._messages))]


def _counts(usage: Object) -> Counts:
    """As `modelUsage` counts: input is what no cache held, and what was thought is a part of the output."""
    return (
        count(usage, "input_tokens"), count(usage, "output_tokens"), count(usage, "cache_read_input_tokens"),
        count(usage, "cache_creation_input_tokens"), count(part(usage, "output_tokens_details"), "thinking_tokens"),
    )  # fmt: skip
