"""Types of tool arguments that name something in the sandbox: what leads out is rejected before anything is done."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from harness.agents.bundles.paths import check_argument, check_path

RootedPath: TypeAlias = Annotated[str, AfterValidator(check_path)]
"""A path relative to the sandbox root, that stays below it."""

Argument: TypeAlias = Annotated[str, AfterValidator(check_argument)]
"""One word of a command line, that names nothing outside the sandbox."""
