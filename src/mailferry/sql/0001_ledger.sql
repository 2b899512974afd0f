-- What people read: which message, which of its files, what became of each. One job is one message of one feed.
CREATE TABLE mailferry.jobs (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    feed            text NOT NULL,
    account         text NOT NULL,
    folder          text NOT NULL,
    uidvalidity     bigint NOT NULL,
    uid             text NOT NULL,
    -- SHA-256 of the raw header block, hex: finds the message again when the server has changed UIDVALIDITY.
    header_sha256   text NOT NULL,
    message_id      text NOT NULL,
    subject         text NOT NULL,
    sender          text NOT NULL,
    received        timestamptz NOT NULL,
    -- The target table as the feed names it: jobs of one target are done in the order of arrival.
    target          text NOT NULL,
    state           text NOT NULL DEFAULT 'pending'
                    CHECK (state IN ('pending', 'in_progress', 'completed', 'failed', 'cancelled')),
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    -- Raised by every claim and by a cancel; a runner that holds an older number can commit nothing.
    fence           bigint NOT NULL DEFAULT 0,
    runner          text,
    lease_until     timestamptz,
    -- Claimed by one of many workers: only when its lease has run out does anybody know that its runner is gone.
    by_lease        boolean NOT NULL DEFAULT false,
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    -- When the message was marked in the mailbox; null on a finished job: still to be done.
    marked_at       timestamptz,
    -- As what, which it stays while the job is done again: a failed message may have been moved away.
    marked_as       text CHECK (marked_as IN ('completed', 'failed')),
    error_kind      text CHECK (error_kind IN ('retry', 'reject', 'stop')),
    error           text,
    UNIQUE (feed, account, folder, uidvalidity, uid)
);
CREATE INDEX jobs_header ON mailferry.jobs (feed, account, folder, header_sha256);
CREATE INDEX jobs_waiting ON mailferry.jobs (target, received, id) WHERE state IN ('pending', 'in_progress');
CREATE INDEX jobs_unmarked ON mailferry.jobs (feed) WHERE marked_at IS NULL;
CREATE INDEX jobs_finished ON mailferry.jobs (finished_at);

-- The first in order of each table's jobs that are not done, or of the one table's: only these can be claimed.
-- Goes from table to table in the index, so that neither finished jobs nor a long queue are looked through.
CREATE FUNCTION mailferry.heads(wanted text DEFAULT NULL) RETURNS TABLE (id bigint, target text)
LANGUAGE sql STABLE ROWS 10 AS $$
    WITH RECURSIVE head AS (
        (
            SELECT j.id, j.target FROM mailferry.jobs AS j
            WHERE j.state IN ('pending', 'in_progress') AND j.target >= coalesce(wanted, '')
            ORDER BY j.target, j.received, j.id LIMIT 1
        )
        UNION ALL
        SELECT following.id, following.target FROM head CROSS JOIN LATERAL (
            SELECT j.id, j.target FROM mailferry.jobs AS j
            WHERE wanted IS NULL AND j.state IN ('pending', 'in_progress') AND j.target > head.target
            ORDER BY j.target, j.received, j.id LIMIT 1
        ) AS following
    )
    SELECT head.id, head.target FROM head WHERE wanted IS NULL OR head.target = wanted
$$;

-- The order in which files changed their targets.
CREATE SEQUENCE mailferry.load_no;

CREATE TABLE mailferry.files (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id         bigint NOT NULL REFERENCES mailferry.jobs ON DELETE CASCADE,
    section        text NOT NULL,
    member         text NOT NULL,
    name           text NOT NULL,
    path           text NOT NULL,
    kind           text NOT NULL,
    size           bigint NOT NULL,
    sha256         text NOT NULL,
    content_sha256 text,
    state          text NOT NULL DEFAULT 'pending'
                   CHECK (state IN ('pending', 'loaded', 'duplicate', 'rejected', 'failed')),
    -- The table that was loaded, resolved, and which table of that name it was (it may be dropped or emptied later).
    target         text,
    generation     text,
    load_no        bigint,
    -- Whether any load of it, of which `load_no` is the last, inserted or updated rows.
    changed        boolean NOT NULL DEFAULT false,
    duplicate_of   bigint REFERENCES mailferry.files ON DELETE SET NULL,
    rows_read      bigint NOT NULL DEFAULT 0,
    inserted       bigint NOT NULL DEFAULT 0,
    updated        bigint NOT NULL DEFAULT 0,
    unchanged      bigint NOT NULL DEFAULT 0,
    rejected       bigint NOT NULL DEFAULT 0,
    superseded     bigint NOT NULL DEFAULT 0,
    warnings       text[] NOT NULL DEFAULT '{}',
    error          text,
    finished_at    timestamptz,
    UNIQUE (job_id, section, member)
);
CREATE INDEX files_sha256 ON mailferry.files (sha256) WHERE state = 'loaded';
CREATE INDEX files_content ON mailferry.files (content_sha256) WHERE state = 'loaded';
CREATE INDEX files_changes ON mailferry.files (target, load_no) WHERE changed;
CREATE INDEX files_duplicate_of ON mailferry.files (duplicate_of) WHERE duplicate_of IS NOT NULL;
CREATE INDEX files_path ON mailferry.files USING hash (path);
CREATE INDEX files_finished ON mailferry.files (finished_at);

-- Parts of a message that were not taken, and why.
CREATE TABLE mailferry.passed_parts (
    job_id  bigint NOT NULL REFERENCES mailferry.jobs ON DELETE CASCADE,
    ordinal integer NOT NULL,
    section text NOT NULL,
    name    text NOT NULL,
    reason  text NOT NULL,
    PRIMARY KEY (job_id, ordinal)
);

-- Rows that were not loaded. `row` is 1-based, as the spreadsheet program shows it.
CREATE TABLE mailferry.rejected_rows (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file_id bigint NOT NULL REFERENCES mailferry.files ON DELETE CASCADE,
    sheet   text NOT NULL,
    "row"   bigint NOT NULL,
    "column" text NOT NULL,
    value   text NOT NULL,
    reason  text NOT NULL
);
CREATE INDEX rejected_rows_file ON mailferry.rejected_rows (file_id, id);
