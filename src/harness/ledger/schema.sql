-- The ledger, version 1. Everything but `events` and `streams` can be lost without losing history.

-- Every event. `position` is the order over all streams: assigned by the one writer, without holes.
CREATE TABLE events (
    position INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,  -- streams.id
    seq INTEGER NOT NULL,  -- from 1 within the stream, without gaps
    type TEXT NOT NULL,
    ts INTEGER NOT NULL,  -- UTC, microseconds
    actor TEXT NOT NULL,
    tenant TEXT NOT NULL,
    parent TEXT,
    key TEXT,
    schema INTEGER NOT NULL,
    data TEXT,  -- canonical JSON; NULL once erased
    salt BLOB,  -- NULL once erased
    digest BLOB,  -- SHA-256 of salt and data; NULL until those are erased
    prev BLOB NOT NULL,  -- hash of the stream's event before
    hash BLOB NOT NULL  -- SHA-256 over the fields, see events.hash_of
);
CREATE UNIQUE INDEX events_by_stream ON events (stream, seq);
CREATE INDEX events_by_key ON events (stream, key, seq) WHERE key IS NOT NULL;

-- The streams, and where each was at least: a stream that ends before that was cut. Not written with every event.
CREATE TABLE streams (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL,
    position INTEGER NOT NULL,
    ts INTEGER NOT NULL
);

-- Guards: what may refuse an append.
CREATE TABLE keys (name TEXT PRIMARY KEY, stream TEXT NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE leases (name TEXT PRIMARY KEY, token INTEGER NOT NULL, holder TEXT, expires INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE counters (name TEXT PRIMARY KEY, amount INTEGER NOT NULL) WITHOUT ROWID;

-- Views: up to which position each was folded.
CREATE TABLE views (name TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
