"""The exception tree: one class per reaction that a caller can have.

A message says what happened, with which values, and what to do next; fields are for machines.

    HarnessError                    anything Harness raises on purpose (exit code 1)
    ├── UsageError                  the caller's words or configuration are wrong (exit code 2)
    │   └── SettingsError           harness.toml or a variable is wrong: correct it, the words are right
    ├── NotFound                    an id that nobody knows
    ├── LedgerError
    │   ├── Conflict                somebody wrote first: read again, decide again
    │   │   ├── KeyTaken            a unique key is held by another event
    │   │   └── LeaseHeld           a lease is held by another holder
    │   ├── Fenced                  this holder lost its lease: stop writing
    │   ├── Refused                 a reservation would pass its limit
    │   ├── Busy                    another process holds the write gate: try again later
    │   ├── Unproven                history does not verify: stop and look
    │   └── StoreUnavailable        the database cannot be used as it is
    ├── ProcessError                a process could not be started, owned or ended
    ├── WorkError
    │   ├── IllegalTransition       the item's state does not allow this
    │   ├── DependencyCycle         the dependencies would form a circle
    │   ├── ItemExists              this item id is taken
    │   └── Duplicate               an open item has this fingerprint already
    ├── KernelError
    │   ├── RunExists               this run id is taken
    │   ├── ReplayConsistencyError  a step was asked again with other inputs
    │   ├── StepRejected            refused before execution: arguments, capability, policy
    │   │   ├── CapabilityDenied    the tenant lacks the capability
    │   │   ├── PolicyDenied        a policy or a person said no
    │   │   │   └── ApprovalRequired  nobody has said yes yet: wait for the answer, then ask for the step again
    │   │   ├── ToolRejected        the tool itself refuses, and has done nothing
    │   │   └── BudgetExceeded      the reservation does not fit the budget
    │   ├── StepFailed              the step ran and failed
    │   ├── OutcomeUnknown          a side effect may or may not have happened: reconcile it
    │   ├── RunNotActive            the run is paused, blocked or over
    │   └── ModelError              the model's provider failed
    │       ├── ModelUnavailable    worth another attempt: timeout, 5xx, connection
    │       └── ModelMalformed      an answer that does not fit what was asked
    └── DeclarationError            a declared service, check or limit makes no sense (exit code 2)
"""

from __future__ import annotations

from typing import cast


class HarnessError(Exception):
    """Anything that Harness raises on purpose; `exit_code` is the command line's answer."""

    exit_code = 1


class UsageError(HarnessError):
    """The caller's words or the configuration are wrong."""

    exit_code = 2


class SettingsError(UsageError):
    """A settings file or a variable is wrong; what was asked for is not."""


class NotFound(HarnessError):
    """An id that nobody knows."""


class LedgerError(HarnessError):
    """Something about the ledger."""


