"""Sub-agents: threads of their own, that the program tells of on the same pipe."""

from __future__ import annotations

from harness.sessions.dialects.fields import Object, part, text

_MAX_AGENTS = 1_000


class Agents:
    """What they are called, which model each uses, and which are at work."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str]] = {}
        self._at_work: set[str] = set()

    @property
    def busy(self) -> bool:
        """Whether any of them is at work."""
        return bool(self._at_work)

    def activity(self, item: Object) -> None:
        """A `subAgentActivity`, which names one."""
        thread = text(item, "agentThreadId")
        if thread in self._known or len(self._known) < _MAX_AGENTS:
            name, model = self._known.get(thread, ("", ""))
            self._known[thread] = (text(item, "agentPath")[:200] or name, text(item, "model")[:200] or model)

    def status(self, thread: str, params: Object) -> None:
        """A thread's status has changed, or the thread is gone."""
        if text(part(params, "status"), "type") == "active" and len(self._at_work) < _MAX_AGENTS:
            self._at_work.add(thread)
        else:
            self._at_work.discard(thread)

    def name(self, thread: str) -> str:
        """Its name, or the thread's id."""
        return self._known.get(thread, ("", ""))[0] or thread

    def model(self, thread: str) -> str:
        """Its model; empty where that is not known."""
        return self._known.get(thread, ("", ""))[1]
