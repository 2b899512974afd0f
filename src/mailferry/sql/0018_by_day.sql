-- What a feed has taken in since midnight.
CREATE INDEX jobs_recorded ON mailferry.jobs (feed, recorded_at);
