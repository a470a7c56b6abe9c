-- The tables of an inbox in a SQLite file, and its statements.
--
-- "-- NAME --" begins a statement, and "-- {NAME} --" a part, which stands for {NAME} in others. :now is the time of
-- the clock of leases, :wall that of the wall clock, and :horizon the moment up to which records are forgotten.

-- create_inbox --
-- "expires" is by the wall clock. The lease, of so many seconds, ends by the clock of leases, which is the monotonic
-- one: a token that is still there when its lease has run out had an attempt without an end, and the next claim adds it
-- to "unended", between two line ends. "entry_json" is a quarantined delivery, and "at" is the time when it was
-- quarantined. The key is "handled" only if that was acknowledged, and its failures are then "tried". What waits has
-- such an entry too, and is not handled: "due" is by the wall clock, "attempts" is how many were begun, "failing" is 1
-- if one failed, first at "failing_since". With "stored" and "size" they stand beside the entry, so that a count does
-- not read it.
CREATE TABLE inbox (
    key TEXT PRIMARY KEY, handled INTEGER NOT NULL, failures INTEGER NOT NULL, unended TEXT NOT NULL DEFAULT '',
    expires REAL NOT NULL, token TEXT, lease REAL, ends REAL, at REAL, tried INTEGER NOT NULL DEFAULT 0, due REAL,
    event_type TEXT, stored REAL, failing INTEGER, failing_since REAL, attempts INTEGER, size INTEGER, entry_json TEXT
) WITHOUT ROWID

-- create_inbox_expires --
CREATE INDEX inbox_expires ON inbox (expires)

-- create_inbox_quarantine --
CREATE INDEX inbox_quarantine ON inbox (at, key) WHERE at IS NOT NULL

-- create_inbox_due --
CREATE INDEX inbox_due ON inbox (failing, due, event_type, size, stored, failing_since) WHERE due IS NOT NULL

-- create_inbox_waiting --
CREATE INDEX inbox_waiting ON inbox (stored, key) WHERE due IS NOT NULL

-- create_clock --
-- When the file was made, the state of the clock of retention, and when the newest record was made.
CREATE TABLE clock (began REAL NOT NULL, shown REAL, believed REAL, newest REAL)

