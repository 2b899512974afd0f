-- What people ask of the ledger and change in it; see mailbox/ledger/admin.py for what each promises.

-- name: cancel
UPDATE mailferry.jobs
SET state = 'cancelled', fence = fence + 1, lease_until = NULL, finished_at = clock_timestamp(), refused = false
WHERE id = %(id)s AND (state IN ('pending', 'in_progress') OR state = 'failed' AND refused)
RETURNING *

-- name: retry
UPDATE mailferry.jobs AS j
SET state = 'pending', attempts = 0, next_attempt_at = clock_timestamp(), finished_at = NULL, marked_at = NULL,
    error_kind = NULL, error = NULL, refused = false, acknowledged_at = NULL, warnings = 0,
    retried = NOT %(replayed)s, replayed = %(replayed)s, undone_at = NULL
WHERE j.id = ANY(%(ids)s)
  AND (j.state IN ('failed', 'cancelled', 'pending')
       OR j.state = 'completed' AND EXISTS (
           SELECT 1 FROM mailferry.files
           WHERE job_id = j.id AND (state IN ('rejected', 'failed', 'duplicate', 'undone') OR state = 'loaded' AND rejected > 0)))
RETURNING *

-- name: replayable
SELECT * FROM mailferry.jobs AS j
WHERE (%(feed)s::text IS NULL OR feed = %(feed)s) AND (%(since)s::timestamptz IS NULL OR received >= %(since)s)
  AND (state = 'failed' AND %(state)s::text IS DISTINCT FROM 'rejected'
       OR state IN ('completed', 'failed') AND %(state)s::text IS DISTINCT FROM 'failed' AND EXISTS (
           SELECT 1 FROM mailferry.files
           WHERE job_id = j.id AND (state = 'rejected' OR state = 'loaded' AND rejected > 0)))
ORDER BY received, id

-- name: job_to_undo
SELECT * FROM mailferry.jobs WHERE id = %(id)s FOR UPDATE

-- name: without_history
-- Files of the job that have changed rows, which is not all on record.
SELECT name FROM mailferry.files WHERE job_id = %(id)s AND changed AND state <> 'undone' AND history IS NOT TRUE ORDER BY id

-- name: counted_on
-- Jobs that were done since, and found rows in the job's tables as they were.
SELECT DISTINCT later.job_id
FROM mailferry.files AS own JOIN mailferry.files AS later ON later.target = own.target
WHERE own.job_id = %(id)s AND later.job_id <> own.job_id AND own.state = 'loaded' AND own.changed
  AND (later.state = 'loaded' AND later.load_no > own.load_no AND later.unchanged > 0
       OR later.state = 'duplicate' AND later.duplicate_of = own.id)
ORDER BY later.job_id

-- name: undone
UPDATE mailferry.jobs SET undone_at = clock_timestamp() WHERE id = %(id)s RETURNING *

-- name: undo_files
UPDATE mailferry.files SET state = 'undone', changed = false, history = NULL WHERE job_id = %(id)s AND state = 'loaded'

-- name: acknowledge
UPDATE mailferry.jobs SET acknowledged_at = clock_timestamp()
WHERE refused AND acknowledged_at IS NULL AND (%(id)s::bigint IS NULL OR id = %(id)s)
  AND (%(feed)s::text IS NULL OR feed = %(feed)s)
RETURNING *

-- name: refused
SELECT feed, count(*) FROM mailferry.jobs WHERE refused AND acknowledged_at IS NULL AND feed = ANY(%(feeds)s) GROUP BY feed

-- name: refusals
-- From the index of refused jobs: those are few, whatever the ledger holds.
SELECT id, feed, left(subject, 500) AS subject, left(sender, 500) AS sender, left(coalesce(error, ''), 4000) AS error,
       (SELECT coalesce(sum(rejected), 0)::bigint FROM mailferry.files AS f WHERE f.job_id = j.id AND f.state = 'loaded')
           AS rejected_rows,
       finished_at
FROM mailferry.jobs AS j
WHERE refused AND acknowledged_at IS NULL AND feed = ANY(%(feeds)s)
ORDER BY id LIMIT %(limit)s

-- name: retry_files
UPDATE mailferry.files SET state = 'pending', error = NULL, finished_at = NULL
WHERE job_id = ANY(%(ids)s) AND (state IN ('rejected', 'failed', 'duplicate', 'undone') OR state = 'loaded' AND rejected > 0)

-- name: forget_rejected_of_job
DELETE FROM mailferry.rejected_rows AS r USING mailferry.files AS f
WHERE r.file_id = f.id AND f.job_id = ANY(%(ids)s) AND f.state = 'pending'

-- name: jobs
SELECT * FROM mailferry.jobs
WHERE (%(feed)s::text IS NULL OR feed = %(feed)s) AND (%(state)s::text IS NULL OR state = %(state)s)
  AND (NOT %(refused)s OR refused AND acknowledged_at IS NULL)
  AND (%(since)s::timestamptz IS NULL OR recorded_at >= %(since)s)
  AND (%(text)s::text IS NULL OR strpos(lower(concat_ws(E'\n', subject, sender, message_id)), lower(%(text)s)) > 0)
  AND (%(target)s::text IS NULL OR target = %(target)s)
  AND (%(sender)s::text IS NULL OR strpos(lower(sender), lower(%(sender)s)) > 0)
ORDER BY received DESC, id DESC LIMIT %(limit)s OFFSET %(offset)s

-- name: passed
SELECT section, name, reason FROM mailferry.passed_parts WHERE job_id = %(id)s ORDER BY ordinal

-- name: statistics
SELECT j.feed, count(*) FILTER (WHERE j.state = 'completed') AS completed,
       count(*) FILTER (WHERE j.state = 'failed') AS failed,
       coalesce(sum(f.files), 0)::bigint AS files,
       coalesce(sum(f.errors), 0)::bigint AS errors,
       coalesce(sum(f."read"), 0)::bigint AS rows_read,
       coalesce(sum(f.inserted), 0)::bigint AS inserted,
       coalesce(sum(f.updated), 0)::bigint AS updated,
       coalesce(sum(f.unchanged), 0)::bigint AS unchanged,
       coalesce(sum(f.rejected), 0)::bigint AS rejected,
       coalesce(sum(j.warnings), 0)::bigint AS warnings,
       extract(epoch FROM avg(j.finished_at - j.started_at))::float8 AS seconds
FROM mailferry.jobs AS j
CROSS JOIN LATERAL (
    SELECT count(*) AS files, count(*) FILTER (WHERE state IN ('rejected', 'failed')) AS errors,
           sum(rows_read) AS "read", sum(inserted) AS inserted, sum(updated) AS updated, sum(unchanged) AS unchanged,
           sum(rejected) AS rejected
    FROM mailferry.files WHERE job_id = j.id
) AS f
WHERE j.finished_at >= %(since)s AND j.state IN ('completed', 'failed') AND j.feed = ANY(%(feeds)s) GROUP BY j.feed

-- name: states
SELECT feed, state, count(*) FROM mailferry.jobs WHERE feed = ANY(%(feeds)s) GROUP BY feed, state
