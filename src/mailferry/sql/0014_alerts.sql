-- What each channel of the alerts has had word of; see monitor/alerts/decide.py.
CREATE TABLE mailferry.alerts (
    -- 'mail', 'webhook'.
    channel text PRIMARY KEY,
    memory  jsonb,
    -- The process that sends at the moment, and until when that counts: two hosts must not both send.
    holder  uuid NOT NULL,
    until   timestamptz NOT NULL
);
