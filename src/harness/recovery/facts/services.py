"""`service/NAME`: the life of a process, as the supervisor sees and decides it."""

from __future__ import annotations

from typing import ClassVar

from harness.recovery.facts.vocabulary import DECLARED_KEY, STATE_KEY, Fact


class _State(Fact, frozen=True, kw_only=True):
    KEY: ClassVar[str | None] = STATE_KEY

    epoch: int  # grows with every decision to start or to stop


class ServiceDeclared(Fact, frozen=True, kw_only=True):
    """What shall run. Written when it differs from what was declared last."""

    TYPE: ClassVar[str] = "service.declared"
    KEY: ClassVar[str | None] = DECLARED_KEY

    name: str
    command: tuple[str, ...]
    ready: str = ""
    restart: str = "agent"
    depends_on: tuple[str, ...] = ()
    own: bool = False  # one of Harness's own processes
    config: str = ""  # path of the file that set_config edits
    address: str = ""  # host:port it listens on, as far as known
    log: str = ""  # path of its captured output
    digest: str = ""  # of the whole declaration: what differs here is another service
    removed: bool = False  # no longer declared


class ServiceStarting(_State, frozen=True, kw_only=True):
    """A start was decided; the process is about to be spawned under `tag`."""

    TYPE: ClassVar[str] = "service.starting"

    tag: str
    reason: str
    action_id: str = ""  # the action that asked for it
    restarts: int = 0  # automatic restarts in a row before this one
    log_offset: int = 0  # where in its log its output begins


class ServiceStarted(_State, frozen=True, kw_only=True):
    """The process exists. It need not be ready."""

    TYPE: ClassVar[str] = "service.started"

    pid: int
    started: int  # start time in clock ticks since boot: pid and this name one process
    tag: str
    action_id: str = ""


class ServiceReady(_State, frozen=True, kw_only=True):
    """The readiness probe passed."""

    TYPE: ClassVar[str] = "service.ready"

    pid: int
    seconds: float  # since it was spawned or adopted


class ServiceNotReady(_State, frozen=True, kw_only=True):
    """The readiness probe did not pass in time; the process is still there."""

    TYPE: ClassVar[str] = "service.not_ready"

    pid: int
    seconds: float
    reason: str


class ServiceExited(_State, frozen=True, kw_only=True):
    """The process ended without having been asked to: hard evidence."""

    TYPE: ClassVar[str] = "service.exited"

    pid: int
    code: int | None  # None: ended by a signal, or unknown since it was adopted
    signal: int | None
    ran_seconds: float
    last_output: str = ""  # the end of what it wrote; data, never to be trusted


class ServiceStopping(_State, frozen=True, kw_only=True):
    """A stop was decided; the whole tree is being asked to end."""

    TYPE: ClassVar[str] = "service.stopping"

    pid: int | None
    reason: str
    action_id: str = ""


class ServiceStopped(_State, frozen=True, kw_only=True):
    """The process and all its descendants are gone."""

    TYPE: ClassVar[str] = "service.stopped"

    pid: int | None
    needed: str  # nothing | term | kill
    ended: int  # how many processes
    action_id: str = ""


class ServiceAdopted(_State, frozen=True, kw_only=True):
    """A process that an earlier supervisor had started is owned again."""

    TYPE: ClassVar[str] = "service.adopted"

    pid: int
    started: int
    tag: str


class ServiceBackingOff(_State, frozen=True, kw_only=True):
    """A restart waits until `due_us`."""

    TYPE: ClassVar[str] = "service.backing_off"

    delay_seconds: float
    due_us: int
    restarts: int


class ServiceGaveUp(_State, frozen=True, kw_only=True):
    """Too many automatic restarts in a row; only a person or an action starts it again."""

    TYPE: ClassVar[str] = "service.gave_up"

    restarts: int
    window_seconds: float
    reason: str


class ServiceBlocked(_State, frozen=True, kw_only=True):
    """It cannot be started as things are: its port belongs to a foreign process, or its command does not run."""

    TYPE: ClassVar[str] = "service.blocked"

    kind: str  # port_taken | command | dependency
    reason: str
    pid: int | None = None  # who holds the port, if that can be seen; it is left alone
