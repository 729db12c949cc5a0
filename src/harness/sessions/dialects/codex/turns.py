"""The turns of the thread: the one under way, the messages in it, and the commands that it has running."""

from __future__ import annotations

from harness.sessions.reports import Receipt

_MAX_TURNS = 100


class Turn:
    """One turn that is not over. A message is `read` once the program shows it in the conversation."""

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.begun = False  # the program has said so; it cannot be interrupted before
        self.cut = False  # we have asked it to end
        self.last_words = ""
        self.messages: list[str] = []  # that began it, or that it has read
        self.unread: list[str] = []  # steered into it; if it ends now, nobody will have read them
        self.calls: set[str] = set()  # items of tools at work

    def add(self, message_id: str, *, read: bool) -> None:
        """A message belongs to this turn."""
        if read and message_id in self.unread:
            self.unread.remove(message_id)
        if message_id not in self.messages and message_id not in self.unread:
            (self.messages if read else self.unread).append(message_id)

    def receipts(self) -> list[Receipt]:
        """What became of its messages, now that it is over."""
        done = [Receipt(stage="done", message_id=each, turn=self.id, proof="turn/completed") for each in self.messages]
        why = "the turn ended before it was read"
        return done + [Receipt(stage="failed", message_id=each, turn=self.id, proof=why) for each in self.unread]


class Turns:
    """The turns that are not over; there is more than one only where the program's word of an end was lost."""

    def __init__(self) -> None:
        self._open: dict[str, Turn] = {}
        self._active = ""
        self._idle = True  # the thread's status says that no turn is under way

    @property
    def active(self) -> Turn | None:
        """The turn under way."""
        return None if self._idle else self._open.get(self._active)

    def known(self, id_: str) -> Turn | None:
        """A turn that is not over."""
        return self._open.get(id_)

    def begin(self, id_: str) -> Turn:
        """A turn is under way."""
        if id_ not in self._open and len(self._open) >= _MAX_TURNS:
            del self._open[next(iter(self._open))]
        self._active, self._idle = id_, False
        return self._open.setdefault(id_, Turn(id_))

    def end(self, id_: str) -> Turn | None:
        """A turn is over; None if nobody knew of it."""
        if id_ == self._active:
            self._idle = True
        return self._open.pop(id_, None)

    def rest(self) -> None:
        """No turn is under way, whatever was said of turns."""
        self._idle = True
