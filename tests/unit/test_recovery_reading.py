"""What a model may read, and every way in which it may try to read more."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import StepRejected
from harness.recovery.reading import MAX_FILE_BYTES, FileRoot

SECRET = "do-not-show-this"


@pytest.fixture
def ws(tmp_path: Path) -> Path:
    """A root with a sibling whose name begins alike, and links that lead out."""
    root = tmp_path / "ws"
    (root / "src").mkdir(parents=True)
    (root / "src" / "app.py").write_text("import os\nPORT = 8001\npassword = 'hunter2hunter2'\n")
    (root / "readme.txt").write_text("hello\n")
    (root / ".env").write_text(f"API_KEY={SECRET}\n")
    (root / "server.pem").write_text(SECRET)
    (root / ".harness").mkdir()
    (root / ".harness" / "harness.db").write_text(SECRET)
    (root / ".harness" / "limiter.toml").write_text("capacity = 5\n")
    (root / "state").mkdir()
    (root / "state" / "harness.db").write_text(SECRET)
    for outside in (tmp_path / "ws-secret", tmp_path / "other"):
        outside.mkdir()
        (outside / "secret.txt").write_text(SECRET)
    (root / "link.txt").symlink_to(tmp_path / "ws-secret" / "secret.txt")
    (root / "linked").symlink_to(tmp_path / "ws-secret")
    (root / "src" / "up").symlink_to("..")
    os.mkfifo(root / "pipe")
    return root


def files(root: Path) -> FileRoot:
    """The root as the responder opens it."""
    return FileRoot(root, home=root / "state", also=(".harness/limiter.toml",))


ATTACKS = [
    "../ws-secret/secret.txt",
    "..",
    "src/../../ws-secret/secret.txt",
    "./../ws-secret/secret.txt",
    "src/up/../../ws-secret/secret.txt",
    "link.txt",
    "linked/secret.txt",
    "src/up/readme.txt",
    "/etc/passwd",
    "//etc/passwd",
    "~/secret",
    "readme.txt\0.png",
    "\0",
    "..\\ws-secret\\secret.txt",
    "readme.txt\n",
    ".env",
    "./.env",
    "server.pem",
    "SERVER.PEM",
    ".harness/harness.db",
    "state/harness.db",
    "pipe",
    "src",
    "",
    "x" * 5000,
    "x" * 300,
]


@pytest.mark.parametrize("path", ATTACKS)
def test_an_attempt_to_leave_the_root_is_a_clear_rejection(ws: Path, path: str) -> None:
    """Failure 6: `../ws-secret` is inside `ws`. Nothing outside, linked, secret or special is read, and it says why."""
    with pytest.raises(StepRejected) as refusal:
        files(ws).read(path)

    assert str(refusal.value)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("path", ["../ws-secret", "linked", "src/up", "/", "..", "\0", "readme.txt"])
def test_folders_outside_are_neither_listed_nor_searched(ws: Path, path: str) -> None:
    """The same for listing and searching."""
    with pytest.raises(StepRejected):
        files(ws).list(path)
    with pytest.raises(StepRejected):
        files(ws).search("show", path)


def test_an_absolute_path_into_the_root_is_refused_too(ws: Path) -> None:
    """There is one way to name a file, so there is one check."""
    with pytest.raises(StepRejected, match="relative"):
        files(ws).read(str(ws / "readme.txt"))


def test_reading_is_numbered_fenced_and_masked(ws: Path) -> None:
    """A file's text is data, and a password in it is not shown."""
    seen = files(ws).read("src/app.py", first=2, lines=2)

    assert (seen["first"], seen["lines"], seen["of"]) == (2, 2, 3)
    assert "| PORT = 8001" in str(seen["text"])
    assert "hunter2" not in str(seen["text"])


def test_a_service_s_declared_configuration_may_be_read(ws: Path) -> None:
    """It lies in Harness's own folder in the demo, and is the only file there that is shown."""
    assert "| capacity = 5" in str(files(ws).read(".harness/limiter.toml")["text"])


def test_a_listing_shows_neither_links_nor_records(ws: Path) -> None:
    """What cannot be read is not offered, but that a secret file exists may be known."""
    entries = files(ws).list(".")["entries"]

    assert [entry["path"] for entry in entries] == [".env", "pipe", "readme.txt", "server.pem", "src/"]  # type: ignore[index]


def test_a_search_finds_lines_and_no_secrets(ws: Path) -> None:
    """It looks into every readable file below the folder and into no other."""
    assert "src/app.py:2: PORT = 8001" in str(files(ws).search("port = ")["text"])
    assert files(ws).search(SECRET)["hits"] == 0
    assert files(ws).search("port", pattern="*.txt")["hits"] == 0
    with pytest.raises(StepRejected, match="text to look for"):
        files(ws).search(" ")


def test_a_large_file_is_refused_and_a_binary_one_is_not_searched(ws: Path) -> None:
    """Nobody needs two megabytes in a prompt."""
    (ws / "large.log").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    (ws / "binary").write_bytes(b"\0port\0")

    with pytest.raises(StepRejected, match="limit"):
        files(ws).read("large.log")
    assert files(ws).search("port\0")["hits"] == 0


def test_a_link_that_is_swapped_in_is_not_followed(ws: Path) -> None:
    """A folder that becomes a link between two calls leads nowhere."""
    assert files(ws).read("src/app.py")["of"] == 3
    (ws / "src").rename(ws / "was")
    (ws / "src").symlink_to(ws.parent / "ws-secret")

    with pytest.raises(StepRejected, match="symbolic link"):
        files(ws).read("src/secret.txt")


def test_no_descriptor_is_left_open(ws: Path) -> None:
    """Neither by success nor by refusal."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in [*ATTACKS, "readme.txt", "src/app.py"]:
        for look in (files(ws).read, files(ws).list, lambda path: files(ws).search("a", path)):
            with contextlib.suppress(StepRejected):
                look(path)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


parts = st.sampled_from(
    ["..", ".", "", "src", "up", "linked", "link.txt", "secret.txt", "ws-secret", "ws", "\0", "state", "harness.db", ".env"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(parts | st.text(max_size=5), max_size=8).map("/".join))
def test_no_path_whatsoever_shows_what_is_outside(ws: Path, path: str) -> None:
    """Whatever is put together from hostile parts."""
    for look in (files(ws).read, files(ws).list, lambda path: files(ws).search("show", path)):
        with contextlib.suppress(StepRejected):
            assert SECRET not in str(look(path))
