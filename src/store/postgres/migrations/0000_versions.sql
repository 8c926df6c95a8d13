-- The steps that were applied. Before the first of them.

-- `reads_from`: programs that know this version, or a newer one, can work with the tables as the
-- step has left them, although they may not know the step itself.
CREATE TABLE latchkey.schema_versions (
  version    integer PRIMARY KEY,
  name       text NOT NULL,
  reads_from integer NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
);
