-- The statements of a SQLInbox, for PostgreSQL and SQLite: what their parts mean is in _sql_statements.py.
--
-- "-- NAME --" begins a statement, and "-- {NAME} --" a part, which stands for {NAME} in others. Where the databases
-- differ, a heading says for which of them it is. {EVENTS}, {FAILURES}, {NOTES} and {VERSION} are the tables' names.

-- {gate} in postgresql --
-- The lock of a key: see _sql_statements.py. Two keys have the same number once in 2^64; then one is BUSY for a moment.
pg_try_advisory_xact_lock(hashtextextended(:gate || :key, 0))
-- {gate} in sqlite --
-- It has one writer at a time.
TRUE

-- {clock} in postgresql --
-- The clock of leases. now() would be the time when the transaction began, before it waited for a lock.
CAST(EXTRACT(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)
-- {clock} in sqlite --
:clock

-- {live} in postgresql --
(event.lease_ends > {clock})
-- {live} in sqlite --
-- A restart of the machine sets its clock back: a lease that begins later than now is of before.
(event.lease_ends > {clock} AND event.lease_ends - event.lease <= {clock})

-- {server_seconds} in postgresql --
CAST(EXTRACT(epoch FROM now()) AS DOUBLE PRECISION)
-- {server_seconds} in sqlite --
(julianday('now') - 2440587.5) * 86400.0

-- {idle_limit} in postgresql --
-- A machine that vanishes does not close its connections. The server ends its transactions after this time.
set_config('idle_in_transaction_session_timeout', :idle, TRUE)
-- {idle_limit} in sqlite --
NULL

-- {skip_locked} in postgresql --
FOR UPDATE SKIP LOCKED
-- {skip_locked} in sqlite --

-- {given} in postgresql --
SELECT given FROM unnest(:given) AS given
-- {given} in sqlite --
SELECT given.value FROM json_each(:given) AS given

-- {line_end} in postgresql --
chr(10)
-- {line_end} in sqlite --
char(10)

-- {time} --
-- Of the server, unless the caller gives the time.
coalesce(:time, {server_seconds})

-- {here} --
event.service = :service AND event.key = :key
-- {unclaimed} --
(event.token IS NULL OR NOT {live})
-- {free} --
({unclaimed} OR event.token = :token)
-- {mine} --
-- A worker whose lease has not expired needs no gate: no transaction has its row.
(EXISTS (SELECT 1 FROM {EVENTS} AS event WHERE {here} AND event.token = :token AND {live}) OR {gate})
-- {no_wait} --
(event.queue IS NULL OR event.queue = 'quarantine')

-- {add_unended} --
-- A claim adds the one before it whose token is still there, though its lease has run out.
unended = event.unended || CASE WHEN event.token <> :token
    AND length(event.unended) - length(replace(event.unended, {line_end}, '')) < 2 * {MOST_UNENDED}
    THEN {line_end} || event.token || {line_end} ELSE '' END
-- {without_mine} --
replace(event.unended, {line_end} || :token || {line_end}, '')

-- {handled} --
handled_at = CURRENT_TIMESTAMP, unended = '', {no_claim}, {no_entry}
-- {no_claim} --
token = NULL, lease = NULL, lease_ends = NULL
-- {no_entry} --
queue = NULL, failing = NULL, due = NULL, placed_at = NULL, entry_json = NULL, {no_attempts}
-- {no_attempts} --
failing_since = NULL, attempts = NULL, size = NULL, event_type = NULL

-- lease --
INSERT INTO {EVENTS} AS event (service, key, token, lease, lease_ends, claimed_at)
SELECT :service, :key, :token, :lease, {clock} + :lease, CURRENT_TIMESTAMP WHERE {gate}
ON CONFLICT (service, key) DO UPDATE SET token = excluded.token, lease = excluded.lease,
    lease_ends = excluded.lease_ends, claimed_at = excluded.claimed_at, {add_unended}
WHERE event.handled_at IS NULL AND {free}
RETURNING unended

-- lease_quarantined --
UPDATE {EVENTS} AS event
SET token = :token, lease = :lease, lease_ends = {clock} + :lease, claimed_at = CURRENT_TIMESTAMP, {add_unended}
WHERE {here} AND event.queue = 'quarantine' AND {free} AND {gate}
RETURNING unended

-- begin --
INSERT INTO {EVENTS} AS event (service, key, handled_at)
SELECT :service, :key, CURRENT_TIMESTAMP WHERE {gate}
ON CONFLICT (service, key) DO UPDATE SET {handled}
WHERE event.handled_at IS NULL AND {free}
RETURNING key, {idle_limit}

-- begin_quarantined --
UPDATE {EVENTS} AS event SET {handled}
WHERE {here} AND event.queue = 'quarantine' AND {unclaimed} AND {gate}
RETURNING key, {idle_limit}

-- complete --
INSERT INTO {EVENTS} AS event (service, key, handled_at)
SELECT :service, :key, CURRENT_TIMESTAMP WHERE {mine}
ON CONFLICT (service, key) DO UPDATE SET {handled}
WHERE event.token = :token
    OR (event.handled_at IS NULL OR event.queue = 'quarantine') AND {unclaimed} AND {no_wait}
RETURNING key

-- quarantine --
INSERT INTO {EVENTS} AS event (service, key, handled_at, queue, failing, due, placed_at, entry_json)
SELECT :service, :key, CASE WHEN :acknowledged THEN CURRENT_TIMESTAMP END,
    'quarantine', 0, :due, :placed_at, :entry_json
WHERE {mine}
ON CONFLICT (service, key) DO UPDATE SET handled_at = excluded.handled_at, queue = excluded.queue,
    failing = excluded.failing, due = excluded.due, placed_at = excluded.placed_at, entry_json = excluded.entry_json,
    {no_claim}, {no_attempts}
WHERE event.token = :token AND ({no_wait} OR :acknowledged)
    OR event.handled_at IS NULL AND {unclaimed} AND {no_wait}
    OR :quarantined AND event.queue = 'quarantine' AND {unclaimed}
RETURNING key

-- release --
UPDATE {EVENTS} AS event SET token = NULL, lease = NULL, lease_ends = {clock}, unended = {without_mine}
WHERE {here} AND event.token = :token AND ({live} OR {gate})
RETURNING key

-- take_back --
UPDATE {EVENTS} AS event SET unended = {without_mine}
WHERE {here} AND {without_mine} <> event.unended
RETURNING key

-- known --
SELECT key FROM {EVENTS}
WHERE service = :service AND key IN ({given}) AND (queue IS NOT NULL OR handled_at IS NOT NULL)

-- unended --
SELECT key, unended, token IS NOT NULL AND NOT {live} AS ran_out FROM {EVENTS} AS event
WHERE service = :service AND key IN ({given}) AND queue IS NULL AND handled_at IS NULL
    AND (token IS NOT NULL OR unended <> '')

-- find --
SELECT handled_at, queue = 'quarantine' AS in_quarantine, queue = 'waiting' AS waits, entry_json, token, unended,
    CASE WHEN {live} THEN event.lease_ends - {clock} ELSE 0.0 END AS remaining
FROM {EVENTS} AS event WHERE {here}

-- count_failure --
INSERT INTO {FAILURES} AS event (service, key, failures, failed_at)
VALUES (:service, :key, :count + 1, CURRENT_TIMESTAMP)
ON CONFLICT (service, key) DO UPDATE SET failed_at = CURRENT_TIMESTAMP,
    failures = CASE WHEN event.failures > :count THEN event.failures ELSE :count END + 1
RETURNING failures

-- entries --
SELECT entry_json, key, placed_at FROM {EVENTS}
WHERE service = :service AND queue = 'quarantine' AND failing = 0 AND (due, key) > (:due, :key)
ORDER BY due, key LIMIT :limit

-- {waits} --
event.service = :service AND event.queue = 'waiting'
-- {waiting_entry} --
entry_json, key, placed_at, due, attempts, {time} AS now

-- store --
INSERT INTO {EVENTS} AS event
    (service, key, queue, due, failing, placed_at, failing_since, attempts, size, event_type, entry_json)
SELECT :service, :key, 'waiting', {time}, :failing, :placed_at, :failing_since, :attempts, :size,
    :event_type, :entry_json
WHERE {gate}
ON CONFLICT (service, key) DO UPDATE SET queue = excluded.queue, due = excluded.due, failing = excluded.failing,
    placed_at = excluded.placed_at, failing_since = excluded.failing_since, attempts = excluded.attempts,
    size = excluded.size, event_type = excluded.event_type, entry_json = excluded.entry_json
WHERE event.handled_at IS NULL AND {no_wait}
RETURNING key

-- {may_begin} --
SELECT event.key, event.due FROM {EVENTS} AS event WHERE {waits} AND {unclaimed} AND event.event_type NOT IN ({given})
-- {is_due} --
event.due <= {time}
-- {put_off_too_far} --
-- By a clock that was ahead. It has a range of the index of its own.
event.due > {time} + {LONGEST_WAIT}
-- {ready} --
-- What a WITH locks is locked once: a planner may run a subquery of IN more than once, and each time lock other rows.
WITH
fresh AS ({may_begin} AND event.failing = 0 AND {is_due} ORDER BY event.due LIMIT :limit {skip_locked}),
fresh_ahead AS ({may_begin} AND event.failing = 0 AND {put_off_too_far} ORDER BY event.due LIMIT :limit {skip_locked}),
failed AS ({may_begin} AND event.failing = 1 AND {is_due} ORDER BY event.due LIMIT :retries {skip_locked}),
failed_ahead AS (
    {may_begin} AND event.failing = 1 AND {put_off_too_far} ORDER BY event.due LIMIT :retries {skip_locked}
),
failed_few AS (SELECT * FROM failed UNION ALL SELECT * FROM failed_ahead ORDER BY due LIMIT :retries),
ready AS (
    SELECT * FROM fresh UNION ALL SELECT * FROM fresh_ahead UNION ALL SELECT * FROM failed_few
    ORDER BY due, key LIMIT :limit
)

-- find_due in sqlite --
-- Without the lock for writers.
{ready}
SELECT key FROM ready

-- claim_due --
{ready}
UPDATE {EVENTS} AS event
SET token = :token, lease = :lease, lease_ends = {clock} + :lease, attempts = event.attempts + 1
WHERE event.service = :service AND event.key IN (SELECT key FROM ready)
RETURNING {waiting_entry}

-- claim_again --
UPDATE {EVENTS} AS event SET lease = :lease, lease_ends = {clock} + :lease
WHERE {waits} AND event.token = :token
RETURNING {waiting_entry}

-- put_off --
UPDATE {EVENTS} AS event SET due = {time} + :seconds, failing = :failing, placed_at = :placed_at,
    failing_since = :failing_since, attempts = :attempts, size = :size, entry_json = :entry_json, {no_claim}
WHERE {here} AND (event.token = :token OR :held AND {unclaimed}) AND event.queue = 'waiting' AND ({live} OR {gate})
RETURNING key

-- waiting --
SELECT count(*) AS number, sum(failing) AS failing, sum(size) AS size,
    min(CASE WHEN failing = 0 THEN placed_at END) AS oldest,
    min(CASE WHEN failing = 1 THEN failing_since END) AS since, {time} AS now
FROM {EVENTS} AS event WHERE {waits}

-- list_waiting --
-- Sorted by the index alone, without the entries.
SELECT entry_json, key, placed_at, due FROM {EVENTS}
WHERE service = :service AND key IN (
    SELECT event.key FROM {EVENTS} AS event WHERE {waits} AND (event.placed_at, event.key) > (:placed_at, :key)
    ORDER BY event.placed_at, event.key LIMIT :limit
)
ORDER BY placed_at, key

-- note --
SELECT text FROM {NOTES} WHERE service = :service AND name = :name

-- set_note --
INSERT INTO {NOTES} (service, name, text) VALUES (:service, :name, :text)
ON CONFLICT (service, name) DO UPDATE SET text = excluded.text
RETURNING name

-- add_note --
INSERT INTO {NOTES} (service, name, text) VALUES (:service, :name, :text) ON CONFLICT DO NOTHING RETURNING name

-- replace_note --
UPDATE {NOTES} SET text = :text WHERE service = :service AND name = :name AND text = :expected RETURNING name

-- since --
SELECT CURRENT_TIMESTAMP AS server_time, began, forgotten_at, shown, believed FROM {VERSION} WHERE service = :service

-- set_clock --
UPDATE {VERSION} SET shown = :shown, believed = :believed WHERE service = :service

-- last_recorded --
SELECT max(handled_at) AS last_recorded FROM {EVENTS} WHERE service = :service AND queue IS NULL
UNION ALL SELECT max(placed_at) FROM {EVENTS} WHERE service = :service AND queue IS NOT NULL

-- read_only in postgresql --
SELECT current_setting('transaction_read_only')

-- forget --
UPDATE {VERSION} SET forgotten_at = :forgotten_at
WHERE service = :service AND (forgotten_at IS NULL OR forgotten_at < :forgotten_at)

-- delete_old --
WITH few AS (
    SELECT key FROM {EVENTS} WHERE service = :service AND queue IS NULL AND handled_at < :before
    ORDER BY handled_at LIMIT :limit {skip_locked}
)
DELETE FROM {EVENTS} WHERE service = :service AND key IN (SELECT key FROM few)
RETURNING handled_at

-- delete_abandoned --
WITH few AS (
    SELECT event.key FROM {EVENTS} AS event
    WHERE event.service = :service AND event.queue IS NULL AND event.handled_at IS NULL AND {unclaimed}
        AND event.claimed_at < CASE
            WHEN event.token IS NULL AND event.unended = '' THEN :released_before ELSE :unended_before END
    LIMIT :limit {skip_locked}
)
DELETE FROM {EVENTS} WHERE service = :service AND key IN (SELECT key FROM few)

-- delete_failures --
WITH few AS (SELECT key FROM {FAILURES} WHERE service = :service AND failed_at < :before LIMIT :limit {skip_locked})
DELETE FROM {FAILURES} WHERE service = :service AND key IN (SELECT key FROM few)
