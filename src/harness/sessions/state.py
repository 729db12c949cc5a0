"""What the agent is doing, decided from readings of different trust. Pure: time is passed in.

The newest reading of the most trusted source wins. A less trusted source that has said otherwise for a while, surely and
later, outlives it: a hook that never came (there is none after Esc) must not hold a session busy for ever. Only what a
protocol says is never outlived. Every disagreement is worth an event, once.
"""

from __future__ import annotations

import msgspec

from harness.sessions.facts import Source, State, StateChanged, StateDisputed
from harness.sessions.reports import Reading

TRUST: tuple[Source, ...] = (
    Source.PROTOCOL, Source.HOOK, Source.TRANSCRIPT, Source.TITLE, Source.SCREEN, Source.PROCESS, Source.HOST,
)  # fmt: skip
OUTLIVES_US = 3_000_000
DISPUTED_US = 1_000_000  # sources notice the same thing one after the other, which is no disagreement
SURE = 0.8
_RANK = {source: rank for rank, source in enumerate(TRUST)}


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A reading, when it was first taken, and when it was last confirmed."""

    reading: Reading
    since_us: int
    seen_us: int


class Board:
    """The newest reading of each source, and what they amount to."""

    def __init__(self) -> None:
        starting = Reading(state=State.STARTING, source=Source.HOST)
        self._held: dict[Source, Held] = {Source.HOST: Held(reading=starting, since_us=0, seen_us=0)}
        self._disputes: set[tuple[State, Source, State, Source]] = set()
        self._now_us = 0
        self.state = StateChanged(state=State.STARTING, source=Source.HOST, confidence=1.0)

    def take(self, reading: Reading, now_us: int) -> None:
        """Note a reading; `settle` says what follows. After the first that is not the host's own it is not starting.

        One that is unknown without any confidence says nothing: a title that no rule knows leaves it to the screen.
        """
        self._follow_clock(now_us)
        if reading.source is not Source.HOST:
            self._held.pop(Source.HOST, None)
        if reading.state is State.UNKNOWN and not reading.confidence:
            self.forget(reading.source)
            return
        held = self._held.get(reading.source)
        same = held is not None and (held.reading.state, held.reading.detail) == (reading.state, reading.detail)
        since = held.since_us if held is not None and same else now_us
        self._held[reading.source] = Held(reading=reading, since_us=since, seen_us=now_us)

    def forget(self, source: Source) -> None:
        """What this source said does not hold any more, and nothing newer is known of it."""
        self._held.pop(source, None)

    def settle(self, now_us: int) -> tuple[StateChanged | None, list[StateDisputed]]:
        """The new state if it is another one, and disagreements that were not there before."""
        self._follow_clock(now_us)
        for source, held in tuple(self._held.items()):
            if held.reading.until_us is not None and held.reading.until_us <= now_us:
                self._held[source] = Held(reading=_after_limit(held.reading), since_us=now_us, seen_us=now_us)
        winner = self._winner(now_us)
        if winner is None:
            return self._become(StateChanged(state=State.UNKNOWN, source=Source.HOST, confidence=1.0, detail="no reading")), []
        return self._become(_changed(winner)), self._disputed(winner, now_us)

    def _follow_clock(self, now_us: int) -> None:
        """A clock that was set back makes nothing that was seen before lie ahead: a later source would never be later."""
        back = self._now_us - now_us + 1  # what is said now is later
        if back > 1:
            self._held = {
                source: msgspec.structs.replace(held, since_us=held.since_us - back, seen_us=held.seen_us - back)
                for source, held in self._held.items()
            }
        self._now_us = now_us

    def next_us(self, now_us: int) -> int | None:
        """When `settle` may come to another answer though nothing is read."""
        moments = [held.reading.until_us for held in self._held.values() if held.reading.until_us is not None]
        for held in self._held.values() if len(self._held) > 1 else ():
            moments += [at for after in (DISPUTED_US, OUTLIVES_US) if (at := held.since_us + after) > now_us]
        return min(moments, default=None)

    def readings(self) -> list[Held]:
        """What each source said last, the most trusted first."""
        return sorted(self._held.values(), key=lambda held: _RANK[held.reading.source])

    def _winner(self, now_us: int) -> Reading | None:
        ranked = self.readings()
        if not ranked:
            return None
        best = ranked[0]
        for other in ranked[1:]:
            if best.reading.source is Source.PROTOCOL:
                break
            later = other.since_us > best.seen_us and now_us - other.since_us >= OUTLIVES_US
            if later and other.reading.confidence >= SURE and other.reading.state is not best.reading.state:
                best = other
        return best.reading

    def _become(self, state: StateChanged) -> StateChanged | None:
        before = self.state
        self.state = state
        same = (before.state, before.detail, before.until_us) == (state.state, state.detail, state.until_us)
        return None if same and before.source is state.source else state

    def _disputed(self, winner: Reading, now_us: int) -> list[StateDisputed]:
        found: list[StateDisputed] = []
        now: set[tuple[State, Source, State, Source]] = set()
        for held in self.readings():
            other = held.reading
            if other.source in (winner.source, Source.HOST) or other.state is winner.state or other.confidence < SURE:
                continue
            if now_us - max(held.since_us, self._held[winner.source].since_us) < DISPUTED_US:
                continue
            mark = (winner.state, winner.source, other.state, other.source)
            now.add(mark)
            if mark not in self._disputes:
                found.append(
                    StateDisputed(
                        state=winner.state, source=winner.source, other_state=other.state, other_source=other.source,
                        evidence=other.evidence,
                    )
                )  # fmt: skip
        self._disputes = now
        return found


def _after_limit(reading: Reading) -> Reading:
    """A program that was held by a limit is at its prompt when that is over: it had ended its turn."""
    return Reading(state=State.PROMPT, source=reading.source, confidence=SURE, detail="the limit is over")


def _changed(reading: Reading) -> StateChanged:
    return StateChanged(
        state=reading.state, source=reading.source, confidence=reading.confidence, detail=reading.detail,
        until_us=reading.until_us, evidence=reading.evidence,
    )  # fmt: skip
