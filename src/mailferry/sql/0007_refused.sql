-- A job that has ended and of which something was refused is shown until a person retries, cancels or acknowledges it.
-- Jobs that had ended before this keep their states and are not shown so: their refusals were reported when they came.
ALTER TABLE mailferry.jobs
    ADD COLUMN refused boolean NOT NULL DEFAULT false,
    ADD COLUMN acknowledged_at timestamptz,
    ADD COLUMN warnings integer NOT NULL DEFAULT 0;

CREATE INDEX jobs_refused ON mailferry.jobs (feed) WHERE refused AND acknowledged_at IS NULL;
