"""What a service is started with: its argv, its environment, its tag, and the sockets that are held for it.

Looks at ports but never at whom they belong to beyond naming it: a foreign process is reported and left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from harness.recovery.declarations import Service
from harness.recovery.folders import chaos_path
from harness.text import redact, secret_name

_TAG = "harness-service"
_LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp


def argv_of(service: Service) -> tuple[str, ...]:
    """The command; `harness` means this very installation, whatever PATH says."""
    if service.command[0] == "harness":
        return (sys.executable, "-m", "harness", *service.command[1:])
    return service.command


def shown_command(service: Service) -> tuple[str, ...]:
    """The command as the ledger and the page may have it: without passwords and keys."""
    before = ("", *service.command)
    pairs = zip(before, service.command, strict=False)
    return tuple("[redacted value]" if flag.startswith("-") and secret_name(flag) else redact(word) for flag, word in pairs)


def environment_of(service: Service, home: Path) -> dict[str, str]:
    """The complete environment: without secrets that are not named, with what Harness tells its services."""
    from harness.processes import clean_env

    told = {"HARNESS_HOME": str(home), "HARNESS_CHAOS_FILE": str(chaos_path(home, service.name)), "PYTHONUNBUFFERED": "1"}
    if config := os.environ.get("HARNESS_CONFIG"):
        told["HARNESS_CONFIG"] = str(Path(config).absolute())  # it may be started in another directory
    return clean_env({**told, **service.environment}, keep=service.secrets)


def directory_of(service: Service, root: Path) -> Path:
    """Where it is started."""
    return root / service.directory if service.directory else root


def home_tag(home: Path) -> str:
    """What the tags of all processes of this home begin with."""
    return f"{_TAG}:{hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]}:"


def tag_of(home: Path, name: str, epoch: int) -> str:
    """The tag of one process: its home, its service, its epoch."""
    return f"{home_tag(home)}{name}:{epoch}"


def parse_tag(home: Path, tag: str) -> tuple[str, int] | None:
    """The service and epoch of a tag of this home."""
    name, _, epoch = tag.removeprefix(home_tag(home)).rpartition(":")
    return (name, int(epoch)) if tag.startswith(home_tag(home)) and name and epoch.isdigit() else None


def listen(address: str) -> socket.socket:
    """A listening socket on `host:port`, to be held across restarts. Raises OSError."""
    parts = urlsplit(f"tcp://{address}")
    return _bound(parts.hostname or "127.0.0.1", parts.port or 0, backlog=1024)


def port_holder(address: str) -> tuple[str, int | None] | None:
    """Why `host:port` on this machine cannot be listened on, and the pid behind it if that can be seen; None if it can."""
    parts = urlsplit(f"tcp://{address}")
    if not parts.hostname or not parts.port or not _local(parts.hostname):
        return None
    try:
        _bound(parts.hostname, parts.port, backlog=None).close()
    except OSError as problem:
        pid = _listener(parts.port)
        who = f"process {pid}" if pid else "another process"
        return f"{address} cannot be listened on, {who} is there: {(problem.strerror or str(problem)).lower()}", pid
    return None


def _local(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.") or host == "0.0.0.0"  # noqa: S104 - compared, not bound


def _bound(host: str, port: int, *, backlog: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        if backlog is not None:
            made.listen(backlog)
    except OSError:
        made.close()
        raise
    return made


def _listener(port: int) -> int | None:
    """The pid that listens on a TCP port, by the inode of its socket; None where that cannot be seen."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    if not inodes:
        return None
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and not inodes.isdisjoint(_links(folder / "fd")):
            return int(folder.name)
    return None


def _listening(table: str, port: int) -> list[str]:
    try:
        rows = Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    fields = [row.split() for row in rows]
    return [row[9] for row in fields if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port]


def _links(folder: Path) -> list[str]:
    found: list[str] = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                found.append(os.readlink(path))  # noqa: PTH115 - sockets have no path
    return found
