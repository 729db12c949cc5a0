"""What `harness doctor` finds, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.cli.output import json_line, line, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. `missing`: something works without it."""

    name: str
    state: Literal["ok", "missing", "broken"]
    detail: str


def show(findings: Sequence[Finding], *, as_json: bool) -> int:
    """Print what was found; the exit code is 1 if something is broken."""
    if as_json:
        json_line(findings)
    else:
        for each in findings:
            line(plain(f"{each.state:<8} {each.name:<20} {each.detail}"))
    return 1 if any(each.state == "broken" for each in findings) else 0
