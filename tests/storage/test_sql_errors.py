"""What inboxes in SQL databases share."""

from __future__ import annotations

import gc

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from basiq_async._storage.sql_errors import failed_in
from basiq_async.receiver import SQLInbox


def watched() -> AsyncEngine:
    engine = create_async_engine("sqlite+aiosqlite://")
    SQLInbox(engine)
    return engine


async def test_a_failed_statement_is_known_on_every_engine_however_many_were_made_and_dropped_before() -> None:
    # Python gives the id of an engine that was dropped to a new one, also while parts of the first are still there.
    parts = [watched().dialect for _ in range(60)]
    gc.collect()
    unknown = 0
    for engine in [watched() for _ in range(60)]:
        async with engine.connect() as connection:
            with pytest.raises(OperationalError):
                await connection.execute(text("SELECT * FROM nowhere"))
            unknown += failed_in(connection) is None
        await engine.dispose()
    assert len(parts) == 60
    assert unknown == 0, f"failures on {unknown} of 60 engines were not noticed"
