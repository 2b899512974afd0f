-- What a run asks and tells the ledger about messages and their files; see mailbox/ledger/arrivals.py.

-- name: known
SELECT uid FROM mailferry.jobs
WHERE feed = %(feed)s AND account = %(account)s AND folder = %(folder)s
  AND uidvalidity = %(uidvalidity)s AND uid = ANY(%(uids)s)

-- name: reject_file
INSERT INTO mailferry.files (job_id, section, member, name, path, kind, size, sha256, state, error, finished_at)
VALUES (%(job_id)s, %(section)s, %(member)s, %(name)s, '', %(kind)s, 0, '', 'rejected', %(error)s, clock_timestamp())
ON CONFLICT (job_id, section, member) DO UPDATE SET error = excluded.error WHERE files.sha256 = ''

-- name: drop_whole
DELETE FROM mailferry.files WHERE job_id = %(job_id)s AND section = '' AND state = 'pending'

-- name: refetched
UPDATE mailferry.files SET path = %(path)s, kind = %(kind)s, size = %(size)s, sha256 = %(sha256)s
WHERE id = %(id)s AND state = 'pending'

-- name: resume
UPDATE mailferry.jobs SET next_attempt_at = clock_timestamp()
WHERE feed = %(feed)s AND state = 'pending' AND error_kind = 'stop'

-- name: first_due
-- The first in order holds back all others of its table.
SELECT extract(epoch FROM next_attempt_at - clock_timestamp())::float8 FROM mailferry.jobs
WHERE feed = %(feed)s AND state = 'pending' ORDER BY received, id LIMIT 1

-- name: due
-- In progress and alive: somebody is at it, and goes on with what is behind.
SELECT j.target,
       extract(epoch FROM CASE j.state WHEN 'pending' THEN j.next_attempt_at ELSE j.lease_until END - clock_timestamp())::float8
FROM mailferry.heads() AS h JOIN mailferry.jobs AS j ON j.id = h.id
WHERE j.feed = ANY(%(feeds)s::text[]) AND (j.state = 'pending' OR j.lease_until < clock_timestamp())
ORDER BY j.target

-- name: first_of
SELECT j.id, j.feed, j.state = 'in_progress',
       extract(epoch FROM CASE j.state WHEN 'pending' THEN j.next_attempt_at ELSE j.lease_until END - clock_timestamp())::float8
FROM mailferry.heads(%(target)s::text) AS h JOIN mailferry.jobs AS j ON j.id = h.id

-- name: held_back
-- The first in order of each table that this feed has jobs for, if it is another feed's and nobody is at it.
SELECT j.id, j.feed, j.target, own.waiting
FROM mailferry.heads() AS h JOIN mailferry.jobs AS j ON j.id = h.id
JOIN (
    SELECT target, count(*) AS waiting FROM mailferry.jobs WHERE feed = %(feed)s AND state = 'pending' GROUP BY target
) AS own ON own.target = j.target
WHERE j.feed <> %(feed)s AND (j.state = 'pending' OR j.lease_until < clock_timestamp())
ORDER BY j.id

-- name: recorded_paths
-- A cancelled job that is wanted after all fetches its files again.
SELECT f.path FROM mailferry.files AS f JOIN mailferry.jobs AS j ON j.id = f.job_id
WHERE f.path = ANY(%(paths)s) AND j.state <> 'cancelled'

-- name: left_behind
-- Jobs that have ended and are marked, with files that another host could not put away for this one.
SELECT DISTINCT f.job_id FROM mailferry.files AS f JOIN mailferry.jobs AS j ON j.id = f.job_id
WHERE f.path = ANY(%(paths)s) AND j.state IN ('completed', 'failed') AND j.marked_at IS NOT NULL
