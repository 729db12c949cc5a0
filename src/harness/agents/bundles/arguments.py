"""The type of a tool argument that names something in the sandbox: what leads out is rejected before anything is done."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from harness.agents.bundles.paths import check_path

RootedPath: TypeAlias = Annotated[str, AfterValidator(check_path)]
"""A path relative to the sandbox root, that stays below it."""
