"""`harness completion`: the completion script of a shell, on stdout."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from harness.cli.app import COMPLETING, App

app = App()


class Shell(StrEnum):
    """Shells that completion works in."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command()
def completion(shell: Annotated[Shell, typer.Argument(help="The shell to print it for.")]) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      harness completion bash > ~/.local/share/bash-completion/completions/harness
      harness completion zsh > ~/.zfunc/_harness
      harness completion fish > ~/.config/fish/completions/harness.fish
    """
    from importlib import import_module

    scripts: Any = import_module("typer.completion")
    print(scripts.get_completion_script(prog_name="harness", complete_var=COMPLETING, shell=shell.value))
