"""The table of an inbox in a SQLite file, and its statements."""

from __future__ import annotations

from ..._storage.sqlite_files import FileKind
from ..._work.protocol import MOST_UNENDED
from ..._work.schedule import LONGEST_WAIT

KIND = FileKind(
    application_id=0x42515349,
    version=10,
    schema=(
        # ``expires`` is by the wall clock. The lease, of so many seconds, ends by the clock of leases, which is the
        # monotonic one: a token that is still there when its lease has run out had an attempt without an end, and the
        # next claim adds it to ``unended``, between two line ends. ``entry_json`` is a quarantined delivery, and ``at``
        # is the time when it was quarantined. The key is ``handled`` only if that was acknowledged, and its failures
        # are then ``tried``. What waits has such an entry too, and is not handled: ``due`` is by the wall clock,
        # ``attempts`` is how many were begun, ``failing`` is 1 if one failed, first at ``failing_since``. With
        # ``stored`` and ``size`` they stand beside the entry, so that a count does not read it.
        "CREATE TABLE inbox (key TEXT PRIMARY KEY, handled INTEGER NOT NULL, failures INTEGER NOT NULL, "
        "unended TEXT NOT NULL DEFAULT '', expires REAL NOT NULL, token TEXT, lease REAL, ends REAL, at REAL, "
        "tried INTEGER NOT NULL DEFAULT 0, due REAL, event_type TEXT, stored REAL, failing INTEGER, "
        "failing_since REAL, attempts INTEGER, size INTEGER, entry_json TEXT) WITHOUT ROWID",
        "CREATE INDEX inbox_expires ON inbox (expires)",
        "CREATE INDEX inbox_quarantine ON inbox (at, key) WHERE at IS NOT NULL",
        "CREATE INDEX inbox_due ON inbox (failing, due, event_type, size, stored, failing_since) WHERE due IS NOT NULL",
        "CREATE INDEX inbox_waiting ON inbox (stored, key) WHERE due IS NOT NULL",
        # When the file was made, the state of the clock of retention, and when the newest record was made.
        "CREATE TABLE clock (began REAL NOT NULL, shown REAL, believed REAL, newest REAL)",
        # For how long entries were kept that were recorded up to a moment.
        "CREATE TABLE kept (remember REAL PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID",
        "CREATE TABLE notes (name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID",
    ),
)


def _sql(statement: str) -> str:
    """Expand {name} placeholders, such as {free}, in a statement.

    :now is the time of the clock of leases, and :horizon the moment up to which entries are forgotten.
    """
    parts = {
        "may_complete": "(token = :token OR (({open} OR at IS NOT NULL) AND due IS NULL AND NOT {live}))",
        "may_quarantine": "CASE WHEN token = :token THEN due IS NULL OR :acknowledged "
        "ELSE {open} AND due IS NULL AND NOT {live} END",
        "free": "(token = :token OR NOT {live})",
        "live": "(token IS NOT NULL AND ends > :now)",
        "open": "(NOT handled OR expires <= :horizon)",
        "counted": "CASE WHEN expires <= :horizon THEN 0 ELSE failures END",
        "due": "due <= :wall AND {may_begin}",
        # By a clock that was ahead. It has a range of the index of its own.
        "put_off_too_far": f"due > :wall + {LONGEST_WAIT} AND {{may_begin}}",
        # A lease that begins later than now is one of before a restart, which sets the clock of leases back.
        "may_begin": "event_type NOT IN (SELECT value FROM json_each(:without)) "
        "AND (token IS NULL OR ends <= :now OR ends - lease > :now + 1)",
        "add_unended": "unended = unended || CASE WHEN token <> :token AND {count_unended} < "
        f"{MOST_UNENDED} THEN char(10) || token || char(10) ELSE '' END",
        "count_unended": "((length(unended) - length(replace(unended, char(10), ''))) / 2)",
        "mine_in_unended": "char(10) || :token || char(10)",
        "no_claim": "token = NULL, lease = NULL, ends = NULL",
        "no_entry": "at = NULL, tried = 0, entry_json = NULL, {no_wait}",
        "no_wait": "due = NULL, event_type = NULL, stored = NULL, failing = NULL, failing_since = NULL, "
        "attempts = NULL, size = NULL",
    }
    for name, part in parts.items():
        statement = statement.replace("{" + name + "}", part)
    return statement


