"""A plugin of pytest for ``tests/mutants.py``: records which test runs which line of the package."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from coverage import Coverage

_measured = Coverage(data_file=os.environ["BASIQ_MUTANTS_DATA"], source=["basiq_async"], config_file=False)
_measured.start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    _measured.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        _measured.switch_context("")


def pytest_unconfigure() -> None:
    _measured.stop()
    _measured.save()
