#!/usr/bin/env python3
"""Draw `harness demo` as docs/images/demo.svg: uv run python tools/picture_demo.py"""

import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 124
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "demo.svg"


def main() -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "harness", "demo", "--once"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    lines = [re.sub(r"/\S*/harness-demo-\w+", "a temporary home", line) for line in done.stdout.rstrip().split("\n")]
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        for line in lines:
            console.print(Text.from_ansi(line), no_wrap=True, overflow="ellipsis", crop=True)
        svg = console.export_svg(title="harness demo --once")
    # The picture names fonts of the reader's machine only: nothing is fetched when it is shown.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    PICTURE.write_text(svg, encoding="utf-8")
    print(f"{PICTURE}: {len(lines)} lines")


if __name__ == "__main__":
    main()
