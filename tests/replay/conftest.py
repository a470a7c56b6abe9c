"""Suites that run on both orders in which Basiq may list a history."""

from __future__ import annotations

from typing import Any

import pytest

from basiq_async.testing import FakeBasiq, Quirks
from tests.support.browser import browser, pytest_pyfunc_call

__all__ = ["browser", "pytest_pyfunc_call"]


@pytest.fixture(params=["oldest-first", "newest-first"])
def both_orders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each ``FakeBasiq`` of the test that gets no other order list messages and events in that order."""
    order: Any = request.param
    monkeypatch.setattr(FakeBasiq, "default_quirks", Quirks(message_order=order, event_order=order))
