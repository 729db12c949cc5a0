"""`harness questions`: what agents and runs ask people, and their answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.app import App
from harness.cli.opening import actor, execute, reading, writing
from harness.cli.options import Home, Json
from harness.cli.output import ago, clock_time, json_line, line, now_us, plain, table

if TYPE_CHECKING:
    from harness.people import Question

app = App("List, show and answer what people are asked: approvals, unknown outcomes.")

Id = Annotated[str, typer.Argument(metavar="ID", help="The question's id, such as q-3f9a2c51d0-1.", show_default=False)]
Note = Annotated[str, typer.Option(help="Why; it is recorded.")]


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Option(help="Only of this kind: approval, reconcile, …")] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List the questions that wait for an answer, the oldest first.

    \b
    Examples:
      harness questions list
      harness questions list --kind approval --json
    """

    async def work() -> list[Question]:
        from harness.people import Questions

        async with reading(home) as store:
            return await Questions(store).pending(kind=kind)

    found = execute(work)
    if as_json:
        json_line(found)
        return
    now = now_us()
    rows = [(each.id, each.kind, ago(each.asked_us, now), _choices(each), each.subject, each.text) for each in found]
    table(("question", "kind", "asked", "answers", "about", "text"), rows, empty="nobody asks anything")


@app.command()
def show(question: Id, as_json: Json = False, home: Home = None) -> None:
    """Show one question: what exactly is asked, and what became of it.

    \b
    Examples:
      harness questions show q-3f9a2c51d0-1
    """

    async def work() -> Question:
        from harness.people import Questions

        async with reading(home) as store:
            return await Questions(store).get(question)

    found = execute(work)
    if as_json:
        json_line(found)
        return
    line(plain(f"{found.id}  {found.kind}, {found.status}"))
    for name, value in (
        ("asked", f"{clock_time(found.asked_us)} for tenant {found.tenant}"),
        ("about", found.subject),
        ("text", found.text),
        ("answers", _choices(found)),
        ("until", "" if found.deadline_us is None else clock_time(found.deadline_us)),
        ("answer", "" if found.answer is None else f"{found.answer} by {found.answered_by}"),
        ("note", found.note),
        ("used by", found.used_by),
    ):
        if value:
            line(plain(f"  {name}: {value}"))


def _choices(question: Question) -> str:
    return ", ".join(choice.name for choice in question.choices)


@app.command()
def answer(
    question: Id,
    choice: Annotated[str, typer.Argument(metavar="ANSWER", help="One of the answers that are offered.")],
    note: Note = "",
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Answer a question with one of the answers it offers.

    \b
    Examples:
      harness questions answer q-3f9a2c51d0-1 retry
    """
    _answer(question, choice, note, as_json, home)


@app.command()
def approve(question: Id, note: Note = "", as_json: Json = False, home: Home = None) -> None:
    """Say yes to exactly what is asked, once.

    \b
    Examples:
      harness questions approve q-3f9a2c51d0-1
    """
    _answer(question, "approve", note, as_json, home)


@app.command()
def deny(question: Id, note: Note = "", as_json: Json = False, home: Home = None) -> None:
    """Say no to what is asked.

    \b
    Examples:
      harness questions deny q-3f9a2c51d0-1 --note "too much"
    """
    _answer(question, "deny", note, as_json, home)


def _answer(question: str, choice: str, note: str, as_json: bool, home: Path | None) -> None:
    async def work() -> Question:
        from harness.people import Questions

        async with writing(home) as store:
            questions = Questions(store)
            asked = await questions.get(question)
            return await questions.answer(question, choice, by=actor(), digest=asked.digest, note=note)

    answered = execute(work)
    if as_json:
        json_line(answered)
    else:
        line(plain(f"{answered.answer}: {answered.text}"))
