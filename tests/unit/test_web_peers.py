"""Whose end of a connection is whose, by the kernel's table."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from harness.web.peers import owner_of, same_user

LISTENING = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1111 1 0 100 0 0 10 0"
OPEN = "   1: 0100007F:C35C 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 2222 1 0 20 4 30 10 -1"
CLOSED = "   2: 0100007F:C35D 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1"
LEAVING = "   3: 0100007F:C35E 0100007F:1F90 08 00000000:00000000 00:00000000 00000000  1000        0 3333 1 0 20 4 30 10 -1"
MAPPED = (
    "   4: 0000000000000000FFFF00000100007F:C35F 0000000000000000FFFF00000100007F:1F90 01 00000000:00000000 "
    "00:00000000 00000000  1001        0 4444 1 0 20 4 30 10 -1"
)
SIX = (
    "   5: 00000000000000000000000001000000:C360 00000000000000000000000001000000:1F90 01 00000000:00000000 "
    "00:00000000 00000000  1002        0 5555 1 0 20 4 30 10 -1"
)
DOOR = ("127.0.0.1", 0x1F90)


@pytest.mark.skipif(sys.byteorder != "little", reason="the table is written in the machine's order")
@pytest.mark.parametrize(
    ("local", "remote", "owner"),
    [
        (("127.0.0.1", 0xC35C), DOOR, 1000),
        (("127.0.0.1", 0xC35F), DOOR, 1001),
        (("::1", 0xC360), ("::1", 0x1F90), 1002),
        (("127.0.0.1", 0xC35D), DOOR, None),  # its owner has closed it, so it counts as root's
        (("127.0.0.1", 0xC35E), DOOR, None),
        (("127.0.0.1", 0x1F90), ("127.0.0.1", 0xC35C), None),  # the other end
        (("127.0.0.2", 0xC35C), DOOR, None),
        (("127.0.0.1", 0xC35C), ("127.0.0.1", 0x1F91), None),
    ],
)
def test_the_table_says_whose_it_is(local: tuple[str, int], remote: tuple[str, int], owner: int | None) -> None:
    """Only an open connection between exactly these two ends is anybody's."""
    assert owner_of(local, remote, ["garbage", LISTENING, OPEN, CLOSED, LEAVING, MAPPED, SIX]) == owner


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_of_this_process_is_this_users(host: str) -> None:
    """And of nobody once it is closed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        client = socket.create_connection(listening.getsockname()[:2])
        accepted, peer = listening.accept()
        with accepted:
            assert same_user(peer, accepted.getsockname())
            client.close()
            assert not same_user(peer, accepted.getsockname())
    assert os.geteuid() >= 0


@pytest.mark.parametrize("client", [None, (), ("testclient", 50000), ("127.0.0.1",), "127.0.0.1:80", ("127.0.0.1", "80")])
def test_who_has_no_address_is_nobody(client: object) -> None:
    """Such as a request that came by no connection."""
    assert not same_user(client, ("127.0.0.1", 8000))
