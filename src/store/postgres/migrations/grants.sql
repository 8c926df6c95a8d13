GRANT USAGE ON SCHEMA latchkey TO latchkey_server;
GRANT SELECT, INSERT ON latchkey.log TO latchkey_server;
GRANT SELECT ON latchkey.schema_versions, latchkey.log_parts, latchkey.log_cut TO latchkey_server;
GRANT SELECT, UPDATE ON latchkey.head, latchkey.cluster TO latchkey_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON latchkey.turn, latchkey.voided, latchkey.swept,
  latchkey.principals, latchkey.members, latchkey.roles, latchkey.grants, latchkey.tokens, latchkey.token_issuers, latchkey.token_labels,
  latchkey.cut_offs, latchkey.requests, latchkey.replicas, latchkey.token_used, latchkey.login_failures,
  latchkey.used_assertions, latchkey.logins, latchkey.login_methods, latchkey.seal_keys, latchkey.revoked_sessions,
  latchkey.login_locks TO latchkey_server;
GRANT EXECUTE ON FUNCTION latchkey.extend_log, latchkey.begin_log TO latchkey_server;
