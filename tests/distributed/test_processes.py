"""Where a fleet and a job function are found, what the number of workers may be, and how they end."""

from __future__ import annotations

import logging
import queue
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from taskiq.cli.worker.args import WorkerArgs

from basiq_async import ConfigurationError
from basiq_async.distributed.processes import find_fleet, find_job, run_workers

MODULE = """
from contextlib import asynccontextmanager
from basiq_async.distributed import Fleet

first, second = Fleet("redis://127.0.0.1:1/0"), Fleet("redis://127.0.0.1:1/1")

@second.job("refill")
@asynccontextmanager
async def fill():
    yield

def other():
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with two fleets in the current folder."""
    (tmp_path / "some_jobs.py").write_text(MODULE)
    (tmp_path / "broken_jobs.py").write_text("import no_such_library")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "some_jobs"
    for name in ("some_jobs", "broken_jobs"):
        sys.modules.pop(name, None)


def test_a_job_function_is_found_with_its_fleet_and_the_name_it_is_registered_by(module: str) -> None:
    second = find_fleet(f"{module}:second")
    assert find_job(f"{module}:fill") == find_job(f"{module}:fill", second) == (second, "refill")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("some_jobs", "is not the place of a fleet: write module:variable"),
        (":first", "is not the place of a fleet: write module:variable"),
        ("some_jobs:", "is not the place of a fleet: write module:variable"),
        ("some_jobs:other", "is a function, not a Fleet"),
        ("some_jobs:nothing", "is a NoneType, not a Fleet"),
        ("no_jobs:first", "module 'no_jobs' was not found"),
        ("no.jobs:first", "module 'no.jobs' was not found"),
    ],
)
def test_what_is_no_fleet_is_refused_and_the_error_says_why(module: str, place: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        find_fleet(place)


def test_a_library_that_a_module_of_jobs_needs_is_named_itself(module: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        find_fleet("broken_jobs:fleet")


def test_a_function_that_no_fleet_has_is_refused(module: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a job function of a fleet of this module"):
        find_job(f"{module}:other")
    with pytest.raises(ConfigurationError, match="is not a job function of the fleet"):
        find_job(f"{module}:fill", find_fleet(f"{module}:first"))


@pytest.mark.parametrize("wrong", [{"processes": 0}, {"segments": 0}, {"processes": True}, {"segments": 1.5}], ids=repr)
def test_a_number_of_workers_that_cannot_be_is_refused_by_its_name(module: str, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        run_workers(f"{module}:first", **wrong)


def test_one_process_and_one_segment_are_enough(module: str) -> None:
    with pytest.raises(ConfigurationError, match="is a NoneType, not a Fleet"):
        run_workers(f"{module}:nothing", processes=1, segments=1)


def test_a_worker_handles_so_many_segments_at_once_and_fetches_none_ahead(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[WorkerArgs] = []
    frozen: list[str] = []
    monkeypatch.setattr("taskiq.cli.worker.run.start_listen", served.append)
    monkeypatch.setattr("gc.freeze", lambda: frozen.append("frozen"))
    monkeypatch.setattr(logger := logging.getLogger("taskiq.receiver"), "level", logging.INFO)
    run_workers(f"{module}:second", segments=7)
    (args,) = served
    assert args.broker is find_fleet(f"{module}:second").broker  # type: ignore[comparison-overlap]  # as it is passed
    assert (args.max_async_tasks, args.max_prefetch, args.no_parse, args.configure_logging) == (7, 0, True, False)
    assert (args.shutdown_timeout, args.hardkill_count) == (30.0, 0), "a worker ends when its messages are recorded"
    assert frozen == ["frozen"], "what was imported is scanned for garbage again and again"
    assert logger.level == logging.WARNING, "each notification is a line in the log"


class Child:
    """A worker process, as far as its parent sees."""

    def __init__(self, pid: int | None, *, alive: bool = True) -> None:
        self.pid, self.alive, self.joined = pid, alive, False

    def is_alive(self) -> bool:
        return self.alive

    def join(self) -> None:
        self.joined = True


class Manager:
    """A manager of processes that receives signals as soon as it is started."""

    signals: ClassVar[list[int]] = []
    handlers: ClassVar[dict[int, Callable[[int, None], None]]] = {}
    made: ClassVar[list[Manager]] = []

    def __init__(self, args: WorkerArgs, worker_function: Callable[..., None]) -> None:
        self.args, self.worker_function = args, worker_function
        self.workers = [Child(11), Child(12), Child(13, alive=False), Child(None)]
        self.action_queue: queue.Queue[object] = queue.Queue()
        self.made.append(self)

    def _shutdown_workers(self) -> None:
        raise AssertionError("the manager's own way to end workers does not wait for them")

    def start(self) -> None:
        for number in self.signals:
            self.handlers[number](number, None)
        self.workers.append(Child(14))  # started before the manager handles the action
        self._shutdown_workers()


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """The processes that were sent a signal, each with the signal. No real one is."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr("taskiq.cli.worker.process_manager.ProcessManager", Manager)
    monkeypatch.setattr("os.kill", lambda pid, number: found.append((pid, number)))
    monkeypatch.setattr("signal.signal", lambda number, handler: Manager.handlers.update({number: handler}))
    yield found
    Manager.made.clear()
    Manager.handlers.clear()


TERM, KILL = signal.SIGTERM, signal.SIGKILL


@pytest.mark.parametrize(
    ("signals", "sent"),
    [
        ([signal.SIGTERM], [(11, TERM), (12, TERM), (14, TERM)]),
        ([signal.SIGINT], [(11, TERM), (12, TERM), (14, TERM)]),
        ([signal.SIGINT, signal.SIGTERM], [(11, TERM), (12, TERM), (11, KILL), (12, KILL), (14, TERM)]),
    ],
    ids=["SIGTERM", "Ctrl-C", "twice"],
)
def test_a_signal_ends_each_living_worker_once_and_a_second_one_kills(
    module: str,
    killed: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
    signals: list[int],
    sent: list[tuple[int, int]],
) -> None:
    monkeypatch.setattr(Manager, "signals", signals)
    run_workers(f"{module}:second", processes=4, segments=3)
    (manager,) = Manager.made
    assert manager.args.workers == 4
    assert killed == sent
    assert manager.action_queue.qsize() == 1, "the manager is to end, and is told so once"
    assert all(worker.joined for worker in manager.workers), "a worker is left behind"


def test_a_worker_is_its_own_group_so_that_ctrl_c_reaches_its_parent_alone(
    module: str, killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manager, "signals", [])
    run_workers(f"{module}:second", processes=2, segments=3)
    done: list[object] = []
    monkeypatch.setattr("os.setpgid", lambda *of: done.append(of))
    monkeypatch.setattr("taskiq.cli.worker.run.start_listen", lambda args: done.append(args.max_async_tasks))
    monkeypatch.setattr("gc.freeze", lambda: None)
    Manager.made[0].worker_function(args=None)
    assert done == [(0, 0), 3]


def test_a_child_without_handlers_of_its_own_ends_at_once(
    module: str, killed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manager, "signals", [])
    run_workers(f"{module}:second", processes=2)
    killed.clear()
    ended: list[int] = []

    def end(code: int) -> None:
        ended.append(code)
        raise SystemExit

    monkeypatch.setattr("os._exit", end)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(SystemExit):
        Manager.handlers[TERM](TERM, None)
    assert (ended, killed) == ([128 + TERM], []), "a child signalled the workers that are its parent's"
