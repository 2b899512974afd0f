-- Whether a message is older than one that was loaded already is asked with every load; nearly always the answer is none.
CREATE INDEX jobs_loaded ON mailferry.jobs (received) WHERE finished_at IS NOT NULL;

-- A person has asked for it again: its rows replace those of the same keys, whatever was loaded since.
ALTER TABLE mailferry.jobs ADD COLUMN retried boolean NOT NULL DEFAULT false;
