-- When, and from where, each token was last used, to the hour.
--
-- The one table that the log does not make: servers gather it and write it in batches, and what is
-- lost of it is lost. Narrow, with room on its pages, so that an update stays on its page and
-- touches no index. A row goes with its token; the row of a token that is forgotten at the very
-- moment in which its use is written may stay, and nobody sees it.
CREATE TABLE latchkey.token_used (
  token      uuid PRIMARY KEY,
  instant_ms bigint NOT NULL,
  address    inet
) WITH (fillfactor = 70);

-- As before, and the last uses of the tokens that go. It never waits for who is writing some.
CREATE OR REPLACE FUNCTION latchkey.forget(in_slice smallint, before_ms bigint, requests_before_ms bigint)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  forgotten uuid[];
  former    bigint;
BEGIN
  WITH ended AS (
    DELETE FROM latchkey.tokens WHERE slice = in_slice AND ended_ms < before_ms RETURNING id),
  orphaned AS (
    DELETE FROM latchkey.tokens t USING latchkey.principals p
    WHERE p.deleted_at IS NOT NULL AND t.subject = p.id AND t.slice = in_slice
      AND (t.ended_ms IS NULL OR t.ended_ms >= before_ms)
    RETURNING t.id)
  SELECT array_agg(id) INTO forgotten
  FROM (SELECT id FROM ended UNION ALL SELECT id FROM orphaned) gone;
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
