-- Who works on which job, and what is due; see mailbox/ledger/leases.py for what each promises.

-- name: claim
-- What arrived earlier for the same table comes first, even if it waits for its next attempt: only heads are claimed.
UPDATE mailferry.jobs
SET state = 'in_progress', fence = fence + 1, attempts = attempts + 1, runner = %(runner)s, by_lease = %(by_lease)s,
    lease_until = clock_timestamp() + %(lease)s, started_at = clock_timestamp(), finished_at = NULL
WHERE id = (
    SELECT j.id FROM mailferry.heads(%(target)s::text) AS h JOIN mailferry.jobs AS j ON j.id = h.id
    WHERE (%(feeds)s::text[] IS NULL OR j.feed = ANY(%(feeds)s::text[])) AND (%(id)s::bigint IS NULL OR j.id = %(id)s)
      AND (j.state = 'pending' AND j.next_attempt_at <= clock_timestamp()
           OR %(orphan)s AND j.state = 'in_progress'
              AND (%(reclaim)s AND NOT j.by_lease OR j.lease_until < clock_timestamp()))
    ORDER BY j.received, j.id LIMIT 1 FOR UPDATE OF j SKIP LOCKED
)
RETURNING *

-- name: orphans
-- Jobs in progress whose worker is known to be gone, or has let its lease run out.
SELECT j.id FROM mailferry.heads(%(target)s::text) AS h JOIN mailferry.jobs AS j ON j.id = h.id
WHERE j.state = 'in_progress' AND (%(feeds)s::text[] IS NULL OR j.feed = ANY(%(feeds)s::text[]))
  AND (%(id)s::bigint IS NULL OR j.id = %(id)s)
  AND (%(reclaim)s AND NOT j.by_lease OR j.lease_until < clock_timestamp())
ORDER BY j.received, j.id

-- name: evict
-- The worker that reclaims the job holds its lock alone, and is spared.
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted AND objsubid = 1 AND pid <> pg_backend_pid()
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid = (((%(key)s::bigint >> 32) & 4294967295)::bigint)::oid AND objid = ((%(key)s::bigint & 4294967295))::oid

-- name: shared
SELECT pg_advisory_xact_lock_shared(%(key)s), set_config('idle_in_transaction_session_timeout', %(idle)s, true)

-- name: held
SELECT 1 FROM mailferry.jobs WHERE id = %(id)s AND fence = %(fence)s AND state = 'in_progress'

-- name: hold
SELECT 1 FROM mailferry.jobs WHERE id = %(id)s AND fence = %(fence)s AND state = 'in_progress' FOR UPDATE

-- name: renew
UPDATE mailferry.jobs SET lease_until = clock_timestamp() + %(lease)s
WHERE id = %(id)s AND fence = %(fence)s AND state = 'in_progress'

-- name: release
UPDATE mailferry.jobs
SET state = 'pending', fence = fence + 1, attempts = attempts - 1, next_attempt_at = clock_timestamp(), lease_until = NULL
WHERE id = %(id)s AND fence = %(fence)s AND state = 'in_progress'
RETURNING *

-- name: resume
UPDATE mailferry.jobs SET next_attempt_at = clock_timestamp()
WHERE feed = %(feed)s AND state = 'pending' AND (error_kind = 'stop' OR attempts = 0)

-- name: due
-- In progress and alive: its worker goes on with what is behind.
SELECT j.target,
       CASE WHEN j.state = 'pending' THEN extract(epoch FROM j.next_attempt_at - clock_timestamp()) ELSE 0 END::float8
FROM mailferry.heads() AS h JOIN mailferry.jobs AS j ON j.id = h.id
WHERE j.feed = ANY(%(feeds)s::text[])
  AND (j.state = 'pending' OR j.lease_until < clock_timestamp() OR %(reclaim)s AND NOT j.by_lease)
ORDER BY j.target

-- name: first_of
SELECT j.id, j.feed, j.state = 'in_progress',
       extract(epoch FROM CASE j.state WHEN 'pending' THEN j.next_attempt_at ELSE j.lease_until END - clock_timestamp())::float8
FROM mailferry.heads(%(target)s::text) AS h JOIN mailferry.jobs AS j ON j.id = h.id

-- name: held_back
-- The first in order of each table that this feed has jobs for, if it is another feed's and no worker is at it.
SELECT j.id, j.feed, j.target, own.waiting
FROM mailferry.heads() AS h JOIN mailferry.jobs AS j ON j.id = h.id
JOIN (
    SELECT target, count(*) AS waiting FROM mailferry.jobs WHERE feed = %(feed)s AND state = 'pending' GROUP BY target
) AS own ON own.target = j.target
WHERE j.feed <> %(feed)s AND (j.state = 'pending' OR j.lease_until < clock_timestamp())
ORDER BY j.id
