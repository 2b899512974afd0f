-- Event feeds that write into a table; see events/table.py and events/partitions.py for what each statement promises.

-- name: encoding
SELECT current_setting('server_encoding'), set_config('client_encoding', 'UTF8', false)

-- name: evict
-- Ends whatever holds the lock; one that is frozen, too.
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid <> pg_backend_pid()
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid = (((%(key)s::bigint >> 32) & 4294967295)::bigint)::oid AND objid = ((%(key)s::bigint & 4294967295))::oid

-- name: begin
-- From here on, no earlier runner of the feed can commit.
INSERT INTO mailferry.event_progress AS p (feed, source, target, runner, retention_days, fence)
VALUES (%(feed)s, %(source)s, %(target)s, %(runner)s, %(retention_days)s, 1)
ON CONFLICT (feed) DO UPDATE
SET fence = p.fence + 1, target = excluded.target, runner = excluded.runner, retention_days = excluded.retention_days,
    begun_at = now()
RETURNING source, fence, position, floor, events, late, last_number, gap_count, gaps, coverage, counts, details_missing

-- name: seen
SELECT listed_to, identities, states FROM mailferry.event_seen WHERE feed = %(feed)s ORDER BY listed_to, number

-- name: hold
SELECT 1 FROM mailferry.event_progress WHERE feed = %(feed)s AND fence = %(fence)s FOR UPDATE

-- name: advance
-- No row is returned where the feed was taken over; nothing else is changed then.
WITH held AS (
    UPDATE mailferry.event_progress
    SET position = %(position)s, floor = %(floor)s, events = %(events)s, late = %(late)s, last_number = %(last_number)s,
        gap_count = %(gap_count)s, gaps = %(gaps)s, coverage = %(coverage)s, counts = %(counts)s,
        details_missing = %(details_missing)s, committed_at = now()
    WHERE feed = %(feed)s AND fence = %(fence)s
    RETURNING feed
), forgotten AS (
    DELETE FROM mailferry.event_seen AS s USING held WHERE s.feed = held.feed AND s.listed_to < %(floor)s
), learned AS (
    INSERT INTO mailferry.event_seen (feed, listed_to, identities, states)
    SELECT held.feed, k.listed_to, k.identities, k.states
    FROM held, unnest(%(ends)s::bigint[], %(identities)s::text[], %(states)s::text[]) AS k (listed_to, identities, states)
)
SELECT 1 FROM held

-- name: copy
COPY {table} ({columns}) FROM STDIN (FORMAT binary)

-- name: insert
-- Only a row of the same feed, time and identity is the same event; whatever else is unique about the table is not ours.
INSERT INTO {table} (time, feed, identity, number, record, raw)
VALUES (to_timestamp(%(time)s::bigint), %(feed)s, %(identity)s, %(number)s, %(record)s, %(raw)s)
ON CONFLICT (feed, time, identity) DO NOTHING

-- name: update
UPDATE {table} SET record = CASE WHEN %(partly)s THEN record || %(record)s::jsonb ELSE %(record)s::jsonb END, raw = %(raw)s
WHERE feed = %(feed)s AND identity = %(identity)s AND time = to_timestamp(%(time)s::bigint)

-- name: update_anytime
-- Its time has changed too.
UPDATE {table} SET record = CASE WHEN %(partly)s THEN record || %(record)s::jsonb ELSE %(record)s::jsonb END, raw = %(raw)s
WHERE feed = %(feed)s AND identity = %(identity)s

-- name: look
SELECT position, floor, events, late, counts, details_missing, gap_count, gaps, coverage
FROM mailferry.event_progress WHERE feed = %(feed)s

-- name: in_order
SELECT extract(epoch FROM time)::bigint, identity FROM {table}
WHERE feed = %(feed)s AND time >= to_timestamp(%(start)s::bigint) AND time < to_timestamp(%(end)s::bigint)
ORDER BY number

-- name: found
SELECT extract(epoch FROM time)::bigint, identity, coalesce(raw, record::text) FROM {table}
WHERE feed = %(feed)s AND time >= to_timestamp(%(start)s::bigint) AND time < to_timestamp(%(end)s::bigint)
ORDER BY number

-- name: count
SELECT count(*) FROM {table} WHERE feed = %(feed)s AND time >= to_timestamp(%(start)s::bigint) AND time < to_timestamp(%(end)s::bigint)

-- name: find
SELECT c.oid, n.nspname, c.relname
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass(%(name)s)

-- name: create
CREATE TABLE {table} (
    time         timestamptz NOT NULL,
    feed         text COLLATE "C" NOT NULL,
    identity     text COLLATE "C" NOT NULL,
    number       bigint NOT NULL,
    record       jsonb NOT NULL,
    raw          text,
    collected_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (feed, time, identity)
) PARTITION BY RANGE (time)

