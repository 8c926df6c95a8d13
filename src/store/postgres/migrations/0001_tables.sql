-- Tables: the log, what it makes, and what replicas know of each other.
--
-- The log is the truth; the tables from `principals` down to `requests` are what it makes, kept in
-- the same transaction so that lists, SQL users and start-up need no replay. Numbers of kinds are
-- those of the program (TokenKind, PrincipalKind); instants are Unix milliseconds; texts are
-- ordered by their bytes. Deliberately absent: an index on the digest, which nobody looks up by
-- here, and foreign keys: what is consistent is decided before it comes here, and a test holds
-- the tables against a replay.

-- Partitioned by ranges of revisions. Instants never run backwards along revisions, so a range of
-- revisions is a range of time, and the key stays the revision alone. `extend_log` makes the next
-- partition before the last is full.
CREATE TABLE latchkey.log (
  revision        bigint PRIMARY KEY,
  instant_ms      bigint NOT NULL,
  kind            text COLLATE "C" NOT NULL,
  actor           text COLLATE "C" NOT NULL,
  actor_principal bigint,
  actor_token     uuid,
  target          text COLLATE "C" NOT NULL,
  reason          text COLLATE "C" NOT NULL,
  batch_id        bytea NOT NULL,
  body            bytea NOT NULL,
  body_hash       bytea NOT NULL,
  chain           bytea NOT NULL
) PARTITION BY RANGE (revision);

-- Which revisions have a partition: from `first` up to, without, `past`.
CREATE TABLE latchkey.log_parts (
  first   bigint PRIMARY KEY,
  past    bigint NOT NULL,
  made_ms bigint NOT NULL
);

-- One row: the last revision that was trimmed and the chain hash at it; the log begins behind it.
CREATE TABLE latchkey.log_cut (
  id         smallint PRIMARY KEY CHECK (id = 1),
  revision   bigint NOT NULL,
  chain      bytea NOT NULL,
  trimmed_ms bigint NOT NULL
);
INSERT INTO latchkey.log_cut VALUES (1, 0, decode(repeat('00', 32), 'hex'), 0);

