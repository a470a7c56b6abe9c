"""The tables of an inbox in a SQL database, and its statements for PostgreSQL and SQLite.

An event is one row. It is claimed in one of two ways, which are independent:

- A handler without a session has a *lease*: its token and the end of its time are in the committed row.
- A handler with a session has a *transaction*, which enters the event as handled, and commits when the handler has
  succeeded. So it takes the statements that a hand-written ``INSERT ... ON CONFLICT`` takes, and no other.

What was quarantined or waits is stored as JSON, and is in a *queue*: the quarantine, or that of what waits. When it is
due, and what is counted, stand in one index beside it, so that what is in no queue is in two indexes alone.

Other transactions do not see the row of one that has not committed, and an ``INSERT`` of the same key would wait for
its end, with a connection. So each statement that may meet one has one condition more, the *gate*: an advisory lock of
the key, which lasts as long as its transaction, and which a statement tries and never waits for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import MetaData, func
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from ..._storage.sql import EntryType, StoreTables, key_type, server_seconds, service_column
from ..._work.protocol import MOST_UNENDED, Claim, ClaimStatus
from ..._work.schedule import LONGEST_WAIT

CLAIMED = Claim(ClaimStatus.CLAIMED)
DONE = Claim(ClaimStatus.DONE)
BUSY = Claim(ClaimStatus.BUSY, 1.0)
"""Another worker has the key by a transaction, whose end is unknown: try again after a second."""

_QUARANTINE, _WAITING = "quarantine", "waiting"
"""The queue of what was quarantined, and that of what waits."""
_LAYOUT = 8


class Tables(StoreTables):
    """The tables of an inbox: handled, claimed and quarantined events, numbers of failures, notes, and the version.

    Their columns have only types of SQLAlchemy, so that a migration made from them names no module of this library.
    """

    def __init__(self, table: str = "basiq_inbox", schema: str | None = None, service: str = "") -> None:
        super().__init__(_LAYOUT, table, schema, service)
        self.events = sa.Table(
            table,
            self.metadata,
            service_column(),
            sa.Column("key", key_type(), primary_key=True),
            sa.Column("handled_at", sa.DateTime(timezone=True)),
            # The lease of the worker with this token: its length, and its end by the clock of leases, in seconds.
            sa.Column("token", sa.Text),
            sa.Column("lease", sa.Double),
            sa.Column("lease_ends", sa.Double),
            sa.Column("claimed_at", sa.DateTime(timezone=True)),
            # The attempts without an end: tokens that were still there when their lease had run out, each between two
            # line ends.
            sa.Column("unended", sa.Text, nullable=False, server_default=""),
            # What was quarantined or waits has its entry. It is handled only if it is in the quarantine and was
            # acknowledged. It was placed in its queue at a time, and is due, in seconds since 1970: in the quarantine
            # at that time. Of what waits, so many attempts were begun; if one failed, ``failing`` is 1, else 0, as in
            # the quarantine; and its entry has so many bytes.
            sa.Column("queue", sa.Text().with_variant(sa.Text(collation="C"), "postgresql")),
            sa.Column("due", sa.Double),
            sa.Column("placed_at", sa.DateTime(timezone=True)),
            sa.Column("failing", sa.Integer),
            sa.Column("failing_since", sa.Double),
            sa.Column("attempts", sa.Integer),
            sa.Column("size", sa.Integer),
            sa.Column("event_type", sa.Text),
            sa.Column("entry_json", sa.Text),
            # Also finds claims that were never ended: they have no such time.
            sa.Index(f"{table}_order", "service", "handled_at", **_where("queue IS NULL")),
            # With all that is counted, so that a count reads no entries.
            sa.Index(
                f"{table}_queue",
                *("service", "queue", "failing", "due", "key", "placed_at", "failing_since", "size"),
                **_where("queue IS NOT NULL"),
            ),
        )
        self.failures = sa.Table(
            f"{table}_failures",
            self.metadata,
            service_column(),
            sa.Column("key", key_type(), primary_key=True),
            sa.Column("failures", sa.Integer, nullable=False),
            sa.Column("failed_at", sa.DateTime(timezone=True), nullable=False),
            sa.Index(f"{table}_failures_order", "service", "failed_at"),
        )
        self.notes = sa.Table(
            f"{table}_notes",
            self.metadata,
            service_column(),
            sa.Column("name", sa.Text, primary_key=True),
            sa.Column("text", sa.Text, nullable=False),
        )
        # When the newest of the entries was handled that have been deleted; and in SQLite, which has no clock of a
        # server, the state of the clock of retention.
        self.version.append_column(sa.Column("forgotten_at", sa.DateTime(timezone=True)))
        for name in ("shown", "believed"):
            self.version.append_column(sa.Column(name, sa.Double))


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def inbox_metadata(table: str = "basiq_inbox", schema: str | None = None) -> MetaData:
    """Return the tables of a ``SQLInbox``, for Alembic's ``target_metadata``."""
    return Tables(table, schema).metadata


