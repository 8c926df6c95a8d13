//! How service accounts log in: for whom assertions are made, and where many clients come from.
//!
//! What holds for the logins of one account is not a setting: it is set on the account. Here is
//! what all servers of one installation have in common.

use serde::{Deserialize, Serialize};

use crate::domain::limits::{Audience, Networks};

/// Audiences that assertions may be made for.
pub const AUDIENCES_MAX: usize = 8;

/// How service accounts log in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Login {
    /// The audiences of assertions, with commas between them.
    pub audiences: String,
    /// Networks of proxies that many clients come through, with commas between them.
    pub proxies: String,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            audiences: "latchkey".to_owned(),
            proxies: String::new(),
        }
    }
}

impl Login {
    /// For whom assertions may be made.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.audiences.split(',').map(str::trim)
    }

    /// Where nobody is locked out; none if that cannot be read.
    #[must_use]
    pub fn proxies(&self) -> Option<Networks> {
        let texts = self.proxies.split(',').map(str::trim);
        let texts: Vec<&str> = texts.filter(|text| !text.is_empty()).collect();
        Networks::parse(&texts)
    }

    /// What cannot be used, with the name of its key; none if all can.
    pub(super) fn wrong(&self) -> Option<(&'static str, String)> {
        if self.proxies().is_none() {
            let what = "not at most 32 networks such as 10.0.0.0/8";
            return Some(("login.proxies", what.to_owned()));
        }
        let what = if self.audiences().count() > AUDIENCES_MAX {
            format!("more than {AUDIENCES_MAX} audiences")
        } else if self.audiences().any(|name| Audience::parse(name).is_none()) {
            "each is 1 to 256 printable characters".to_owned()
        } else {
            return None;
        };
        Some(("login.audiences", what))
    }
}
