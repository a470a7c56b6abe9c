"""Run worker processes on taskiq, and stop them in order on a signal."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from types import FrameType, ModuleType

from .._arguments import check_whole
from ..errors import ConfigurationError
from ._fleet import Fleet

__all__ = ["find_fleet", "find_job", "run_workers"]

_SHUTDOWN = 30.0


def find_fleet(place: str) -> Fleet:
    """Import and return the fleet at a place such as ``jobs:fleet``. The current folder is searched too."""
    module, attribute = _load(place, "a fleet", "jobs:fleet")
    fleet = getattr(module, attribute, None)
    if not isinstance(fleet, Fleet):
        raise ConfigurationError(f"{place} is a {type(fleet).__name__}, not a Fleet")
    return fleet


def find_job(place: str, fleet: Fleet | None = None) -> tuple[Fleet, str]:
    """Import the job function at a place such as ``jobs:refill``. Return its fleet and its registered name.

    Without ``fleet``, all fleets of the same module are searched.
    """
    module, attribute = _load(place, "a job function", "jobs:refill")
    function = getattr(module, attribute, None)
    fleets = [fleet] if fleet is not None else [each for each in vars(module).values() if isinstance(each, Fleet)]
    for each in fleets:
        for name, registered in each._functions.items():
            if registered is function:
                return each, name
    raise ConfigurationError(f"{place} is not a job function of {'the fleet' if fleet else 'a fleet of this module'}")


def _load(place: str, what: str, example: str) -> tuple[ModuleType, str]:
    name, _, attribute = place.partition(":")
    if not name or not attribute:
        raise ConfigurationError(f"{place!r} is not the place of {what}: write module:variable, such as {example}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return import_module(name), attribute
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise
        raise ConfigurationError(f"module {name!r} was not found: run the command in the folder of the module") from exc


def run_workers(place: str, *, processes: int = 1, segments: int = 2) -> None:
    """Run the workers of a fleet until SIGTERM or SIGINT. A second signal kills them.

    Each process handles up to ``segments`` pages at once. With ``processes=1`` this process is the worker; otherwise a
    process that dies is replaced.
    """
    for name, value in (("processes", processes), ("segments", segments)):
        check_whole(name, value, least=1)
    find_fleet(place)
    if processes == 1:
        _serve(place, segments)
    else:
        _supervise(place, processes, segments)


def _serve(place: str, segments: int) -> None:
    from taskiq.cli.worker.args import WorkerArgs
    from taskiq.cli.worker.run import start_listen

    logging.getLogger("taskiq.receiver").setLevel(logging.WARNING)  # a line for each notification is too many
    broker = find_fleet(place).broker
    # Imported objects are never freed. Without the freeze, scanning them took a fifth of the processor time.
    gc.collect()
    gc.freeze()
    start_listen(
        WorkerArgs(
            broker=broker,  # type: ignore[arg-type]  # typed as a path, but a broker is accepted too
            modules=[],
            configure_logging=False,
            max_async_tasks=segments,
            max_prefetch=0,
            no_parse=True,
            shutdown_timeout=_SHUTDOWN,
            hardkill_count=0,
        )
    )


def _serve_child(place: str, segments: int, args: object) -> None:
    """Run a worker in a child process, in its own process group: Ctrl-C then reaches only the parent."""
    os.setpgid(0, 0)
    _serve(place, segments)


def _supervise(place: str, processes: int, segments: int) -> None:
    from taskiq.cli.worker.args import WorkerArgs
    from taskiq.cli.worker.process_manager import ProcessManager, ShutdownAction

    manager = ProcessManager(
        WorkerArgs(broker="", modules=[], workers=processes),
        functools.partial(_serve_child, place, segments),
    )
    received, parent = 0, os.getpid()
    signalled: set[int] = set()

    def signal_workers() -> None:
        for worker in manager.workers:
            if worker.pid and worker.pid not in signalled and worker.is_alive():
                signalled.add(worker.pid)
                os.kill(worker.pid, signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if os.getpid() != parent:  # a child that has not set its own handlers yet
            os._exit(128 + number)
        received += 1
        if received == 1:
            manager.action_queue.put(ShutdownAction())
            signal_workers()
            return
        for worker in manager.workers:
            if worker.pid and worker.is_alive():
                os.kill(worker.pid, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    # The manager may start one more worker before it handles the action: this signals that worker too.
    manager._shutdown_workers = signal_workers  # type: ignore[method-assign]  # it has no hook for this
    manager.start()
    for worker in manager.workers:
        worker.join()