_KEY = sa.bindparam("a_key", type_=sa.String)
_NAME = sa.bindparam("a_name", type_=sa.Text)
_TOKEN = sa.bindparam("a_token", type_=sa.Text)
_LEASE = sa.bindparam("a_lease", type_=sa.Double)
_LIMIT = sa.bindparam("a_limit", type_=sa.Integer)


class Statements:
    """The statements of an inbox, built once, so that SQLAlchemy compiles each of them once."""

    def __init__(self, tables: Tables, dialect: str) -> None:
        self.on_postgresql = dialect == "postgresql"
        insert = postgresql.insert if self.on_postgresql else sqlite.insert
        events, failures, notes, version = tables.events, tables.failures, tables.notes, tables.version
        entry_text = sa.type_coerce(events.c.entry_json, EntryType)
        service = sa.literal(tables.service, events.c.service.type)
        own, own_failures, own_notes = (each.c.service == service for each in (events, failures, notes))
        here = sa.and_(own, events.c.key == _KEY)
        now = func.now()
        epoch = sa.cast(func.extract("epoch", now), sa.Double) if self.on_postgresql else server_seconds(dialect)
        # Of the server, unless the caller gives the time.
        time_of_day = func.coalesce(sa.bindparam("a_time", None, type_=sa.Double), epoch, type_=sa.Double)
        clock: sa.ColumnElement[float] = sa.bindparam("a_now", callable_=time.monotonic, type_=sa.Double)
        live = sa.and_(
            events.c.lease_ends > clock, events.c.lease_ends - events.c.lease <= clock
        )  # a restart sets it back
        ends: list[sa.ColumnElement[Any]] = []
        keys: sa.FromClause = func.json_each(sa.bindparam("a_keys", type_=sa.Text)).table_valued("value", name="given")
        some = keys.c.value
        if self.on_postgresql:
            clock = server_seconds(dialect)
            live = events.c.lease_ends > clock
            # A machine that vanishes does not close its connections. The server ends its transactions after this time.
            idle = sa.bindparam("a_idle", type_=sa.String)
            ends = [func.set_config("idle_in_transaction_session_timeout", idle, True)]
            given = sa.bindparam("a_keys", type_=postgresql.ARRAY(sa.String))
            some = func.unnest(given, type_=sa.String).column_valued("given")
        unclaimed = sa.or_(events.c.token.is_(None), sa.not_(live))
        free = sa.or_(unclaimed, events.c.token == _TOKEN)
        no_claim = {name: sa.cast(sa.null(), events.c[name].type) for name in ("token", "lease", "lease_ends")}
        in_a_queue = "queue failing due placed_at failing_since attempts size event_type entry_json"
        no_entry = {name: sa.cast(sa.null(), events.c[name].type) for name in in_a_queue.split()}
        never_failed, failed = (events.c.failing == sa.literal_column(number, sa.Integer) for number in "01")
        nothing = sa.literal_column("''", sa.Text)
        claimed = {"token": _TOKEN, "lease": _LEASE, "lease_ends": clock + _LEASE}
        leased = {**claimed, "claimed_at": now}
        handled = {"handled_at": now, **no_claim, "unended": nothing}
        # A claim adds the one before it whose token is still there, though its lease has run out.
        unended, line_end = events.c.unended, sa.literal_column(r"E'\n'" if self.on_postgresql else "char(10)", sa.Text)
        in_line_ends = func.length(unended) - func.length(func.replace(unended, line_end, nothing))
        before_it = sa.and_(events.c.token != _TOKEN, in_line_ends < 2 * MOST_UNENDED)
        ended = {"unended": unended + sa.case((before_it, line_end + events.c.token + line_end), else_=nothing)}
        mine_in_it = line_end + _TOKEN + line_end
        without_mine = {"unended": func.replace(unended, mine_in_it, nothing)}
        moment = sa.bindparam("a_moment", type_=events.c.placed_at.type)
        due = sa.bindparam("a_due", type_=sa.Double)

        def gate(key: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
            if not self.on_postgresql:
                return sa.literal_column("1 = 1", type_=sa.Boolean)  # SQLite has one writer at a time
            # Two keys have the same number once in 2^64; then one is BUSY for a moment.
            number = func.hashtextextended(f"{tables.name}:{tables.service}:" + key, 0)
            return func.pg_try_advisory_xact_lock(number, type_=sa.Boolean)

        def mine(key: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
            # A worker whose lease has not expired needs no gate: no transaction has its row.
            return sa.or_(sa.exists().where(own, events.c.key == key, events.c.token == _TOKEN, live), gate(key))

        def enter(
            values: dict[str, Any], before: sa.ColumnElement[bool], upon: sa.ColumnElement[bool], **also: Any
        ) -> Any:
            new = insert(events).from_select(
                ["service", "key", *values], sa.select(service, _KEY, *values.values()).where(before)
            )
            update = {**{name: new.excluded[name] for name in values}, **also}
            return new.on_conflict_do_update(
                index_elements=[events.c.service, events.c.key], set_=update, where=upon
            ).returning(events.c.key)

        def change(values: dict[str, Any], *conditions: sa.ColumnElement[bool]) -> Any:
            return sa.update(events).where(here, *conditions).values(values).returning(events.c.key)

        quarantine = sa.literal_column(f"'{_QUARANTINE}'", sa.Text)
        in_quarantine = events.c.queue == quarantine
        not_handled = events.c.handled_at.is_(None)
        waiting = sa.literal_column(f"'{_WAITING}'", sa.Text)
        waits = events.c.queue == waiting
        no_wait = sa.or_(events.c.queue.is_(None), in_quarantine)
        self.lease = enter(leased, gate(_KEY), sa.and_(not_handled, free), **ended).returning(unended)
        self.lease_quarantined = change({**leased, **ended}, in_quarantine, free, gate(_KEY)).returning(unended)
        self.begin = enter({**handled, **no_entry}, gate(_KEY), sa.and_(not_handled, free)).returning(*ends)
        self.begin_quarantined = change({**handled, **no_entry}, in_quarantine, unclaimed, gate(_KEY)).returning(*ends)
        not_done = sa.or_(not_handled, in_quarantine)
        acknowledged = sa.bindparam("a_acknowledged", type_=sa.Boolean)
        completes = sa.or_(events.c.token == _TOKEN, sa.and_(not_done, unclaimed, no_wait))
        quarantines = sa.or_(
            sa.and_(events.c.token == _TOKEN, sa.or_(no_wait, acknowledged)),
            sa.and_(not_handled, unclaimed, no_wait),
        )
        retried = sa.and_(sa.bindparam("a_quarantined", type_=sa.Boolean), in_quarantine, unclaimed)
        quarantined = {
            **no_claim,
            **no_entry,
            "handled_at": sa.case((acknowledged, now)),
            "queue": quarantine,
            "failing": sa.literal_column("0", sa.Integer),
            "due": due,
            "placed_at": moment,
            "entry_json": sa.bindparam("a_entry", type_=EntryType),
        }
        self.complete = enter({**handled, **no_entry}, mine(_KEY), completes)
        self.quarantine = enter(quarantined, mine(_KEY), sa.or_(quarantines, retried))
        released = {**no_claim, "lease_ends": clock, **without_mine}
        self.release = change(released, events.c.token == _TOKEN, sa.or_(live, gate(_KEY)))
        self.take_back = change(without_mine, func.replace(unended, mine_in_it, nothing) != unended)

        is_known = sa.or_(events.c.queue.is_not(None), events.c.handled_at.is_not(None))
        self.known = sa.select(events.c.key).where(own, events.c.key.in_(sa.select(some)), is_known)
        remaining = sa.case((live, events.c.lease_ends - clock), else_=0.0).label("remaining")
        self.row = sa.select(
            events.c.handled_at,
            in_quarantine.label("in_quarantine"),
            waits.label("waits"),
            entry_text.label("entry_json"),
            events.c.token,
            unended,
            remaining,
        ).where(here)
        count = sa.bindparam("a_count", type_=sa.Integer)
        more = sa.case((failures.c.failures > count, failures.c.failures), else_=count) + 1
        first = insert(failures).values(service=service, key=_KEY, failures=count + 1, failed_at=now)
        self.count_failure = first.on_conflict_do_update(
            index_elements=[failures.c.service, failures.c.key], set_={"failures": more, "failed_at": now}
        ).returning(failures.c.failures)
        order = (events.c.due, events.c.key)
        entry = (entry_text.label("entry_json"), events.c.key, events.c.placed_at, events.c.due)
        later_ones = sa.tuple_(*order) > sa.tuple_(due, _KEY)
        page = sa.select(*entry).where(own, in_quarantine, never_failed, later_ones)
        self.entries = page.order_by(*order).limit(_LIMIT)

        in_queue = sa.and_(own, waits)
        facts = {
            "failing": sa.bindparam("a_failing", type_=sa.Integer),
            "placed_at": moment,
            "failing_since": sa.bindparam("a_since", type_=sa.Double),
            "attempts": sa.bindparam("a_attempts", type_=sa.Integer),
            "size": sa.bindparam("a_size", type_=sa.Integer),
            "entry_json": sa.bindparam("a_entry", type_=EntryType),
        }
        event_type = sa.bindparam("a_event_type", type_=sa.Text)
        stored = {**facts, "event_type": event_type, "due": time_of_day, "queue": waiting}
        self.store = enter(stored, gate(_KEY), sa.and_(not_handled, no_wait))
        types: Any = sa.bindparam("a_without", type_=sa.Text)
        left_out: Any = sa.select(func.json_each(types).table_valued("value").c.value)
        if self.on_postgresql:
            types = sa.bindparam("a_without", type_=postgresql.ARRAY(sa.Text))
            left_out = sa.select(func.unnest(types, type_=sa.Text).column_valued("without"))

        # A clock that was ahead has put off for longer than any wait. Each has a range of the index.
        in_time, too_late = events.c.due <= time_of_day, events.c.due > time_of_day + LONGEST_WAIT

        def find_due(condition: sa.ColumnElement[bool], most: sa.ColumnElement[int]) -> list[Any]:
            found = sa.select(events.c.key, events.c.due).where(in_queue, condition, unclaimed)
            found = found.where(events.c.event_type.not_in(left_out))
            return [found.where(each).order_by(events.c.due).limit(most) for each in (in_time, too_late)]

        retries = sa.bindparam("a_retries", type_=sa.Integer)
        find_fresh, find_failed = find_due(never_failed, _LIMIT), find_due(failed, retries)
        self.find_due = sa.union_all(*(sa.select(each.subquery()) for each in (*find_fresh, *find_failed)))

        def lock(found: Any, name: str) -> Any:
            # In a WITH: a planner may run a subquery of IN more than once, and each time lock other rows.
            return sa.select((found.with_for_update(skip_locked=True) if self.on_postgresql else found).cte(name))

        def lock_all(found: list[Any], name: str) -> Any:
            return sa.union_all(*(lock(each, f"{name}_{number}") for number, each in enumerate(found))).subquery()

        fresh, failing = (lock_all(each, name) for each, name in ((find_fresh, "fresh"), (find_failed, "failed")))
        few = sa.select(failing).order_by(failing.c.due).limit(retries).subquery()
        found_due = sa.union_all(sa.select(fresh), sa.select(few)).subquery()
        ready = sa.select(found_due.c.key).order_by(found_due.c.due, found_due.c.key).limit(_LIMIT).cte("ready")
        self.claim_due = (
            sa.update(events)
            .where(own, events.c.key.in_(sa.select(ready.c.key)))
            .values({**claimed, "attempts": events.c.attempts + 1})
            .returning(*entry, events.c.attempts, time_of_day.label("now"))
        )
        again = {"lease": _LEASE, "lease_ends": clock + _LEASE}
        self.claim_again = (
            sa.update(events)
            .where(in_queue, events.c.token == _TOKEN)
            .values(again)
            .returning(*entry, events.c.attempts, time_of_day.label("now"))
        )
        later = {**facts, "due": time_of_day + sa.bindparam("a_seconds", type_=sa.Double), **no_claim}
        mine_here = sa.or_(events.c.token == _TOKEN, sa.and_(sa.bindparam("a_held", type_=sa.Boolean), unclaimed))
        self.put_off = change(later, mine_here, waits, sa.or_(live, gate(_KEY)))
        self.waiting = sa.select(
            func.count().label("number"),
            func.sum(events.c.failing).label("failing"),
            func.sum(events.c.size).label("size"),
            func.min(sa.case((never_failed, events.c.placed_at))).label("oldest"),
            func.min(sa.case((failed, events.c.failing_since))).label("since"),
            time_of_day.label("now"),
        ).where(in_queue)
        in_turn = (events.c.placed_at, events.c.key)
        later_ones = sa.tuple_(*in_turn) > sa.tuple_(moment, _KEY)
        page = sa.select(events.c.key).where(in_queue, later_ones).order_by(*in_turn).limit(_LIMIT)
        # Sorted by the index alone, without the entries.
        self.list_waiting = sa.select(*entry).where(own, events.c.key.in_(page)).order_by(*in_turn)

        self.note = sa.select(notes.c.text).where(own_notes, notes.c.name == _NAME)
        new_note = insert(notes).values(service=service, name=_NAME, text=sa.bindparam("a_text", type_=sa.Text))
        self.set_note = new_note.on_conflict_do_update(
            index_elements=[notes.c.service, notes.c.name], set_={"text": new_note.excluded.text}
        ).returning(notes.c.name)
        self.add_note = new_note.on_conflict_do_nothing().returning(notes.c.name)
        unchanged = notes.c.text == sa.bindparam("a_stored", type_=sa.Text)
        replaced = sa.update(notes).where(own_notes, notes.c.name == _NAME, unchanged)
        self.replace_note = replaced.values(text=sa.bindparam("a_text", type_=sa.Text)).returning(notes.c.name)

        own_version = version.c.service == service
        clock_state = (version.c.shown, version.c.believed)
        self.since = sa.select(now.label("now"), version.c.began, version.c.forgotten_at, *clock_state).where(
            own_version
        )
        self.set_clock = sa.update(version).where(own_version)
        self.set_clock = self.set_clock.values(
            {each: sa.bindparam(f"a_{each.name}", type_=sa.Double) for each in clock_state}
        )
        newest = [
            sa.select(func.max(column)).where(own, condition).scalar_subquery()
            for column, condition in (
                (events.c.handled_at, events.c.queue.is_(None)),
                (events.c.placed_at, events.c.queue.is_not(None)),
            )
        ]
        self.newest = sa.select(*newest)
        self.read_only = sa.select(func.current_setting("transaction_read_only"))
        forgotten = sa.bindparam("a_forgotten", type_=version.c.forgotten_at.type)
        self.forget = (
            sa.update(version)
            .where(own_version, sa.or_(version.c.forgotten_at.is_(None), version.c.forgotten_at < forgotten))
            .values(forgotten_at=forgotten)
        )
        kept = sa.and_(own, events.c.queue.is_(None))
        old = sa.select(events.c.key).where(events.c.handled_at < moment, kept).order_by(events.c.handled_at)
        was_released = sa.and_(events.c.token.is_(None), unended == nothing)
        until = [sa.bindparam(name, type_=events.c.claimed_at.type) for name in ("a_released", "a_unended")]
        gone = events.c.claimed_at < sa.case((was_released, until[0]), else_=until[1])
        abandoned = sa.select(events.c.key).where(not_handled, kept, gone, unclaimed)
        stale = sa.select(failures.c.key).where(own_failures, failures.c.failed_at < moment)

        def delete(table: sa.Table, found: Any) -> Any:
            few = found.limit(_LIMIT)
            few = lock(few, "few") if self.on_postgresql else few
            return sa.delete(table).where(table.c.service == service, table.c.key.in_(few))

        self.delete_old = delete(events, old).returning(events.c.handled_at)
        self.delete_abandoned = delete(events, abandoned)
        self.delete_failures = delete(failures, stale)

    @staticmethod
    def time(now: datetime | None) -> dict[str, object]:
        """Return the parameter of the time that the caller gave."""
        return {"a_time": None if now is None else now.timestamp()}

    def given(self, name: str, texts: Sequence[str]) -> dict[str, object]:
        """Return a parameter with several texts: of a statement for several keys, or types."""
        return {name: list(texts) if self.on_postgresql else json.dumps(texts)}

    async def find(self, connection: AsyncConnection, key: str) -> sa.Row[Any] | None:
        """Return the key's columns that tell its state, and the seconds ``remaining`` of its lease."""
        found: Any = await connection.execute(self.row, {"a_key": key})
        row: sa.Row[Any] | None = found.first()
        return row

    async def describe(self, connection: AsyncConnection, key: str, *, quarantined: bool) -> Claim:
        """Return the claim's result for a key that cannot be claimed: DONE, or BUSY with ``retry_after``."""
        row = await self.find(connection, key)
        if (row is None or not row.in_quarantine) if quarantined else (row is not None and row.handled_at is not None):
            return DONE
        if row is not None and row.token is not None and row.remaining > 0:
            return Claim(ClaimStatus.BUSY, row.remaining, row.token)
        return BUSY
