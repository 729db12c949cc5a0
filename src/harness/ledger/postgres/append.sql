-- The append, as functions of the database: one call writes what several callers asked for, or says who was refused and why.

-- judge: check one guard and do what it changes; NULL if it holds, else what the refusal is about
CREATE OR REPLACE FUNCTION {schema}.judge(
    p_kind text, p_tenant text, p_now bigint, p_name text, p_number bigint, p_holder text, p_other bigint,
    p_stream text, p_seq bigint
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    v_seq bigint;
    v_key {schema}.keys;
    v_lease {schema}.leases;
    v_counter {schema}.counters;
BEGIN
    IF p_kind IN ('fence', 'acquire', 'release') THEN
        SELECT * INTO v_lease FROM {schema}.leases t WHERE t.name = p_name ORDER BY (t.tenant = p_tenant) DESC, t.tenant LIMIT 1;
        IF p_kind = 'acquire' THEN
            IF (v_lease.holder IS NOT NULL AND p_now < v_lease.expires AND v_lease.holder <> p_holder)
                OR p_number <> coalesce(v_lease.token, 0) + 1 THEN
                RETURN jsonb_build_object('lease', to_jsonb(v_lease));
            END IF;
            INSERT INTO {schema}.leases VALUES (coalesce(v_lease.tenant, p_tenant), p_name, p_number, p_holder, p_other)
                ON CONFLICT (tenant, name) DO UPDATE
                SET token = excluded.token, holder = excluded.holder, expires = excluded.expires;
        ELSE
            IF v_lease.holder IS NULL OR v_lease.token <> p_number THEN
                RETURN jsonb_build_object('lease', to_jsonb(v_lease));
            END IF;
            IF p_kind = 'release' THEN
                UPDATE {schema}.leases t SET holder = NULL, expires = p_now
                    WHERE t.tenant = v_lease.tenant AND t.name = p_name;
            END IF;
        END IF;
    ELSIF p_kind = 'expect' THEN
        SELECT t.seq INTO v_seq FROM {schema}.streams t WHERE t.name = p_name
            ORDER BY (t.tenant = p_tenant) DESC, t.tenant LIMIT 1;
        IF coalesce(v_seq, 0) <> p_number THEN
            RETURN jsonb_build_object('seq', coalesce(v_seq, 0));
        END IF;
    ELSIF p_kind = 'unique' THEN
        SELECT * INTO v_key FROM {schema}.keys t WHERE t.name = p_name ORDER BY (t.tenant = p_tenant) DESC, t.tenant LIMIT 1;
        IF FOUND THEN
            RETURN jsonb_build_object('stream', v_key.stream, 'seq', v_key.seq);
        END IF;
        INSERT INTO {schema}.keys VALUES (p_tenant, p_name, p_stream, p_seq);
    ELSIF p_kind = 'free' THEN
        DELETE FROM {schema}.keys t WHERE (t.tenant, t.name) = (
            SELECT k.tenant, k.name FROM {schema}.keys k WHERE k.name = p_name
                ORDER BY (k.tenant = p_tenant) DESC, k.tenant LIMIT 1);
    ELSIF p_kind = 'reserve' THEN
        SELECT * INTO v_counter FROM {schema}.counters t WHERE t.name = p_name
            ORDER BY (t.tenant = p_tenant) DESC, t.tenant LIMIT 1;
        v_seq := coalesce(v_counter.amount, 0);
        IF (p_other IS NOT NULL AND p_number > 0 AND v_seq::numeric + p_number > p_other)
            OR abs(v_seq::numeric + p_number) > 9223372036854775807 THEN
            RETURN jsonb_build_object('amount', v_seq);
        END IF;
        INSERT INTO {schema}.counters VALUES (coalesce(v_counter.tenant, p_tenant), p_name, v_seq + p_number)
            ON CONFLICT (tenant, name) DO UPDATE SET amount = excluded.amount;
    ELSE
        RAISE EXCEPTION 'no guard is called %', p_kind;
    END IF;
    RETURN NULL;
END $$;

-- stream_head: the stream's newest event as this append sees it; a new stream gets its id, at sequence 0
CREATE OR REPLACE FUNCTION {schema}.stream_head(p_name text, p_tenant text) RETURNS {schema}.streams LANGUAGE plpgsql AS $$
DECLARE
    v_head {schema}.streams;
BEGIN
    SELECT * INTO v_head FROM {schema}.streams t WHERE t.name = p_name ORDER BY (t.tenant = p_tenant) DESC, t.tenant LIMIT 1;
    IF NOT FOUND THEN
        v_head := ROW(p_tenant, p_name, nextval('{schema}.stream_ids'), 0, decode(repeat('00', 32), 'hex'), 0, 0);
    END IF;
    RETURN v_head;
END $$;

-- put_head: list the stream where it is now
CREATE OR REPLACE FUNCTION {schema}.put_head(p_head {schema}.streams, p_known bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF p_known = 0 THEN
        INSERT INTO {schema}.streams SELECT (p_head).*;
    ELSE
        UPDATE {schema}.streams t SET seq = p_head.seq, hash = p_head.hash, position = p_head.position, ts = p_head.ts
            WHERE t.tenant = p_head.tenant AND t.name = p_head.name;
    END IF;
END $$;

-- append: write several appends in order, each whole or not at all; gives the places of what was written, and the refusals
-- The locks are hashes of every name that is looked at, in order: whoever holds them all sees what those before it committed,
-- and gets a higher transaction number. The hash is over the same bytes as events.hash_of.
CREATE OR REPLACE FUNCTION {schema}.append(
    p_tenant text, p_batch uuid, p_count bigint, p_now bigint, p_locks bigint[],
    g_append bigint[], g_kind text[], g_name text[], g_number bigint[], g_holder text[], g_other bigint[],
    e_append bigint[], e_stream text[], e_type text[], e_ts bigint[], e_actor text[], e_tenant text[], e_parent text[],
    e_key text[], e_schema bigint[], e_data text[], e_salt bytea[],
    OUT xid text, OUT seqs bigint[], OUT positions bigint[], OUT prevs bytea[], OUT refusals jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    n_guards integer := cardinality(g_append);
    n_events integer := cardinality(e_append);
    g integer := 1;
    e integer := 1;
    v_guard integer;
    v_refusal jsonb;
    v_writing boolean;
    v_head {schema}.streams;
    v_known bigint;
    v_xid xid8;
    v_hash bytea;
    v_numbers text;
BEGIN
    PERFORM pg_advisory_xact_lock(k) FROM unnest(p_locks) k;
    seqs := '{}';
    positions := '{}';
    prevs := '{}';
    FOR i IN 1..p_count LOOP
        v_head := {schema}.stream_head(e_stream[e], e_tenant[e]);
        v_known := v_head.seq;
        v_refusal := NULL;
        IF g <= n_guards AND g_append[g] = i THEN
            v_guard := g;
            v_writing := false;
            WHILE g <= n_guards AND g_append[g] = i LOOP
                v_writing := v_writing OR g_kind[g] NOT IN ('fence', 'expect');
                g := g + 1;
            END LOOP;
            IF v_writing THEN
                BEGIN  -- what the guards before the refusing one changed is undone with it
                    FOR j IN v_guard..g - 1 LOOP
                        v_refusal := {schema}.judge(g_kind[j], v_head.tenant, p_now, g_name[j], g_number[j], g_holder[j],
                            g_other[j], v_head.name, v_head.seq + 1);
                        IF v_refusal IS NOT NULL THEN
                            v_refusal := v_refusal || jsonb_build_object('append', i, 'guard', j - v_guard);
                            RAISE EXCEPTION SQLSTATE 'HR001';
                        END IF;
                    END LOOP;
                EXCEPTION WHEN SQLSTATE 'HR001' THEN NULL;
                END;
            ELSE
                FOR j IN v_guard..g - 1 LOOP
                    v_refusal := {schema}.judge(g_kind[j], v_head.tenant, p_now, g_name[j], g_number[j], g_holder[j],
                        g_other[j], v_head.name, v_head.seq + 1);
                    IF v_refusal IS NOT NULL THEN
                        v_refusal := v_refusal || jsonb_build_object('append', i, 'guard', j - v_guard);
                        EXIT;
                    END IF;
                END LOOP;
            END IF;
        END IF;
        IF v_refusal IS NOT NULL THEN
            refusals := coalesce(refusals, '[]'::jsonb) || v_refusal;
            WHILE e <= n_events AND e_append[e] = i LOOP
                e := e + 1;
            END LOOP;
            CONTINUE;
        END IF;
        IF v_xid IS NULL THEN
            v_xid := pg_current_xact_id();
            xid := v_xid::text;
        END IF;
        WHILE e <= n_events AND e_append[e] = i LOOP
            IF e_stream[e] <> v_head.name THEN
                PERFORM {schema}.put_head(v_head, v_known);
                v_head := {schema}.stream_head(e_stream[e], e_tenant[e]);
                v_known := v_head.seq;
            END IF;
            seqs := seqs || (v_head.seq + 1);
            prevs := prevs || v_head.hash;
            v_head.position := nextval('{schema}.positions');
            positions := positions || v_head.position;
            v_numbers := (v_head.seq + 1) || ',' || e_ts[e] || ',' || e_schema[e];
            v_hash := sha256(
                convert_to(
                    octet_length(v_head.name) || ':' || v_head.name || octet_length(e_type[e]) || ':' || e_type[e]
                    || octet_length(e_actor[e]) || ':' || e_actor[e] || octet_length(e_tenant[e]) || ':' || e_tenant[e]
                    || octet_length(v_numbers) || ':' || v_numbers
                    || coalesce(octet_length(e_parent[e]) || ':' || e_parent[e], '-')
                    || coalesce(octet_length(e_key[e]) || ':' || e_key[e], '-'), 'UTF8')
                || sha256(e_salt[e] || convert_to(e_data[e], 'UTF8')) || v_head.hash);
            INSERT INTO {schema}.events VALUES (
                v_head.tenant, v_head.id, v_head.seq + 1, v_head.position, v_xid, e_type[e], e_ts[e], e_actor[e],
                nullif(e_tenant[e], v_head.tenant), e_parent[e], e_key[e], e_schema[e], e_data[e], e_salt[e], NULL,
                v_head.hash, v_hash);
            v_head.seq := v_head.seq + 1;
            v_head.hash := v_hash;
            v_head.ts := e_ts[e];
            e := e + 1;
        END LOOP;
        PERFORM {schema}.put_head(v_head, v_known);
    END LOOP;
    IF v_xid IS NOT NULL THEN
        INSERT INTO {schema}.batches VALUES (p_tenant, p_batch, v_xid, refusals);
    END IF;
END $$;

-- renew: lengthen a lease that its holder still has; gives the lease as it was, and who holds what
CREATE OR REPLACE FUNCTION {schema}.renew(
    p_lock bigint, p_name text, p_tenant text, p_token bigint, p_expires bigint,
    OUT o_token bigint, OUT o_holder text, OUT o_expires bigint
) LANGUAGE plpgsql AS $$
DECLARE
    v_lease {schema}.leases;
BEGIN
    PERFORM pg_advisory_xact_lock(p_lock);
    SELECT * INTO v_lease FROM {schema}.leases t WHERE t.name = p_name ORDER BY (t.tenant = p_tenant) DESC, t.tenant LIMIT 1;
    o_token := v_lease.token;
    o_holder := v_lease.holder;
    o_expires := v_lease.expires;
    IF v_lease.holder IS NOT NULL AND v_lease.token = p_token THEN
        UPDATE {schema}.leases t SET expires = p_expires WHERE t.tenant = v_lease.tenant AND t.name = p_name;
    END IF;
END $$;
