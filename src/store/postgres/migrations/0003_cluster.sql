-- Functions of members: joining, renewing a lease, leaving. Each is one durable write, whatever a
-- session was set to; where the deadline of a lease begins and ends is the replica's business.

CREATE FUNCTION latchkey.now_ms() RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
  SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

-- Makes the cluster's lease the longest of the members that are there. The caller has locked its
-- row, so that this sees whoever came before. What the last one had stays until somebody joins.
CREATE FUNCTION latchkey.fit_lease() RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  UPDATE latchkey.cluster c
  SET lease_ms = coalesce((SELECT max(r.lease_ms) FROM latchkey.replicas r), c.lease_ms)
  RETURNING c.lease_ms
$$;

-- A new member; returns the cluster's lease, which is the longest of those that are there. One
-- that does not read the log's format is refused with SQLSTATE LK002 and the level as its detail.
CREATE FUNCTION latchkey.join_cluster(incarnation bytea, name text, address text,
  lease_ms bigint, format_max bigint, serves_stale boolean) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  level bigint;
BEGIN
  PERFORM latchkey.durably();
  -- The row's lock lets one join at a time see who else is there, and the level.
  PERFORM FROM latchkey.cluster FOR UPDATE;
  SELECT h.format INTO STRICT level FROM latchkey.head h;
  IF join_cluster.format_max < level THEN
    RAISE EXCEPTION 'the log is of a newer format' USING ERRCODE = 'LK002', DETAIL = level;
  END IF;
  INSERT INTO latchkey.replicas VALUES (join_cluster.incarnation, join_cluster.name,
    join_cluster.address, join_cluster.lease_ms, 0, 0, join_cluster.format_max,
    latchkey.now_ms(), latchkey.now_ms(), join_cluster.serves_stale);
  RETURN latchkey.fit_lease();
END $$;

-- Renews a lease. No row: there is no such member. What is read was read after the write. What
-- was applied in another history is not taken: here its number may stand for something else.
CREATE FUNCTION latchkey.renew(incarnation bytea, lease_ms bigint, applied bigint,
  applied_chain bytea)
RETURNS TABLE (revision bigint, chain text, chain_at_applied text, database_ms bigint,
  system text, timeline text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  here CONSTANT bytea := latchkey.chain_at(applied);
BEGIN
  PERFORM latchkey.durably();
  UPDATE latchkey.cluster c SET lease_ms = renew.lease_ms WHERE c.lease_ms < renew.lease_ms;
  UPDATE latchkey.replicas r SET heartbeat = r.heartbeat + 1, lease_ms = renew.lease_ms,
    applied = CASE here WHEN applied_chain THEN greatest(r.applied, renew.applied)
      ELSE r.applied END, reported_ms = latchkey.now_ms()
  WHERE r.incarnation = renew.incarnation;
  IF FOUND THEN
    RETURN QUERY SELECT h.revision, encode(h.chain, 'hex'), encode(here, 'hex'),
      latchkey.now_ms(), (SELECT s.system_identifier::text FROM pg_control_system() s),
      substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
    FROM latchkey.head h;
  END IF;
END $$;

-- Takes a member off the list: one that leaves, or (with the heartbeat that was observed while its
-- lease was waited out) one that is dead.
CREATE FUNCTION latchkey.remove_member(incarnation bytea, heartbeat bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  removed boolean;
BEGIN
  PERFORM latchkey.durably();
  PERFORM FROM latchkey.cluster FOR UPDATE;
  DELETE FROM latchkey.replicas r WHERE r.incarnation = remove_member.incarnation
    AND (remove_member.heartbeat IS NULL OR r.heartbeat = remove_member.heartbeat);
  removed := FOUND;
  PERFORM latchkey.fit_lease();
  RETURN removed;
END $$;
