-- The statements of the store, each under its name. {columns} are an event's, see statements.py.

-- head: where a stream is
SELECT name, seq, hash, position, ts FROM {schema}.streams WHERE name = $1 ORDER BY (tenant = $2) DESC, tenant LIMIT 1;

-- heads: where the streams of a span of names are
SELECT name, seq, hash, position, ts FROM {schema}.streams WHERE name >= $1 AND name < $2 ORDER BY name, tenant;

-- read: a stream's events in order
SELECT {columns} FROM {schema}.events e JOIN (
    SELECT * FROM {schema}.streams WHERE name = $1 ORDER BY (tenant = $2) DESC, tenant LIMIT 1
) s ON e.tenant = s.tenant AND e.stream = s.id WHERE e.seq > $3 ORDER BY e.seq LIMIT $4;

-- latest: the newest event of a stream with a key
SELECT {columns} FROM {schema}.events e JOIN (
    SELECT * FROM {schema}.streams WHERE name = $1 ORDER BY (tenant = $2) DESC, tenant LIMIT 1
) s ON e.tenant = s.tenant AND e.stream = s.id WHERE e.key = $3 ORDER BY e.seq DESC LIMIT 1;

-- settled: below which transaction nothing can come any more, and whether something is above
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
    EXISTS (SELECT 1 FROM {schema}.events WHERE xid >= pg_snapshot_xmin(pg_current_snapshot()));

-- tail: the newest place that followers may have seen
SELECT e.xid::text::bigint, e.position FROM {schema}.events e WHERE e.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY e.xid DESC, e.position DESC LIMIT 1;

-- page: events after a place that are older than every transaction under way; {where} chooses among them
SELECT {columns} FROM {schema}.events e JOIN {schema}.streams s ON s.tenant = e.tenant AND s.id = e.stream
    WHERE (e.xid, e.position) > ($1::text::xid8, $2) AND e.xid < pg_snapshot_xmin(pg_current_snapshot()) {where}
    ORDER BY e.xid, e.position LIMIT $3;

-- between: events that one snapshot sees and an older one did not, after a place; {where} chooses among them
SELECT {columns} FROM {schema}.events e JOIN {schema}.streams s ON s.tenant = e.tenant AND s.id = e.stream
    WHERE (e.xid, e.position) > ($1::text::xid8, $2) AND e.xid >= pg_snapshot_xmin($3::text::pg_snapshot)
    AND e.xid < pg_snapshot_xmax($4::text::pg_snapshot) AND NOT pg_visible_in_snapshot(e.xid, $3::text::pg_snapshot)
    AND pg_visible_in_snapshot(e.xid, $4::text::pg_snapshot) {where}
    ORDER BY e.xid, e.position LIMIT $5;

-- lease: who may go on
SELECT name, token, holder, expires FROM {schema}.leases WHERE name = $1 ORDER BY (tenant = $2) DESC, tenant LIMIT 1;

-- leases: the leases of a span of names
SELECT name, token, holder, expires FROM {schema}.leases WHERE name >= $1 AND name < $2 ORDER BY name, tenant;

-- holder_of: which event holds a unique key
SELECT stream, seq FROM {schema}.keys WHERE name = $1 ORDER BY (tenant = $2) DESC, tenant LIMIT 1;

-- reserved: what is reserved on a counter
SELECT amount FROM {schema}.counters WHERE name = $1 ORDER BY (tenant = $2) DESC, tenant LIMIT 1;

-- renew: lengthen a lease
SELECT o_token, o_holder, o_expires FROM {schema}.renew($1, $2, $3, $4, $5);

-- append: write what several callers asked for
SELECT xid, seqs, positions, prevs, refusals FROM {schema}.append(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22);

-- lock: keep other writers of these names out until the end of the transaction
SELECT count(pg_advisory_xact_lock(k)) FROM unnest($1::bigint[]) k;

