"""From a request to everything a host needs: ids, folder, logs, environment, rules. Owns the answer to who started us."""

from __future__ import annotations

import os
import sys
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import UsageError
from harness.ledger import Reserve
from harness.processes import Identity, RotatingLog, Size
from harness.sessions import facts, ids, policy, programs
from harness.sessions.facts import Mode
from harness.sessions.host.viewers import note_size
from harness.sessions.record import Message
from harness.sessions.request import LaunchRequest
from harness.sessions.starting import IdTaken
from harness.sessions.transports.base import Transport
from harness.wake import Bell

_SETTLE_SECONDS = (0.02, 0.05)  # one that dies before the latter, or the former if it rests then, is told as not started
_TAIL_CHARACTERS = 2000
_LONG_US = 10 * 365 * 86_400 * 1_000_000  # the first message waits for as long as the program takes to start


class Answer:
    """The one line to whoever started us, through a pipe that may be closed at the other end."""

    def __init__(self, descriptor: int, setup: Setup | None = None) -> None:
        self._descriptor = descriptor
        self.setup = setup

    def started(self, pid: int) -> None:
        """The agent runs and is registered."""
        assert self.setup is not None
        setup = self.setup
        self._say(
            ok=True, id=setup.id, key=setup.folder.key, cli=setup.claimed.cli, pid=pid, host_pid=os.getpid(),
            guard_pid=setup.claimed.guard_pid, mode=str(setup.plan.mode), log=str(setup.folder.transcript),
            folder=str(setup.folder.current),
        )  # fmt: skip

    def ended(self, exited: facts.Exited | None, tail: str) -> None:
        """It is over; says so if nothing was said before."""
        if exited is None or self.setup is None:
            return
        code = exited.code if exited.code is not None else (128 + exited.signal if exited.signal is not None else None)
        shown = tail.strip()[-_TAIL_CHARACTERS:]
        if code is None:
            self._say(ok=False, error=exited.detail or "the session ended before it had begun")
            return
        cli = self.setup.claimed.cli
        told = f"{cli} was ended at once: {exited.detail}" if exited.needed else f"{cli} ended at once with exit code {code}"
        self._say(ok=False, key=self.setup.folder.key, code=code, tail=shown, error=f"{told}{': ' if shown else ''}{shown}")

    def failed(self, error: BaseException) -> None:
        """Nothing was started."""
        self._say(
            ok=False, error=str(error) or type(error).__name__, usage=isinstance(error, UsageError),
            taken=isinstance(error, IdTaken),
        )  # fmt: skip

    def _say(self, **words: object) -> None:
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            os.write(descriptor, msgspec.json.encode(words) + b"\n")
        except OSError:
            pass  # whoever asked has gone; the session goes on
        finally:
            os.close(descriptor)


