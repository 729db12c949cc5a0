"""What a project may declare, and how it is told what makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import DeclarationError, UsageError
from harness.recovery import Declarations, Limits, demo_toml, load_declarations
from harness.recovery.declarations import address_of
from harness.recovery.facts import ActionKind, Level
from harness.settings import load_settings

GOOD = '[services.a]\ncommand = ["x"]\n'


def declared(folder: Path, text: str) -> Declarations:
    (folder / "harness.toml").write_text(text, encoding="utf-8")
    return load_declarations(load_settings(directory=folder, environment={}))


def test_without_a_declaration_the_demo_is_declared(tmp_path: Path) -> None:
    """An empty project runs the rate limiter on 8001 with its two invariants, restarted automatically."""
    found = load_declarations(load_settings(directory=tmp_path, environment={}))

    assert found.demo
    assert [service.address for service in found.services] == ["127.0.0.1:8001"]
    assert [(one.name, one.target) for one in found.invariants] == [
        ("rate_limiter_healthy", "rate_limiter"),
        ("rate_limiter_latency", "rate_limiter"),
    ]
    assert found.envelope.level("rate_limiter", ActionKind.RESTART_SERVICE) is Level.AUTO
    assert found.envelope.level("rate_limiter", ActionKind.STOP_SERVICE) is Level.SUGGEST


def test_the_demo_raises_its_limits_where_everybody_can_see(tmp_path: Path) -> None:
    """Many kills in a row are allowed by lines in the file, not by code."""
    usual, raised = declared(tmp_path, demo_toml()), declared(tmp_path, demo_toml(port=1234, raised_limits=True))

    assert usual.envelope.limits_of("rate_limiter") == Limits()
    assert raised.envelope.limits_of("rate_limiter").actions_per_target_hour == 1000
    assert raised.services[0].address == "127.0.0.1:1234"
    assert not raised.demo


def test_the_documented_example_is_understood(tmp_path: Path) -> None:
    """Target inferred from the address, defaults as documented: agent, suggest."""
    found = declared(
        tmp_path,
        """
