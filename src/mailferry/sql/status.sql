-- What `mailferry status` asks; see monitor/status.py. Seconds are counted by the database's clock.

-- name: feeds
SELECT name, host, schedule, status, error, runner, started_at, ended_at, last_good_at, next_run_at, position, gaps, late,
       failures, started_at IS NOT NULL AND ended_at IS NULL AS running,
       extract(epoch FROM now() - next_run_at)::float8 AS overdue,
       CASE WHEN watch_until > now() THEN watch_state END AS watch_state, watch_good_at, watch_error
FROM mailferry.feeds WHERE name = ANY(%(names)s)

-- name: progress
-- Of feeds that write into a table, run by the service or by cron.
SELECT feed, position, floor, events, late, counts, details_missing, gap_count, gaps, coverage, committed_at
FROM mailferry.event_progress WHERE feed = ANY(%(names)s) AND position IS NOT NULL

-- name: hours
-- Rows read by feed and hour (Unix time / 3600).
SELECT j.feed, floor(extract(epoch FROM f.finished_at) / 3600)::bigint, sum(f.rows_read)::bigint
FROM mailferry.files AS f JOIN mailferry.jobs AS j ON j.id = f.job_id
WHERE f.finished_at >= to_timestamp(%(since)s) AND f.rows_read > 0 GROUP BY 1, 2

-- name: run_now
-- A feed that a service has registered.
UPDATE mailferry.feeds SET next_run_at = least(next_run_at, now()) WHERE name = %(name)s AND %(here)s RETURNING name

-- name: workers
SELECT host, pid, version, started_at, heartbeat_at, heartbeat_at > now() - interval '30 seconds' AS alive, running, reload_error
FROM mailferry.workers ORDER BY host, pid

-- name: queue
SELECT queue_name, status::text, count(*) FROM mailferry.procrastinate_jobs
WHERE status IN ('todo', 'doing', 'failed') GROUP BY 1, 2 ORDER BY 1, 2

-- name: totals
SELECT metric, label, sum(value) FROM mailferry.totals GROUP BY 1, 2 ORDER BY 1, 2

-- name: has_queue
SELECT to_regclass('mailferry.procrastinate_jobs') IS NOT NULL
