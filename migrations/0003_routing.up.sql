-- Destinations and peers that were added at run time; those of the configuration file are not here.
-- `definition` is JSON, the same keys as in the file.
CREATE TABLE destinations (
    name       TEXT   NOT NULL PRIMARY KEY,
    definition TEXT   NOT NULL,
    added_at   BIGINT NOT NULL
);

CREATE TABLE peers (
    ae_title   TEXT   NOT NULL PRIMARY KEY,
    definition TEXT   NOT NULL,
    added_at   BIGINT NOT NULL
);

-- Destinations, of the file or of the table above, that a person paused: they stay so over a restart.
CREATE TABLE paused_destinations (
    name      TEXT   NOT NULL PRIMARY KEY,
    paused_at BIGINT NOT NULL
);
