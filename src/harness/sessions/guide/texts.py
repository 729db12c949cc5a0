"""The guide and the recipes, as they are shipped. Owns finding them; their words are in the Markdown files beside this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import NotFound

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way of working, from start to end."""

    number: int
    name: str
    title: str
    summary: str
    text: str


def guide() -> str:
    """The guide to sessions, in Markdown."""
    return (FOLDER / "guide.md").read_text(encoding="utf-8")


def recipes() -> list[Recipe]:
    """All recipes, by number. Their files are called `NUMBER-NAME.md`, begin with a title, and go on with what they are for."""
    found: list[Recipe] = []
    for path in sorted((FOLDER / "recipes").glob("*.md")):
        number, _, name = path.stem.partition("-")
        text = path.read_text(encoding="utf-8")
        title, _, rest = text.removeprefix("# ").partition("\n\n")
        summary = " ".join(rest.partition("\n\n")[0].split())
        found.append(Recipe(number=int(number), name=name, title=title, summary=summary, text=text))
    return sorted(found, key=lambda recipe: recipe.number)


def recipe(wanted: str) -> Recipe:
    """A recipe by its number or name. Raises `NotFound`."""
    known = recipes()
    for each in known:
        if wanted in (str(each.number), each.name):
            return each
    there = ", ".join(f"{each.number} ({each.name})" for each in known)
    raise NotFound(f"there is no recipe {wanted!r}; there are {there}")
