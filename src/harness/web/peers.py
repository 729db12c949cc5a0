"""Whose connection it is: the kernel knows the user of both ends of a loopback connection. Linux only; elsewhere nobody's.

A door without a token cannot tell users of one machine apart by what they send, but the kernel can.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_ESTABLISHED = "01"

Address = tuple[str, int]


def same_user(client: object, server: object) -> bool:
    """Whether a connection's other end belongs to a process of this process's user, for sure."""
    there, here = _address(client), _address(server)
    if there is None or here is None:
        return False
    return owner_of(there, here, _lines()) == os.geteuid()


def owner_of(local: Address, remote: Address, lines: Iterable[str]) -> int | None:
    """The user of the open connection from `local` to `remote` in the kernel's table; None if it is not there."""
    ports = f":{local[1]:04X}", f":{remote[1]:04X}"
    for line in lines:
        fields = line.split()
        if len(fields) < 10 or not (fields[1].endswith(ports[0]) and fields[2].endswith(ports[1])):
            continue
        if fields[3] != _ESTABLISHED or fields[9] == "0":  # one whose owner has closed it counts as root's
            continue
        if _decoded(fields[1]) == local and _decoded(fields[2]) == remote:
            return int(fields[7])
    return None


def _lines() -> Iterable[str]:
    if not sys.platform.startswith("linux"):
        return
    for table in _TABLES:
        try:
            text = Path(table).read_text(encoding="ascii")
        except OSError:
            continue
        yield from text.splitlines()[1:]


def _address(given: object) -> Address | None:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) < 2:  # pyright: ignore[reportUnknownArgumentType]
        return None
    host, port = given[0], given[1]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(host, str) or not isinstance(port, int):
        return None
    try:
        return _plain(ipaddress.ip_address(host)), port
    except ValueError:
        return None


def _decoded(field: str) -> Address:
    """An address as the table writes it: words of four bytes in the machine's order, and the port."""
    host, _, port = field.partition(":")
    words = [bytes.fromhex(host[at : at + 8]) for at in range(0, len(host), 8)]
    ordered = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return _plain(ipaddress.ip_address(ordered)), int(port, 16)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
