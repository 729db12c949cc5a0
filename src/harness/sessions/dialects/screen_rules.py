"""What a file of screen rules may say, as TOML is read into it. Data only; `screens` applies them."""

from __future__ import annotations

from typing import Literal

import msgspec

from harness.sessions.facts import State


class AskRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a dialog that asks for leave is read and answered, where nothing better than keys will do."""

    tool: str
    subject: str  # a regular expression; its first group is what leave is asked for
    allow: str  # keys
    deny: str
    argument: str = "command"


class ScreenRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One state and what it looks like: every pattern of `all` in the region, none of `none`."""

    name: str
    state: State
    region: str = "screen"
    all: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    detail: str = ""
    confidence: float = 0.8
    composer: bool | None = None  # whether there has to be one; None: either way
    ask: AskRule | None = None


class TitleRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A state that the window's title gives away. A title that no rule knows says nothing."""

    match: str
    state: State
    detail: str = ""
    confidence: float = 0.9


class ComposerRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a person types: a box between the two lowest ruled lines, or a line with a footer that `footer` describes."""

    kind: Literal["box", "line"]
    glyph: str  # a regular expression for what its first line begins with
    footer: str = ""


class IdentityRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Regular expressions for what the program shows of itself; the first group of each is it."""

    version: str = ""
    model: str = ""


class ScreenRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a file of rules says."""

    composer: ComposerRule | None = None
    identity: IdentityRule = IdentityRule()
    error: str = ""  # a regular expression for what it shows of a failed turn; its first group is the words
    rules: tuple[ScreenRule, ...] = ()
    titles: tuple[TitleRule, ...] = ()
