"""The flags of the rehearsed agents: what goes wrong, and in which turn. No I/O.

A message may carry them too: a line `rehearse: --dies` holds for the turn that it starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

DIRECTIVE = "rehearse:"
VARIABLE = "HARNESS_REHEARSE"
"""Flags for every rehearsed agent that is started with this in its environment."""


class BadFlag(ValueError):
    """A flag without its value, or with one that is none."""


class Plan:
    """What a rehearsed agent does; one attribute for each flag, and the defaults behave."""

    like: str = "claude"
    journal: str = ""
    store: str = ""
    turn: int = 1
    starts_after: float = 0.0
    asks_trust: bool = False
    crashes_on_resume: bool = False
    ignores: str = ""
    work: float = 0.05
    answer: str = ""
    usage: str = "100,11"
    retries: int = 0
    retry_delay: float = 0.05
    tool: float = 0.0
    heartbeat: float = 1.0
    asks: str = ""
    withdraws: float = 0.0
    limit: float = 0.0
    garbage: bool = False
    flood: float = 0.0
    huge: float = 0.0
    stderr: float = 0.0
    stray: float = 0.0
    child: float = 0.0
    repeats: int = -1
    pause: float = 0.02
    spins: bool = False
    holds: str = ""
    hangs: bool = False
    freezes: bool = False
    dies: bool = False
    dies_after: float = -1.0
    killed: bool = False
    exit: int = -1
    code: int = 1
    lingers: bool = False
    swallows: int = 0
    shows_prompt: bool = False

    def copy(self) -> Plan:
        """The same plan, which may be changed."""
        other = Plan()
        other.__dict__.update(self.__dict__)
        return other

    def goes_wrong_in(self, turn: int) -> bool:
        """Whether the faults of the flags are for this turn."""
        return self.turn in (0, turn)

    @property
    def tokens(self) -> tuple[int, int]:
        """Input and output tokens of one turn."""
        given, _, taken = self.usage.partition(",")
        return int(given), int(taken or 0)

    @property
    def harmless(self) -> Plan:
        """The plan without what goes wrong in a turn."""
        other = self.copy()
        for flag in FLAGS:
            if flag.fault:
                setattr(other, flag.attribute, getattr(Plan, flag.attribute))
        return other


class Flag:
    """One flag: its name, what it takes, and what it means."""

    def __init__(self, name: str, takes: str, meaning: str, convert: Callable[[str], object] | None, *, fault: bool) -> None:
        self.name = name
        self.takes = takes
        self.meaning = meaning
        self.convert = convert
        self.fault = fault
        self.attribute = name.replace("-", "_")


def _tokens(text: str) -> str:
    given, _, taken = text.partition(",")
    int(given)
    int(taken or 0)
    return text


def _like(text: str) -> str:
    if text not in ("claude", "codex", "gemini", "shell"):
        raise ValueError(text)
    return text


def _signals(text: str) -> str:
    known = {"TERM", "INT", "HUP"}
    if not set(text.split(",")) <= known:
        raise ValueError(text)
    return text


_OF_ITSELF: tuple[tuple[str, str, str, Callable[[str], object] | None], ...] = (
    ("like", "claude|codex|gemini|shell", "how the terminal program looks", _like),
    ("journal", "FILE", "append what happens as lines of JSON, each on the disk before it goes on", str),
    ("store", "DIR", "keep its sessions there: only those can be resumed, and their counters go on", str),
    ("turn", "N", "the turn that goes wrong, 1 unless given; 0: every one", int),
    ("starts-after", "S", "say nothing for so long after the start", float),
    ("asks-trust", "", "begin with the question whether this folder is trusted", None),
    ("crashes-on-resume", "", "end at once with code 1 when a session is to be resumed", None),
    ("ignores", "TERM,INT,HUP", "ignore these signals", _signals),
    ("dies-after", "S", "end without a word so long after the start", float),
    ("code", "N", "the exit code of a death without a word, 1 unless given", int),
    ("lingers", "", "do not end when it is asked to, nor when its input ends", None),
    ("swallows", "N", "ignore the first N Enters", int),
    ("work", "S", "how long a turn takes", float),
    ("answer", "TEXT", "what it says instead of `echo: MESSAGE`", str),
    ("usage", "IN,OUT", "tokens that a turn takes, 100,11 unless given", _tokens),
    ("heartbeat", "S", "how often a running tool says that it lives; 0: never", float),
    ("pause", "S", "between identical tool calls", float),
    ("retry-delay", "S", "between announced retries", float),
)
_FAULTS: tuple[tuple[str, str, str, Callable[[str], object] | None], ...] = (
    ("shows-prompt", "", "show a prompt, a quoted line and `NORMAL` while it is busy", None),
    ("retries", "N", "announce N retries", int),
    ("tool", "S", "run a tool for so long", float),
    ("asks", "TOOL", "ask for permission, and wait for ever", str),
    ("withdraws", "S", "take that request back after so long", float),
    ("stray", "S", "start a child in a session of its own, which outlives it for so long", float),
    ("child", "S", "leave a child behind that holds the terminal for so long", float),
    ("stderr", "MB", "write so much to stderr", float),
    ("flood", "MB", "write so much to stdout", float),
    ("huge", "MB", "write one line of that size", float),
    ("garbage", "", "write invalid UTF-8, control codes and long terminal commands", None),
    ("limit", "S", "run into a usage limit that resets after so long", float),
    ("repeats", "N", "make the same tool call N times; 0: for ever", int),
    ("spins", "", "turn its spinner for ever", None),
    ("holds", "FILE", "go on with the turn only when this file is there", str),
    ("hangs", "", "take the message and never answer", None),
    ("freezes", "", "stop in mid-turn and read nothing any more", None),
    ("dies", "", "end without a word in mid-turn", None),
    ("killed", "", "die of SIGKILL in mid-turn", None),
    ("exit", "N", "end with this code after the answer", int),
)
FLAGS: tuple[Flag, ...] = (
    *(Flag(*known, fault=False) for known in _OF_ITSELF),
    *(Flag(*known, fault=True) for known in _FAULTS),
)
_BY_NAME = {flag.name: flag for flag in FLAGS}


def parse(words: Sequence[str], plan: Plan | None = None) -> tuple[Plan, list[str]]:
    """The plan with these flags, and the words that are none of them: the program's own. Raises `BadFlag`."""
    made, others, rest = (plan or Plan()).copy(), list[str](), list(words)
    while rest:
        word = rest.pop(0)
        name, separator, value = word.removeprefix("--").partition("=")
        flag = _BY_NAME.get(name) if word.startswith("--") else None
        if flag is None:
            others.append(word)
        elif flag.convert is None:
            setattr(made, flag.attribute, True)
        else:
            if not separator:
                if not rest:
                    raise BadFlag(f"--{name} takes {flag.takes}")
                value = rest.pop(0)
            try:
                setattr(made, flag.attribute, flag.convert(value))
            except ValueError as error:
                raise BadFlag(f"--{name} takes {flag.takes}, not {value!r}") from error
    return made, others


def for_turn(plan: Plan, turn: int, message: str) -> Plan:
    """What holds for one turn: the message's own flags, else those of the command line if this is their turn."""
    told = [line.strip().removeprefix(DIRECTIVE) for line in message.splitlines() if line.strip().startswith(DIRECTIVE)]
    if not told:
        return plan if plan.goes_wrong_in(turn) else plan.harmless
    import shlex

    return parse(shlex.split(" ".join(told)), plan.harmless)[0]


def described() -> str:
    """All flags with what they mean, for `--help`."""
    lines = [f"  --{flag.name} {flag.takes}".ljust(36) + flag.meaning for flag in FLAGS]
    return "\n".join(("Flags of a rehearsed agent; other words are the program's own:", *lines))