class Setup:
    """What one run of a session is made of. Raises `UsageError` for a request that makes no sense."""

    def __init__(self, request: LaunchRequest, *, answer: Answer, guard_pid: int) -> None:
        self.request = request
        self.answer = answer
        answer.setup = self
        self.home = Path(request.home)
        self.id = ids.check_id(request.id) if request.id else ids.free_id(self.home)
        self.folder = ids.Folder(home=self.home, key=ids.new_key(self.id))
        self.cwd = Path(request.cwd)
        self.size = Size(columns=request.columns, rows=request.rows)
        self.shared = "://" in request.database
        self.rules = _rules(request.approvals)
        self.limits = facts.Limits(
            max_budget_usd=request.max_budget_usd, max_turns=request.max_turns, max_wall_seconds=request.max_wall_seconds
        )
        self.plan = programs.plan(request, id_=self.id)
        _check_budget(request, self.plan.mode)
        self.claimed = self._claimed(guard_pid)
        self.settle_seconds = _SETTLE_SECONDS
        self.transcript: RotatingLog | None = None
        self.errors: RotatingLog | None = None

    def _claimed(self, guard_pid: int) -> facts.Claimed:
        request = self.request
        return facts.Claimed(
            id=self.id, cli=Path(request.cli).name, mode=self.plan.mode, argv=self.plan.argv, cwd=str(self.cwd),
            machine=ids.machine(), guard_pid=guard_pid, guard_started=Identity.of(guard_pid).started, host_pid=os.getpid(),
            host_started=Identity.of(os.getpid()).started, repo=request.repo, description=request.description,
            meta=request.meta, limits=self.limits, inbox_ttl_seconds=request.inbox_ttl_seconds, attended=request.attended,
            tmux=request.tmux, worktree=request.worktree, branch=request.branch, folder=str(self.folder.current),
            follows=request.follows,
            vendor_session=self.plan.vendor_session, port=request.port,
        )  # fmt: skip

    def prepare(self) -> None:
        """Make the folder and its files. Only for who holds the id."""
        self.folder.take()
        self.folder.hold()
        Bell(self.folder.bell).hang()
        note_size(self.folder, self.size)
        request = self.request
        keep = {"max_bytes": request.transcript_max_bytes, "keep": request.transcript_keep}
        self.transcript = RotatingLog(self.folder.transcript, **keep)
        self.errors = RotatingLog(self.folder.errors, **keep)

    def make_transport(self) -> Transport:
        """The transport of this program, not started yet."""
        assert self.transcript is not None
        assert self.errors is not None
        return self.plan.make(
            programs.Place(
                folder=self.folder, cwd=self.cwd, env=self.environment(), tag=facts.stream_of(self.folder.key),
                size=self.size, transcript=self.transcript, errors=self.errors,
            )
        )  # fmt: skip

    def environment(self) -> Mapping[str, str]:
        """The agent's: that of whoever started it, and what it needs to know of its session."""
        request = self.request
        told = {
            "HARNESS_SESSION_ID": self.folder.key,
            "HARNESS_SESSION_CLI": self.claimed.cli,
            "HARNESS_ID": self.id,
            "HARNESS_HOME": request.home,
            "HARNESS_SESSION_REPO_ROOT": request.repo,
            "HARNESS_DESCRIPTION": request.description,
            "HARNESS_SPAWNER_PANE": request.spawner_pane,
        }
        return {**os.environ, **{name: value for name, value in told.items() if value}, **self.plan.env}

    @property
    def first_message(self) -> facts.Queued | None:
        """The context as a message, for programs that take no argument for it."""
        if not (self.plan.queue_context and self.request.context):
            return None
        text = f"[harness session id={self.id}] {self.request.context}"
        return facts.Queued(message_id=str(uuid.uuid4()), text=text, expires_us=_now_us() + _LONG_US)

    def message(self, text: str) -> facts.Queued:
        """A message of Harness itself, which waits as long as any."""
        expires = _now_us() + round(self.request.inbox_ttl_seconds * 1e6)
        return facts.Queued(message_id=str(uuid.uuid4()), text=text, expires_us=expires, origin=facts.Origin(kind="harness"))

    def again(self, message: Message) -> facts.Queued:
        """A message of the run that this one continues, under its own id; it waits no longer than its sender was told."""
        return facts.Queued(
            message_id=message.id, text=message.text, expires_us=message.expires_us, placing=message.placing,
            origin=message.origin, submit=message.submit, only_submit=message.only_submit, forced=message.forced,
        )  # fmt: skip

    @property
    def place_in_inbox(self) -> Reserve:
        """What a queued message takes."""
        return Reserve(facts.inbox_counter(self.folder.key), 1, facts.INBOX_LIMIT)

    def places_in_inbox(self, count: int) -> Reserve:
        """What those take that are there from the beginning; a run that was full is taken over whole."""
        return Reserve(facts.inbox_counter(self.folder.key), count, None)

    def price(self, usage: facts.Usage) -> float | None:
        """What the tokens cost by the list price; None if nobody knows the model's."""
        from harness.spend import cost_micro_usd, price_of

        price = price_of(usage.model, published=False) if usage.model else None
        if price is None and usage.model and self.request.max_budget_usd is not None:
            price = price_of(usage.model)  # without one no budget can be kept, and that is worth a second and the memory
        if price is None:
            return None
        micro = cost_micro_usd(
            price, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, cache_read_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )  # fmt: skip
        return micro / 1e6

    def complain(self, error: BaseException) -> None:
        """Write an error that nobody can be told to the host's own log."""
        try:
            descriptor = os.open(self.folder.path / "host.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8") as file:
                traceback.print_exception(error, file=file)
        except OSError:
            print(error, file=sys.stderr)


def request_from(data: bytes) -> LaunchRequest:
    """The request as it came through the pipe."""
    return msgspec.json.decode(data, type=LaunchRequest)


def _check_budget(request: LaunchRequest, mode: Mode) -> None:
    """Refuse a budget for a program that does not say what it uses: it would be one that nobody keeps."""
    name = Path(request.cli).name
    tells = mode in (Mode.STREAM, Mode.APP_SERVER) or name in ("claude", "codex")
    if request.max_budget_usd is not None and not tells:
        raise UsageError(f"--max-budget-usd cannot be kept: {name} in mode {mode} does not say what it uses; --max-wall can")


def _rules(given: Mapping[str, Any]) -> policy.ApprovalRules:
    try:
        rules = msgspec.convert(dict(given), policy.ApprovalRules)
    except msgspec.ValidationError as error:
        raise UsageError(f"approval rules: {error}") from error
    policy.check_rules(rules)
    return rules


def _now_us() -> int:
    from harness.clock import SystemClock

    return SystemClock().now_us()
