"""The event types that Basiq has."""

from __future__ import annotations

import pytest

from basiq_async import (
    NotFoundError,
)

from .conftest import Basiq


async def test_event_types(basiq: Basiq) -> None:
    kinds = await basiq.client.event_types.list().collect()
    assert len(kinds) == 15
    kind = await basiq.client.event_types.get("consent.revoked")
    assert kind.id == "consent.revoked"
    assert kind.description
    with pytest.raises(NotFoundError):
        await basiq.client.event_types.get("no.such")
