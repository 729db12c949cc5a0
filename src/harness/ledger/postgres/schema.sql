-- The ledger in one PostgreSQL schema, version 1. Everything but `events` and `streams` can be lost without losing history.
-- `tenant` comes first in every key: it is the tenant of a stream's first event, or of the append that made the guard's row.

-- meta: which program's schema this is, and of which version
CREATE TABLE {schema}.meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    application text NOT NULL,
    version integer NOT NULL
);

-- positions: the order in which events were written; an append that fails may leave a hole
CREATE SEQUENCE {schema}.positions;

-- stream_ids: short names of streams, for the rows of events
CREATE SEQUENCE {schema}.stream_ids;

-- streams: each stream and its newest event
CREATE TABLE {schema}.streams (
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    id bigint NOT NULL,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    position bigint NOT NULL,
    ts bigint NOT NULL,
    PRIMARY KEY (tenant, name)
) WITH (fillfactor = 60);

-- streams_by_id: from an event to its stream
CREATE UNIQUE INDEX streams_by_id ON {schema}.streams (tenant, id);

-- streams_by_name: a stream whose tenant the reader does not know
CREATE INDEX streams_by_name ON {schema}.streams (name);

-- events: every event, with the transaction that wrote it
CREATE TABLE {schema}.events (
    tenant text COLLATE "C" NOT NULL, -- the stream's
    stream bigint NOT NULL, -- streams.id
    seq bigint NOT NULL, -- from 1 within the stream, without gaps
    position bigint NOT NULL,
    xid xid8 NOT NULL, -- followers read only what is older than every transaction under way
    type text COLLATE "C" NOT NULL,
    ts bigint NOT NULL, -- UTC, microseconds
    actor text COLLATE "C" NOT NULL,
    labelled text COLLATE "C", -- the event's own tenant; NULL: the stream's
    parent text COLLATE "C",
    key text COLLATE "C",
    schema bigint NOT NULL,
    data text COLLATE "C", -- canonical JSON; NULL once erased
    salt bytea, -- NULL once erased
    digest bytea, -- SHA-256 of salt and data; NULL until those are erased
    prev bytea NOT NULL, -- hash of the stream's event before
    hash bytea NOT NULL, -- SHA-256 over the fields, see events.hash_of
    PRIMARY KEY (tenant, stream, seq)
);

-- events_in_order: the order of followers
CREATE INDEX events_in_order ON {schema}.events (xid, position);

-- events_by_key: the newest event of a stream with a key
CREATE INDEX events_by_key ON {schema}.events (tenant, stream, key, seq) WHERE key IS NOT NULL;

-- keys: which event holds a unique key
CREATE TABLE {schema}.keys (
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (tenant, name)
);

-- keys_by_name: a key whose tenant the reader does not know
CREATE INDEX keys_by_name ON {schema}.keys (name);

-- leases: who may go on, until when (UTC, microseconds)
CREATE TABLE {schema}.leases (
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    token bigint NOT NULL,
    holder text COLLATE "C",
    expires bigint NOT NULL,
    PRIMARY KEY (tenant, name)
) WITH (fillfactor = 60);

-- leases_by_name: a lease whose tenant the reader does not know
CREATE INDEX leases_by_name ON {schema}.leases (name);

-- counters: what is reserved
CREATE TABLE {schema}.counters (
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    amount bigint NOT NULL,
    PRIMARY KEY (tenant, name)
) WITH (fillfactor = 60);

-- counters_by_name: a counter whose tenant the reader does not know
CREATE INDEX counters_by_name ON {schema}.counters (name);

-- batches: transactions that appended lately, so that one whose reply was lost is found again; xid NULL: it must never be written
CREATE TABLE {schema}.batches (
    tenant text COLLATE "C" NOT NULL,
    id uuid NOT NULL, -- begins with its time
    xid xid8,
    refusals jsonb,
    PRIMARY KEY (tenant, id)
);

-- members: the roles that see one tenant only, see isolation.sql
CREATE TABLE {schema}.members (
    role name PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL
);

-- my_tenant: the one tenant that the session's role may see; NULL: all
CREATE FUNCTION {schema}.my_tenant() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS
    'SELECT tenant FROM {schema}.members WHERE role = session_user';
