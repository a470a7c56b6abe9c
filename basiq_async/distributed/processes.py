"""Run worker processes on taskiq, and stop them in order on a signal."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing import Process
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType, ModuleType

from .._arguments import check_whole
from ..errors import ConfigurationError
from ._fleet import SIGNALS, Fleet

__all__ = ["find_fleet", "find_job", "run_workers"]

_SHUTDOWN = 30.0
_PAUSE = 1.0
"""Seconds before a process that died is replaced."""


def find_fleet(place: str) -> Fleet:
    """Import and return the fleet at a place such as ``jobs:fleet``. The current folder is searched too."""
    _, fleet = _load(place, "a fleet", "jobs:fleet")
    if not isinstance(fleet, Fleet):
        raise ConfigurationError(f"{place} is a {type(fleet).__name__}, not a Fleet")
    return fleet


def find_job(place: str) -> tuple[Fleet, str]:
    """Import the job function at a place such as ``jobs:refill``. Return its fleet and its registered name.

    The fleet is found in the same module.
    """
    module, function = _load(place, "a job function", "jobs:refill")
    for fleet in vars(module).values():
        for name, registered in fleet._functions.items() if isinstance(fleet, Fleet) else ():
            if registered is function:
                return fleet, name
    raise ConfigurationError(f"{place} is not a job function of a fleet of this module")


def _load(place: str, what: str, example: str) -> tuple[ModuleType, object]:
    """Return the module of a place, and what it has there; None for nothing."""
    name, _, attribute = place.partition(":")
    if not name or not attribute:
        raise ConfigurationError(f"{place!r} is not the place of {what}: write module:variable, such as {example}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise
        raise ConfigurationError(f"module {name!r} was not found: run the command in the folder of the module") from exc
    return module, getattr(module, attribute, None)


def run_workers(
    place: str, *, processes: int = 1, segments: int = 2, set_up: Callable[[], object] | None = None
) -> None:
    """Run the workers of a fleet until SIGTERM, SIGINT or SIGHUP. A second signal kills them.

    Each process handles up to ``segments`` pages at once. With ``processes=1`` this process is the worker; otherwise a
    process that dies is replaced. ``set_up`` is called first in each worker process, for example to set up its logging.
    With more than one process, it must be a function of a module, or a ``partial`` of one. On Windows, ``processes``
    must be 1. Raises ``ConfigurationError``.
    """
    for name, value in (("processes", processes), ("segments", segments)):
        check_whole(name, value, least=1)
    find_fleet(place)
    if processes == 1:
        _serve(place, segments, set_up)
    elif hasattr(signal, "pthread_sigmask"):
        _supervise(place, processes, segments, set_up)
    else:
        raise ConfigurationError("processes must be 1 on Windows, which cannot ask a process to end: start several")


def _serve(place: str, segments: int, set_up: Callable[[], object] | None) -> None:
    from taskiq.cli.worker.args import WorkerArgs
    from taskiq.cli.worker.run import start_listen

    if set_up is not None:
        set_up()
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


def _serve_child(place: str, segments: int, set_up: Callable[[], object] | None) -> None:
    """Run a worker in a child process, in its own process group: Ctrl-C then reaches only the parent."""
    os.setpgid(0, 0)
    _handle_signals(signal.SIG_DFL)  # until taskiq has its own handlers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _serve(place, segments, set_up)


def _handle_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, handler)


def _supervise(place: str, processes: int, segments: int, set_up: Callable[[], object] | None) -> None:
    workers: list[Process] = []
    received = started = 0

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        for worker in workers:
            (worker.terminate if received == 1 else worker.kill)()

    _handle_signals(end)
    while True:
        signal.pthread_sigmask(
            signal.SIG_BLOCK, SIGNALS
        )  # none comes between the start of a worker and its entry in the list
        workers[:] = [worker for worker in workers if worker.is_alive()]
        while not received and len(workers) < processes:
            started += 1
            arguments = (place, segments, set_up)
            workers.append(Process(target=_serve_child, args=arguments, name=f"worker-{started}"))
            workers[-1].start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if not workers:
            return
        wait([worker.sentinel for worker in workers])
        if not received:
            time.sleep(_PAUSE)  # so that one that cannot start does not keep a processor busy
