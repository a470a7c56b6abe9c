"""``basiq-async worker``: the processes that do a fleet's jobs."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from ..errors import ConfigurationError
from ._output import PrintableLog

__all__ = ["worker"]


def worker(
    fleet: Annotated[str, typer.Argument(help="Where the fleet is, as module:variable, such as jobs:fleet.")],
    processes: Annotated[int, typer.Option(min=1, help="Worker processes on this machine.")] = 1,
    segments: Annotated[int, typer.Option(min=1, help="Pages that a process has under way at once.")] = 2,
    log_level: Annotated[str, typer.Option(help="The least level that is logged.")] = "INFO",
) -> None:
    """Work on the jobs of a fleet, until SIGTERM or Ctrl-C.

    The first signal finishes and records the messages under way, the second ends at once.
    """
    from ..distributed._processes import run_workers

    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise ConfigurationError(f"--log-level must be DEBUG, INFO, WARNING or ERROR, not {log_level!r}")
    log = PrintableLog("%(asctime)s %(levelname)s %(processName)s %(name)s %(message)s")
    logging.basicConfig(level=level, handlers=[log])
    run_workers(fleet, processes=processes, segments=segments)
