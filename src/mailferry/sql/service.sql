-- The service's statements about feeds and workers; see service/store.py. The clock is the database's.

-- name: register
INSERT INTO mailferry.feeds AS f (name, kind, host, schedule)
VALUES (%(name)s, %(kind)s, CASE WHEN %(bound)s AND %(host)s = '' THEN %(here)s ELSE %(host)s END, %(schedule)s)
ON CONFLICT (name) DO UPDATE
SET kind = excluded.kind, schedule = excluded.schedule, configured_at = now(),
    -- Where no host is named, a feed that has its files on one host stays where they are.
    host = CASE WHEN %(bound)s AND %(host)s = '' AND f.host <> '' THEN f.host ELSE excluded.host END,
    -- What a person had to do may be done; and the clock that planned the next run may have been wrong.
    next_run_at = CASE WHEN f.schedule = excluded.schedule AND f.status IS DISTINCT FROM 'blocked'
                  THEN least(f.next_run_at, %(next)s) ELSE now() END
RETURNING f.host

-- name: due
SELECT f.name, now() AS now,
       EXISTS (
           SELECT 1 FROM procrastinate_jobs AS q
           WHERE q.queueing_lock = 'feed:' || f.name || CASE f.host WHEN '' THEN '' ELSE '@' || f.host END AND q.status = 'todo'
       ) AS queued
FROM mailferry.feeds AS f
WHERE f.name = ANY(%(names)s) AND f.next_run_at <= now() AND f.host IN ('', %(host)s)
ORDER BY f.next_run_at LIMIT 500 FOR UPDATE OF f SKIP LOCKED

-- name: next_due
SELECT extract(epoch FROM min(next_run_at) - now())::float8 AS seconds FROM mailferry.feeds
WHERE name = ANY(%(names)s) AND host IN ('', %(host)s)

-- name: plan
UPDATE mailferry.feeds SET next_run_at = %(next)s WHERE name = %(name)s

-- name: queued
SELECT queueing_lock AS lock FROM procrastinate_jobs WHERE queueing_lock = ANY(%(locks)s) AND status = 'todo'

-- name: begin
-- Not by a worker that has slept for so long that the job was taken from it.
UPDATE mailferry.feeds SET run = run + 1, runner = %(runner)s, started_at = now(), ended_at = NULL
WHERE name = %(name)s AND EXISTS (SELECT 1 FROM procrastinate_jobs WHERE id = %(job)s AND status = 'doing')
RETURNING run, failures

-- name: end
WITH ended AS (
    UPDATE mailferry.feeds
    SET ended_at = now(), status = %(status)s, error = %(error)s, cut_off = 0,
        last_good_at = CASE WHEN %(status)s = 'completed' THEN now() ELSE last_good_at END,
        failures = CASE %(status)s WHEN 'failed' THEN failures + 1 WHEN 'stopped' THEN failures ELSE 0 END,
        next_run_at = CASE %(status)s WHEN 'stopped' THEN now() WHEN 'blocked' THEN greatest(next_run_at, now() + %(rest)s)
                      ELSE least(next_run_at, now() + %(again_in)s) END,
        position = coalesce(%(position)s, position), gaps = coalesce(%(gaps)s, gaps), late = coalesce(%(late)s, late)
    WHERE name = %(name)s AND run = %(run)s
    RETURNING name, kind, extract(epoch FROM ended_at - started_at)::float8 AS seconds
)
SELECT mailferry.count_seconds(name, CASE kind WHEN 'events' THEN 'collect_seconds' ELSE 'poll_seconds' END, seconds) FROM ended

-- name: reclaim
-- Take a job of the queue from a worker that does not answer; no row when another worker was faster.
DELETE FROM procrastinate_jobs WHERE id = %(job)s AND status = 'doing' AND worker_id IS NOT DISTINCT FROM %(of)s RETURNING id

-- name: cut_off
-- Only a run whose end is not on record. Tried again after 1, 2 and 4 seconds, then when it is due.
UPDATE mailferry.feeds
SET ended_at = now(), status = 'cut off', cut_off = cut_off + 1,
    error = CASE WHEN cut_off < %(most)s THEN 'its worker ' || coalesce(runner, '') || ' has ended or does not answer'
            ELSE 'given up until it is due again: ' || cut_off + 1 || ' runs in a row ended together with their worker, the last '
                 || coalesce(runner, '') END,
    next_run_at = CASE WHEN cut_off < %(most)s THEN least(next_run_at, now() + 2 ^ cut_off * interval '1 second') ELSE next_run_at END
WHERE name = %(name)s AND started_at IS NOT NULL AND ended_at IS NULL
RETURNING error

-- name: reschedule
UPDATE mailferry.feeds SET next_run_at = least(next_run_at, now() + %(within)s) WHERE name = %(name)s

-- name: watch
-- Mailboxes for this worker to watch: those it watches already, and those whose lease has run out.
UPDATE mailferry.feeds SET watcher = %(worker)s, watch_until = now() + %(lease)s
WHERE name IN (
    SELECT name FROM mailferry.feeds
    WHERE name = ANY(%(names)s) AND host IN ('', %(host)s) AND (watcher = %(worker)s OR watch_until IS NULL OR watch_until < now())
    -- In one order, as other workers do the same.
    ORDER BY name FOR UPDATE
)
RETURNING name

-- name: watched
UPDATE mailferry.feeds
SET watch_state = %(state)s, watch_told_at = now(), watch_good_at = %(good_at)s, watch_error = %(error)s
WHERE name = %(name)s AND watcher = %(worker)s

-- name: unwatch
UPDATE mailferry.feeds SET watcher = NULL, watch_until = NULL, watch_state = NULL WHERE watcher = %(worker)s

-- name: beat
INSERT INTO mailferry.workers AS w (id, host, pid, version, running)
VALUES (%(id)s, %(host)s, %(pid)s, %(version)s, %(running)s)
ON CONFLICT (id) DO UPDATE SET heartbeat_at = now(), running = excluded.running
RETURNING reload_asked_at > loaded_at AS reload

-- name: loaded
UPDATE mailferry.workers SET loaded_at = now(), reload_error = %(error)s WHERE id = %(id)s

-- name: leave
DELETE FROM mailferry.workers WHERE id = %(id)s

-- name: ask_reload
UPDATE mailferry.workers SET reload_asked_at = now()
WHERE heartbeat_at > now() - %(alive)s AND (%(host)s::text IS NULL OR host = %(host)s)
RETURNING id, host, pid

-- name: reloaded
SELECT id, host, pid, reload_error FROM mailferry.workers WHERE id = ANY(%(ids)s) AND loaded_at > reload_asked_at

-- name: forget_workers
DELETE FROM mailferry.workers WHERE heartbeat_at < now() - interval '1 day'

-- name: mailbox_trouble
-- Nothing when any of them has answered since this worker began.
SELECT coalesce((SELECT name || ': ' || coalesce(watch_error, error, 'no answer yet') FROM mailferry.feeds
                 WHERE name = ANY(%(names)s) ORDER BY name LIMIT 1), '') AS trouble
WHERE NOT EXISTS (
    SELECT 1 FROM mailferry.feeds AS f JOIN mailferry.workers AS w ON w.id = %(worker)s
    WHERE f.name = ANY(%(names)s)
      AND (f.last_good_at >= w.started_at OR f.watch_state = 'watching' AND f.watch_told_at >= w.started_at)
)
