-- How far each event feed got that writes into a table. It changes in the transaction that holds the events.
CREATE TABLE mailferry.event_progress (
    feed           text PRIMARY KEY,
    -- What it collects, as category/type/domain: two feeds of one name must not go on from each other's position.
    source         text NOT NULL,
    -- The table that it writes into, as schema.table.
    target         text NOT NULL,
    -- Raised by every run; one that holds an older number can commit nothing.
    fence          bigint NOT NULL DEFAULT 0,
    runner         text NOT NULL,
    -- Every event before this second (Unix time) has been taken, as far as it was visible. Null: not begun yet.
    position       bigint,
    -- Never to be looked back before this second.
    floor          bigint NOT NULL DEFAULT 0,
    events         bigint NOT NULL DEFAULT 0,
    late           bigint NOT NULL DEFAULT 0,
    -- The last `number` given to an event.
    last_number    bigint NOT NULL DEFAULT 0,
    gap_count      bigint NOT NULL DEFAULT 0,
    -- The last gaps: [{"kind", "start", "end"}, ...], Unix seconds.
    gaps           jsonb NOT NULL DEFAULT '[]',
    -- Days that its events are kept; 0 keeps them all.
    retention_days integer NOT NULL DEFAULT 0,
    begun_at       timestamptz NOT NULL DEFAULT now(),
    committed_at   timestamptz
);

-- Identities that a later run may find listed again. Kept apart from the events: who takes those out of their table
-- does not bring them back with it.
CREATE TABLE mailferry.event_seen (
    feed       text NOT NULL REFERENCES mailferry.event_progress ON DELETE CASCADE,
    -- The end of the last range that listed them, Unix seconds; they are forgotten when `floor` has passed it.
    listed_to  bigint NOT NULL,
    -- Each 16 characters, one behind the other.
    identities text NOT NULL
);
CREATE INDEX event_seen_feed ON mailferry.event_seen (feed, listed_to);
