"""Everything the monitor knows at one time: services, checks, their judgements, silences. No I/O, no clock of its own.

The monitor feeds it results and events; it answers what is failing, how badly, and since when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from harness.clock import MICROSECONDS
from harness.errors import LedgerError
from harness.ledger import Event
from harness.recovery.checks import Check, Sample
from harness.recovery.facts import CheckChanged, CheckResult
from harness.recovery.failures import Failure, Severity, severity_of, worst
from harness.recovery.judging import DECISIVE, Change, Judgement, Silence, State, convict, judge, silenced
from harness.recovery.picture import Life, Phase, apply

UNEASY_SECONDS = 60.0
"""So long after something changed for the worse, its checks look every 0.5 s; a failure that lasts is not news."""

_KEPT = 16
_RESULT = {State.PASSING: CheckResult.PASS, State.FAILING: CheckResult.FAIL}
_STATE = {CheckResult.PASS: State.PASSING, CheckResult.FAIL: State.FAILING}


@dataclass(slots=True)
class Known:
    """One check and what is known of it."""

    check: Check
    judgement: Judgement = field(default_factory=Judgement)
    newest: Sample | None = None  # of this process's own looks
    bad_since_us: int = 0  # when the first look began that was no pass, since the last pass
    changed_us: int = 0
    ref: str = ""  # the event of the last change
    recent: deque[Sample] = field(default_factory=lambda: deque[Sample](maxlen=_KEPT))  # only while something is wrong


def subject_of(check: Check) -> str:
    """What a failure of the check is about: its service, or the check itself."""
    return check.target or check.name


class Board:
    """See the module."""

    def __init__(self) -> None:
        self.checks: dict[str, Known] = {}
        self.lives: dict[str, Life] = {}
        self.silences: dict[str, Silence] = {}
        self._subjects: dict[str, list[Known]] = {}

    # What is declared

    def set_checks(self, checks: Iterable[Check]) -> None:
        """These and no others are looked at from now on. What is known of one that stays is kept."""
        wanted = {check.name: check for check in checks}
        self.checks = {name: self.checks.get(name) or Known(check) for name, check in wanted.items()}
        for name, known in self.checks.items():
            known.check = wanted[name]
        self._subjects = {}
        for _, known in sorted(self.checks.items()):
            self._subjects.setdefault(subject_of(known.check), []).append(known)

    def of_subject(self, subject: str) -> list[Known]:
        """The checks about a subject, by name."""
        return self._subjects.get(subject, [])

    def subjects(self) -> set[str]:
        """Everything that has a check or a process."""
        return set(self._subjects) | set(self.lives)

    def life(self, name: str) -> Life:
        """The service of this name, known or not."""
        return self.lives.get(name) or Life(name=name)

    # What comes in

    def service_event(self, event: Event) -> Life:
        """Take up an event of the supervisor."""
        name = event.stream.partition("/")[2]
        self.lives[name] = apply(self.life(name), event)
        return self.lives[name]

    def excused(self, check: Check, sample: Sample) -> Sample:
        """A result as it counts: what a service does while it is started or stopped on purpose says nothing."""
        life = self.life(check.target)
        excuse = life.excuse()
        counts = not excuse or (sample.result is CheckResult.PASS and life.phase is Phase.COMING)
        return sample if counts else msgspec.structs.replace(sample, result=CheckResult.UNKNOWN, detail=excuse)

    def saw(self, check: Check, sample: Sample) -> Change | None:
        """Take up a result. Gives the change of state, if it made one."""
        known = self.checks.get(check.name)
        if known is None:
            return None
        known.newest = sample
        if sample.result is CheckResult.PASS:
            known.bad_since_us = 0
        elif not known.bad_since_us:
            known.bad_since_us = sample.ended_us
        known.judgement, change = judge(known.judgement, sample.result, check.policy)
        if change:
            known.changed_us = sample.ended_us
        if self.uneasy(subject_of(check), sample.ended_us):
            known.recent.append(sample)
        else:
            known.recent.clear()
        return change

    def convict(self, target: str, at_us: int) -> Iterator[tuple[Known, Change]]:
        """Hard evidence against a service: its process checks fail without a look."""
        for known in self.of_subject(target):
            if known.check.query.kind == "process":
                known.judgement, change = convict(known.judgement, known.check.policy)
                known.bad_since_us = known.bad_since_us or at_us
                if change:
                    known.changed_us = at_us
                    yield known, change

    def restore(self, name: str, event: Event) -> None:
        """Take up the state that an earlier monitor left, from its last `check.changed`."""
        known = self.checks.get(name)
        if known is None or event.type != CheckChanged.TYPE or event.erased:
            return
        try:
            fact = event.load(CheckChanged)
        except LedgerError:  # anybody can write to a stream
            return
        known.judgement = Judgement(_STATE.get(fact.result, State.BLIND))
        known.ref = event.ref
        known.changed_us = event.ts
        known.bad_since_us = 0 if fact.result is CheckResult.PASS else fact.sampled_us or event.ts

    # What it adds up to

    def uneasy(self, subject: str, now_us: int) -> bool:
        """Whether its checks should look often: something contradicts, or went wrong a short while ago."""
        since_us = now_us - round(UNEASY_SECONDS * MICROSECONDS)
        life = self.life(subject)
        if life.phase in (Phase.DOWN, Phase.COMING) and life.since_us > since_us:
            return True
        return any(
            known.judgement.soft or (known.judgement.state is not State.PASSING and known.changed_us > since_us)
            for known in self.of_subject(subject)
        )

    def failing(self, subject: str) -> list[Known]:
        """Its checks that fail, or that cannot tell, by fresh results; failing ones first."""
        since_us = self.life(subject).since_us  # a look at what the process was before says nothing of what it is
        bad = [known for known in self.of_subject(subject) if _bad(known, since_us)]
        return sorted(bad, key=lambda known: (known.judgement.state is State.BLIND, known.bad_since_us))

    def failure(self, subject: str) -> Failure | None:
        """What is wrong with a subject now; None if nothing is, or if it is no surprise."""
        life = self.life(subject)
        if life.phase in (Phase.COMING, Phase.RESTING) or (life.removed and not self.of_subject(subject)):
            return None
        failing = self.failing(subject)
        names = [known.check.name for known in failing]
        others = [known.check.name for known in self.of_subject(subject) if known.check.name not in names]
        checks = (*names, *others)
        if life.phase is Phase.DOWN and not life.removed:
            labels, priority = self._declared(subject, failing)
            return Failure(
                subject=subject, target=subject, severity=Severity.DOWN, root=f"process:{subject}", kind="process",
                observed=life.words, detected_us=life.since_us, ref=life.ref, priority=priority, labels=labels, checks=checks,
            )  # fmt: skip
        if not failing:
            return None
        first = failing[0]
        labels, priority = self._declared(subject, failing)
        newest = first.newest
        assert newest is not None
        return Failure(
            subject=subject, target=first.check.target, severity=worst(_severities(failing)), root=first.check.name,
            kind=first.check.query.kind, observed=newest.detail or first.judgement.state.value,
            detected_us=min(known.bad_since_us for known in failing), ref=first.ref, priority=priority, labels=labels,
            checks=checks,
        )  # fmt: skip

    def _declared(self, subject: str, failing: list[Known]) -> tuple[dict[str, str], str]:
        """Labels of all checks, so that the fingerprint does not depend on which failed first; priority of the failing."""
        every = self.of_subject(subject)
        labels = {name: value for known in every for name, value in known.check.invariant.labels.items()}
        priorities = [known.check.invariant.priority for known in failing or every]
        return labels, max(priorities, key=_ORDER.index, default="high")

    def healthy(self, subject: str) -> bool:
        """Whether everything about it is known to be well, by fresh results of all of its checks."""
        checks = self.of_subject(subject)
        well = all(
            known.judgement.state is State.PASSING and known.newest is not None and known.newest.result is CheckResult.PASS
            for known in checks
        )
        return bool(checks) and well and self.life(subject).phase in (Phase.UP, Phase.UNKNOWN)

    def silence_of(self, subject: str, now_us: int) -> Silence | None:
        """The silence that covers a subject now: its own, or those of every check that fails."""
        silences = self.silences.values()
        if own := silenced(silences, [subject], now_us):
            return own
        covers = [silenced(silences, [known.check.name], now_us) for known in self.failing(subject)]
        down = self.life(subject).phase is Phase.DOWN
        return None if down or not covers or None in covers else covers[0]


def changed(known: Known, change: Change) -> CheckChanged:
    """A change of state as it goes into the ledger, with the evidence for it."""
    newest, after = known.newest, change.after
    before = None if change.before.state is State.PENDING else _result_of(change.before.state)
    words = [f"{change.before.state} to {after.state}"]
    if after.flapping != change.before.flapping:
        words.append("flapping" if after.flapping else "no longer flapping")
    return CheckChanged(
        name=known.check.name, result=_result_of(after.state), before=before, hard=True, target=known.check.target,
        observed=newest.detail if newest and newest.detail else after.state.value,
        evidence={**(newest.evidence if newest else {}), "recent": [result.value for result in after.recent[-5:]]},
        sampled_us=known.bad_since_us or (newest.ended_us if newest else 0), reason=", ".join(words),
    )  # fmt: skip


def _bad(known: Known, since_us: int) -> bool:
    newest = known.newest
    if newest is None or newest.started_us < since_us:
        return False
    if known.judgement.state is State.FAILING:
        return newest.result is not CheckResult.PASS
    return known.judgement.state is State.BLIND and newest.result not in DECISIVE


def _result_of(state: State) -> CheckResult:
    return _RESULT.get(state, CheckResult.UNKNOWN)


def _severities(failing: Iterable[Known]) -> Iterator[Severity]:
    for known in failing:
        blind = known.judgement.state is State.BLIND or known.newest is None
        yield Severity.BLIND if blind or known.newest is None else severity_of(known.newest)


_ORDER = ("low", "medium", "high", "critical")
