-- What the log makes since format 2: methods of accounts, seal keys, sessions that are refused and
-- locks, and the public keys of credentials. Servers of the version before read no log that has
-- any of it, so they go on until the first is written.

-- An append waits for nobody who waits for this longer than its clients bear.
SET LOCAL lock_timeout = '2s';

ALTER TABLE latchkey.tokens ADD COLUMN public_key bytea;

-- The settings of a login method of an account. Where a lockout is NULL nobody is locked out.
CREATE TABLE latchkey.login_methods (
  principal          bigint NOT NULL,
  method             smallint NOT NULL,
  made_at            bigint NOT NULL,
  changed_at         bigint NOT NULL,
  ttl_s              bigint NOT NULL,
  max_ttl_s          bigint,
  period_s           bigint,
  uses               bigint,
  networks           text,
  login_networks     text,
  lockout_threshold  bigint,
  lockout_duration_s bigint,
  lockout_reset_s    bigint,
  PRIMARY KEY (principal, method)
);

-- Every seal key that was ever used here. Its material is nowhere in the database.
CREATE TABLE latchkey.seal_keys (
  id         bigint PRIMARY KEY,
  salt       bytea NOT NULL CHECK (length(salt) = 16),
  phase      smallint NOT NULL,
  since_ms   bigint NOT NULL,
  changed_at bigint NOT NULL
);

CREATE TABLE latchkey.revoked_sessions (
  session    uuid PRIMARY KEY,
  until_ms   bigint NOT NULL,
  changed_at bigint NOT NULL
);
CREATE INDEX revoked_sessions_by_end ON latchkey.revoked_sessions (until_ms);

-- network: an address and how many bits of it count, or `unknown`.
CREATE TABLE latchkey.login_locks (
  principal  bigint NOT NULL,
  network    text COLLATE "C" NOT NULL,
  until_ms   bigint NOT NULL,
  changed_at bigint NOT NULL,
  PRIMARY KEY (principal, network)
);
CREATE INDEX login_locks_by_end ON latchkey.login_locks (until_ms);

-- Tokens as they are from now on. A digest of 32 bytes is of a new secret; one of 16 bytes is the
-- key that the stored digest must begin with. A new secret for a subject that is gone is refused:
-- `forget` would not find it.
CREATE OR REPLACE FUNCTION latchkey.put_tokens(records json) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  put      latchkey.tokens[];
  subjects bigint[];
  known    uuid[];
  rebound  uuid[];
  added    bigint;
