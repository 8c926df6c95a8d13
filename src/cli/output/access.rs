//! Access tokens as they are printed: the token alone on standard output, the rest beside it.
//!
//! Used by `login`, `token exchange` and `token renew`. A script takes the token with `$(...)` and
//! is not in the way of a person, who reads the rest on standard error.

use serde::Serialize;

use crate::cli::failure::CliError;
use crate::proto::v1;

use super::{Output, duration, instant, json, notice, revision, write};

/// An access token that was just given. `Debug` is left out on purpose.
#[derive(Serialize)]
pub(crate) struct AccessView {
    access_token: String,
    token_type: String,
    token_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
    expires_at: Option<String>,
    renewable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_expires_at: Option<String>,
    clipped: bool,
    stored: bool,
    revision: String,
}

impl From<Option<v1::AccessToken>> for AccessView {
    fn from(token: Option<v1::AccessToken>) -> Self {
        let token = token.unwrap_or_default();
        Self {
            expires_in: duration(token.expires_in.as_ref()).map(|left| left.as_secs()),
            expires_at: instant(token.expires_at.as_ref()),
            max_expires_at: instant(token.max_expires_at.as_ref()),
            revision: revision(token.revision.as_ref()),
            access_token: token.access_token,
            token_type: token.token_type,
            token_id: token.token_id,
            renewable: token.renewable,
            clipped: token.clipped,
            stored: token.stored,
        }
    }
}

impl AccessView {
    /// Prints it.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub(crate) fn show(&self, output: Output) -> Result<(), CliError> {
        if output.is_json() {
            return json(self);
        }
        notice(&format!("token {}, {}", self.token_id, self.life()));
        write(&format!("{}\n", self.access_token))
    }

    fn life(&self) -> String {
        let mut life = match &self.expires_at {
            Some(at) => format!("expires {at}"),
            None => "never expires".to_owned(),
        };
        if self.clipped {
            life.push_str(" (earlier than asked for: a maximum or an ancestor ends it)");
        }
        match (&self.max_expires_at, self.renewable) {
            (_, false) => {}
            (Some(at), true) => life.push_str(&format!(", renewable up to {at}")),
            (None, true) => life.push_str(", renewable"),
        }
        life
    }
}
