"""The command line's door: decides whether a command needs the whole of it, and turns errors into exit codes.

It owns exit codes and the one line on stderr; each command group is a module of its own, loaded when it is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 ok, 1 failed, 2 usage, 124 timeout, 130 interrupted."""
    from harness.errors import HarnessError, told_of

    words = list(sys.argv[1:] if argv is None else argv)
    _have_standard_streams()
    try:
        _must_be_text(words)
        return _dispatch(words)
    except HarnessError as error:
        return _fail(str(error), error.exit_code)
    except BaseExceptionGroup as group:
        told = told_of(group)
        if told is None:
            raise
        return _fail(str(told), told.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except OSError as error:
        return _fail(_os_error(error), 1)


def _have_standard_streams() -> None:
    """Open what the caller has closed (`>&-`), else a file opened next, such as the ledger, would be the new stdout."""
    import os

    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _must_be_text(words: Sequence[str]) -> None:
    for number, word in enumerate(words, 1):
        try:
            word.encode()
        except UnicodeEncodeError as error:
            import os

            from harness.errors import UsageError

            raise UsageError(f"argument {number} is not valid UTF-8: {str(os.fsencode(word))[1:]}") from error


def _dispatch(words: list[str]) -> int:
    from harness.cli import lean

    after_run = _after_run(words)
    if after_run is not None and not {"-h", "--help"} & set(after_run[: after_run.index("--") if "--" in after_run else None]):
        code = _run_agent(after_run)
        if code is not None:
            return code
    request = lean.parse(words)
    if request is not None:
        return lean.start(request)
    from harness.cli.app import run

    return run(words)


def _after_run(words: list[str]) -> list[str] | None:
    """What stands behind `run`, and the home if it is named before; None for another command."""
    home = 2 if words[:1] == ["--home"] else int(bool(words) and words[0].startswith("--home="))
    return [*words[:home], *words[home + 1 :]] if words[home : home + 1] == ["run"] else None


def _run_agent(words: list[str]) -> int | None:
    """The exit code; None if no agent is named."""
    from harness.cli import agent_words
    from harness.errors import SettingsError, UsageError

    try:
        asked = agent_words.read(words)
        if asked is None:
            return None
        from harness.cli.agent_run import run as run_agent

        return run_agent(asked)
    except SettingsError:
        raise  # no help of a command's helps with a broken file
    except UsageError as error:
        raise UsageError(f"{str(error).rstrip('.')}. Try: harness run --help") from error


def _fail(message: str, code: int) -> int:
    lines = " ".join(part.strip() for part in message.splitlines() if part.strip())
    print(f"harness: {lines}", file=sys.stderr)
    return code


def _os_error(error: OSError) -> str:
    from harness import home

    if isinstance(error, FileNotFoundError) and not error.filename and home.here() is None:
        return home.GONE
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def _forget_stdout() -> None:
    """The reader went away, as with `| head`: let the interpreter's last flush go nowhere."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