-- void: make sure that a batch is never written from now on; no row if it was
INSERT INTO {schema}.batches (tenant, id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING id;

-- batch: what became of a batch
SELECT xid::text, refusals FROM {schema}.batches WHERE tenant = $1 AND id = $2;

-- noted: note a batch that is not an append, such as an erasure
INSERT INTO {schema}.batches VALUES ($1, $2, pg_current_xact_id());

-- prune: forget batches whose reply nobody waits for any more
DELETE FROM {schema}.batches WHERE tenant = $1 AND id < $2;

-- written: the events of one transaction, in order
SELECT {columns} FROM {schema}.events e JOIN {schema}.streams s ON s.tenant = e.tenant AND s.id = e.stream
    WHERE e.xid = $1::text::xid8 ORDER BY e.position;

-- erase: remove a payload, keeping its digest
UPDATE {schema}.events e SET digest = coalesce(e.digest, sha256(e.salt || convert_to(e.data, 'UTF8'))), data = NULL, salt = NULL
    FROM (SELECT * FROM {schema}.streams WHERE name = $1 ORDER BY (tenant = $2) DESC, tenant LIMIT 1) s
    WHERE e.tenant = s.tenant AND e.stream = s.id AND e.seq = $3 RETURNING e.seq;

-- restore_streams: list streams of another ledger
INSERT INTO {schema}.streams SELECT * FROM unnest(
    $1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bigint[], $7::bigint[]);

-- restore_events: write events of another ledger as they are
INSERT INTO {schema}.events SELECT t.tenant, t.stream, t.seq, t.position, pg_current_xact_id(), t.type, t.ts, t.actor,
        nullif(t.labelled, t.tenant), t.parent, t.key, t.schema, t.data, t.salt, t.digest, t.prev, t.hash
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::text[], $8::text[],
        $9::text[], $10::text[], $11::bigint[], $12::text[], $13::bytea[], $14::bytea[], $15::bytea[], $16::bytea[])
    AS t(tenant, stream, seq, position, type, ts, actor, labelled, parent, key, schema, data, salt, digest, prev, hash);

-- places: so many new positions
SELECT nextval('{schema}.positions') FROM generate_series(1, $1);

-- ids: so many new stream ids
SELECT nextval('{schema}.stream_ids') FROM generate_series(1, $1);

-- ring: wake the followers of every process
SELECT pg_notify($1, '');

-- listed: every stream as it is listed, and how far its events go
SELECT s.tenant, s.id, s.name, s.seq, s.hash,
    (SELECT coalesce(max(e.seq), 0) FROM {schema}.events e WHERE e.tenant = s.tenant AND e.stream = s.id)
    FROM {schema}.streams s WHERE $1::text IS NULL OR s.name = $1 ORDER BY s.name, s.tenant;

-- chain: a stream's fields as they are hashed
SELECT seq, type, ts, actor, coalesce(labelled, tenant), parent, key, schema, convert_to(data, 'UTF8'), salt, digest, prev, hash
    FROM {schema}.events WHERE tenant = $1 AND stream = $2 AND seq > $3 AND seq <= $4 ORDER BY seq LIMIT $5;

-- orphans: events of streams that nobody lists
SELECT e.tenant, e.stream, count(*) FROM {schema}.events e
    WHERE NOT EXISTS (SELECT 1 FROM {schema}.streams s WHERE s.tenant = e.tenant AND s.id = e.stream) GROUP BY 1, 2;

-- lock_holder: who keeps a lock that an append waits for
SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()
    AND ((classid::bigint << 32) | objid::bigint) = ANY($1::bigint[]) LIMIT 1;

-- holding_back: the transactions that keep followers from newer events, the oldest first
SELECT pid, coalesce(usename, ''), coalesce(application_name, ''), coalesce(state, ''),
    extract(epoch FROM clock_timestamp() - xact_start)::float8
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY age(backend_xid) DESC;
