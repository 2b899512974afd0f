-- Messages that are not marked and that their feed does not want, so that their headers are fetched once; see
-- mailbox/search.py.
CREATE TABLE mailferry.strangers (
    feed text NOT NULL,
    -- Hash of account, folder, UIDVALIDITY and filters.
    view text NOT NULL,
    uid  text NOT NULL,
    PRIMARY KEY (feed, view, uid)
);
