"""Which turn of a scenario answers a request. Pure but for its counters; sends nothing."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from harness.sessions.mock_model.asking import Asked, Prompt, prompts_of
from harness.sessions.mock_model.examples import smallest
from harness.sessions.mock_model.script import Rule, Scenario, Turn

_MAX_COUNTED = 10_000  # conversations whose failed attempts are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A turn, and why it was this one."""

    turn: Turn
    label: str  # `turn 2`, `rule 1 turn 3`, `default`, `side`
    side: bool = False


class Cursor:
    """Where a scenario stands. One request at a time."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._turns = [turn for turn in scenario.turns for _ in range(turn.times)]
        self._rules = [_Matcher(rule, scenario.default) for rule in scenario.rules]
        self._taken = 0

    def choose(self, asked: Asked) -> Choice:
        """The answer to this request: a rule's, else the next turn, else the default."""
        if asked.side and self.scenario.side != "main":
            return Choice(turn=self._aside(asked), label="side", side=True)
        prompts = prompts_of(asked.said)
        for prompt in prompts:
            for number, rule in enumerate(self._rules, 1):
                if rule.matches(prompt):
                    return rule.choose(number, prompt, asked)
        if self._taken < len(self._turns):
            self._taken += 1
            return Choice(turn=self._turns[self._taken - 1], label=f"turn {self._taken}")
        return Choice(turn=self.scenario.default, label="default")

    def _aside(self, asked: Asked) -> Turn:
        if isinstance(self.scenario.side, Turn):
            return self.scenario.side
        if asked.answer_schema is not None:
            return Turn(text=msgspec.json.encode(smallest(asked.answer_schema)).decode())
        return Turn(text="ok")


class _Matcher:
    """One rule: which of its steps is meant follows from the conversation alone.

    A failure does not take the conversation further, so the client asks the same again: it is counted how often.
    """

    def __init__(self, rule: Rule, default: Turn) -> None:
        self._prompt = re.compile(rule.prompt, re.DOTALL)
        self._default = default
        self._steps = list(_steps(rule.turns, default))
        self._attempts: OrderedDict[bytes, int] = OrderedDict()

    def matches(self, prompt: Prompt) -> bool:
        return self._prompt.search(prompt.text) is not None

    def choose(self, number: int, prompt: Prompt, asked: Asked) -> Choice:
        if prompt.turns_since >= len(self._steps):
            return Choice(turn=self._default, label=f"rule {number} default")
        step = self._steps[prompt.turns_since]
        turn = step[min(self._attempt(asked), len(step) - 1)] if len(step) > 1 else step[0]
        return Choice(turn=turn, label=f"rule {number} turn {prompt.turns_since + 1}")

    def _attempt(self, asked: Asked) -> int:
        """How often exactly this conversation was seen here before."""
        conversation = hashlib.sha256(msgspec.json.encode(asked.said)).digest()
        seen = self._attempts.pop(conversation, 0)
        self._attempts[conversation] = seen + 1
        if len(self._attempts) > _MAX_COUNTED:
            self._attempts.popitem(last=False)
        return seen


def _steps(turns: Sequence[Turn], default: Turn) -> Iterable[list[Turn]]:
    """Each answer together with the failures that come before it."""
    step: list[Turn] = []
    for turn in turns:
        for _ in range(turn.times):
            step.append(turn)
            if not turn.fails:
                yield step
                step = []
    if step:
        yield [*step, default]