[services.rate_limiter]
command = ["harness", "service"]
ready = "http://127.0.0.1:8001/health"
[invariants.rate_limiter_healthy]
description = "Rate limiter responds to health checks"
query = "http://localhost:8001/health"
condition = "status == 200"
[invariants.running]
query = "process:rate_limiter"
[envelope.rate_limiter]
restart_service = "auto"
set_config = "approve"
""",
    )

    assert found.services[0].restart == "agent"
    assert [one.target for one in found.invariants] == ["rate_limiter", "rate_limiter"]
    assert found.envelope.level("rate_limiter", ActionKind.SET_CONFIG) is Level.APPROVE
    assert found.envelope.level("other", ActionKind.RESTART_SERVICE) is Level.SUGGEST


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[services.a]\ncommand = ["x"]\nredy = "x"\n', ":3: unknown key 'redy' in [services.a]; did you mean 'ready'?"),
        ("[services.a]\ncommand = 'x'\n", ":2: services.a.command: expected `array`, got `str`"),
        ("[services.a]\ncommand = []\n", ":2: services.a.command: needs a program"),
        ("[services.a]\n", ":1: [services.a] needs `command`"),
        ("services = 3\n", ":1: services must be a table"),
        ("[services]\na = 3\n", ":2: services.a must be a table"),
        (GOOD + "name = 'b'\n", ":3: unknown key 'name'"),
        (GOOD + "own = true\n", ":3: unknown key 'own'"),
        (GOOD + "restart = 'sometimes'\n", ":3: services.a.restart: invalid enum value 'sometimes'"),
        (GOOD + "ready = 'ftp://x'\n", ":3: services.a.ready: must begin with"),
        (GOOD + "ready = 'http://'\n", ":3: services.a.ready: is no address"),
        (GOOD + "ready = 'tcp:x'\n", ":3: services.a.ready: must be tcp:host:port"),
        (GOOD + "ready = 'log:('\n", ":3: services.a.ready: is no regular expression"),
        (GOOD + "ready = 'command: '\n", ":3: services.a.ready: needs a command"),
        (GOOD + "listen = 'x'\n", ":3: services.a.listen: must be host:port"),
        (GOOD + "stop_signal = 'NO'\n", ":3: services.a.stop_signal: 'NO' is no signal"),
        (GOOD + "back_off_seconds = 0\n", ":3: services.a.back_off_seconds: must be above zero"),
        (GOOD + "give_up_after = -1\n", ":3: services.a.give_up_after: must not be below zero"),
        (GOOD + "stop_timeout_seconds = nan\n", ":3: services.a.stop_timeout_seconds: must not be below zero"),
        (GOOD + "back_off_seconds = inf\n", ":3: services.a.back_off_seconds: must be above zero"),
        (GOOD + "depends_on = ['b']\n", ":3: services.a depends on 'b', which is not declared"),
        (GOOD + "depends_on = ['a']\n", ":3: services depend on each other in a circle: a -> a"),
        (GOOD + "depends_on = ['b']\n[services.b]\ncommand = ['x']\ndepends_on = ['a']\n", "in a circle: a -> b -> a"),
        ("[services.harness-web]\ncommand = ['x']\n", ":1: names that begin with 'harness-' are Harness's own"),
        ("[services.'../a']\ncommand = ['x']\n", "'../a' is no name"),
        ("[invariants.i]\n", ":1: [invariants.i] needs `query`"),
        ("[invariants.i]\nquery = 'gopher:x'\n", ":2: invariants.i.query: must begin with"),
        ("[invariants.i]\nquery = 'http://'\n", ":2: invariants.i.query: 'http://' names no address"),
        ("[invariants.i]\nquery = 'process:'\n", ":2: invariants.i.query: names no service"),
        ("[invariants.i]\nquery = 'tcp:h:1'\ninterval_seconds = 0\n", ":3: invariants.i.interval_seconds: must be above zero"),
        ("[invariants.i]\nquery = 'tcp:h:1'\nfail_after = 4\n", ":3: invariants.i.fail_after: 4 failures never fit"),
        (GOOD + "[invariants.i]\nquery = 'tcp:h:1'\ntarget = 'aa'\n", "target 'aa' is no declared service; did you mean 'a'?"),
        ("[slos.x]\nobjective = 0.999\n", ":1: [slos.*] is not supported yet"),
        ("[envelope.a]\nrestart_service = 'auto'\n", ":1: [envelope.*] limits services, but none is declared"),
        (GOOD + "[envelope.b]\nrestart_service = 'auto'\n", ":3: unknown key 'b' in [envelope]"),
        (GOOD + "[envelope.a]\nrestart_service = 'yes'\n", ":4: envelope.a.restart_service: 'yes' is none of off, suggest"),
        (GOOD + "[envelope.a]\nrestart = 'auto'\n", ":4: unknown key 'restart' in [envelope.a]"),
        (GOOD + "[envelope.a]\nstart_service = 'auto'\n", ":4: unknown key 'start_service' in [envelope.a]"),
        (GOOD + "[envelope.a]\nactions_per_incident = 0\n", ":4: envelope.a.actions_per_incident: must be a whole"),
        (GOOD + "[envelope]\nrecurrences = true\n", ":4: envelope.recurrences: must be a whole number above zero"),
        (GOOD + "[envelope.a]\nconcurrent_targets = 1\n", ":4: unknown key 'concurrent_targets' in [envelope.a]"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    """Every refusal is one line that names the place and what to write instead."""
    with pytest.raises((DeclarationError, UsageError)) as caught:
        declared(tmp_path, text)

    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "harness.toml"))
    assert caught.value.exit_code == 2


def test_limits_of_all_hold_for_a_target_unless_it_has_its_own(tmp_path: Path) -> None:
    """[envelope] is for every target; [envelope.NAME] is over it."""
    text = (
        GOOD
        + "[envelope]\nactions_per_incident = 9\nrecurrences = 8\n[envelope.a]\nrecurrences = 7\nrecurrence_seconds = 1.5\n"
    )
    found = declared(tmp_path, text).envelope

    assert found.limits_of("a") == Limits(actions_per_incident=9, recurrences=7, recurrence_seconds=1.5)
    assert found.limits_of("other") == Limits(actions_per_incident=9, recurrences=8)


@pytest.mark.parametrize(
    ("query", "address"),
    [
        ("http://localhost:8001/health", "127.0.0.1:8001"),
        ("latency:http://[::1]:8001/", "127.0.0.1:8001"),
        ("https://example.org/x", "example.org:443"),
        ("tcp:0.0.0.0:5432", "127.0.0.1:5432"),
        ("process:web", ""),
        ("log:x", ""),
        ("http://x:99999999/", ""),
    ],
)
def test_one_place_has_one_address(query: str, address: str) -> None:
    """Every name of this machine's loopback is the same place."""
    assert address_of(query) == address
