//! The field: what users of other systems know, each behaviour a scene by its name.
//!
//! One module a system, and one of the holes that these systems had. Every scene runs on each
//! store, by the API of a whole server in this process; the README's table says which scene shows
//! what, and a test of `tidy` holds the two against each other.

mod client_secrets;
mod company;
mod door;
mod entrance;
mod holes;
mod infisical_api_key;
mod infisical_identity;
mod infisical_service_account;
mod infisical_service_token;
mod infisical_universal_auth;
mod infrasonar;
mod key_pairs;
mod lockouts;
mod sessions;
mod terrakube;
