"""Where a fleet and a job function are found, what the number of workers may be, and how they end."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

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
    assert find_job(f"{module}:fill") == (find_fleet(f"{module}:second"), "refill")


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


@pytest.mark.parametrize("wrong", [{"processes": 0}, {"segments": 0}, {"processes": True}, {"segments": 1.5}], ids=repr)
def test_a_number_of_workers_that_cannot_be_is_refused_by_its_name(module: str, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        run_workers(f"{module}:first", **wrong)


def test_a_worker_handles_so_many_segments_at_once_and_fetches_none_ahead(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[WorkerArgs] = []
    frozen: list[str] = []
    monkeypatch.setattr("taskiq.cli.worker.run.start_listen", served.append)
    monkeypatch.setattr("gc.freeze", lambda: frozen.append("frozen"))
    monkeypatch.setattr(logger := logging.getLogger("taskiq.receiver"), "level", logging.INFO)
    done: list[str] = []
    run_workers(f"{module}:second", segments=7, set_up=lambda: done.append("set up"))
    (args,) = served
    assert args.broker is find_fleet(f"{module}:second").broker  # type: ignore[comparison-overlap]  # as it is passed
    assert (args.max_async_tasks, args.max_prefetch, args.no_parse, args.configure_logging) == (7, 0, True, False)
    assert done == ["set up"], "its logs are not shown"
    assert (args.shutdown_timeout, args.hardkill_count) == (30.0, 0), "a worker ends when its messages are recorded"
    assert frozen == ["frozen"], "what was imported is scanned for garbage again and again"
    assert logger.level == logging.WARNING, "each notification is a line in the log"


SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class Child:
    """A worker process as its parent sees it. It runs nothing: ``script`` says what happens when the parent waits."""

    made: ClassVar[list[Child]] = []
    handlers: ClassVar[dict[int, Any]] = {}
    script: ClassVar[list[Callable[[], None]]] = []
    pauses: ClassVar[list[float]] = []

    def __init__(self, target: Callable[..., None], args: tuple[object, ...], name: str) -> None:
        self.target, self.args, self.name = target, args, name
        self.signals: list[str] = []
        self.alive = self.sentinel = False
        self.made.append(self)

    def start(self) -> None:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= SIGNALS, "a signal would miss a worker that starts"
        self.alive = True

    def is_alive(self) -> bool:
        return self.alive

    def terminate(self) -> None:
        self.signals.append("terminate")

    def kill(self) -> None:
        self.signals.append("kill")
        self.alive = False


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """What happens each time that the parent waits for its children, which are scripted."""
    monkeypatch.setattr("basiq_async.distributed.processes.Process", Child)

    def wait(sentinels: Sequence[object]) -> None:
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()), "no signal ends the workers"
        Child.script.pop(0)()

    monkeypatch.setattr("basiq_async.distributed.processes.wait", wait)
    monkeypatch.setattr("time.sleep", Child.pauses.append)
    monkeypatch.setattr("signal.getsignal", lambda number: signal.SIG_DFL)
    monkeypatch.setattr("signal.signal", lambda number, handler: Child.handlers.update({number: handler}))
    yield Child.script
    for each in (Child.made, Child.handlers, Child.script, Child.pauses):
        each.clear()


def end(*numbers: int) -> Callable[[], None]:
    def happen() -> None:
        for number in numbers:
            Child.made[number].alive = False

    return happen


def get(number: signal.Signals) -> Callable[[], None]:
    return lambda: Child.handlers[number](number, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_each_worker_in_order_and_a_second_one_kills_those_that_are_left(
    module: str, script: list[Callable[[], None]], number: signal.Signals
) -> None:
    script += [get(number), end(1), get(number)]
    run_workers(f"{module}:second", processes=3, segments=7)
    assert [child.signals for child in Child.made] == [["terminate", "kill"], ["terminate"], ["terminate", "kill"]]
    assert {child.args for child in Child.made} == {(f"{module}:second", 7, None)}
    assert script == [], "the parent left before its workers"


def test_a_worker_that_dies_is_replaced_until_a_signal_comes(module: str, script: list[Callable[[], None]]) -> None:
    script += [end(0), end(1, 2), get(signal.SIGTERM), end(3), end(4)]
    run_workers(f"{module}:second", processes=2)
    assert [(child.name, child.signals) for child in Child.made] == [
        ("worker-1", []), ("worker-2", []), ("worker-3", []), ("worker-4", ["terminate"]), ("worker-5", ["terminate"]),
    ]  # fmt: skip
    assert Child.pauses == [1.0, 1.0], "a worker that cannot start keeps a processor busy"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_place_without_a_fleet_is_refused_before_a_worker_starts(
    module: str, script: list[Callable[[], None]], processes: int
) -> None:
    with pytest.raises(ConfigurationError, match="is a NoneType, not a Fleet"):
        run_workers(f"{module}:nothing", processes=processes, segments=1)
    assert Child.made == []


def test_a_signal_that_is_ignored_stays_so(
    module: str, script: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SIGHUP below nohup."""
    monkeypatch.setattr("signal.getsignal", {signal.SIGHUP: signal.SIG_IGN}.get)
    script += [get(signal.SIGTERM), end(0, 1)]
    run_workers(f"{module}:second", processes=2)
    assert set(Child.handlers) == {signal.SIGTERM, signal.SIGINT}


def test_a_worker_is_its_own_group_so_that_ctrl_c_reaches_its_parent_alone(
    module: str, script: list[Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    script += [get(signal.SIGTERM), end(0, 1)]
    done: list[object] = []
    run_workers(f"{module}:second", processes=2, segments=3, set_up=lambda: done.append("set up"))
    monkeypatch.setattr("os.setpgid", lambda *of: done.append(of))
    monkeypatch.setattr("taskiq.cli.worker.run.start_listen", lambda args: done.append(args.max_async_tasks))
    monkeypatch.setattr("gc.freeze", lambda: None)
    Child.made[0].target(*Child.made[0].args)
    assert done == [(0, 0), "set up", 3]
    assert Child.handlers == dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), signal.SIG_DFL)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()), "a worker gets no signals"


def test_windows_has_one_process_for_each_worker(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "pthread_sigmask")
    with pytest.raises(ConfigurationError, match="processes must be 1 on Windows"):
        run_workers(f"{module}:second", processes=2)