class Conflict(LedgerError):
    """Somebody wrote first: read again and decide again. Nothing of the append was written."""

    def __init__(self, message: str, *, name: str = "", expected: int | None = None, actual: int | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.expected = expected
        self.actual = actual


class KeyTaken(Conflict):
    """A unique key is held by another event; `stream` and `seq` say by which."""

    def __init__(self, key: str, *, stream: str, seq: int) -> None:
        super().__init__(f"key {key!r} is taken by {stream}#{seq}", name=key)
        self.stream = stream
        self.seq = seq


class LeaseHeld(Conflict):
    """A lease is held by another holder until it expires."""

    def __init__(self, lease: str, *, holder: str, expires_us: int) -> None:
        super().__init__(f"lease {lease!r} is held by {holder} and has not expired", name=lease)
        self.holder = holder
        self.expires_us = expires_us


class Fenced(LedgerError):
    """This holder lost its lease: another one may be at work, so stop writing."""

    def __init__(self, lease: str, *, token: int, current: int, holder: str | None) -> None:
        now = f"now held by {holder} with token {current}" if holder else f"released at token {current}"
        super().__init__(f"lease {lease!r} with token {token} is no longer valid: {now}")
        self.lease = lease
        self.token = token
        self.current = current
        self.holder = holder


class Refused(LedgerError):
    """A reservation would pass its limit; nothing was reserved."""

    def __init__(self, counter: str, *, amount: int, reserved: int, limit: int) -> None:
        super().__init__(f"{counter!r}: {reserved} of {limit} are reserved, {amount} more do not fit")
        self.counter = counter
        self.amount = amount
        self.reserved = reserved
        self.limit = limit


class Busy(LedgerError):
    """Another process holds the ledger's write gate for too long; nothing was written."""

    def __init__(self, path: str, *, holder_pid: int | None, waited_seconds: float) -> None:
        who = f"process {holder_pid}" if holder_pid else "another process"
        super().__init__(f"{path}: {who} has held the write gate for {waited_seconds:.1f} s; look at it or try again")
        self.holder_pid = holder_pid
        self.waited_seconds = waited_seconds


class Unproven(LedgerError):
    """History does not verify; `stream`, `seq` and `kind` say where and how."""

    def __init__(self, message: str, *, stream: str = "", seq: int | None = None, kind: str = "") -> None:
        super().__init__(message)
        self.stream = stream
        self.seq = seq
        self.kind = kind


class StoreUnavailable(LedgerError):
    """The database cannot be used as it is: missing, foreign, broken, read-only, newer or full.

    `reason` is one of those words.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ProcessError(HarnessError):
    """A process could not be started, owned or ended."""


class WorkError(HarnessError):
    """Something about an item of work."""


class IllegalTransition(WorkError):
    """The item's state does not allow this."""


class DependencyCycle(WorkError):
    """The dependencies would form a circle, which the message prints."""


class ItemExists(WorkError):
    """This item id is taken; choose another or use that item."""


class Duplicate(WorkError):
    """An open item has this fingerprint already; `item_id` names it."""

    def __init__(self, fingerprint: str, *, item_id: str) -> None:
        super().__init__(f"fingerprint {fingerprint!r} is open already as {item_id}")
        self.item_id = item_id


class KernelError(HarnessError):
    """Something about a run or a step. `replayed` says that it was recorded before, and nothing was tried now."""

    replayed = False


class RunExists(KernelError):
    """This run id is taken; load it or choose another."""


class ReplayConsistencyError(KernelError):
    """A recorded step was asked again with other inputs; `fields` names what differs."""

    def __init__(self, message: str, *, fields: tuple[str, ...] = (), difference: str = "") -> None:
        super().__init__(message)
        self.fields = fields
        self.difference = difference


class StepRejected(KernelError):
    """A step was refused before it was executed; nothing has happened."""


class ToolRejected(StepRejected):
    """Raised by a tool before it has done anything: these arguments, or the world as it is, do not allow it."""


class CapabilityDenied(StepRejected):
    """The tenant lacks the capability that the tool requires."""


class PolicyDenied(StepRejected):
    """A policy or a person said no."""


class ApprovalRequired(PolicyDenied):
    """Not before a person has said yes: `question_id` is what they were asked. Ask for the step again afterwards."""

    def __init__(self, message: str, *, question_id: str = "") -> None:
        super().__init__(message)
        self.question_id = question_id


class BudgetExceeded(StepRejected):
    """The reservation does not fit what is left of the budget."""


class StepFailed(KernelError):
    """The step ran and failed; the failure is recorded."""


class OutcomeUnknown(KernelError):
    """A side effect may or may not have happened: reconcile it before going on."""


class RunNotActive(KernelError):
    """The run is paused, blocked or over; `run_id` says which, where a step of it was refused."""

    run_id = ""


class ModelError(KernelError):
    """The model's provider failed."""


class ModelUnavailable(ModelError):
    """A failure that is worth another attempt: a timeout, a 5xx, a lost connection.

    `retry_after_seconds` is how long the provider asked to wait, if it did.
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ModelMalformed(ModelError):
    """An answer that does not fit what was asked."""


class DeclarationError(HarnessError):
    """A declared service, check, limit or envelope makes no sense."""

    exit_code = 2


def told_of(group: BaseExceptionGroup[BaseException]) -> HarnessError | None:
    """The one error that a person is told of several that went wrong together; None if any is not Harness's own."""
    ours, others = group.split(HarnessError)
    if others is not None or ours is None:
        return None
    first: BaseException = ours
    while isinstance(first, BaseExceptionGroup):
        first = cast("BaseExceptionGroup[BaseException]", first).exceptions[0]
    return first if isinstance(first, HarnessError) else None
