"""Names of sessions and where their files are. Owns what an id may look like; makes no folder but on request."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from harness.errors import UsageError

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_KEY = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,79})@([0-9a-f]{8})")
_DRAWS = 8
_ADJECTIVES = (
    "amber", "brave", "brisk", "calm", "clear", "crisp", "deft", "eager", "early", "fair", "fleet", "fresh", "gentle", "glad",
    "keen", "kind", "lively", "lucid", "mellow", "neat", "noble", "plain", "proud", "quick", "quiet", "rapid", "ready", "sharp",
    "silver", "smart", "solid", "spry", "steady", "sunny", "swift", "tidy", "vivid", "warm", "wise", "witty",
)  # fmt: skip
_NOUNS = (
    "badger", "beacon", "birch", "brook", "cedar", "comet", "coral", "crane", "delta", "ember", "falcon", "fern", "finch",
    "fjord", "flint", "forge", "harbor", "hazel", "heron", "island", "jay", "lark", "lynx", "maple", "marten", "meadow",
    "otter",
    "pine", "quartz", "raven", "reef", "river", "robin", "sparrow", "summit", "tern", "thistle", "valley", "willow", "wren",
)  # fmt: skip


def check_id(id_: str) -> str:
    """The id itself if it may be one. Raises `UsageError`."""
    if not _ID.fullmatch(id_):
        raise UsageError(
            f"a session's id is made of letters, digits, '.', '_' and '-', begins with a letter or digit "
            f"and has at most 80 characters, not {id_[:100]!r}"
        )
    return id_


def new_id() -> str:
    """A random `adjective-noun`."""
    one, other = os.urandom(4), os.urandom(4)
    return f"{_ADJECTIVES[int.from_bytes(one) % len(_ADJECTIVES)]}-{_NOUNS[int.from_bytes(other) % len(_NOUNS)]}"


def free_id(home: Path) -> str:
    """A random id that no session of this home has or had; with a number behind it where there are many."""
    for _ in range(_DRAWS):
        id_ = new_id()
        if not (home / "sessions" / id_).exists():
            return id_
    return f"{new_id()}-{os.urandom(3).hex()}"


def new_key(id_: str) -> str:
    """The key of a new run of a session: `ID@RUN`."""
    return f"{check_id(id_)}@{os.urandom(4).hex()}"


def id_of(key: str) -> str:
    """The id in a key. Raises `UsageError` if it is none."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise UsageError(f"{key!r} is no key of a session's run, such as w1@0f3a9c21")
    return match[1]


def is_key(text: str) -> bool:
    """Whether this names one run rather than the newest of an id."""
    return _KEY.fullmatch(text) is not None


@cache
def machine() -> str:
    """This machine since it was started, and our view of it: pids of another one, or from before, mean nothing here.

    A sandbox or a container has a view of its own, in which the processes outside are not to be seen.
    """
    boot = view = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    with contextlib.suppress(OSError):
        view = str(Path("/proc/self/ns/pid").stat().st_ino)
    return f"{os.uname().nodename}/{boot}/{view}"


def hidden(where: str) -> bool:
    """Whether processes of `where` run on this machine since its last start, but in a view that is not ours."""
    boot = machine().split("/")[1]
    return where != machine() and bool(boot) and boot in where.split("/")[1:]


def process_gone(where: str, pid: int, started: int, *, shared: bool) -> bool:
    """Whether a process of a session has surely ended: it is not there any more, or the machine was started again since.

    `where` is the machine that it was started on. `shared` says that the ledger is one of several machines, of which two
    may have one name: then only the same boot tells.
    """
    from harness.processes import Identity

    here = machine()
    if where == here:
        return not Identity(pid=pid, started=started).alive()
    if hidden(where):
        return False
    return not shared and where.partition("/")[0] == here.partition("/")[0]


class Folder(NamedTuple):
    """The folder of one session, `HOME/sessions/ID`, which belongs to its newest run.

    An earlier run's folder is called `HOME/sessions/KEY`.
    """

    home: Path
    key: str

    @property
    def current(self) -> Path:
        return self.home / "sessions" / id_of(self.key)

    @property
    def archived(self) -> Path:
        return self.home / "sessions" / self.key

    @property
    def path(self) -> Path:
        """Where this run's files are now."""
        try:
            own = (self.current / "key").read_text(encoding="ascii") == self.key
        except OSError:
            own = False
        return self.archived if not own and self.archived.is_dir() else self.current

    @property
    def is_there(self) -> bool:
        """Whether this run's files can be reached from here."""
        try:
            return (self.path / "key").read_text(encoding="ascii") == self.key
        except (OSError, ValueError):
            return False

    @property
    def transcript(self) -> Path:
        """The agent's output as it came; rotated by size."""
        return self.path / "transcript.log"

    @property
    def errors(self) -> Path:
        """Its stderr, where that is a pipe of its own."""
        return self.path / "stderr.log"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "session.json"

    @property
    def socket(self) -> Path:
        return self.path / "host.sock"

    @property
    def bell(self) -> Path:
        """Rung by whoever has written to this session's stream, so that its host looks."""
        return self.path / "bell"

    def take(self) -> Path:
        """Make the folder for this run, and move that of an earlier run out of the way. Only for who holds the id."""
        current = self.current
        sessions = current.parent
        sessions.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(sessions, 0o700)  # noqa: PTH101 - it may have been made with another umask
        if current.is_dir():
            current.rename(sessions / self._earlier(current))
        current.mkdir(mode=0o700)
        write_private(current / "key", self.key)
        return current

    def hold(self) -> int:
        """Hold the folder until this process ends, which others can see wherever they are; see `let_go`. Gives a descriptor."""
        descriptor = os.open(self.current / "key", os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # who only looks has it for a moment
        return descriptor

    def _earlier(self, current: Path) -> str:
        try:
            key = (current / "key").read_text(encoding="ascii")
        except OSError:
            key = ""
        if not is_key(key) or (current.parent / key).exists():
            return f"{id_of(self.key)}@{os.urandom(4).hex()}"
        return key


def let_go(folder: str, key: str) -> bool:
    """Whether this run's host no longer holds its folder; False where that cannot be seen."""
    try:
        with (Path(folder) / "key").open(encoding="ascii") as file:
            if file.read() != key:
                return False
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write a small file that only its owner may read, whatever the umask. Raises `OSError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
