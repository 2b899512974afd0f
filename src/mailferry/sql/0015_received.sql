-- A page of jobs, latest arrival first, of a ledger of any size.
CREATE INDEX jobs_received ON mailferry.jobs (received DESC, id DESC);
