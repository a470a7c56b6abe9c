"""Worker processes: taskiq's own, with segments for slots, and signals that end in order."""

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

from ..errors import ConfigurationError
from ._fleet import Fleet

__all__ = ["find_fleet", "find_job", "run_workers"]

_SHUTDOWN = 30.0


def find_fleet(place: str) -> Fleet:
    """The fleet at a place such as ``jobs:fleet``, looked for from the current folder on as well."""
    module, attribute = _load(place, "a fleet", "jobs:fleet")
    fleet = getattr(module, attribute, None)
    if not isinstance(fleet, Fleet):
        raise ConfigurationError(f"{place} is a {type(fleet).__name__}, not a Fleet")
    return fleet


def find_job(place: str, fleet: Fleet | None = None) -> tuple[Fleet, str]:
    """The job function at a place such as ``jobs:refill``: its fleet, and the name that it is registered by.

    Without ``fleet``, one of the same module is looked for.
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
        raise ConfigurationError(f"there is no module {name!r} here: run it where the module can be imported") from exc


def run_workers(place: str, *, processes: int = 1, segments: int = 2) -> None:
    """Run the workers of a fleet until SIGTERM or SIGINT; a second signal ends them at once.

    ``segments`` is how many pages a process has under way at once. A process that dies is started anew, except with
    ``processes=1``, where this process is the worker.
    """
    for name, value in (("processes", processes), ("segments", segments)):
        if value < 1:
            raise ConfigurationError(f"{name} must be at least 1")
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
    # What was imported stays. Looked through with each garbage collection, it took a fifth of the processor time.
    gc.collect()
    gc.freeze()
    start_listen(
        WorkerArgs(
            broker=broker,  # type: ignore[arg-type]  # typed as a path, and taken as it is too
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
    """In a process of its own: a terminal's Ctrl-C is for the parent, which passes it on once."""
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
        if os.getpid() != parent:  # a child that has not come to handlers of its own yet
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
    # Called when the manager comes to the action, which can be after it has started another worker.
    manager._shutdown_workers = signal_workers  # type: ignore[method-assign]  # it has no hook for this
    manager.start()
    for worker in manager.workers:
        worker.join()
