"""What a safety policy says about a tool, and what it makes of a call's arguments. Declarations and pure judgement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from harness.errors import UsageError
from harness.kernel.bounds import check_limit, check_seconds, is_number
from harness.kernel.middleware.invariants import Expression, Unresolved

Per = Literal["run", "tree", "tenant"]
Invariant = str | Callable[[Mapping[str, Any]], object]
INTENT_ARGUMENTS = ("intent", "reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimit:
    """At most so many calls of the tool, per run, tree of runs or tenant, and in each window of that length if one is given."""

    calls: int
    per: Per = "run"
    window_seconds: float | None = None

    def __post_init__(self) -> None:
        check_limit("calls of a limit", self.calls)
        _check_scope(self.per, self.window_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class AmountLimit:
    """Limits on a number in the arguments: of one call (`most`), and of all calls together (`total`).

    `path` leads to it, such as `amount`, `payment.amount` or `items.*.price`. What is there must be a number from 0; a
    text, NaN, a negative number or nothing at all is refused.
    """

    path: str
    most: float | None = None
    total: float | None = None
    per: Per = "run"
    window_seconds: float | None = None

    def __post_init__(self) -> None:
        _check_path(self.path)
        if self.most is None and self.total is None:
            raise UsageError(f"the amount limit of {self.path!r} needs most or total")
        check_limit(f"most of {self.path!r}", self.most)
        check_limit(f"total of {self.path!r}", self.total)
        _check_scope(self.per, self.window_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Critic:
    """Somebody who is asked about a call before it is made; the asking is a step of the run.

    Either a `model`, with `instructions`, or a `function` of the tool's name and its arguments, async or not, that gives
    True, or `{"approved": True}`, for yes. Anything else is a no; a text is the reason.
    """

    model: str | None = None
    instructions: str = "Approve only what is plainly right and harmless."
    function: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.function is None):
            raise UsageError("a critic is either a model or a function")


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Who must say yes: a critic, a person, or both, the critic first.

    With `above`, only to calls whose number at `path` is higher. A person has `deadline_seconds`; afterwards they are asked
    again. With `pause` the run is paused until they have answered.
    """

    human: bool = True
    critic: Critic | None = None
    path: str | None = None
    above: float | None = None
    deadline_seconds: float | None = None
    pause: bool = True

    def __post_init__(self) -> None:
        if not self.human and self.critic is None:
            raise UsageError("an approval needs a person or a critic")
        if (self.path is None) != (self.above is None):
            raise UsageError("an approval above an amount needs path and above")
        if self.path is not None:
            _check_path(self.path)
        if self.deadline_seconds is not None:
            check_seconds("a deadline", self.deadline_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPolicy:
    """What must be so before a tool is called. Everything that is given must hold.

    * `intent`: a reason is on record: a text in the argument of that name (True: `intent` or `reason`), or one declared for
      this run and tool by `Kernel.declare_intent`.
    * `once_by`: paths whose values name the effect. The tenant gets it once, in whatever run; after a failure once more.
    * `limits`, `amounts`: how often, and how much.
    * `invariants`: expressions (see `invariants`) or functions of the arguments that give True, or else why not.
    * `approval`: who must say yes to exactly these arguments.
    """

    intent: bool | str = False
    once_by: Sequence[str] = ()
    limits: Sequence[CallLimit] = ()
    amounts: Sequence[AmountLimit] = ()
    invariants: Sequence[Invariant] = ()
    approval: Approval | Literal["human"] | Critic | None = None

    def __post_init__(self) -> None:
        if isinstance(self.once_by, str) or isinstance(self.invariants, str):
            raise UsageError("once_by and invariants are lists, not one text")
        for path in self.once_by:
            _check_path(path)
        for each in self.invariants:
            if isinstance(each, str):
                Expression(each)
            elif not callable(each):  # pyright: ignore[reportUnnecessaryComparison]
                raise UsageError(f"an invariant is an expression or a function, not {each!r}")
        _ = self.approvals

    @property
    def approvals(self) -> Approval | None:
        """The approval in its full form."""
        match self.approval:
            case None | Approval():
                return self.approval
            case Critic():
                return Approval(human=False, critic=self.approval)
            case "human":
                return Approval()
            case _:
                raise UsageError(f"an approval is by 'human', an Approval or a Critic, not {self.approval!r}")


class Refusal(NamedTuple):
    """Which rule does not hold, and why."""

    rule: str
    reason: str


def judge(policy: ToolPolicy, arguments: Mapping[str, Any], *, declared: str | None) -> Refusal | None:
    """What the arguments alone decide. `declared` is the intent that was recorded for the tool."""
    if policy.intent and declared is None and not intent_in(policy, arguments):
        where = f"in {policy.intent!r}" if isinstance(policy.intent, str) else "in 'intent' or 'reason'"
        return Refusal("intent", f"no reason is given: write one {where}, or declare it with declare_intent")
    for each in policy.invariants:
        if refused := _invariant(each, arguments):
            return Refusal("invariant", refused)
    for each in policy.amounts:
        amount = amount_at(arguments, each.path)
        if isinstance(amount, str):
            return Refusal("amount", amount)
        if each.most is not None and amount > each.most:
            return Refusal("amount", f"{each.path} is {amount:g}, and at most {each.most:g} is allowed in one call")
    return None


def intent_in(policy: ToolPolicy, arguments: Mapping[str, Any]) -> str:
    """The reason that the arguments give; empty if they give none."""
    names = (policy.intent,) if isinstance(policy.intent, str) else INTENT_ARGUMENTS
    found = (arguments.get(name) for name in names)
    return next((each.strip() for each in found if isinstance(each, str) and each.strip()), "")


def _invariant(invariant: Invariant, arguments: Mapping[str, Any]) -> str:
    if isinstance(invariant, str):
        try:
            return "" if Expression(invariant).holds(arguments) else f"{invariant!r} does not hold"
        except Unresolved as error:
            return f"whether {invariant!r} holds cannot be said: {error}"
    name = getattr(invariant, "__name__", "the invariant")
    try:
        said = invariant(arguments)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong, it does not hold
        return f"whether {name} holds cannot be said: {type(error).__name__}: {error}"
    return "" if said is True else said if isinstance(said, str) and said else f"{name} does not hold"


def values_at(arguments: object, path: str) -> Iterator[Any]:
    """Every value that the path leads to."""
    head, _, rest = path.partition(".")
    found: list[Any] = []
    match arguments:
        case dict():
            named = cast("dict[str, Any]", arguments)
            found = list(named.values()) if head == "*" else [named[head]] if head in named else []
        case list():
            listed = cast("list[Any]", arguments)
            if head == "*":
                found = listed
            elif head.isdigit() and int(head) < len(listed):
                found = [listed[int(head)]]
        case _:
            return
    for each in found:
        if rest:
            yield from values_at(each, rest)
        else:
            yield each


def amount_at(arguments: Mapping[str, Any], path: str) -> float | str:
    """The sum of the numbers that the path leads to, or why there is none."""
    found = list(values_at(arguments, path))
    if not found:
        return f"there is no amount at {path!r}"
    for each in found:
        if not is_number(each):
            return f"{path} is {each!r:.40}, and no number"
        if each < 0:
            return f"{path} is {each!r:.40}, and below 0"
    return math.fsum(found)


def needs_approval(approval: Approval, arguments: Mapping[str, Any]) -> bool:
    """Whether anybody must be asked about these arguments; what is no number is asked about."""
    if approval.path is None or approval.above is None:
        return True
    amount = amount_at(arguments, approval.path)
    return isinstance(amount, str) or amount > approval.above


def _check_path(path: object) -> None:
    if not isinstance(path, str) or not path or not all(path.split(".")):
        raise UsageError(f"a path is made of names with points between, such as payment.amount, not {path!r}")


def _check_scope(per: str, window_seconds: float | None) -> None:
    if per not in ("run", "tree", "tenant"):
        raise UsageError(f"a limit is per 'run', 'tree' or 'tenant', not per {per!r}")
    if window_seconds is not None:
        check_seconds("a window", window_seconds)
