-- Row-level security: a member role sees and writes the rows of its tenant only. The schema's owner sees everything.

-- streams_policy: a member's streams
ALTER TABLE {schema}.streams ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS of_tenant ON {schema}.streams;
CREATE POLICY of_tenant ON {schema}.streams USING (tenant = (SELECT {schema}.my_tenant()));

-- events_policy: a member's events
ALTER TABLE {schema}.events ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS of_tenant ON {schema}.events;
CREATE POLICY of_tenant ON {schema}.events USING (tenant = (SELECT {schema}.my_tenant()));

-- keys_policy: a member's unique keys
ALTER TABLE {schema}.keys ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS of_tenant ON {schema}.keys;
CREATE POLICY of_tenant ON {schema}.keys USING (tenant = (SELECT {schema}.my_tenant()));

-- leases_policy: a member's leases
ALTER TABLE {schema}.leases ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS of_tenant ON {schema}.leases;
CREATE POLICY of_tenant ON {schema}.leases USING (tenant = (SELECT {schema}.my_tenant()));

-- counters_policy: a member's counters
ALTER TABLE {schema}.counters ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS of_tenant ON {schema}.counters;
CREATE POLICY of_tenant ON {schema}.counters USING (tenant = (SELECT {schema}.my_tenant()));

-- batches_policy: a member's batches
ALTER TABLE {schema}.batches ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS of_tenant ON {schema}.batches;
CREATE POLICY of_tenant ON {schema}.batches USING (tenant = (SELECT {schema}.my_tenant()));

-- membership: bind the role to the tenant
INSERT INTO {schema}.members VALUES ({role_text}, {tenant_text}) ON CONFLICT (role) DO UPDATE SET tenant = excluded.tenant;

-- rights: what a member may do; it changes and removes no event
GRANT USAGE ON SCHEMA {schema} TO {role};
GRANT SELECT ON {schema}.meta TO {role};
GRANT SELECT, INSERT ON {schema}.events TO {role};
GRANT SELECT, INSERT, UPDATE ON {schema}.streams, {schema}.leases, {schema}.counters TO {role};
GRANT SELECT, INSERT, DELETE ON {schema}.keys, {schema}.batches TO {role};
GRANT USAGE ON {schema}.positions, {schema}.stream_ids TO {role};

-- own_views: where the member's store keeps its views
CREATE SCHEMA IF NOT EXISTS {views};
GRANT USAGE, CREATE ON SCHEMA {views} TO {role};