CLAIM = _sql("""
INSERT INTO inbox (key, handled, failures, expires, token, lease, ends)
VALUES (:key, 0, 0, :expires, :token, :lease, :now + :lease)
ON CONFLICT (key) DO UPDATE SET handled = 0, failures = {counted}, expires = max(expires, excluded.expires),
{add_unended}, token = excluded.token, lease = excluded.lease, ends = excluded.ends WHERE {open} AND {free}
""")
CLAIM_QUARANTINED = _sql("""
UPDATE inbox SET {add_unended}, token = :token, lease = :lease, ends = :now + :lease
WHERE key = :key AND at IS NOT NULL AND {free}
""")
COMPLETE = _sql("""
INSERT INTO inbox (key, handled, failures, expires) VALUES (:key, 1, 0, :expires)
ON CONFLICT (key) DO UPDATE SET handled = 1, failures = 0, unended = '', expires = excluded.expires,
{no_claim}, {no_entry} WHERE {may_complete}
""")
# A quarantined key is forgotten only when it is completed.
QUARANTINE = _sql("""
INSERT INTO inbox (key, handled, failures, expires, at, tried, entry_json)
VALUES (:key, :acknowledged, 0, 1e18, :at, :tried, :entry_json)
ON CONFLICT (key) DO UPDATE SET handled = excluded.handled, failures = {counted}, expires = excluded.expires,
{no_claim}, {no_wait}, at = excluded.at, tried = excluded.tried, entry_json = excluded.entry_json WHERE {may_quarantine}
""")
RELEASE = _sql("""
UPDATE inbox SET unended = replace(unended, {mine_in_unended}, ''), token = CASE WHEN token <> :token THEN token END,
lease = CASE WHEN token <> :token THEN lease END, ends = CASE WHEN token <> :token THEN ends END
WHERE key = :key AND (token = :token OR instr(unended, {mine_in_unended}))
""")
FAIL = _sql("""
INSERT INTO inbox (key, handled, failures, expires) VALUES (:key, 0, 1, :expires)
ON CONFLICT (key) DO UPDATE SET failures = max({counted}, tried) + 1, expires = max(expires, excluded.expires),
handled = handled AND expires > :horizon WHERE {open} OR token = :token
""")
STORE = _sql("""
INSERT INTO inbox (key, handled, failures, expires, due, event_type, stored, failing, failing_since, attempts,
size, entry_json)
VALUES (:key, 0, 0, 1e18, :wall, :event_type, :stored, :failing, :failing_since, :attempts, :size, :entry_json)
ON CONFLICT (key) DO UPDATE SET handled = 0, failures = {counted}, expires = excluded.expires, at = NULL, tried = 0,
due = excluded.due, event_type = excluded.event_type, stored = excluded.stored, failing = excluded.failing,
failing_since = excluded.failing_since, attempts = excluded.attempts, size = excluded.size,
entry_json = excluded.entry_json WHERE {open} AND due IS NULL
""")
DUE = _sql("""
SELECT due, key, stored, entry_json, attempts + 1 FROM inbox WHERE key IN (
SELECT * FROM (SELECT key FROM inbox WHERE failing = 0 AND {due} ORDER BY due LIMIT :limit)
UNION ALL SELECT * FROM (SELECT key FROM inbox WHERE failing = 0 AND {put_off_too_far} ORDER BY due LIMIT :limit)
UNION ALL SELECT * FROM (
SELECT * FROM (SELECT key FROM inbox WHERE failing = 1 AND {due} ORDER BY due LIMIT :retries)
UNION ALL SELECT * FROM (SELECT key FROM inbox WHERE failing = 1 AND {put_off_too_far} ORDER BY due LIMIT :retries)
LIMIT :retries)
) ORDER BY due, key LIMIT :limit
""")
CLAIM_DUE = """
UPDATE inbox SET token = :token, lease = :lease, ends = :now + :lease, attempts = attempts + 1
WHERE key IN (SELECT value FROM json_each(:keys))
"""
CLAIM_AGAIN = """
UPDATE inbox SET lease = :lease, ends = :now + :lease WHERE due IS NOT NULL AND token = :token
RETURNING due, key, stored, entry_json, attempts
"""
PUT_OFF = _sql("""
UPDATE inbox SET due = :wall + :seconds, {no_claim}, stored = :stored, failing = :failing,
failing_since = :failing_since, attempts = :attempts, size = :size, entry_json = :entry_json
WHERE key = :key AND token = :token AND due IS NOT NULL
""")
WAITING = """
SELECT count(*), coalesce(sum(NOT failing), 0), coalesce(sum(size), 0),
max(0.0, :wall - min(CASE WHEN NOT failing THEN stored END)),
max(0.0, :wall - min(CASE WHEN failing THEN failing_since END))
FROM inbox WHERE due IS NOT NULL
"""
LIST_WAITING = """
SELECT entry_json, key, stored, due FROM inbox WHERE due IS NOT NULL AND (stored, key) > (:at, :key)
ORDER BY stored, key LIMIT :limit
"""
UNENDED = _sql("SELECT {count_unended} FROM inbox WHERE key = ?")
COUNT_UNENDED = _sql("""
SELECT key, min(MOST_UNENDED, {count_unended} + (token IS NOT NULL AND ends <= :now)) AS count FROM inbox
WHERE key IN (SELECT value FROM json_each(:keys)) AND at IS NULL AND due IS NULL AND NOT handled AND count > 0
""").replace("MOST_UNENDED", str(MOST_UNENDED))
FIND = "SELECT handled AND expires > :horizon, at IS NOT NULL, failures, token, lease, ends FROM inbox WHERE key = :key"
KNOWN = """
SELECT key FROM inbox WHERE key IN (SELECT value FROM json_each(:keys))
AND (at IS NOT NULL OR due IS NOT NULL OR (handled AND expires > :horizon))
"""
ENTRIES = """
SELECT entry_json, key, at, NULL FROM inbox WHERE at IS NOT NULL AND (at, key) > (:at, :key)
ORDER BY at, key LIMIT :limit
"""
KEPT = """
INSERT INTO kept (remember, until) VALUES (?, ?) ON CONFLICT (remember) DO UPDATE SET until = max(until, excluded.until)
"""
# What was kept for as long as another length of time says is then known to be gone.
UNKEPT = "DELETE FROM kept WHERE until <= ?"
SINCE = """
SELECT max(began, :horizon - :remember, (SELECT coalesce(max(min(until, :horizon - remember)), began) FROM kept))
FROM clock
"""
CLOCK = "UPDATE clock SET shown = ?, believed = max(coalesce(believed, -1e999), ?)"
NEWEST = "SELECT newest FROM clock"
FIND_NOTE = "SELECT text FROM notes WHERE name = :name"
NOTE = "INSERT INTO notes (name, text) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET text = excluded.text"
PRUNE = "DELETE FROM inbox WHERE key IN (SELECT key FROM inbox WHERE expires <= ? ORDER BY expires LIMIT ?)"
