"""Suites that run on both orders in which Basiq may list a history."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from basiq_async.testing import Quirks
from basiq_async.testing.fake import _fake  # private: a test's fakes get another default, wherever it makes them
from tests.support.browser import browser, pytest_pyfunc_call

__all__ = ["browser", "pytest_pyfunc_call"]


@pytest.fixture(params=["oldest-first", "newest-first"])
def both_orders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each ``FakeBasiq`` of the test that gets no other order list messages and events in that order."""
    order: Any = request.param
    monkeypatch.setattr(_fake, "Quirks", partial(Quirks, message_order=order, event_order=order))
