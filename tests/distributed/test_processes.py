"""Where a fleet and a job function are found, and what the number of workers may be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
