-- Functions: the one way in which anything is written to the log and to what it makes.
--
-- Names are written with their schema, so that no setting of a session or a pooler matters.
-- Refusals carry SQLSTATE LK001 and no values. Kept plans are of an unknown size of table: scans
-- and hashes of whole tables are switched off, as every statement goes by a key, and so is the
-- compiler of plans, which the price put on them would call in.

-- Makes partitions until `upto` has one, and the next when the last is half full. A partition
-- holds about a month at the rate of the one before, by the instants of its entries, but at most
-- four times as much as that: an hour's burst or a copy is no month. A log that begins after a cut
-- needs none before it. Runs with its owner's rights: the server's role makes no tables, and none
-- are made that are far ahead. Attaching takes no lock that readers or writers of the log wait for.
CREATE FUNCTION latchkey.extend_log(upto bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  parts_min  CONSTANT bigint := 65536;
  parts_max  CONSTANT bigint := 16777216;
  growth_max CONSTANT bigint := 4;
  month_ms   CONSTANT numeric := 30 * 86400000.0;
  now_ms     CONSTANT bigint := extract(epoch FROM clock_timestamp()) * 1000;
  newest     latchkey.log_parts;
  began_ms   bigint;
  size       bigint;
  low        bigint;
  name       text;
BEGIN
  PERFORM pg_advisory_xact_lock(1818979961, 2);
  LOOP
    SELECT * INTO newest FROM latchkey.log_parts ORDER BY first DESC LIMIT 1;
    IF NOT FOUND THEN
      newest := (1, 1, now_ms);
      size := parts_min;
    ELSE
      EXIT WHEN upto < newest.first + (newest.past - newest.first) / 2;
      IF newest.first > (SELECT h.revision + parts_max FROM latchkey.head h) THEN
        RAISE EXCEPTION 'the log has room for far more' USING ERRCODE = 'LK001';
      END IF;
      SELECT l.instant_ms INTO began_ms FROM latchkey.log l WHERE l.revision >= newest.first
      ORDER BY l.revision LIMIT 1;
      size := least(parts_max, greatest(parts_min, least(growth_max * (newest.past - newest.first),
        (month_ms * (upto - newest.first)
          / greatest(now_ms - coalesce(began_ms, newest.made_ms), 1))::numeric(30))))::bigint;
    END IF;
    low := greatest(newest.past, (SELECT c.revision + 1 FROM latchkey.log_cut c));
    name := 'log_' || lpad(low::text, 19, '0');
    EXECUTE format('CREATE TABLE latchkey.%I (LIKE latchkey.log INCLUDING ALL)', name);
    EXECUTE format('ALTER TABLE latchkey.log ATTACH PARTITION latchkey.%I FOR VALUES FROM (%s) TO (%s)',
      name, low, low + size);
    INSERT INTO latchkey.log_parts VALUES (low, low + size, now_ms);
  END LOOP;
  RETURN newest.past;
END $$;
REVOKE EXECUTE ON FUNCTION latchkey.extend_log FROM PUBLIC;
SELECT latchkey.extend_log(1);

-- Makes the commit of this transaction durable, also on a standby that is waited for, whatever the
-- session, the role or the database was set to do with less, and lets a cancelled wait for one be
-- seen.
CREATE FUNCTION latchkey.durably() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  PERFORM set_config('client_min_messages', 'warning', true);
END $$;

-- Refuses a batch for good.
CREATE FUNCTION latchkey.refuse(why text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%', why USING ERRCODE = 'LK001';
END $$;

-- Tokens as they are from now on. A digest of 32 bytes is of a new secret; one of 16 bytes is the
-- key that the stored digest must begin with. A new secret for a subject that is gone is refused:
-- `forget` would not find it.
CREATE FUNCTION latchkey.put_tokens(records json) RETURNS void
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
      ended_ms = r.ended_ms
    FROM unnest(put) r JOIN latchkey.tokens former ON former.id = r.id
    WHERE t.id = r.id AND (length(r.digest) = 32 OR substr(t.digest, 1, 16) = r.digest)
    RETURNING t.id, former.issuers <> r.issuers AS is_rebound)
  SELECT array_agg(id), array_agg(id) FILTER (WHERE is_rebound) INTO known, rebound FROM changed;
  INSERT INTO latchkey.tokens (id, digest, kind, subject, resource, scopes, ceiling, issuers,
    parent, made_at, not_before_ms, expires_ms, expires_max_ms, ttl_s, period_s, uses_limit,
    uses_left, networks, audience, workload, rotation, grace_key, grace_until_ms, revoked_at,
    revoked_ms, issuer, changed_at, last4, name, description, slice, ended_ms)
  SELECT r.id, r.digest, r.kind, r.subject, r.resource, r.scopes, r.ceiling, r.issuers, r.parent,
    r.made_at, r.not_before_ms, r.expires_ms, r.expires_max_ms, r.ttl_s, r.period_s, r.uses_limit,
    r.uses_left, r.networks, r.audience, r.workload, r.rotation, r.grace_key, r.grace_until_ms,
    r.revoked_at, r.revoked_ms, r.issuer, r.changed_at, coalesce(r.last4, ''),
    coalesce(r.name, ''), coalesce(r.description, ''), r.slice, r.ended_ms
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
CREATE FUNCTION latchkey.write(verb text, records json) RETURNS void
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
  END CASE;
  IF verb NOT IN ('put_principals', 'put_roles', 'delete_principals') THEN
    GET DIAGNOSTICS written = ROW_COUNT;
  END IF;
  IF written <> wanted THEN
    PERFORM latchkey.refuse('a row is not where it was: ' || verb);
  END IF;
END $$;

-- Deletes the tokens of a slice that ended before an instant, those of it whose subject is gone,
-- and the request ids that have been kept long enough. Subjects that were gone at the last time are
-- not looked for again, however many they are. The last uses of the tokens go, too, and it never
-- waits for who is writing some.
CREATE FUNCTION latchkey.forget(in_slice smallint, before_ms bigint, requests_before_ms bigint)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  forgotten uuid[];
  former    bigint;
  cleared   bigint;
  newest    bigint;
  gone      bigint[];
  -- A registered public key: one that was revoked stays, so that it does not come back.
  registered_key CONSTANT smallint := 7;
BEGIN
  SELECT s.deleted_at INTO cleared FROM latchkey.swept s WHERE s.slice = in_slice;
  -- No join: a plan that is made for any number of them reads every token there is.
  SELECT array_agg(p.id), max(p.deleted_at) INTO gone, newest FROM latchkey.principals p
  WHERE p.deleted_at > coalesce(cleared, 0);
  WITH ended AS (
    DELETE FROM latchkey.tokens WHERE slice = in_slice AND ended_ms < before_ms
      AND NOT (kind = registered_key AND revoked_ms IS NOT NULL)
    RETURNING id),
  orphaned AS (
    DELETE FROM latchkey.tokens
    WHERE subject = ANY (gone) AND slice = in_slice
      AND (ended_ms IS NULL OR ended_ms >= before_ms)
      AND NOT (kind = registered_key AND revoked_ms IS NOT NULL)
    RETURNING id)
  SELECT array_agg(id) INTO forgotten
  FROM (SELECT id FROM ended UNION ALL SELECT id FROM orphaned) gone;
  IF newest IS NOT NULL THEN
    INSERT INTO latchkey.swept VALUES (in_slice, newest)
    ON CONFLICT (slice) DO UPDATE SET deleted_at = excluded.deleted_at;
  END IF;
  IF forgotten IS NOT NULL THEN
    DELETE FROM latchkey.token_issuers WHERE token = ANY (forgotten);
    DELETE FROM latchkey.token_labels WHERE token = ANY (forgotten);
    DELETE FROM latchkey.token_used WHERE token IN (
      SELECT u.token FROM latchkey.token_used u WHERE u.token = ANY (forgotten)
      FOR UPDATE SKIP LOCKED);
  END IF;
  DELETE FROM latchkey.requests WHERE instant_ms < requests_before_ms;
  GET DIAGNOSTICS former = ROW_COUNT;
  UPDATE latchkey.head SET requests = requests - former WHERE former > 0;
END $$;

-- Deletes the oldest request ids beyond the number that is remembered.
CREATE FUNCTION latchkey.bound_requests(requests_max bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  surplus bigint;
BEGIN
  SELECT h.requests - requests_max INTO surplus FROM latchkey.head h;
  IF surplus > 0 THEN
    DELETE FROM latchkey.requests WHERE revision IN (
      SELECT r.revision FROM latchkey.requests r ORDER BY r.revision LIMIT surplus);
    UPDATE latchkey.head SET requests = requests - surplus;
  END IF;
END $$;

-- Raises the format level of the log: when every member reads the newer format, and a member that
-- does not is refused from then on. Joining and raising take the same lock, so of the two the later
-- sees the other.
CREATE FUNCTION latchkey.raise_format(level bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM latchkey.cluster FOR UPDATE;
  IF EXISTS (SELECT FROM latchkey.replicas r WHERE r.format_max < level) THEN
    PERFORM latchkey.refuse('a member does not read that format');
  END IF;
  UPDATE latchkey.head h SET format = level WHERE h.format < level;
END $$;

-- The chain hash at a revision, also at the cut; NULL where the log has none.
CREATE FUNCTION latchkey.chain_at(at bigint) RETURNS bytea
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off AS $$
BEGIN
  IF at = 0 THEN
    RETURN decode(repeat('00', 32), 'hex');
  END IF;
  RETURN coalesce((SELECT l.chain FROM latchkey.log l WHERE l.revision = at),
    (SELECT c.chain FROM latchkey.log_cut c WHERE c.revision = at));
END $$;

-- Compare-and-append. `base_…` is the head that the batch was decided on; `entries` are rows of
-- the log; `verbs` and `records` say what they make, in order. Outcomes:
--   committed  the head was the base, everything is written
--   moved      the head had moved: nothing is written, `caller` has the next turn if it was free
--   turn       it is another's turn: nothing is written
--   diverged   the base is not in this log: nothing is written
--   voided     the batch was given up before: nothing is written
-- Of `verbs`, `void` writes nothing and gives the batch up: should an earlier message with it still
-- be under way, its outcome is `voided`. `crowded` asks for `extend_log`: the newest partition is
-- half full.
CREATE FUNCTION latchkey.append(
  caller bytea, batch bytea, base_revision bigint, base_chain bytea,
  entries json, verbs text[], records json[], last json, turn_ms bigint,
  OUT outcome text, OUT revision bigint, OUT crowded boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  turn_max CONSTANT bigint := 200;
  turn_time CONSTANT interval := least(turn_ms, turn_max) * interval '1 millisecond';
  waited_until CONSTANT timestamptz := clock_timestamp() + turn_max * interval '1 millisecond';
  stands latchkey.head;
  after  latchkey.head;
  turn   latchkey.turn;
BEGIN
  PERFORM latchkey.durably();
  PERFORM set_config('latchkey.outcome', '', false);
  -- Whose turn it is not waits without the lock.
  WHILE clock_timestamp() < waited_until AND EXISTS (
    SELECT FROM latchkey.turn t WHERE t.owner <> caller AND t.ends_at > clock_timestamp())
  LOOP
    PERFORM pg_sleep(0.0005);
  END LOOP;

  PERFORM pg_advisory_xact_lock(1818979961, 1);
  SELECT * INTO STRICT stands FROM latchkey.head;
  SELECT * INTO turn FROM latchkey.turn t WHERE t.ends_at > clock_timestamp();
  revision := stands.revision;
  IF stands.revision <> base_revision OR stands.chain <> base_chain THEN
    IF NOT (base_revision < stands.revision AND base_chain = latchkey.chain_at(base_revision))
      IS TRUE
    THEN
      outcome := 'diverged';
      RETURN;
    END IF;
    IF turn IS NULL THEN
      INSERT INTO latchkey.turn VALUES (1, caller, clock_timestamp() + turn_time)
      ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, ends_at = excluded.ends_at;
    END IF;
    outcome := 'moved';
    -- Of the session, for `missed`, which follows in the same message but after the commit.
    PERFORM set_config('latchkey.outcome', outcome, false);
    RETURN;
  END IF;
  IF turn.owner <> caller THEN
    outcome := 'turn';
    RETURN;
  END IF;

  DELETE FROM latchkey.turn WHERE owner = caller;
  IF entries IS NULL THEN
    UPDATE latchkey.head SET touched = batch;
    IF verbs = ARRAY['void'] THEN
      DELETE FROM latchkey.voided v WHERE v.base < base_revision;
      INSERT INTO latchkey.voided VALUES (batch, base_revision) ON CONFLICT DO NOTHING;
    END IF;
  ELSIF EXISTS (SELECT FROM latchkey.voided v WHERE v.batch = append.batch) THEN
    outcome := 'voided';
    RETURN;
  ELSE
    INSERT INTO latchkey.log SELECT * FROM json_populate_recordset(NULL::latchkey.log, entries);
    FOR i IN 1 .. coalesce(cardinality(verbs), 0) LOOP
      IF verbs[i] = 'forget' THEN
        PERFORM latchkey.forget((records[i]->0->>'slice')::smallint,
          (records[i]->0->>'before_ms')::bigint, (records[i]->0->>'requests_before_ms')::bigint);
      ELSIF verbs[i] = 'bound_requests' THEN
        PERFORM latchkey.bound_requests((records[i]->0->>'most')::bigint);
      ELSIF verbs[i] = 'raise_format' THEN
        PERFORM latchkey.raise_format((records[i]->0->>'level')::bigint);
      ELSE
        PERFORM latchkey.write(verbs[i], records[i]);
      END IF;
    END LOOP;
    after := json_populate_record(NULL::latchkey.head, last);
    revision := after.revision;
    UPDATE latchkey.head h SET revision = after.revision, chain = after.chain,
      instant_ms = after.instant_ms, state_digest = after.state_digest, touched = batch,
      principal_max = greatest(h.principal_max, after.principal_max),
      grant_max = greatest(h.grant_max, after.grant_max);
    PERFORM pg_notify('latchkey', '');
  END IF;
  SELECT revision >= p.first + (p.past - p.first) / 2 INTO crowded
  FROM latchkey.log_parts p ORDER BY p.first DESC LIMIT 1;
  outcome := 'committed';
END $$;

-- What a refused batch has missed: the entries after its base, up to so many and so many bytes,
-- the first always. Nothing unless this session's last append was refused so.
CREATE FUNCTION latchkey.missed(base_revision bigint, entries_max bigint, bytes_max bigint)
RETURNS TABLE (revision bigint, chain text, body text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off AS $$
BEGIN
  IF current_setting('latchkey.outcome') = 'moved' THEN
    RETURN QUERY SELECT m.revision, encode(m.chain, 'hex'), encode(m.body, 'hex') FROM (
      SELECT l.*, sum(length(l.body)) OVER (ORDER BY l.revision) - length(l.body) AS before
      FROM (SELECT * FROM latchkey.log WHERE log.revision > base_revision
            ORDER BY log.revision LIMIT entries_max) l) m
    WHERE m.before < bytes_max ORDER BY m.revision;
  END IF;
END $$;

-- Begins an empty log after a cut: what is copied here was trimmed before. Runs with its owner's
-- rights, for the role that copies may not move the cut of a log that has entries.
CREATE FUNCTION latchkey.begin_log(cut_revision bigint, cut_chain bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM latchkey.log) OR EXISTS (SELECT FROM latchkey.head h WHERE h.revision > 0)
  THEN
    PERFORM latchkey.refuse('the log has entries');
  END IF;
  UPDATE latchkey.log_cut SET revision = cut_revision, chain = cut_chain;
END $$;
REVOKE EXECUTE ON FUNCTION latchkey.begin_log FROM PUBLIC;

-- Whether a partition of the log is attached to it: one that was trimmed is not.
CREATE FUNCTION latchkey.is_attached(first bigint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.relispartition FROM pg_class c
  WHERE c.oid = to_regclass('latchkey.log_' || lpad(first::text, 19, '0'))
$$;

-- Detaches the partitions that hold nothing but entries before an instant, up to a revision, and
-- moves the cut behind them. What a member has not applied, what a remembered request id was
-- answered with, and the head stay. The cut may be inside of a partition, or behind some that hold
-- nothing, when the log was copied from one that was trimmed. Only the owner of the tables trims:
-- the server's role may neither detach nor drop. Those that read or write the log wait for it, and
-- it for them: the caller sets a short lock_timeout.
CREATE FUNCTION latchkey.trim_log(before_ms bigint, upto bigint, requests_from_ms bigint)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  part latchkey.log_parts;
  cut  latchkey.log_cut;
  last latchkey.log;
BEGIN
  PERFORM pg_advisory_xact_lock(1818979961, 2);
  SELECT * INTO STRICT cut FROM latchkey.log_cut;
  SELECT least(upto, h.revision - 1, (SELECT min(r.applied) FROM latchkey.replicas r),
      (SELECT min(r.revision) - 1 FROM latchkey.requests r WHERE r.instant_ms >= requests_from_ms))
    INTO upto FROM latchkey.head h;
  FOR part IN SELECT * FROM latchkey.log_parts p
    WHERE p.past - 1 <= greatest(upto, cut.revision) AND latchkey.is_attached(p.first)
    ORDER BY p.first
  LOOP
    IF part.past - 1 > cut.revision THEN
      SELECT * INTO STRICT last FROM latchkey.log l WHERE l.revision = part.past - 1;
      EXIT WHEN last.instant_ms >= before_ms;
      UPDATE latchkey.log_cut SET revision = last.revision, chain = last.chain,
        trimmed_ms = latchkey.now_ms();
    END IF;
    EXECUTE format('ALTER TABLE latchkey.log DETACH PARTITION latchkey.%I',
      'log_' || lpad(part.first::text, 19, '0'));
  END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION latchkey.trim_log FROM PUBLIC;

-- Drops the partitions that were detached, and no others; no server waits for it.
CREATE FUNCTION latchkey.drop_trimmed() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  part latchkey.log_parts;
BEGIN
  PERFORM pg_advisory_xact_lock(1818979961, 2);
  FOR part IN SELECT p.* FROM latchkey.log_parts p, latchkey.log_cut c
    WHERE p.past - 1 <= c.revision AND NOT latchkey.is_attached(p.first)
  LOOP
    EXECUTE format('DROP TABLE latchkey.%I', 'log_' || lpad(part.first::text, 19, '0'));
    DELETE FROM latchkey.log_parts p WHERE p.first = part.first;
  END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION latchkey.drop_trimmed FROM PUBLIC;
