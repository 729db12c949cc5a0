"""`harness run` as a whole: everything ready, healed when killed by hand, whoever of Harness's own dies in the middle."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.recovery import demo_toml

HARNESS = (sys.executable, "-m", "harness")
SERVICE, WEB = "rate_limiter", "harness-web"
pytestmark = pytest.mark.timeout(180)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Home:
    """A project on free ports, and its `harness run`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.web, self.port = free_port(), free_port()
        text = demo_toml(port=self.port, raised_limits=True) + f"\n[web]\nport = {self.web}\n"
        (root / "harness.toml").write_text(text, encoding="utf-8")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
        self.log = root / "run.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen((*HARNESS, "run"), cwd=self.root, env=self.environment, stdout=log, stderr=log)
        return self.process

    def harness(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (*HARNESS, *words), cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=60
        )

    def rows(self, *words: str) -> Any:
        done = self.harness(*words, "--json")
        return json.loads(done.stdout) if done.returncode == 0 else []

    def services(self) -> dict[str, Any]:
        return {row["name"]: row for row in self.rows("services", "list")}

    def all_ready(self) -> bool:
        rows = self.services()
        return len(rows) == 4 and all(row["ready"] for row in rows.values())

    def all_passing(self) -> bool:
        checks = self.rows("checks", "list")
        return len(checks) == 2 and all(check["result"] == "pass" for check in checks)

    def incidents(self) -> list[Any]:
        return self.rows("incident", "list")

    def kill(self, name: str) -> int:
        pid = int(self.services()[name]["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for something, at most so long."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home that is taken down afterwards, however the test ended."""
    home = Home(tmp_path)
    yield home
    if home.process is not None and home.process.poll() is None:
        home.process.send_signal(signal.SIGTERM)
        try:
            home.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            home.process.kill()
    if home.services() and any(row["pid"] for row in home.services().values()):  # left by a supervisor that was killed
        rescue = home.start()
        time.sleep(2)
        rescue.send_signal(signal.SIGTERM)
        rescue.wait(timeout=30)


def verified(home: Home, count: int) -> bool:
    found = home.incidents()
    return len([incident for incident in found if incident["status"] == "completed"]) >= count


def test_killed_by_hand_it_heals(home: Home) -> None:
    """All is ready within 10 s; a kill -9 is ticketed within 10 s and healed within 60; SIGTERM ends all of it."""
    process = home.start()
    until(home.all_ready, 10, "everything is ready")
    assert httpx.get(f"http://127.0.0.1:{home.web}/health", trust_env=False).json()["supervised"] is True

    killed = home.kill(SERVICE)
    until(home.incidents, 10, "a ticket")
    until(lambda: verified(home, 1), 60, "verified")
    services = home.services()
    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=20) == 0
    assert services[SERVICE]["pid"] != killed
    for port in (home.web, home.port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert all(row["pid"] is None for row in home.services().values())
    assert home.harness("ledger", "verify").returncode == 0
    log = home.log.read_text(encoding="utf-8")
    assert "killed by signal 9" in log
    assert "nothing is left running" in log
    assert "\x1b" not in log


@pytest.mark.parametrize("victim", ["harness-monitor", "harness-agent", "harness-web"])
def test_one_of_its_own_dies_in_the_middle(home: Home, victim: str) -> None:
    """The supervisor restarts it, and the incident ends verified with one action."""
    home.start()
    until(home.all_ready, 60, "everything is ready")
    until(home.all_passing, 60, "everything passes")

    home.kill(SERVICE)
    killed = home.kill(victim)
    until(lambda: verified(home, 1), 60, "verified")
    until(lambda: home.services()[victim]["ready"], 20, f"{victim} is back")

    (incident,) = home.incidents()
    assert home.services()[victim]["pid"] != killed
    assert len(incident["actions"]) == 1
    assert home.rows("tickets", "list", "--status", "open") == []
    assert home.harness("ledger", "verify").returncode == 0


def test_the_supervisor_dies_in_the_middle(home: Home) -> None:
    """The next one takes over what runs, the incident ends verified, and no action is done twice."""
    first = home.start()
    until(home.all_ready, 60, "everything is ready")
    until(home.all_passing, 60, "everything passes")
    web = home.services()[WEB]["pid"]

    home.kill(SERVICE)
    until(home.incidents, 10, "a ticket")
    first.kill()
    first.wait(timeout=10)
    home.start()
    until(lambda: verified(home, 1), 60, "verified")
    until(home.all_ready, 20, "everything is ready again")

    (incident,) = home.incidents()
    actions = [json.loads(line)["type"] for line in home.harness("ledger", "events", f"service/{SERVICE}").stdout.splitlines()]
    assert actions.count("action.started") == actions.count("action.completed") == 1
    assert incident["status"] == "completed"
    assert home.services()[WEB]["pid"] == web
    assert home.harness("ledger", "verify").returncode == 0


def test_a_second_supervisor_is_refused(home: Home) -> None:
    """One home has one; the first one does not notice."""
    home.start()
    until(home.all_ready, 60, "everything is ready")

    second = home.harness("run")

    assert second.returncode == 1
    assert len(second.stderr.strip().splitlines()) == 1
    assert home.all_ready()


def test_a_taken_port_is_named_and_left_alone(home: Home) -> None:
    """The web door cannot open; whoever has the port keeps it."""
    with socket.create_server(("127.0.0.1", home.web)) as foreign:
        home.start()

        def blocked() -> bool:
            row = home.services().get(WEB)
            return row is not None and str(home.web) in row["reason"] and not row["ready"]

        until(blocked, 20, "the port is named")
        assert foreign.fileno() >= 0
        assert until(lambda: home.services()[SERVICE]["ready"], 15, "the service runs all the same")


def test_paused_nobody_acts(home: Home) -> None:
    """A ticket opens and waits; unpaused, it is worked."""
    home.start()
    until(home.all_passing, 60, "everything passes")
    assert home.harness("pause", "--reason", "test").returncode == 0

    home.kill(SERVICE)
    until(home.incidents, 10, "a ticket")
    time.sleep(2)
    waiting = home.incidents()[0]
    assert home.harness("unpause").returncode == 0
    until(lambda: verified(home, 1), 60, "verified")

    assert (waiting["status"], waiting["actions"]) == ("open", [])


def test_a_reader_of_the_log_that_vanishes_or_freezes_disturbs_nothing(home: Home) -> None:
    """The pipe that it prints to is full and then closed: it goes on healing, and ends everything when told to."""
    home.process = subprocess.Popen((*HARNESS, "run"), cwd=home.root, env=home.environment, stdout=subprocess.PIPE)
    until(home.all_ready, 40, "ready, while nobody reads the log")
    assert home.process.stdout is not None
    home.process.stdout.close()

    home.kill("rate_limiter")

    until(lambda: verified(home, 1), 60, "verified")
    home.process.send_signal(signal.SIGTERM)
    assert home.process.wait(timeout=30) == 0
    assert not any(row["pid"] for row in home.services().values())


def test_a_second_signal_ends_it_at_once(home: Home) -> None:
    """A service that will not end is waited for, until somebody is in a hurry; then nothing of it is left either."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('stubborn', flush=True); time.sleep(600)"
    (home.root / "harness.toml").write_text(
        f"[web]\nport = {home.web}\n\n[services.stubborn]\ncommand = {json.dumps([sys.executable, '-c', code])}\n"
        'ready = "log:stubborn"\nstop_timeout_seconds = 100\n',
        encoding="utf-8",
    )
    process = home.start()
    pid = int(
        until(lambda: home.services().get("stubborn", {}).get("ready") and home.services()["stubborn"]["pid"], 20, "ready")
    )

    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=15) == 0
    assert not Path(f"/proc/{pid}").exists()


def test_without_services_the_rest_runs(home: Home) -> None:
    """`--no-service`: the checks look at a service that somebody else runs."""
    with home.log.open("ab") as log:
        home.process = subprocess.Popen(
            (*HARNESS, "run", "--no-service", "--quiet"), cwd=home.root, env=home.environment, stdout=log, stderr=log
        )

    until(lambda: len(home.services()) == 3 and all(row["ready"] for row in home.services().values()), 20, "ready")

    assert SERVICE not in home.services()
    assert until(lambda: len(home.rows("checks", "list")) == 2, 10, "the checks are known")


def test_an_open_door_without_a_token_is_refused_before_anything_starts(home: Home) -> None:
    """Exit code 2 and one line; no service runs unwatched."""
    (home.root / "harness.toml").write_text('[web]\nhost = "0.0.0.0"\n', encoding="utf-8")

    refused = home.harness("run")

    assert refused.returncode == 2
    assert "without a token" in refused.stderr
    assert home.services() == {}
