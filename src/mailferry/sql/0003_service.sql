-- What the service knows of its feeds: when each is due, and how its last run ended. The queue is filled from here.
CREATE TABLE mailferry.feeds (
    name          text PRIMARY KEY,
    kind          text NOT NULL CHECK (kind IN ('events', 'mailbox')),
    -- The host that alone may run it; '' for any.
    host          text NOT NULL,
    schedule      text NOT NULL,
    -- When a worker last had it in its configuration.
    configured_at timestamptz NOT NULL DEFAULT now(),
    next_run_at   timestamptz NOT NULL DEFAULT now(),
    -- The number of the last run; one that was taken over by a later run may not write down its end.
    run           bigint NOT NULL DEFAULT 0,
    runner        text,
    started_at    timestamptz,
    ended_at      timestamptz,
    -- How the last run ended: 'completed', 'stopped', 'skipped', 'failed', 'blocked' (a person has to act), 'cut off'.
    status        text,
    error         text,
    last_good_at  timestamptz,
    -- Runs in a row that failed by a passing fault; that ended together with their worker, without a word.
    failures      integer NOT NULL DEFAULT 0,
    cut_off       integer NOT NULL DEFAULT 0,
    -- Event feeds: Unix seconds of the watermark, and what was counted since the feed began.
    position      bigint,
    gaps          bigint NOT NULL DEFAULT 0,
    late          bigint NOT NULL DEFAULT 0,
    -- Mailbox feeds: who watches it, until when that counts, and how it goes.
    watcher       uuid,
    watch_until   timestamptz,
    watch_state   text,
    watch_told_at timestamptz,
    watch_good_at timestamptz,
    watch_error   text
);
CREATE INDEX feeds_due ON mailferry.feeds (next_run_at);

-- The processes of the service.
CREATE TABLE mailferry.workers (
    id              uuid PRIMARY KEY,
    host            text NOT NULL,
    pid             integer NOT NULL,
    version         text NOT NULL,
    started_at      timestamptz NOT NULL DEFAULT now(),
    heartbeat_at    timestamptz NOT NULL DEFAULT now(),
    -- Tasks under work, "collect example" and the like.
    running         text[] NOT NULL DEFAULT '{}',
    -- Asked to read its configuration again; when it did, and what was wrong with it ('' for nothing).
    reload_asked_at timestamptz,
    loaded_at       timestamptz NOT NULL DEFAULT now(),
    reload_error    text NOT NULL DEFAULT ''
);

-- Steps of the queue library's own schema that have been taken here.
CREATE TABLE mailferry.queue_versions (
    name       text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);
