-- What a run writes about messages and their files, and asks; see mailbox/ledger/records.py for what each promises.

-- name: find
-- Two copies of a message have the same header: each job is bound to one of them. A header without date and number may
-- come again with other files, but not with the same time of arrival.
WITH exact AS (
    SELECT * FROM mailferry.jobs
    WHERE feed = %(feed)s AND account = %(account)s AND folder = %(folder)s
      AND uidvalidity = %(uidvalidity)s AND uid = %(uid)s
), rebound AS (
    UPDATE mailferry.jobs SET uidvalidity = %(uidvalidity)s, uid = %(uid)s
    WHERE NOT EXISTS (SELECT FROM exact) AND id = (
        SELECT id FROM mailferry.jobs
        WHERE feed = %(feed)s AND account = %(account)s AND folder = %(folder)s
          AND header_sha256 = %(header_sha256)s AND received = %(received)s AND uidvalidity <> %(uidvalidity)s
        ORDER BY id LIMIT 1 FOR UPDATE
    )
    RETURNING *
)
SELECT * FROM exact UNION ALL SELECT * FROM rebound

-- name: insert_job
INSERT INTO mailferry.jobs (feed, account, folder, uidvalidity, uid, header_sha256, message_id, subject, sender, received, target)
VALUES (%(feed)s, %(account)s, %(folder)s, %(uidvalidity)s, %(uid)s, %(header_sha256)s, %(message_id)s, %(subject)s,
        %(sender)s, %(received)s, %(target)s)
ON CONFLICT (feed, account, folder, uidvalidity, uid) DO NOTHING
RETURNING *

-- name: insert_file
-- A second fetch may have gone to another path. No row is returned where other bytes stand under the same name.
INSERT INTO mailferry.files (job_id, section, member, name, path, original, kind, size, sha256)
VALUES (%(job_id)s, %(section)s, %(member)s, %(name)s, %(path)s, %(original)s, %(kind)s, %(size)s, %(sha256)s)
ON CONFLICT (job_id, section, member, route) DO UPDATE
SET path = CASE WHEN files.state = 'pending' THEN excluded.path ELSE files.path END,
    original = CASE WHEN files.state = 'pending' THEN excluded.original ELSE files.original END
WHERE files.sha256 = excluded.sha256

-- name: add_route
INSERT INTO mailferry.files (job_id, section, member, route, name, path, original, kind, size, sha256)
SELECT job_id, section, member, %(route)s, name, path, original, kind, size, sha256 FROM mailferry.files WHERE id = %(id)s
ON CONFLICT (job_id, section, member, route) DO NOTHING

-- name: drop_route
DELETE FROM mailferry.files WHERE id = %(id)s AND route > 0 AND state = 'pending'

-- name: insert_passed
INSERT INTO mailferry.passed_parts (job_id, ordinal, section, name, reason)
VALUES (%(job_id)s, %(ordinal)s, %(section)s, %(name)s, %(reason)s)
ON CONFLICT (job_id, ordinal) DO NOTHING

-- name: duplicate
-- The last load of the same bytes or content, unless another file has changed the table since.
SELECT f.id FROM mailferry.files AS f
WHERE f.state = 'loaded' AND f.target = %(target)s AND f.generation = %(generation)s
  AND (f.sha256 = %(sha256)s OR f.content_sha256 = %(content_sha256)s)
  AND NOT mailferry.same_file(f, %(file_id)s)
  AND NOT EXISTS (
      SELECT 1 FROM mailferry.files AS later
      WHERE later.target = f.target AND later.load_no > f.load_no AND later.changed
        AND later.sha256 <> f.sha256 AND later.content_sha256 IS DISTINCT FROM f.content_sha256
  )
ORDER BY f.load_no DESC LIMIT 1

-- name: copy
-- Any load of the same bytes from a copy of the message, as that would bring back what is older; unless a person asked.
SELECT f.id FROM mailferry.files AS f JOIN mailferry.jobs AS j ON j.id = f.job_id
WHERE f.state = 'loaded' AND f.target = %(target)s AND f.generation = %(generation)s
  AND f.sha256 = %(sha256)s AND j.header_sha256 = %(header_sha256)s AND NOT mailferry.same_file(f, %(file_id)s)
  AND NOT (SELECT own.retried FROM mailferry.jobs AS own WHERE own.id = %(id)s)
ORDER BY f.load_no DESC LIMIT 1

