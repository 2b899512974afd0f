-- Which message a row was last seen in, where a feed marks or deletes rows that are absent from the latest list.
CREATE TABLE mailferry.row_scopes (
    target       text NOT NULL,
    "key"        text NOT NULL,
    feed         text NOT NULL,
    -- Address, in lower case.
    sender       text NOT NULL,
    -- The last job that had the row, and when its message was received or, by order of arrival, loaded.
    job_id       bigint NOT NULL,
    seen_at      timestamptz NOT NULL,
    -- The first one of that feed and sender.
    first_job_id bigint NOT NULL,
    PRIMARY KEY (target, "key")
);
CREATE INDEX row_scopes_scope ON mailferry.row_scopes (target, feed, sender);

ALTER TABLE mailferry.files ADD COLUMN absent bigint NOT NULL DEFAULT 0;
