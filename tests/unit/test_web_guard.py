"""Who may talk to the web door."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.web.guard import Access

LOCAL = Access()
SECRET = Access(token="s3cret")
PUBLIC = Access(host="0.0.0.0", token="s3cret", names=frozenset({"harness.example"}))


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "localhost", "[::1]:8000", "127.0.0.1"])
def test_the_loopback_goes_by_these_names(host: str) -> None:
    """Whatever a person types to reach this machine is known."""
    assert LOCAL.judge("GET", "/", {"host": host}) is None


@pytest.mark.parametrize("host", ["evil.example:8000", "evil.example", "", "127.0.0.1.evil.example:8000", "192.168.0.4:8000"])
def test_a_foreign_name_is_refused(host: str) -> None:
    """A page that rebinds its own name to the loopback reads nothing."""
    refusal = LOCAL.judge("GET", "/api/tickets", {"host": host})

    assert refusal is not None
    assert refusal.code == "unknown_host"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://localhost:8000"},
    ],
)
def test_another_origin_may_not_write(headers: dict[str, str]) -> None:
    """A foreign page can neither post nor open the socket."""
    for refusal in (
        LOCAL.judge("POST", "/api/tickets", {"host": "localhost:8000", **headers}),
        LOCAL.judge("GET", "/socket", {"host": "localhost:8000", **headers}, socket=True),
    ):
        assert refusal is not None
        assert refusal.code == "foreign_origin"


def test_the_same_origin_and_a_program_may_write() -> None:
    """The page itself, and a program that sends no Origin, may."""
    assert LOCAL.judge("POST", "/api/tickets", {"host": "localhost:8000", "origin": "http://localhost:8000"}) is None
    assert LOCAL.judge("PATCH", "/api/tickets/1", {"host": "127.0.0.1:8000"}) is None


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}, {"cookie": "harness_token=x"}]
)
def test_writing_takes_the_token_where_one_is_set(headers: dict[str, str]) -> None:
    """Reading on the loopback is free, writing is not."""
    refusal = SECRET.judge("POST", "/api/pause", {"host": "localhost", **headers})

    assert refusal is not None
    assert refusal.status == 401
    assert SECRET.judge("GET", "/api/tickets", {"host": "localhost", **headers}) is None


@pytest.mark.parametrize("headers", [{"authorization": "Bearer s3cret"}, {"cookie": "a=b; harness_token=s3cret"}])
def test_the_token_opens(headers: dict[str, str]) -> None:
    """As a bearer or as the page's cookie."""
    assert SECRET.judge("POST", "/api/pause", {"host": "localhost", **headers}) is None


def test_beyond_loopback_reading_takes_the_token_too() -> None:
    """Only the health of the door is told to everybody."""
    assert PUBLIC.judge("GET", "/api/tickets", {"host": "10.0.0.7:8000"}) is not None
    assert PUBLIC.judge("GET", "/", {"host": "harness.example"}, socket=True) is not None
    assert PUBLIC.judge("GET", "/health", {"host": "10.0.0.7:8000"}) is None
    assert PUBLIC.judge("GET", "/api/tickets", {"host": "harness.example", "authorization": "Bearer s3cret"}) is None
    assert PUBLIC.judge("GET", "/health", {"host": "evil.example"}) is not None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.4", "::", "harness.example"])
def test_another_interface_without_a_token_is_refused(host: str) -> None:
    """The door does not open to others unguarded."""
    with pytest.raises(UsageError, match="without a token"):
        Access(host=host)


@pytest.mark.parametrize(
    "cookie", ["harness_token_8000=s3cret", "harness_token=x; harness_token_8123=s3cret", "harness_token_1=%73%33cret"]
)
def test_doors_of_one_machine_keep_their_cookies_apart(cookie: str) -> None:
    """A browser sends those of all ports; one that fits is enough."""
    assert SECRET.holds_token({"cookie": cookie})
    assert not SECRET.holds_token({"cookie": cookie.replace("cret", "cre7")})


def test_who_may_see_sessions() -> None:
    """Who has the token; where none is set, whose connection it is has to be known."""
    nobody = {"client": None, "server": None}

    assert SECRET.trusts({"authorization": "Bearer s3cret"}, nobody)
    assert not SECRET.trusts({}, nobody)
    assert not LOCAL.trusts({"authorization": "Bearer "}, nobody)
    assert not LOCAL.trusts({"x-forwarded-for": "127.0.0.1"}, {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000)})
