-- What became of each object, one row for each event: the part of the log that outlives the bytes.
-- The key is what happened, not where the log said it, so that reading the log twice adds nothing.
CREATE TABLE history (
    entry BIGINT NOT NULL,
    at BIGINT NOT NULL,
    -- '' for events of the object as a whole.
    destination TEXT NOT NULL,
    -- routed, unrouted, sent, sent_unproven, verified, deferred, poisoned, requeued, cancelled or purged.
    event TEXT NOT NULL,
    detail TEXT,
    PRIMARY KEY (entry, at, destination, event)
);

CREATE INDEX history_destination ON history (destination, at);