BEGIN
  SELECT array_agg(r), array_agg(r.subject) FILTER (WHERE length(r.digest) = 32)
  INTO put, subjects FROM json_populate_recordset(NULL::latchkey.tokens, records) r;
  IF EXISTS (SELECT FROM latchkey.principals p
    WHERE p.id = ANY (subjects) AND p.deleted_at IS NOT NULL)
  THEN
    PERFORM latchkey.refuse('a token''s subject is gone');
  END IF;
  WITH changed AS (
    UPDATE latchkey.tokens t SET
      digest = CASE length(r.digest) WHEN 32 THEN r.digest ELSE t.digest END,
      kind = r.kind, subject = r.subject, resource = r.resource, scopes = r.scopes,
      ceiling = r.ceiling, issuers = r.issuers, parent = r.parent, made_at = r.made_at,
      not_before_ms = r.not_before_ms, expires_ms = r.expires_ms,
      expires_max_ms = r.expires_max_ms, ttl_s = r.ttl_s, period_s = r.period_s,
      uses_limit = r.uses_limit, uses_left = r.uses_left, networks = r.networks,
      audience = r.audience, workload = r.workload, rotation = r.rotation,
      grace_key = r.grace_key, grace_until_ms = r.grace_until_ms, revoked_at = r.revoked_at,
      revoked_ms = r.revoked_ms, issuer = r.issuer, changed_at = r.changed_at,
      last4 = coalesce(r.last4, t.last4), name = coalesce(r.name, t.name),
      description = coalesce(r.description, t.description), slice = r.slice,
      ended_ms = r.ended_ms, public_key = r.public_key
    FROM unnest(put) r JOIN latchkey.tokens former ON former.id = r.id
    WHERE t.id = r.id AND (length(r.digest) = 32 OR substr(t.digest, 1, 16) = r.digest)
    RETURNING t.id, former.issuers <> r.issuers AS is_rebound)
  SELECT array_agg(id), array_agg(id) FILTER (WHERE is_rebound) INTO known, rebound FROM changed;
  INSERT INTO latchkey.tokens (id, digest, kind, subject, resource, scopes, ceiling, issuers,
    parent, made_at, not_before_ms, expires_ms, expires_max_ms, ttl_s, period_s, uses_limit,
    uses_left, networks, audience, workload, rotation, grace_key, grace_until_ms, revoked_at,
    revoked_ms, issuer, changed_at, last4, name, description, slice, ended_ms, public_key)
  SELECT r.id, r.digest, r.kind, r.subject, r.resource, r.scopes, r.ceiling, r.issuers, r.parent,
    r.made_at, r.not_before_ms, r.expires_ms, r.expires_max_ms, r.ttl_s, r.period_s, r.uses_limit,
    r.uses_left, r.networks, r.audience, r.workload, r.rotation, r.grace_key, r.grace_until_ms,
    r.revoked_at, r.revoked_ms, r.issuer, r.changed_at, coalesce(r.last4, ''),
    coalesce(r.name, ''), coalesce(r.description, ''), r.slice, r.ended_ms, r.public_key
  FROM unnest(put) r
  WHERE length(r.digest) = 32 AND (known IS NULL OR r.id <> ALL (known));
  GET DIAGNOSTICS added = ROW_COUNT;
  IF added + coalesce(cardinality(known), 0) <> cardinality(put) THEN
    PERFORM latchkey.refuse('a token''s key is not that of its digest');
  END IF;
  IF rebound IS NOT NULL THEN
    DELETE FROM latchkey.token_issuers WHERE token = ANY (rebound);
  END IF;
END $$;

-- Writes one batch of rows of one sort; `records` is an array of objects. What does not fit the
-- tables is refused, so that log and tables cannot part.
CREATE OR REPLACE FUNCTION latchkey.write(verb text, records json) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  wanted  bigint := json_array_length(records);
  written bigint;
  former  bigint;