-- name: indexes
-- What people ask for. Each expression stands in the view, too: only then can a question to the view use the index.
-- COLLATE "C": whatever the server's language, "INFO" is "info". Cut at 320 characters: B-tree keys have a limit.
CREATE INDEX {by_time} ON {table} (time);
CREATE INDEX {by_number} ON {table} (feed, number);
CREATE INDEX {by_queue_id} ON {table} (left((record ->> 'queue_id') COLLATE "C", 320));
CREATE INDEX {by_sender} ON {table} (left(lower(coalesce(record ->> 'sender', record ->> 'from') COLLATE "C"), 320), time);
CREATE INDEX {by_recipient} ON {table} USING gin ((lower((jsonb_path_query_array(record, '$.recipients[*].email') || jsonb_path_query_array(record, '$.to[*]'))::text COLLATE "C")::jsonb))

-- name: view
CREATE VIEW {view} AS
SELECT e.time, e.feed, e.number, e.identity,
       left((e.record ->> 'queue_id') COLLATE "C", 320) AS queue_id,
       left(lower(coalesce(e.record ->> 'sender', e.record ->> 'from') COLLATE "C"), 320) AS sender,
       lower((jsonb_path_query_array(e.record, '$.recipients[*].email') || jsonb_path_query_array(e.record, '$.to[*]'))::text COLLATE "C")::jsonb AS recipients,
       r.recipient, r.status, e.record ->> 'subject' AS subject, e.record
FROM {table} AS e LEFT JOIN LATERAL (
    SELECT lower((one ->> 'email') COLLATE "C") AS recipient, one ->> 'status' AS status
    FROM jsonb_path_query(e.record, '$.recipients[*] ? (@ != null)') AS one
    UNION ALL
    SELECT lower((one #>> '{{}}') COLLATE "C"), NULL FROM jsonb_path_query(e.record, '$.to[*]') AS one
) AS r ON true

-- name: compresses
SELECT 1 FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY(enumvals)

-- name: compress
ALTER TABLE {table} ALTER COLUMN record SET COMPRESSION lz4, ALTER COLUMN raw SET COMPRESSION lz4

-- name: shape
-- How the table is partitioned, its columns (name, type, must be given), and the columns of each unique index that always holds.
SELECT (SELECT p.partstrat::text || ' ' || coalesce(string_agg(a.attname, ' ' ORDER BY a.attname), '')
        FROM pg_partitioned_table AS p
        LEFT JOIN pg_attribute AS a ON a.attrelid = p.partrelid AND a.attnum = ANY(p.partattrs::int2[])
        WHERE p.partrelid = %(oid)s AND p.partexprs IS NULL GROUP BY p.partstrat),
       (SELECT jsonb_object_agg(attname, jsonb_build_array(format_type(atttypid, NULL), attnotnull AND NOT atthasdef AND attidentity = ''))
        FROM pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped),
       ARRAY(SELECT (SELECT string_agg(a.attname, ' ' ORDER BY a.attname) FROM pg_attribute AS a
                     WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[]))
             FROM pg_index AS i
             WHERE i.indrelid = %(oid)s AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
               AND i.indexprs IS NULL AND i.indnkeyatts = i.indnatts)

-- name: partitions
-- Bounds in Unix seconds; null: none on that side (both: the default partition).
SELECT n.nspname, c.relname,
       extract(epoch FROM substring(b.text FROM 'FROM \(''([^'']+)''\)')::timestamptz)::float8,
       extract(epoch FROM substring(b.text FROM 'TO \(''([^'']+)''\)')::timestamptz)::float8
FROM pg_inherits AS i
JOIN pg_class AS c ON c.oid = i.inhrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS text) AS b
WHERE i.inhparent = %(oid)s
ORDER BY 3 NULLS FIRST

-- name: create_partition
-- Attached, not created as a partition: that would lock out all who read the table.
-- Numbers that the server assigns itself stay the table's business; from version 17 on a partition may have none of its own.
CREATE TABLE {partition} (LIKE {table} INCLUDING ALL EXCLUDING IDENTITY)

-- name: attach_partition
ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({start}) TO ({end})

-- name: concerned
SELECT 1 FROM {partition} WHERE feed = %(feed)s LIMIT 1

-- name: holders
-- The feeds with events in a partition that ends at `until` (Unix seconds), and that have not let go of it.
WITH RECURSIVE present AS (
    (SELECT feed FROM {partition} ORDER BY feed LIMIT 1)
    UNION ALL
    SELECT (SELECT p.feed FROM {partition} AS p WHERE p.feed > present.feed ORDER BY p.feed LIMIT 1)
    FROM present WHERE present.feed IS NOT NULL
)
SELECT present.feed FROM present LEFT JOIN mailferry.event_progress AS e ON e.feed = present.feed
WHERE present.feed IS NOT NULL
  AND (e.feed IS NULL OR e.retention_days = 0 OR %(now)s - e.retention_days * 86400::bigint < %(until)s)

-- name: delete
DELETE FROM {partition} WHERE feed = %(feed)s

-- name: lock_table
LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE

-- name: drop_partition
DROP TABLE {partition}

-- name: empty_partition
TRUNCATE {partition}
