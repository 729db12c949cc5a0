"""`harness init`: a commented `harness.toml` with what can be detected, and an empty ledger."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.app import App
from harness.cli.opening import execute, settings_of
from harness.cli.options import Home, Json
from harness.cli.output import json_line, line

if TYPE_CHECKING:
    from harness.settings import Settings

app = App()

_HEAD = """\
# What Harness runs, watches and may do here. `harness run` starts it; `harness checks run` tries the checks.
# Reference: docs/recovery.md. Keys of [web], [monitor] and [agent] can also be given as HARNESS_SECTION_KEY.
"""

_EXAMPLE = """
# [services.api]
# command = ["python", "-m", "api"]            # a list, never a shell's line
# ready = "http://127.0.0.1:9000/health"       # or tcp:HOST:PORT, command:…, log:REGULAR EXPRESSION
# restart = "agent"                            # agent (default): only an action restarts it; always, on-failure, never
# depends_on = ["database"]
"""

_CHECKS = """
# [invariants.api_healthy]
# description = "The API answers its health check"
# query = "http://127.0.0.1:9000/health"       # or latency:URL, tcp:HOST:PORT, process:SERVICE
# condition = "status == 200"                  # CEL; of latency: value < 200 (milliseconds)
"""

_ENVELOPE = """
# What agents may do to a service: off, suggest (default), approve (a person says yes first), auto.
# [envelope.api]
# restart_service = "auto"
# set_config = "approve"
"""

_REST = """
# [web]
# port = 8000
# token = ""                                   # needed for another interface than the loopback; better: HARNESS_WEB_TOKEN

# [agent]
# model = "rules"                              # anthropic:MODEL, openai:MODEL, openai-chat:MODEL
"""


@app.command()
def init(as_json: Json = False, home: Home = None) -> None:
    """Write a commented harness.toml for this project and create its ledger. What exists is left as it is.

    \b
    Examples:
      harness init
    """
    settings = settings_of(home)
    path = settings.document.path
    found = detect(settings.root)
    written = not path.exists()
    if written:
        path.write_text(document(found), encoding="utf-8")
    created, place = execute(lambda: _create(settings))
    if as_json:
        json_line(
            {
                "config": str(path),
                "written": written,
                "services": sorted(found),
                "ledger": place,
                "created": created,
            }
        )
        return
    line(f"{'wrote' if written else 'kept'} {path}" + (f" with {', '.join(sorted(found))}" if written and found else ""))
    line(f"{'created' if created else 'kept'} {place}")
    line("next: harness run")


async def _create(settings: Settings) -> tuple[bool, str]:
    """Whether the ledger was made now, and where it is."""
    from harness.ledger import is_address, open_store
    from harness.settings import prepare_home

    prepare_home(settings.home)
    place = settings.database
    existed = await _there(place) if is_address(place) else Path(place).exists()
    async with open_store(place, actor="init") as store:
        return not existed, store.location


async def _there(address: str) -> bool:
    from harness.errors import StoreUnavailable
    from harness.ledger import open_store

    try:
        async with open_store(address, actor="init", create=False):
            return True
    except StoreUnavailable as error:
        if error.reason != "missing":
            raise
        return False


def detect(root: Path) -> dict[str, list[str]]:
    """Services that the project's own files name, with their commands; only what needs no shell."""
    found = _procfile(root / "Procfile")
    if not found:
        found |= _package(root / "package.json")
    if not found and (root / "manage.py").is_file():
        found["web"] = ["python", "manage.py", "runserver"]
    return found


def _procfile(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in _read(path).splitlines():
        match = re.fullmatch(r"([A-Za-z0-9_-]{1,64})\s*:\s*(.+)", text.strip())
        if match and not re.search(r"[$&|;<>`*]", match[2]):
            found[match[1]] = shlex.split(match[2])
    return found


def _package(path: Path) -> dict[str, list[str]]:
    try:
        scripts = json.loads(_read(path) or "{}").get("scripts", {})
    except (ValueError, AttributeError):
        return {}
    return {"web": ["npm", "start"]} if isinstance(scripts, dict) and "start" in scripts else {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def document(found: dict[str, list[str]]) -> str:
    """The text of `harness.toml`, with the services found and everything else as comments."""
    services = [
        f'\n[services.{name}]\ncommand = {json.dumps(command)}\n# ready = "http://127.0.0.1:PORT/"\n'
        f'\n[invariants.{name}_runs]\ndescription = "{name} runs"\nquery = "process:{name}"\n'
        for name, command in found.items()
    ]
    return "".join([_HEAD, *(services or [_EXAMPLE]), _CHECKS, _ENVELOPE, _REST])