BEGIN
  CASE verb
  WHEN 'put_tokens' THEN
    PERFORM latchkey.put_tokens(records);
    RETURN;
  WHEN 'put_token_issuers' THEN
    INSERT INTO latchkey.token_issuers
    SELECT * FROM json_populate_recordset(NULL::latchkey.token_issuers, records)
    ON CONFLICT DO NOTHING;
    RETURN;
  WHEN 'clear_token_labels' THEN
    DELETE FROM latchkey.token_labels
    WHERE token IN (SELECT r.token
      FROM json_populate_recordset(NULL::latchkey.token_labels, records) r);
    RETURN;
  WHEN 'put_token_labels' THEN
    INSERT INTO latchkey.token_labels
    SELECT * FROM json_populate_recordset(NULL::latchkey.token_labels, records);
  WHEN 'revoke_tokens' THEN
    -- A second revocation keeps the first instant and the first reason.
    UPDATE latchkey.tokens t SET changed_at = r.changed_at,
      revoke_reason = CASE WHEN t.revoked_at IS NULL THEN r.revoke_reason ELSE t.revoke_reason END,
      ended_ms = CASE WHEN t.revoked_at IS NULL THEN least(t.ended_ms, r.revoked_ms)
        ELSE t.ended_ms END,
      revoked_ms = coalesce(t.revoked_ms, r.revoked_ms),
      revoked_at = coalesce(t.revoked_at, r.changed_at)
    FROM json_populate_recordset(NULL::latchkey.tokens, records) r WHERE t.id = r.id;
  WHEN 'use_tokens' THEN
    UPDATE latchkey.tokens t SET uses_left = r.uses_left, changed_at = r.changed_at
    FROM json_populate_recordset(NULL::latchkey.tokens, records) r
    WHERE t.id = r.id AND t.uses_limit IS NOT NULL;
  WHEN 'put_cut_offs' THEN
    INSERT INTO latchkey.cut_offs AS c
    SELECT * FROM json_populate_recordset(NULL::latchkey.cut_offs, records)
    ON CONFLICT (kind, target) DO UPDATE SET revision = greatest(c.revision, excluded.revision);
  WHEN 'put_requests' THEN
    DELETE FROM latchkey.requests WHERE key IN (SELECT r.key
      FROM json_populate_recordset(NULL::latchkey.requests, records) r);
    GET DIAGNOSTICS former = ROW_COUNT;
    INSERT INTO latchkey.requests
    SELECT * FROM json_populate_recordset(NULL::latchkey.requests, records);
    GET DIAGNOSTICS written = ROW_COUNT;
    UPDATE latchkey.head SET requests = requests + written - former;
    RETURN;
  WHEN 'put_principals' THEN
    -- Not ON CONFLICT: a text that is not given stays as it is.
    UPDATE latchkey.principals p SET kind = r.kind, name = r.name, home = r.home,
      disabled = r.disabled, made_at = r.made_at, changed_at = r.changed_at,
      display_name = coalesce(r.display_name, p.display_name),
      description = coalesce(r.description, p.description), labels = coalesce(r.labels, p.labels)
    FROM json_populate_recordset(NULL::latchkey.principals, records) r
    WHERE p.id = r.id AND p.deleted_at IS NULL;
    GET DIAGNOSTICS former = ROW_COUNT;
    INSERT INTO latchkey.principals
    SELECT r.id, r.kind, r.name, r.home, r.disabled, r.made_at, r.created_ms, r.changed_at,
      coalesce(r.display_name, ''), coalesce(r.description, ''), coalesce(r.labels, '{}'), NULL
    FROM json_populate_recordset(NULL::latchkey.principals, records) r
    WHERE NOT EXISTS (SELECT FROM latchkey.principals p WHERE p.id = r.id);
    GET DIAGNOSTICS written = ROW_COUNT;
    written := written + former;
  WHEN 'delete_principals' THEN
    UPDATE latchkey.principals p SET deleted_at = r.changed_at, changed_at = r.changed_at
    FROM json_populate_recordset(NULL::latchkey.principals, records) r
    WHERE p.id = r.id AND p.deleted_at IS NULL;
    GET DIAGNOSTICS written = ROW_COUNT;
    DELETE FROM latchkey.grants g
    USING json_populate_recordset(NULL::latchkey.principals, records) r WHERE g.principal = r.id;
    DELETE FROM latchkey.members m
    USING json_populate_recordset(NULL::latchkey.principals, records) r
    WHERE m.team = r.id OR m.member = r.id;
    DELETE FROM latchkey.login_methods m
    USING json_populate_recordset(NULL::latchkey.principals, records) r WHERE m.principal = r.id;
    DELETE FROM latchkey.login_locks l
    USING json_populate_recordset(NULL::latchkey.principals, records) r WHERE l.principal = r.id;
  WHEN 'add_members' THEN
    INSERT INTO latchkey.members
    SELECT * FROM json_populate_recordset(NULL::latchkey.members, records);
  WHEN 'remove_members' THEN
    DELETE FROM latchkey.members m
    USING json_populate_recordset(NULL::latchkey.members, records) r
    WHERE m.team = r.team AND m.member = r.member;
  WHEN 'put_roles' THEN
    UPDATE latchkey.roles p SET home = r.home, actions = r.actions, made_at = r.made_at,
      changed_at = r.changed_at, description = coalesce(r.description, p.description),
      labels = coalesce(r.labels, p.labels)
    FROM json_populate_recordset(NULL::latchkey.roles, records) r WHERE p.name = r.name;
    GET DIAGNOSTICS former = ROW_COUNT;
    INSERT INTO latchkey.roles
    SELECT r.name, r.home, r.actions, r.made_at, r.created_ms, r.changed_at,
      coalesce(r.description, ''), coalesce(r.labels, '{}')
    FROM json_populate_recordset(NULL::latchkey.roles, records) r
    WHERE NOT EXISTS (SELECT FROM latchkey.roles p WHERE p.name = r.name);
    GET DIAGNOSTICS written = ROW_COUNT;
    written := written + former;
  WHEN 'delete_roles' THEN
    DELETE FROM latchkey.roles p
    USING json_populate_recordset(NULL::latchkey.roles, records) r WHERE p.name = r.name;
  WHEN 'put_grants' THEN
    INSERT INTO latchkey.grants
    SELECT * FROM json_populate_recordset(NULL::latchkey.grants, records);
  WHEN 'delete_grants' THEN
    DELETE FROM latchkey.grants g
    USING json_populate_recordset(NULL::latchkey.grants, records) r WHERE g.id = r.id;
  WHEN 'put_methods' THEN
    INSERT INTO latchkey.login_methods AS m
    SELECT r.* FROM json_populate_recordset(NULL::latchkey.login_methods, records) r
    WHERE EXISTS (
      SELECT FROM latchkey.principals p WHERE p.id = r.principal AND p.deleted_at IS NULL)
    ON CONFLICT (principal, method) DO UPDATE SET made_at = excluded.made_at,
      changed_at = excluded.changed_at, ttl_s = excluded.ttl_s, max_ttl_s = excluded.max_ttl_s,
      period_s = excluded.period_s, uses = excluded.uses, networks = excluded.networks,
      login_networks = excluded.login_networks, lockout_threshold = excluded.lockout_threshold,
      lockout_duration_s = excluded.lockout_duration_s, lockout_reset_s = excluded.lockout_reset_s;
  WHEN 'delete_methods' THEN
    DELETE FROM latchkey.login_methods m
    USING json_populate_recordset(NULL::latchkey.login_methods, records) r
    WHERE m.principal = r.principal AND m.method = r.method;
  WHEN 'put_seal_keys' THEN
    INSERT INTO latchkey.seal_keys AS k
    SELECT * FROM json_populate_recordset(NULL::latchkey.seal_keys, records)
    ON CONFLICT (id) DO UPDATE SET salt = excluded.salt, phase = excluded.phase,
      since_ms = excluded.since_ms, changed_at = excluded.changed_at;
  WHEN 'revoke_sessions' THEN
    INSERT INTO latchkey.revoked_sessions AS s
    SELECT * FROM json_populate_recordset(NULL::latchkey.revoked_sessions, records)
    ON CONFLICT (session) DO UPDATE SET until_ms = excluded.until_ms,
      changed_at = excluded.changed_at;
  WHEN 'put_locks' THEN
    INSERT INTO latchkey.login_locks AS l
    SELECT r.* FROM json_populate_recordset(NULL::latchkey.login_locks, records) r
    WHERE EXISTS (
      SELECT FROM latchkey.principals p WHERE p.id = r.principal AND p.deleted_at IS NULL)
    ON CONFLICT (principal, network) DO UPDATE SET until_ms = excluded.until_ms,
      changed_at = excluded.changed_at;
  WHEN 'end_locks' THEN
    DELETE FROM latchkey.login_locks l
    USING json_populate_recordset(NULL::latchkey.login_locks, records) r
    WHERE l.principal = r.principal AND l.until_ms <= r.until_ms;
    RETURN;
  WHEN 'delete_locks' THEN
    DELETE FROM latchkey.login_locks l
    USING json_populate_recordset(NULL::latchkey.login_locks, records) r
    WHERE l.principal = r.principal AND l.network = r.network;
  WHEN 'forget_logins' THEN
    DELETE FROM latchkey.revoked_sessions s WHERE s.until_ms < (records->0->>'before_ms')::bigint;
    DELETE FROM latchkey.login_locks l WHERE l.until_ms < (records->0->>'before_ms')::bigint;
    RETURN;
  END CASE;
  IF verb NOT IN ('put_principals', 'put_roles', 'delete_principals') THEN
    GET DIAGNOSTICS written = ROW_COUNT;
  END IF;
  IF written <> wanted THEN
    PERFORM latchkey.refuse('a row is not where it was: ' || verb);
  END IF;
END $$;
