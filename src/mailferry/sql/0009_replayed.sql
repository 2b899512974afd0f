-- Asked for again together with other jobs: rows of messages that were received later stay, whatever the feed's order.
ALTER TABLE mailferry.jobs ADD COLUMN replayed boolean NOT NULL DEFAULT false;
