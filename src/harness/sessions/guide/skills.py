"""Installing the skills: texts that teach an agent program to use `harness`, put where Claude Code and Codex look for them.

The text itself lies in `.claude/skills/NAME/SKILL.md`; `.codex/skills/NAME` is a link to that folder. What is written ends in
a line with the text's digest: only a file that carries it, and still has that digest, is ever replaced or removed unasked.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from harness.errors import NotFound
from harness.sessions.guide.texts import FOLDER

SKILLS = ("harness-dispatch", "harness-chain")
ALIASES = {"harness": "harness-dispatch", "dispatch": "harness-dispatch", "chain-implement": "harness-chain"}
DEPRECATED = ("harnex", "harnex-dispatch", "harnex-chain", "harness", "dispatch", "chain-implement")
"""Folders of earlier versions: removed where this module's mark is on them."""

Standing = Literal["absent", "installed", "outdated", "edited", "not ours"]
Deed = Literal["installed", "updated", "unchanged", "linked", "copied", "removed", "absent", "kept"]

_MARK = re.compile(
    r"<!-- written by `harness skills install`, sha256 ([0-9a-f]{64}); without this line the file is yours -->\n?"
)
_FILE = "SKILL.md"
_OLD = "SKILL.md.bak"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was done about one path, or why nothing was."""

    name: str
    path: Path
    deed: Deed
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """How one skill stands in one place."""

    name: str
    description: str
    standing: Standing
    path: Path
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Places:
    """Where the programs look for skills, below a person's home or a project's root."""

    root: Path

    @property
    def claude(self) -> Path:
        return self.root / ".claude" / "skills"

    @property
    def codex(self) -> Path:
        return self.root / ".codex" / "skills"


def resolve(names: Iterable[str]) -> tuple[str, ...]:
    """The skills that are meant, each once; without names all. Raises `NotFound`."""
    wanted: list[str] = []
    for name in names:
        known = ALIASES.get(name, name)
        if known not in SKILLS:
            raise NotFound(f"there is no skill {name!r}; there are {', '.join(SKILLS)}")
        wanted.append(known)
    return tuple(dict.fromkeys(wanted)) or SKILLS


def shipped(name: str) -> str:
    """The text of a skill, without the mark."""
    return (FOLDER / "skills" / name / _FILE).read_text(encoding="utf-8")


def marked(text: str) -> str:
    """The text with the line that says who wrote it."""
    digest = sha256(text.encode()).hexdigest()
    return f"{text}<!-- written by `harness skills install`, sha256 {digest}; without this line the file is yours -->\n"


def standing(path: Path, name: str) -> Standing:
    """How the skill file at this path stands to the one that is shipped under this name."""
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return "absent"
    match = _MARK.search(text)
    if match is None:
        return "not ours"
    own = text[: match.start()]
    if match.end() < len(text) or sha256(own.encode()).hexdigest() != match[1]:
        return "edited"
    return "installed" if name in SKILLS and own == shipped(name) else "outdated"


def listing(root: Path) -> list[Listed]:
    """The skills that are shipped, and how they stand below a root."""
    found: list[Listed] = []
    for name in SKILLS:
        path = Places(root).claude / name / _FILE
        (description,) = re.findall(r"^description: (.+)$", shipped(name), re.MULTILINE)
        aliases = tuple(alias for alias, meant in ALIASES.items() if meant == name)
        found.append(Listed(name=name, description=description, standing=standing(path, name), path=path, aliases=aliases))
    return found


def install(root: Path, names: Iterable[str] = (), *, force: bool = False) -> list[Outcome]:
    """Put skills where agents find them, and clean up what earlier versions left. Doing it again changes nothing.

    A file that somebody edited, or that is not ours, is kept; with `force` it is replaced, and its text stays beside it as
    `SKILL.md.bak`. Raises `NotFound` for an unknown name, `OSError` where the disk refuses.
    """
    wanted = resolve(names)
    done = _clean(Places(root))
    for name in wanted:
        folder = Places(root).claude / name
        done.append(_write(name, folder, force=force))
        if standing(folder / _FILE, name) != "not ours":
            done.append(_link(name, folder, Places(root).codex / name, force=force))
    return done


def uninstall(root: Path, names: Iterable[str] = (), *, force: bool = False) -> list[Outcome]:
    """Remove skills that `install` wrote; an edited one only with `force`, others never. Raises like `install`."""
    wanted = resolve(names)
    places = Places(root)
    done = _clean(places)
    for name in wanted:
        done += (
            _remove(name, places.codex / name, places, force=force),
            _remove(name, places.claude / name, places, force=force),
        )
    return done


def _write(name: str, folder: Path, *, force: bool) -> Outcome:
    """Have the shipped text in this folder."""
    path, text = folder / _FILE, marked(shipped(name))
    now = standing(path, name)
    if now == "installed":
        return Outcome(name=name, path=path, deed="unchanged")
    if now in ("edited", "not ours") and not force:
        why = "it was edited" if now == "edited" else "somebody else wrote it"
        return Outcome(name=name, path=path, deed="kept", reason=f"{why}; --force replaces it and keeps its text as {_OLD}")
    if now in ("edited", "not ours"):
        _replace(folder / _OLD, path.read_bytes())
    folder.mkdir(parents=True, exist_ok=True)
    _replace(path, text.encode())
    return Outcome(name=name, path=path, deed="installed" if now == "absent" else "updated")


def _replace(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_bytes(data)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _link(name: str, folder: Path, link: Path, *, force: bool) -> Outcome:
    """Have `link` lead to the folder; a copy where links cannot be made."""
    if link.is_symlink() and not _leads(link, folder):
        if not force:
            reason = f"it is a link to {link.readlink()}; --force replaces it"
            return Outcome(name=name, path=link, deed="kept", reason=reason)
        link.unlink()
    if link.is_symlink():
        return Outcome(name=name, path=link, deed="unchanged")
    if link.exists():
        if link.is_dir():
            return _write(name, link, force=force)
        return Outcome(name=name, path=link, deed="kept", reason="it is a file, where a folder should be; remove it")
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(os.path.relpath(folder.resolve(), link.parent.resolve()), target_is_directory=True)
    except FileExistsError:  # by another install at the same time
        return Outcome(name=name, path=link, deed="unchanged")
    except OSError:
        copied = _write(name, link, force=force)
        return Outcome(name=name, path=link, deed="copied") if copied.deed == "installed" else copied
    return Outcome(name=name, path=link, deed="linked")


def _leads(link: Path, folder: Path) -> bool:
    return link.resolve() == folder.resolve()


def _clean(places: Places) -> list[Outcome]:
    """Remove what earlier versions left under other names, if it is ours and nobody has edited it."""
    found: list[Outcome] = []
    for name in DEPRECATED:
        for path in (places.codex / name, places.claude / name):
            if standing(path / _FILE, name) in ("installed", "outdated"):
                found.append(_remove(name, path, places, force=False))
    return [outcome for outcome in found if outcome.deed == "removed"]


def _remove(name: str, path: Path, places: Places, *, force: bool) -> Outcome:
    """Remove a skill's folder, or the link to it, if it is ours."""
    now = standing(path / _FILE, name)
    link = path.is_symlink()
    if link and not _leads(path, places.claude / name):
        return Outcome(name=name, path=path, deed="kept", reason=f"it is a link to {path.readlink()}")
    if now == "not ours":
        return Outcome(name=name, path=path, deed="kept", reason="somebody else wrote it")
    if now == "edited" and not force:
        return Outcome(name=name, path=path, deed="kept", reason="it was edited; --force removes it")
    if link:
        path.unlink()
        return Outcome(name=name, path=path, deed="removed")
    if now == "absent":
        return Outcome(name=name, path=path, deed="absent")
    (path / _FILE).unlink()
    with contextlib.suppress(OSError):
        path.rmdir()  # what else is in it is not ours
    return Outcome(name=name, path=path, deed="removed")
