-- Trimming: old partitions of the log are dropped, and the chain hash at the cut is kept.
--
-- Only the owner of the tables trims: the server's role may neither detach nor drop. What a member
-- has not applied, what a remembered request id was answered with, and the head stay.

-- One row: the last revision that was trimmed and the chain hash at it; the log begins behind it.
CREATE TABLE latchkey.log_cut (
  id         smallint PRIMARY KEY CHECK (id = 1),
  revision   bigint NOT NULL,
  chain      bytea NOT NULL,
  trimmed_ms bigint NOT NULL
);
INSERT INTO latchkey.log_cut VALUES (1, 0, decode(repeat('00', 32), 'hex'), 0);

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

-- As before, and also at the cut.
CREATE OR REPLACE FUNCTION latchkey.chain_at(at bigint) RETURNS bytea
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off AS $$
BEGIN
  IF at = 0 THEN
    RETURN decode(repeat('00', 32), 'hex');
  END IF;
  RETURN coalesce((SELECT l.chain FROM latchkey.log l WHERE l.revision = at),
    (SELECT c.chain FROM latchkey.log_cut c WHERE c.revision = at));
END $$;

-- Detaches the partitions that hold nothing but entries before an instant, up to a revision, and
-- moves the cut behind them. Those that read or write the log wait for it, and it for them: the
-- caller sets a short lock_timeout.
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
    WHERE p.first > cut.revision AND p.past - 1 <= upto ORDER BY p.first
  LOOP
    SELECT * INTO STRICT last FROM latchkey.log l WHERE l.revision = part.past - 1;
    EXIT WHEN last.instant_ms >= before_ms;
    EXECUTE format('ALTER TABLE latchkey.log DETACH PARTITION latchkey.%I',
      'log_' || lpad(part.first::text, 19, '0'));
    UPDATE latchkey.log_cut SET revision = last.revision, chain = last.chain,
      trimmed_ms = latchkey.now_ms();
  END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION latchkey.trim_log FROM PUBLIC;

-- Drops the partitions that were detached; nobody waits for it.
CREATE FUNCTION latchkey.drop_trimmed() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  part latchkey.log_parts;
BEGIN
  PERFORM pg_advisory_xact_lock(1818979961, 2);
  FOR part IN SELECT p.* FROM latchkey.log_parts p, latchkey.log_cut c WHERE p.past - 1 <= c.revision
  LOOP
    EXECUTE format('DROP TABLE latchkey.%I', 'log_' || lpad(part.first::text, 19, '0'));
    DELETE FROM latchkey.log_parts p WHERE p.first = part.first;
  END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION latchkey.drop_trimmed FROM PUBLIC;
