-- The format level of the log: which kinds of entries may follow.
--
-- It is raised when every member reads the newer format, and a member that does not is refused
-- from then on. Joining and raising take the same lock, so of the two the later sees the other.

ALTER TABLE latchkey.head ADD COLUMN format bigint NOT NULL DEFAULT 1;

CREATE FUNCTION latchkey.raise_format(level bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM latchkey.cluster FOR UPDATE;
  IF EXISTS (SELECT FROM latchkey.replicas r WHERE r.format_max < level) THEN
    PERFORM latchkey.refuse('a member does not read that format');
  END IF;
  UPDATE latchkey.head h SET format = level WHERE h.format < level;
END $$;

-- As before, but a member that does not read the log's format is refused with SQLSTATE LK002 and
-- the level as its detail.
CREATE OR REPLACE FUNCTION latchkey.join_cluster(incarnation bytea, name text, address text,
  lease_ms bigint, format_max bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  longest bigint;
  level   bigint;
BEGIN
  PERFORM latchkey.durably();
  -- The row's lock lets one join at a time see who else is there, and the level.
  SELECT c.lease_ms INTO STRICT longest FROM latchkey.cluster c FOR UPDATE;
  SELECT h.format INTO STRICT level FROM latchkey.head h;
  IF join_cluster.format_max < level THEN
    RAISE EXCEPTION 'the log is of a newer format' USING ERRCODE = 'LK002', DETAIL = level;
  END IF;
  IF NOT EXISTS (SELECT FROM latchkey.replicas) THEN
    longest := 0;
  END IF;
  longest := greatest(longest, join_cluster.lease_ms);
  UPDATE latchkey.cluster c SET lease_ms = longest;
  INSERT INTO latchkey.replicas VALUES (join_cluster.incarnation, join_cluster.name,
    join_cluster.address, join_cluster.lease_ms, 0, 0, join_cluster.format_max,
    latchkey.now_ms(), latchkey.now_ms());
  RETURN longest;
END $$;

-- As before, but it knows two verbs more. `void` writes nothing and gives the batch up: should an
-- earlier message with it still be under way, its outcome is `voided`.
CREATE OR REPLACE FUNCTION latchkey.append(
  caller bytea, batch bytea, base_revision bigint, base_chain bytea,
  entries json, verbs text[], records json[], last json,
  OUT outcome text, OUT revision bigint, OUT crowded boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  turn_time CONSTANT interval := interval '20 milliseconds';
  waited_until CONSTANT timestamptz := clock_timestamp() + turn_time;
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