-- create_kept --
-- For how long records were kept that were made up to a moment.
CREATE TABLE kept (remember REAL PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID

-- create_notes --
CREATE TABLE notes (name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID

-- {live} --
(token IS NOT NULL AND ends > :now)
-- {free} --
(token = :token OR NOT {live})
-- {open} --
(NOT handled OR expires <= :horizon)
-- {failures_so_far} --
CASE WHEN expires <= :horizon THEN 0 ELSE failures END

-- {count_unended} --
((length(unended) - length(replace(unended, char(10), ''))) / 2)
-- {add_unended} --
unended = unended || CASE
    WHEN token <> :token AND {count_unended} < {MOST_UNENDED} THEN char(10) || token || char(10) ELSE '' END
-- {mine_in_unended} --
char(10) || :token || char(10)

-- {no_claim} --
token = NULL, lease = NULL, ends = NULL
-- {no_wait} --
due = NULL, event_type = NULL, stored = NULL, failing = NULL, failing_since = NULL, attempts = NULL, size = NULL

-- claim --
INSERT INTO inbox (key, handled, failures, expires, token, lease, ends)
VALUES (:key, 0, 0, :expires, :token, :lease, :now + :lease)
ON CONFLICT (key) DO UPDATE SET handled = 0, failures = {failures_so_far}, expires = max(expires, excluded.expires),
    token = excluded.token, lease = excluded.lease, ends = excluded.ends, {add_unended}
WHERE {open} AND {free}

-- claim_quarantined --
UPDATE inbox SET token = :token, lease = :lease, ends = :now + :lease, {add_unended}
WHERE key = :key AND at IS NOT NULL AND {free}

-- shorten_lease --
UPDATE inbox SET ends = :now + lease WHERE key = :key

-- complete --
INSERT INTO inbox (key, handled, failures, expires) VALUES (:key, 1, 0, :expires)
ON CONFLICT (key) DO UPDATE SET handled = 1, failures = 0, unended = '', expires = excluded.expires,
    at = NULL, tried = 0, entry_json = NULL, {no_claim}, {no_wait}
WHERE token = :token OR ({open} OR at IS NOT NULL) AND due IS NULL AND NOT {live}

-- quarantine --
-- A quarantined key is forgotten only when it is completed.
INSERT INTO inbox (key, handled, failures, expires, at, tried, entry_json)
VALUES (:key, :acknowledged, 0, 1e18, :at, :tried, :entry_json)
ON CONFLICT (key) DO UPDATE SET handled = excluded.handled, failures = {failures_so_far}, expires = excluded.expires,
    at = excluded.at, tried = excluded.tried, entry_json = excluded.entry_json, {no_claim}, {no_wait}
WHERE CASE WHEN token = :token THEN due IS NULL OR :acknowledged ELSE {open} AND due IS NULL AND NOT {live} END

-- release --
UPDATE inbox SET unended = replace(unended, {mine_in_unended}, ''), token = CASE WHEN token <> :token THEN token END,
    lease = CASE WHEN token <> :token THEN lease END, ends = CASE WHEN token <> :token THEN ends END
WHERE key = :key AND (token = :token OR instr(unended, {mine_in_unended}))

-- fail --
INSERT INTO inbox (key, handled, failures, expires) VALUES (:key, 0, 1, :expires)
ON CONFLICT (key) DO UPDATE SET handled = handled AND expires > :horizon,
    failures = max({failures_so_far}, tried) + 1, expires = max(expires, excluded.expires)
WHERE {open} OR token = :token

-- count_unended --
SELECT {count_unended} FROM inbox WHERE key = ?

-- unended --
SELECT key, min({MOST_UNENDED}, {count_unended} + (token IS NOT NULL AND ends <= :now)) AS count FROM inbox
WHERE key IN (SELECT value FROM json_each(:keys)) AND at IS NULL AND due IS NULL AND NOT handled AND count > 0

-- find --
SELECT handled AND expires > :horizon, at IS NOT NULL, failures, token, lease, ends FROM inbox WHERE key = :key

-- known --
SELECT key FROM inbox WHERE key IN (SELECT value FROM json_each(:keys))
    AND (at IS NOT NULL OR due IS NOT NULL OR (handled AND expires > :horizon))

-- entries --
SELECT entry_json, key, at, NULL FROM inbox WHERE at IS NOT NULL AND (at, key) > (:at, :key)
ORDER BY at, key LIMIT :limit

-- store --
INSERT INTO inbox
    (key, handled, failures, expires, due, event_type, stored, failing, failing_since, attempts, size, entry_json)
VALUES (:key, 0, 0, 1e18, :wall, :event_type, :stored, :failing, :failing_since, :attempts, :size, :entry_json)
ON CONFLICT (key) DO UPDATE SET handled = 0, failures = {failures_so_far}, expires = excluded.expires,
    at = NULL, tried = 0, due = excluded.due, event_type = excluded.event_type, stored = excluded.stored,
    failing = excluded.failing, failing_since = excluded.failing_since, attempts = excluded.attempts,
    size = excluded.size, entry_json = excluded.entry_json
WHERE {open} AND due IS NULL

-- {may_begin} --
-- A lease that begins later than now is one of before a restart, which sets the clock of leases back.
event_type NOT IN (SELECT value FROM json_each(:without))
    AND (token IS NULL OR ends <= :now OR ends - lease > :now + 1)
-- {is_due} --
due <= :wall AND {may_begin}
-- {put_off_too_far} --
-- By a clock that was ahead. It has a range of the index of its own.
due > :wall + {LONGEST_WAIT} AND {may_begin}

-- find_due --
SELECT due, key, stored, entry_json, attempts + 1 FROM inbox WHERE key IN (
    SELECT * FROM (SELECT key FROM inbox WHERE failing = 0 AND {is_due} ORDER BY due LIMIT :limit)
    UNION ALL SELECT * FROM (SELECT key FROM inbox WHERE failing = 0 AND {put_off_too_far} ORDER BY due LIMIT :limit)
    UNION ALL SELECT * FROM (
        SELECT * FROM (SELECT key FROM inbox WHERE failing = 1 AND {is_due} ORDER BY due LIMIT :retries)
        UNION ALL
        SELECT * FROM (SELECT key FROM inbox WHERE failing = 1 AND {put_off_too_far} ORDER BY due LIMIT :retries)
        LIMIT :retries
    )
) ORDER BY due, key LIMIT :limit

-- claim_due --
UPDATE inbox SET token = :token, lease = :lease, ends = :now + :lease, attempts = attempts + 1
WHERE key IN (SELECT value FROM json_each(:keys))

-- claim_again --
UPDATE inbox SET lease = :lease, ends = :now + :lease WHERE due IS NOT NULL AND token = :token
RETURNING due, key, stored, entry_json, attempts

-- put_off --
UPDATE inbox SET due = :wall + :seconds, stored = :stored, failing = :failing, failing_since = :failing_since,
    attempts = :attempts, size = :size, entry_json = :entry_json, {no_claim}
WHERE key = :key AND token = :token AND due IS NOT NULL

-- waiting --
SELECT count(*), coalesce(sum(NOT failing), 0), coalesce(sum(size), 0),
    max(0.0, :wall - min(CASE WHEN NOT failing THEN stored END)),
    max(0.0, :wall - min(CASE WHEN failing THEN failing_since END))
FROM inbox WHERE due IS NOT NULL

-- list_waiting --
SELECT entry_json, key, stored, due FROM inbox WHERE due IS NOT NULL AND (stored, key) > (:at, :key)
ORDER BY stored, key LIMIT :limit

-- find_note --
SELECT text FROM notes WHERE name = :name

-- set_note --
INSERT INTO notes (name, text) VALUES (:name, :text) ON CONFLICT (name) DO UPDATE SET text = excluded.text

-- begin_clock --
INSERT INTO clock (began) VALUES (:wall)

-- read_clock --
SELECT shown, believed FROM clock

-- note_clock --
UPDATE clock SET shown = :shown, believed = max(coalesce(believed, -1e999), :believed)

-- note_record --
UPDATE clock SET newest = ?

-- last_recorded --
SELECT newest FROM clock

-- keep --
INSERT INTO kept (remember, until) VALUES (:remember, :until)
ON CONFLICT (remember) DO UPDATE SET until = max(until, excluded.until)

-- end_kept --
-- What was kept for as long as another length of time says is then known to be gone.
DELETE FROM kept WHERE until <= :horizon - :remember

-- since --
SELECT max(began, :horizon - :remember, (SELECT coalesce(max(min(until, :horizon - remember)), began) FROM kept))
FROM clock

-- look --
SELECT 1 FROM inbox LIMIT 1

-- prune --
DELETE FROM inbox WHERE key IN (SELECT key FROM inbox WHERE expires <= :horizon ORDER BY expires LIMIT :most)
