-- What loads changed in rows of tables whose feeds keep history. Values are texts as PostgreSQL writes and reads them. No
-- foreign keys, which would cost more than the rest for each row; jobs and files are never deleted.
CREATE TABLE mailferry.row_changes (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id     bigint NOT NULL,
    file_id    bigint NOT NULL,
    -- The table, resolved, and which one of that name it was.
    target     text NOT NULL,
    table_oid  bigint NOT NULL,
    key_column text NOT NULL,
    "key"      text NOT NULL,
    -- By column, those that changed; null before the row was inserted, and after it was deleted.
    old        jsonb,
    new        jsonb,
    changed_at timestamptz NOT NULL DEFAULT now(),
    undone_at  timestamptz
);
CREATE INDEX row_changes_row ON mailferry.row_changes (target, "key", id);
CREATE INDEX row_changes_job ON mailferry.row_changes (job_id) WHERE undone_at IS NULL;

ALTER TABLE mailferry.jobs ADD COLUMN undone_at timestamptz;
-- Whether all changes that its loads made are on record there.
ALTER TABLE mailferry.files ADD COLUMN history boolean;
ALTER TABLE mailferry.files DROP CONSTRAINT files_state_check;
ALTER TABLE mailferry.files ADD CONSTRAINT files_state_check
    CHECK (state IN ('pending', 'loaded', 'duplicate', 'rejected', 'failed', 'undone'));