-- name: newer
SELECT (array_agg(j.id ORDER BY j.received DESC))[1], max(j.received), bool_or(f.unchanged > 0)
FROM mailferry.jobs AS j JOIN mailferry.files AS f ON f.job_id = j.id
WHERE j.received > %(received)s AND j.finished_at IS NOT NULL
  AND (SELECT own.replayed OR NOT own.retried AND NOT %(arrival)s FROM mailferry.jobs AS own WHERE own.id = %(id)s)
  AND f.state = 'loaded' AND f.target = %(target)s AND f.generation = %(generation)s
HAVING count(*) > 0

-- name: finish_file
-- The job's row stays locked, so that no worker takes the job over before the commit.
WITH done AS (
    UPDATE mailferry.files
    SET state = %(state)s, target = %(target)s, generation = %(generation)s, duplicate_of = %(duplicate_of)s,
        content_sha256 = %(content_sha256)s, rows_read = %(read)s, inserted = %(inserted)s, updated = %(updated)s,
        unchanged = %(unchanged)s, rejected = %(rejected)s, superseded = %(superseded)s, absent = %(absent)s, left_out = %(left_out)s, warnings = %(warnings)s,
        error = %(error)s, finished_at = clock_timestamp(),
        changed = changed OR %(state)s = 'loaded' AND %(inserted)s + %(updated)s + %(absent)s > 0,
        history = CASE WHEN %(state)s = 'loaded' THEN coalesce(history, true) AND %(history)s ELSE history END,
        load_no = CASE WHEN %(state)s = 'loaded' THEN nextval('mailferry.load_no') ELSE load_no END
    WHERE id = %(file_id)s AND state = 'pending' AND job_id = (
        SELECT id FROM mailferry.jobs WHERE id = %(id)s AND fence = %(fence)s AND state = 'in_progress' FOR UPDATE
    )
    RETURNING *
)
INSERT INTO mailferry.totals AS t (feed, metric, label, value)
SELECT j.feed, 'rows', c.label, c.value
FROM done JOIN mailferry.jobs AS j ON j.id = done.job_id
CROSS JOIN LATERAL (VALUES
    ('read', done.rows_read), ('inserted', done.inserted), ('updated', done.updated), ('unchanged', done.unchanged),
    ('superseded', done.superseded), ('rejected', done.rejected)
) AS c (label, value)
-- In one order, as several workers may do this at once.
ORDER BY c.label
ON CONFLICT ON CONSTRAINT totals_pkey DO UPDATE SET value = t.value + EXCLUDED.value

-- name: count_job
SELECT mailferry.count_seconds(feed, 'job_seconds', extract(epoch FROM finished_at - started_at)::float8)
FROM mailferry.jobs WHERE id = %(id)s

-- name: finish_job
UPDATE mailferry.jobs AS j
SET state = CASE WHEN c.files > 0 AND c.good = 0 THEN 'failed' ELSE 'completed' END,
    error_kind = CASE WHEN c.errors IS NOT NULL THEN 'reject' END, error = c.errors,
    refused = c.errors IS NOT NULL OR c.rejected > 0, warnings = c.warnings, lease_until = NULL, finished_at = clock_timestamp(), marked_at = NULL
FROM (
    SELECT count(*) AS files, count(*) FILTER (WHERE state = 'pending') AS pending,
           count(*) FILTER (WHERE state IN ('loaded', 'duplicate')) AS good,
           coalesce(sum(cardinality(warnings)), 0) AS warnings,
           coalesce(sum(rejected) FILTER (WHERE state = 'loaded'), 0) AS rejected,
           string_agg(name || ': ' || error, E'\n' ORDER BY id) FILTER (WHERE state IN ('rejected', 'failed')) AS errors
    FROM mailferry.files WHERE job_id = %(id)s
) AS c
WHERE j.id = %(id)s AND j.fence = %(fence)s AND j.state = 'in_progress' AND c.pending = 0
RETURNING j.*

-- name: again_later
UPDATE mailferry.jobs
SET state = 'pending', next_attempt_at = clock_timestamp() + %(delay)s, attempts = %(attempts)s, lease_until = NULL,
    error_kind = %(error_kind)s, error = %(error)s
WHERE id = %(id)s
RETURNING *

-- name: give_up_files
UPDATE mailferry.files SET state = %(state)s, error = %(error)s, finished_at = clock_timestamp()
WHERE job_id = %(id)s AND state = 'pending'

