-- What is odd about the events of a feed, by kind; and those whose detail could not be had, with their time (Unix seconds).
ALTER TABLE mailferry.event_progress
    ADD COLUMN counts jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN details_missing jsonb NOT NULL DEFAULT '{}';

-- Digests of the records as they were last listed, 8 characters each, blank where the record cannot change; of two rows with
-- the same identity the later one counts.
ALTER TABLE mailferry.event_seen
    ADD COLUMN states text NOT NULL DEFAULT '',
    ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY;
