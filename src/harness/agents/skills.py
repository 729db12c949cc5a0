"""What an agent can learn when it needs it: skills, of which the context names only the index.

A skill is a text, and perhaps tools that come with it. A directory of skills holds a folder for each, with a `SKILL.md`:
front matter with `name` and `description` between two lines `---`, then the text. A model names a skill, never a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ToolRejected, UsageError
from harness.kernel import Tool, ToolRegistry

if TYPE_CHECKING:
    from harness.agents.agent import ToolBundle

LOAD_SKILL = "load_skill"
FILE = "SKILL.md"
MAX_FILE_BYTES = 256 * 1024
MAX_SKILLS = 500
MAX_DESCRIPTION_CHARACTERS = 1_024
_MARK = "---"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FIELD = re.compile(r"([A-Za-z_][\w-]*)[ \t]*:(?:[ \t]+(.*)|[ \t]*)")
_BLOCK = re.compile(r"[|>][+-]?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """Something to know how to do. `body` is what the model reads once it asks for the skill; `tools` come with it."""

    name: str
    description: str
    body: str
    tools: ToolBundle | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"a skill's name has 1 to 64 letters, digits, _ and -, not {self.name[:100]!r}")
        if not self.description.strip() or len(self.description) > MAX_DESCRIPTION_CHARACTERS:
            raise UsageError(f"skill {self.name!r} needs a description of 1 to {MAX_DESCRIPTION_CHARACTERS} characters")


class Skills:
    """The skills of one agent, by name."""

    def __init__(self, skills: Iterable[Skill]) -> None:
        self._skills: dict[str, Skill] = {}
        for skill in skills:
            if skill.name in self._skills:
                raise UsageError(f"two skills are named {skill.name!r}; give one of them another name")
            self._skills[skill.name] = skill
        self._registries: dict[frozenset[str], tuple[ToolRegistry, ToolRegistry]] = {}  # and of what it was made

    def __iter__(self) -> Iterator[Skill]:
        return iter(self._skills.values())

    def __contains__(self, name: object) -> bool:
        return name in self._skills

    def index(self) -> str:
        """Each skill in a line, for the context."""
        lines = [f"- {skill.name}: {' '.join(skill.description.split())}" for skill in self]
        return "\n".join((f"Call {LOAD_SKILL} with a name to read how it is done, before you do it.", *lines))

    def tool(self) -> Tool:
        """The tool `load_skill`."""

        async def load_skill(name: str) -> str:
            """Read a skill of the index. Tools that come with it can be called from then on."""
            skill = self._skills.get(name)
            if skill is None:
                raise ToolRejected(f"no skill is named {name[:100]!r}; there are: {', '.join(self._skills)}")
            return skill.body

        return Tool(load_skill, name=LOAD_SKILL)

    def registry(self, base: ToolRegistry, loaded: frozenset[str]) -> ToolRegistry:
        """The agent's tools together with those that came with the skills it has loaded."""
        wanted = frozenset(name for name in loaded if name in self._skills and self._skills[name].tools is not None)
        if not wanted:
            return base
        made = self._registries.get(wanted)
        if made is None or made[0] is not base:
            made = self._registries[wanted] = (base, self._with_tools(base, wanted))
        return made[1]

    def _with_tools(self, base: ToolRegistry, wanted: frozenset[str]) -> ToolRegistry:
        registry = ToolRegistry(base)
        for name in sorted(wanted):
            bundle = self._skills[name].tools
            for tool in () if bundle is None else bundle.registry():
                registry.add(tool)
        return registry


def skills_of(given: str | Path | Sequence[Skill | str | Path]) -> Skills:
    """The skills of a directory, or of several skills and directories."""
    listed = [given] if isinstance(given, str | Path) else given
    found: list[Skill] = []
    for each in listed:
        found += [each] if isinstance(each, Skill) else load_skills(each)
    return Skills(found)


def load_skills(directory: str | Path) -> list[Skill]:
    """The skills of a directory, by the names of their folders. Raises `UsageError` that names the file and what is wrong."""
    root = Path(directory)
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        real = root.resolve(strict=True)
    except OSError as error:
        raise UsageError(f"no directory of skills can be read at {str(root)!r}: {error.strerror}") from error
    found = [folder / FILE for folder in folders if (folder / FILE).is_symlink() or (folder / FILE).exists()]
    if len(found) > MAX_SKILLS:
        raise UsageError(f"{str(root)!r} holds {len(found)} skills, more than the {MAX_SKILLS} that an index may have")
    return [_read(path, real) for path in found]


def _read(path: Path, root: Path) -> Skill:
    try:
        if not path.resolve(strict=True).is_relative_to(root):
            raise UsageError(f"{path}: leads out of the directory of skills; copy the file there")
        if not path.is_file():
            raise UsageError(f"{path}: is no file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except RuntimeError as error:  # links in a circle
        raise UsageError(f"{path}: leads nowhere: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise UsageError(f"{path}: is larger than {MAX_FILE_BYTES // 1024} KiB; a skill is a text to read")
    try:
        return parsed(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is no UTF-8 text (byte {error.start})") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def parsed(text: str) -> Skill:
    """A skill from the text of its file. Raises `UsageError`."""
    if "\0" in text:
        raise UsageError("has a NUL character, so it is no text")
    lines = text.splitlines()
    if not lines or lines[0].rstrip() != _MARK:
        raise UsageError(f"begins with no line {_MARK!r} before `name` and `description`")
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() == _MARK), None)
    if end is None:
        raise UsageError(f"has no line {_MARK!r} after `name` and `description`")
    fields = _front_matter(lines[1:end])
    for name in ("name", "description"):
        if not fields.get(name):
            raise UsageError(f"has no {name!r} between its lines {_MARK!r}")
    return Skill(name=fields["name"], description=fields["description"], body="\n".join(lines[end + 1 :]).strip())


def _front_matter(lines: Sequence[str]) -> dict[str, str]:
    """The fields at the left margin, as texts. Lists and mappings below a field are of no interest here."""
    fields: dict[str, list[str]] = {}
    present: list[str] = []
    for line in lines:
        match = _FIELD.fullmatch(line.rstrip())
        if match is not None:
            value = match[2] or ""
            present = fields[match[1]] = [] if _BLOCK.fullmatch(value) else [value]
        elif line.startswith((" ", "\t")) and line.strip():
            present.append(line.strip())
    return {name: _unquoted(" ".join(part for part in parts if part).strip()) for name, parts in fields.items()}


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text