-- name: give_up
UPDATE mailferry.jobs
SET state = CASE WHEN EXISTS (SELECT 1 FROM mailferry.files WHERE job_id = %(id)s AND state IN ('loaded', 'duplicate'))
                 THEN 'completed' ELSE 'failed' END,
    error_kind = %(error_kind)s, error = %(error)s, refused = true, lease_until = NULL, finished_at = clock_timestamp(),
    marked_at = NULL
WHERE id = %(id)s
RETURNING *

-- name: forget_rejected
DELETE FROM mailferry.rejected_rows AS r USING mailferry.files AS f, mailferry.jobs AS j
WHERE r.file_id = f.id AND j.id = f.job_id AND j.feed = %(feed)s AND f.finished_at < %(before)s

-- name: mark
-- Only for the end that was marked: by now a person may have had the job done again.
UPDATE mailferry.jobs SET marked_at = clock_timestamp(), marked_as = %(marked_as)s
WHERE id = %(id)s AND state IN ('completed', 'failed') AND finished_at = %(finished_at)s AND marked_at IS NULL

-- name: unmarked
SELECT * FROM mailferry.jobs
WHERE feed = %(feed)s AND marked_at IS NULL AND state IN ('completed', 'failed')
  AND finished_at <= clock_timestamp() - %(ago)s::interval
ORDER BY received, id

-- name: files
SELECT id, job_id, section, member, route, name, path, original, kind, size, sha256, content_sha256, state, target, duplicate_of,
       rows_read AS "read", inserted, updated, unchanged, rejected, superseded, absent, left_out, warnings, error, finished_at
FROM mailferry.files WHERE job_id = ANY(%(ids)s) ORDER BY job_id, id

-- name: known
SELECT uid FROM mailferry.jobs
WHERE feed = %(feed)s AND account = %(account)s AND folder = %(folder)s
  AND uidvalidity = %(uidvalidity)s AND uid = ANY(%(uids)s)

-- name: taken_in
SELECT coalesce(sum(f.size), 0)::bigint
FROM mailferry.files AS f JOIN mailferry.jobs AS j ON j.id = f.job_id
WHERE j.feed = %(feed)s AND j.recorded_at >= %(since)s AND f.route = 0

-- name: senders
SELECT sender, count(*) FROM mailferry.jobs WHERE feed = %(feed)s AND recorded_at >= %(since)s GROUP BY sender

-- name: reject_file
INSERT INTO mailferry.files (job_id, section, member, name, path, kind, size, sha256, state, error, finished_at)
VALUES (%(job_id)s, %(section)s, %(member)s, %(name)s, '', %(kind)s, 0, '', 'rejected', %(reason)s, clock_timestamp())
ON CONFLICT (job_id, section, member, route) DO UPDATE SET error = excluded.error WHERE files.sha256 = ''

-- name: drop_whole
DELETE FROM mailferry.files WHERE job_id = %(job_id)s AND section = '' AND state = 'pending'

-- name: refetched
UPDATE mailferry.files SET path = %(path)s, original = %(original)s, kind = %(kind)s, size = %(size)s, sha256 = %(sha256)s
WHERE id = %(id)s AND state = 'pending'

-- name: recorded_paths
-- A cancelled job that is wanted after all fetches its files again.
SELECT f.path FROM mailferry.files AS f JOIN mailferry.jobs AS j ON j.id = f.job_id
WHERE f.path = ANY(%(paths)s) AND j.state <> 'cancelled'
UNION
SELECT f.original FROM mailferry.files AS f JOIN mailferry.jobs AS j ON j.id = f.job_id
WHERE f.original = ANY(%(paths)s) AND f.original <> '' AND j.state <> 'cancelled'

-- name: left_behind
-- Jobs that have ended and are marked, with files that another host could not put away for this one.
SELECT DISTINCT f.job_id FROM mailferry.files AS f JOIN mailferry.jobs AS j ON j.id = f.job_id
WHERE (f.path = ANY(%(paths)s) OR f.original = ANY(%(paths)s) AND f.original <> '')
  AND j.state IN ('completed', 'failed') AND j.marked_at IS NOT NULL

-- name: job
SELECT * FROM mailferry.jobs WHERE id = %(id)s

-- name: rejected
SELECT sheet, "row", "column", value, reason FROM mailferry.rejected_rows WHERE file_id = %(file_id)s ORDER BY id LIMIT %(limit)s
