"""`python -m benchmarks [ledger work kernel recovery postgres sessions …] [--peers] [--json]`: run suites, print figures."""

from __future__ import annotations

import argparse
import asyncio
import compileall
import json
import os
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import harness
from benchmarks.measure import Figure, Figures

SUITES = ("ledger", "work", "kernel", "recovery", "postgres", "sessions")


def peers() -> list[Figure]:
    """DBOS and LangGraph beside us and the floor. Their packages: `uv run --group peers`."""
    from benchmarks.peers import run

    print("peers", flush=True)
    figures = Figures("peers")
    run(figures)
    return figures.rows


def session_peers() -> list[Figure]:
    """The Ruby tool of the same purpose, where it is on PATH."""
    from benchmarks.sessions import run_peer

    print("peers", flush=True)
    figures = Figures("peers")
    asyncio.run(run_peer(figures))
    return figures.rows


def as_installed() -> None:
    """Have bytecode beside the sources, as an installer leaves it: what starts is else mostly compiling."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(Path(harness.__file__).parent, quiet=2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"any of {', '.join(SUITES)}; default: all")
    parser.add_argument(
        "--peers", "--peer", action="store_true", help="measure others on the same work too, where they are installed"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object at the end")
    arguments = parser.parse_args()
    unknown = set(arguments.suites) - set(SUITES)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    as_installed()
    results: dict[str, list[dict[str, object]]] = {}
    for name in arguments.suites or SUITES:
        print(f"{name}", flush=True)
        figures = Figures(name)
        asyncio.run(import_module(f"benchmarks.{name}").run(figures))
        results[name] = [asdict(row) for row in figures.rows]
    if arguments.peers:
        results["peers"] = [asdict(row) for row in (session_peers() if arguments.suites == ["sessions"] else peers())]
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
