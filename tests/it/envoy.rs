//! Envoy asks Latchkey: the ext_authz service, by what Envoy sends and makes of the answers.

mod golden;