-- One row: the newest revision, what replaying the log would count, the last batch that was
-- compared with it, which makes an empty batch a durable write, and the format level: which kinds
-- of entries may follow. Room on the page keeps its updates there.
CREATE TABLE latchkey.head (
  id            smallint PRIMARY KEY CHECK (id = 1),
  revision      bigint NOT NULL,
  chain         bytea NOT NULL,
  instant_ms    bigint NOT NULL,
  state_digest  bytea,
  principal_max bigint NOT NULL,
  grant_max     bigint NOT NULL,
  requests      bigint NOT NULL,
  touched       bytea NOT NULL,
  format        bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO latchkey.head
VALUES (1, 0, decode(repeat('00', 32), 'hex'), 0, NULL, 0, 0, 0, ''::bytea, 1);

-- At most one row: whose turn to append it is after a refusal, and until when. Worth nothing
-- after a crash, so it is in no write-ahead log.
CREATE UNLOGGED TABLE latchkey.turn (
  id      smallint PRIMARY KEY CHECK (id = 1),
  owner   bytea NOT NULL,
  ends_at timestamptz NOT NULL
) WITH (fillfactor = 10);

-- Batches that were given up on a base: none of them may be written there any more. Rows of a base
-- that is no longer the head say nothing and go with the next.
CREATE TABLE latchkey.voided (
  batch bytea PRIMARY KEY,
  base  bigint NOT NULL
);

-- name is the text form, `user:alice`. A row outlives its principal, so that lists have names.
CREATE TABLE latchkey.principals (
  id           bigint PRIMARY KEY,
  kind         smallint NOT NULL,
  name         text COLLATE "C" NOT NULL,
  home         text COLLATE "C" NOT NULL,
  disabled     boolean NOT NULL,
  made_at      bigint NOT NULL,
  created_ms   bigint NOT NULL,
  changed_at   bigint NOT NULL,
  display_name text NOT NULL,
  description  text NOT NULL,
  labels       json NOT NULL,
  deleted_at   bigint
);
CREATE UNIQUE INDEX principals_by_name ON latchkey.principals (name) WHERE deleted_at IS NULL;
CREATE INDEX principals_gone ON latchkey.principals (id) WHERE deleted_at IS NOT NULL;
CREATE INDEX principals_by_deletion ON latchkey.principals (deleted_at)
WHERE deleted_at IS NOT NULL;

CREATE TABLE latchkey.members (
  team       bigint NOT NULL,
  member     bigint NOT NULL,
  made_at    bigint NOT NULL,
  created_ms bigint NOT NULL,
  added_by   text NOT NULL,
  PRIMARY KEY (team, member)
);
CREATE INDEX members_by_member ON latchkey.members (member);

CREATE TABLE latchkey.roles (
  name        text COLLATE "C" PRIMARY KEY,
  home        text COLLATE "C" NOT NULL,
  actions     text NOT NULL,
  made_at     bigint NOT NULL,
  created_ms  bigint NOT NULL,
  changed_at  bigint NOT NULL,
  description text NOT NULL,
  labels      json NOT NULL
);

CREATE TABLE latchkey.grants (
  id         bigint PRIMARY KEY,
  principal  bigint NOT NULL,
  role       text COLLATE "C" NOT NULL,
  resource   text COLLATE "C" NOT NULL,
  made_at    bigint NOT NULL,
  created_ms bigint NOT NULL
);
CREATE INDEX grants_by_principal ON latchkey.grants (principal);
CREATE INDEX grants_by_role ON latchkey.grants (role);
CREATE INDEX grants_by_resource ON latchkey.grants (resource);

-- scopes: NULL is all, '' is nothing. slice is the first byte of the digest, ended_ms the earlier
-- of expiry and revocation.
CREATE TABLE latchkey.tokens (
  id              uuid PRIMARY KEY,
  digest          bytea NOT NULL CHECK (length(digest) = 32),
  kind            smallint NOT NULL,
  subject         bigint,
  resource        text COLLATE "C",
  scopes          text,
  ceiling         text,
  issuers         bytea NOT NULL,
  parent          uuid,
  made_at         bigint NOT NULL,
  not_before_ms   bigint,
  expires_ms      bigint,
  expires_max_ms  bigint,
  ttl_s           bigint,
  period_s        bigint,
  uses_limit      bigint,
  uses_left       bigint,
  networks        text,
  audience        text,
  workload        text,
  rotation        bigint NOT NULL,
  grace_key       bytea,
  grace_until_ms  bigint,
  revoked_at      bigint,
  revoked_ms      bigint,
  issuer          bigint,
  changed_at      bigint NOT NULL,
  last4           text NOT NULL,
  name            text NOT NULL,
  description     text NOT NULL,
  revoke_reason   text,
  slice           smallint NOT NULL,
  ended_ms        bigint
);
CREATE INDEX tokens_by_subject ON latchkey.tokens (subject, id) WHERE subject IS NOT NULL;
CREATE INDEX tokens_by_resource ON latchkey.tokens (resource) WHERE resource IS NOT NULL;
CREATE INDEX tokens_by_parent ON latchkey.tokens (parent, id) WHERE parent IS NOT NULL;
-- Not by slice first: its 256 places would cost a page of WAL for every token issued.
CREATE INDEX tokens_by_end ON latchkey.tokens (ended_ms, slice) WHERE ended_ms IS NOT NULL;

-- Up to which deletion of a principal a slice holds no token of those who are gone: none is put
-- there for a subject that is, so nobody need look for theirs again.
CREATE TABLE latchkey.swept (
  slice      smallint PRIMARY KEY,
  deleted_at bigint NOT NULL
) WITH (fillfactor = 50);

-- Every principal that answers for a token.
CREATE TABLE latchkey.token_issuers (
  token     uuid NOT NULL,
  principal bigint NOT NULL,
  PRIMARY KEY (token, principal)
);
CREATE INDEX token_issuers_by_principal ON latchkey.token_issuers (principal, token);

CREATE TABLE latchkey.token_labels (
  token uuid NOT NULL,
  key   text COLLATE "C" NOT NULL,
  value text COLLATE "C" NOT NULL,
  PRIMARY KEY (token, key)
);
CREATE INDEX token_labels_by_key ON latchkey.token_labels (key, value, token);

-- When, and from where, each token was last used, to the hour. The one table that the log does not
-- make: servers gather it and write it in batches, and what is lost of it is lost. Narrow, with
-- room on its pages, so that an update stays on its page and touches no index. A row goes with its
-- token; the row of a token that is forgotten at the very moment in which its use is written may
-- stay, and nobody sees it.
CREATE TABLE latchkey.token_used (
  token      uuid PRIMARY KEY,
  instant_ms bigint NOT NULL,
  address    inet
) WITH (fillfactor = 70);

-- target: a principal's id, TEAM/MEMBER, a token id or a resource.
CREATE TABLE latchkey.cut_offs (
  kind     text COLLATE "C" NOT NULL,
  target   text COLLATE "C" NOT NULL,
  revision bigint NOT NULL,
  PRIMARY KEY (kind, target)
);

CREATE TABLE latchkey.requests (
  revision    bigint PRIMARY KEY,
  key         bytea NOT NULL UNIQUE,
  fingerprint bytea NOT NULL,
  instant_ms  bigint NOT NULL
);
CREATE INDEX requests_by_instant ON latchkey.requests (instant_ms);

-- One row a running server. No part of State.
CREATE TABLE latchkey.replicas (
  incarnation bytea PRIMARY KEY CHECK (length(incarnation) = 16),
  name        text NOT NULL,
  address     text NOT NULL,
  lease_ms    bigint NOT NULL,
  heartbeat   bigint NOT NULL,
  applied     bigint NOT NULL,
  format_max  bigint NOT NULL,
  joined_ms   bigint NOT NULL,
  reported_ms bigint NOT NULL,
  serves_stale boolean NOT NULL
) WITH (fillfactor = 10);

-- One row: the longest lease that a member may hold by its word.
CREATE TABLE latchkey.cluster (
  id       smallint PRIMARY KEY CHECK (id = 1),
  lease_ms bigint NOT NULL
);
INSERT INTO latchkey.cluster VALUES (1, 0);
