"""The commit of a transaction in which a statement may have failed.

PostgreSQL responds to the COMMIT of such a transaction as to a success, but rolls it back, and says so in the tag of
its response. psycopg knows beforehand. asyncpg's transactions drop the tag, so connections have a class that keeps it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..errors import InboxError
from .sql_errors import brief, sqlstate, without_values

_FAILED = "25P02"
_PSYCOPG_STATES: dict[int, Literal["ended", "failed"]] = {0: "ended", 3: "failed"}


def keep_tags(engine: AsyncEngine) -> None:
    """Have the engine's next connections keep the tag of a COMMIT, if its driver is asyncpg."""
    # Not event.contains(): that goes by the id() of the engine, which Python uses again.
    if engine.driver == "asyncpg" and _choose_class not in engine.dialect.dispatch.do_connect:
        event.listen(engine.dialect, "do_connect", _choose_class)


async def commit(connection: AsyncConnection) -> Literal["committed", "ended", "failed"]:
    """Commit a transaction. Return "ended" if a COMMIT or ROLLBACK in SQL had ended it, and "failed" if a statement
    failed, even past SQLAlchemy, so that the database has rolled back, or will.

    Raises ``InboxError`` if a connection that keeps no tags fails, and the errors of SQLAlchemy.
    """
    sync = connection.sync_connection
    driver: Any = None if sync is None else sync.connection.driver_connection
    tagged = False
    if hasattr(driver, "is_in_transaction"):  # asyncpg, which does not tell a failed transaction from an open one
        if not driver.is_in_transaction():
            return "ended"
        tagged = getattr(driver, "basiq_tag", "") == "BEGIN"
        if not tagged and await _has_failed(driver):
            return "failed"
    elif hasattr(driver, "info"):  # psycopg
        state = _PSYCOPG_STATES.get(int(driver.info.transaction_status))
        if state is not None:
            return state
    elif not getattr(driver, "in_transaction", True):  # aiosqlite
        return "ended"
    await connection.run_sync(Connection.commit)
    return "failed" if tagged and driver.basiq_tag != "COMMIT" else "committed"


async def _has_failed(driver: Any) -> bool:
    """Ask a connection that keeps no tags: the engine was connected before the inbox was made, or has a class of its
    own for connections.
    """
    try:
        await driver.execute("SELECT 1")
    except Exception as exc:
        if sqlstate(exc) != _FAILED:
            raise InboxError(f"the database failed while the handler ran: {brief(exc)}") from without_values(exc)
        return True
    return False


def _choose_class(dialect: Dialect, record: object, args: list[Any], options: dict[str, Any]) -> None:
    """A listener of ``do_connect``. A class or a function of the user's for connections is left as it is."""
    if "async_creator_fn" not in options:
        options.setdefault("connection_class", _make_tagged_class())


@cache
def _make_tagged_class() -> Any:
    import asyncpg

    class Connection(asyncpg.Connection):  # type: ignore[misc]
        """``basiq_tag``: the tag of the last response to BEGIN, COMMIT or ROLLBACK."""

        basiq_tag = ""

        async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
            tag: str = await super().execute(query, *args, timeout=timeout)
            if tag in ("BEGIN", "COMMIT", "ROLLBACK"):
                self.basiq_tag = tag
            return tag

    return Connection
