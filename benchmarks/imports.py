"""How much processor time does an import need, compared with its dependencies and another library?"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks._harness import Figure, best_slices, figure

_BARE = "pass"
_OURS = "import basiq_async"
_CLIENT = "from basiq_async import BasiqClient"
_DEPENDENCIES = "import asyncio, logging, attrs, cattrs, cattrs.gen"
_PEER = "import svix.api"
_TYPER_ALONE = """\
import typer
app = typer.Typer()
@app.command()
def one(number: int = 1): "One command."
@app.command()
def two(number: int = 1): "Another one."
app()
"""


async def _start(command: list[str]) -> None:
    # With compiled bytecode, as after an installation.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=True, capture_output=True, env=environment)


def _processor_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def measure(runs: int = 5, slices: int = 5) -> list[Figure]:
    python = [sys.executable, "-c"]
    commands = {
        "bare": [*python, _BARE],
        "ours": [*python, _OURS],
        "client": [*python, _CLIENT],
        "dependencies": [*python, _DEPENDENCIES],
        "peer": [*python, _PEER],
        "version": [str(Path(sys.executable).with_name("basiq-async")), "--version"],
        "help": [str(Path(sys.executable).with_name("basiq-async")), "--help"],
        "typer": [*python, _TYPER_ALONE, "--help"],
    }
    seconds = await best_slices(
        {name: partial(_start, command) for name, command in commands.items()},
        runs=runs,
        slices=slices,
        clock=_processor_of_children,
    )

    def ratio(above: str, below: str) -> list[float]:
        # The start of the interpreter is subtracted from each.
        rows = zip(seconds[above], seconds[below], seconds["bare"], strict=True)
        return [(one - bare) / (other - bare) for one, other, bare in rows]

    return [
        figure("import: basiq_async, to its own dependencies", ratio("ours", "dependencies"), "<= 1.25"),
        figure("import: BasiqClient, which loads cattrs, to the dependencies", ratio("client", "dependencies")),
        figure("import: basiq_async, to svix.api", ratio("ours", "peer"), "<= 0.35"),
        figure("import: basiq-async --version, to its dependencies", ratio("version", "dependencies"), "<= 1.25"),
        figure("import: basiq-async --version, to svix.api", ratio("version", "peer"), "<= 0.35"),
        figure("start: basiq-async --help, to typer and rich alone", ratio("help", "typer"), "<= 1.5"),
    ]


if __name__ == "__main__":
    for line in asyncio.run(measure()):
        print(line)
