//! Tokens and decisions as they are printed: documents for scripts, fields and rows for people.
//!
//! Made from the messages of the API, used by `token`, `check` and `explain`. A [`TokenView`] has
//! no secret; [`Created`] has one, and is only made from the answer that created it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::proto::v1;
use crate::proto::v1::scopes::Extent;

use crate::cli::failure::CliError;

use super::made::{EnforcementView, Made};
use super::{Output, Page, duration, instant, labels, notice, revision, span, write};

/// Scopes: the word `all`, or a list of permissions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum ScopesView {
    /// `"all"`.
    All(&'static str),
    /// `["secrets:read@acme/web/**"]`.
    Only(Vec<String>),
}

impl ScopesView {
    fn new(scopes: &v1::Scopes) -> Option<Self> {
        Some(match scopes.extent.as_ref()? {
            Extent::All(_) => Self::All("all"),
            Extent::Only(list) => Self::Only(list.permissions.iter().map(permission).collect()),
        })
    }

    fn text(&self) -> String {
        match self {
            Self::All(word) => (*word).to_owned(),
            Self::Only(list) if list.is_empty() => "nothing".to_owned(),
            Self::Only(list) => list.join(", "),
        }
    }
}

/// A permission as `ACTION@RESOURCE`.
#[must_use]
pub(crate) fn permission(permission: &v1::Permission) -> String {
    format!("{}@{}", permission.action, permission.resource)
}

/// The word of a token kind; empty for one that this program does not know.
#[must_use]
pub(crate) fn kind(number: i32) -> &'static str {
    match v1::TokenKind::try_from(number) {
        Ok(v1::TokenKind::User) => "user",
        Ok(v1::TokenKind::Team) => "team",
        Ok(v1::TokenKind::Resource) => "resource",
        Ok(v1::TokenKind::Service) => "service",
        Ok(v1::TokenKind::Access) => "access",
        Ok(v1::TokenKind::ClientSecret) => "client_secret",
        Ok(v1::TokenKind::PublicKey) => "public_key",
        _ => "",
    }
}

/// The word of a reason, such as `not_permitted`.
#[must_use]
pub(crate) fn reason(number: i32) -> String {
    word(
        v1::Reason::try_from(number).map(|reason| reason.as_str_name()),
        "REASON_",
    )
}

fn state(number: i32) -> String {
    word(
        v1::TokenState::try_from(number).map(|state| state.as_str_name()),
        "TOKEN_STATE_",
    )
}

/// An enumeration's name without its prefix, in lower case.
pub(crate) fn word<E>(name: Result<&'static str, E>, prefix: &str) -> String {
    let name = name.unwrap_or("unknown");
    name.strip_prefix(prefix)
        .unwrap_or(name)
        .to_ascii_lowercase()
}

/// How a token came to be revoked.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RevocationView {
    /// None when it was refused through an ancestor or a cut-off.
    revoked_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    ancestor_token_id: String,
    cutoff: bool,
}

/// All that is known of a token except its secret.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TokenView {
    token_id: String,
    kind: &'static str,
    state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    home: String,
    scopes: Option<ScopesView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ceiling: Option<ScopesView>,
    issuer: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    issuer_token_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    parent_token_id: String,
    created_at: Option<String>,
    created_revision: u64,
    changed_at_revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    period_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uses_limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uses_left: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    networks: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    audience: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    workload: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    rotation: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_until: Option<String>,
    prefix: String,
    last_four: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    last_used_from: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    public_key: String,
    /// Left out where the token has a record.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sealed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation: Option<RevocationView>,
}

impl From<v1::Token> for TokenView {
    fn from(token: v1::Token) -> Self {
        Self {
            kind: kind(token.kind),
            state: state(token.state),
            scopes: token.scopes.as_ref().and_then(ScopesView::new),
            ceiling: token.ceiling.as_ref().and_then(ScopesView::new),
            created_at: instant(token.created_at.as_ref()),
            created_revision: token.created_revision,
            changed_at_revision: token.changed_at_revision,
            not_before: instant(token.not_before.as_ref()),
            expires_at: instant(token.expires_at.as_ref()),
            max_expires_at: instant(token.max_expires_at.as_ref()),
            period_seconds: duration(token.period.as_ref()).map(|period| period.as_secs()),
            grace_until: instant(token.grace_until.as_ref()),
            last_used_at: instant(token.last_used_at.as_ref()),
            last_used_from: token.last_used_from,
            public_key: token.public_key,
            sealed: token.sealed,
            revocation: token.revocation.map(RevocationView::from),
            labels: token.labels.into_iter().collect(),
            token_id: token.token_id,
            subject: token.subject,
            resource: token.resource,
            home: token.home,
            issuer: token.issuer,
            issuer_token_id: token.issuer_token_id,
            parent_token_id: token.parent_token_id,
            uses_limit: token.uses_limit,
            uses_left: token.uses_left,
            networks: token.networks,
            audience: token.audience,
            workload: token.workload,
            name: token.name,
            description: token.description,
            rotation: token.rotation,
            prefix: token.prefix,
            last_four: token.last_four,
        }
    }
}

impl From<v1::Revocation> for RevocationView {
    fn from(revocation: v1::Revocation) -> Self {
        Self {
            revoked_at: instant(revocation.revoked_at.as_ref()),
            revision: (revocation.revision != 0).then_some(revocation.revision),
            reason: revocation.reason,
            ancestor_token_id: revocation.ancestor_token_id,
            cutoff: revocation.cutoff,
        }
    }
}

impl TokenView {
    /// The header of [`TokenView::row`].
    pub(crate) const HEADER: [&'static str; 8] = [
        "TOKEN ID",
        "KIND",
        "STATE",
        "SPEAKS FOR",
        "NAME",
        "EXPIRES",
        "LAST USED",
        "SECRET",
    ];

    /// One line of a list.
    #[must_use]
    pub(crate) fn row(&self) -> Vec<String> {
        vec![
            self.token_id.clone(),
            self.kind.to_owned(),
            self.state.clone(),
            self.speaks_for().to_owned(),
            self.name.clone(),
            self.expires_at
                .clone()
                .unwrap_or_else(|| "never".to_owned()),
            self.last_used_at.clone().unwrap_or_default(),
            self.display(),
        ]
    }

    /// The public id.
    #[must_use]
    pub(crate) fn token_id(&self) -> &str {
        &self.token_id
    }

    /// The word of its kind.
    #[must_use]
    pub(crate) fn kind(&self) -> &str {
        self.kind
    }

    /// Whether a service account logs in with it.
    #[must_use]
    pub(crate) fn is_credential(&self) -> bool {
        matches!(self.kind, "client_secret" | "public_key")
    }

    /// When it expires, for a sentence.
    #[must_use]
    pub(crate) fn expiry(&self) -> &str {
        self.expires_at.as_deref().unwrap_or("never")
    }

    fn speaks_for(&self) -> &str {
        if self.subject.is_empty() {
            &self.resource
        } else {
            &self.subject
        }
    }

    fn display(&self) -> String {
        if self.last_four.is_empty() {
            // A public key, or a sealed token: nothing of a secret is kept.
            return String::new();
        }
        format!("{}...{}", self.prefix, self.last_four)
    }

    /// Everything, name by name.
    pub(crate) fn fields(&self, page: &mut Page) {
        let scopes =
            |scopes: &Option<ScopesView>| scopes.as_ref().map(ScopesView::text).unwrap_or_default();
        let number = |number: Option<u32>| number.map(|n| n.to_string()).unwrap_or_default();
        let optional = |text: &Option<String>| text.clone().unwrap_or_default();
        let period = self.period_seconds.map(std::time::Duration::from_secs);
        page.fields(&[
            ("token id", self.token_id.clone()),
            ("kind", self.kind.to_owned()),
            ("state", self.state.clone()),
            ("subject", self.subject.clone()),
            ("resource", self.resource.clone()),
            ("home", self.home.clone()),
            ("name", self.name.clone()),
            ("description", self.description.clone()),
            ("labels", labels(&self.labels)),
            ("scopes", scopes(&self.scopes)),
            ("ceiling", scopes(&self.ceiling)),
            ("issuer", self.issuer.clone()),
            ("issued with", self.issuer_token_id.clone()),
            ("derived from", self.parent_token_id.clone()),
            ("created", optional(&self.created_at)),
            ("created at revision", self.created_revision.to_string()),
            ("not before", optional(&self.not_before)),
            ("expires", self.expiry().to_owned()),
            ("never beyond", optional(&self.max_expires_at)),
            ("period", span(period)),
            ("uses", number(self.uses_limit)),
            ("uses left", number(self.uses_left)),
            ("networks", self.networks.join(", ")),
            ("audience", self.audience.clone()),
            ("workload", self.workload.clone()),
            ("secret", self.display()),
            ("rotations", self.rotation.to_string()),
            ("old secret until", optional(&self.grace_until)),
            ("last used", optional(&self.last_used_at)),
            ("last used from", self.last_used_from.clone()),
        ]);
        for line in self.public_key.lines() {
            page.line(line);
        }
        let Some(revocation) = &self.revocation else {
            return;
        };
        let yes = |yes: bool| if yes { "yes".to_owned() } else { String::new() };
        page.fields(&[
            ("revoked", optional(&revocation.revoked_at)),
            (
                "revoked at revision",
                revocation
                    .revision
                    .map(|at| at.to_string())
                    .unwrap_or_default(),
            ),
            ("reason", revocation.reason.clone()),
            ("by ancestor", revocation.ancestor_token_id.clone()),
            ("by a cut-off", yes(revocation.cutoff)),
        ]);
    }
}

/// A token with the secret that was just created. `Debug` is left out on purpose.
#[derive(Serialize)]
pub(crate) struct Created {
    #[serde(flatten)]
    token: Option<TokenView>,
    /// None when an earlier answer to the same request id had it.
    secret: Option<String>,
    secret_withheld: bool,
    #[serde(flatten)]
    made: Made,
    // What people are told that it is.
    #[serde(skip)]
    called: &'static str,
}

impl Created {
    /// From the parts of an answer that created a secret.
    #[must_use]
    pub(crate) fn new(
        token: Option<v1::Token>,
        secret: String,
        secret_withheld: bool,
        made: Made,
    ) -> Self {
        Self {
            token: token.map(TokenView::from),
            secret: (!secret_withheld).then_some(secret),
            secret_withheld,
            made,
            called: "token",
        }
    }

    /// The same under another word than "token".
    #[must_use]
    pub(crate) fn called(mut self, word: &'static str) -> Self {
        self.called = word;
        self
    }

    /// Prints it: the secret with what is known of it, or the secret alone.
    ///
    /// # Errors
    /// Refused when the secret alone is wanted and withheld.
    pub(crate) fn show(&self, secret_only: bool, output: Output) -> Result<(), CliError> {
        if !secret_only {
            return output.show(self, |page| self.page(page));
        }
        let secret = self.secret.as_ref().ok_or_else(|| {
            CliError::refused(format!(
                "an earlier answer had the secret; rotate the {} if it was lost",
                self.called
            ))
        })?;
        let token_id = self.token.as_ref().map_or("", TokenView::token_id);
        notice(&format!(
            "{} {token_id}, revision {}",
            self.called, self.made.revision
        ));
        if let Some(enforcement) = &self.made.enforcement {
            notice(&enforcement.text());
        }
        write(&format!("{secret}\n"))
    }

    fn page(&self, page: &mut Page) {
        let token = self.token.as_ref();
        let id = format!("{} id", self.called);
        page.fields(&[
            (
                id.as_str(),
                token.map_or("", TokenView::token_id).to_owned(),
            ),
            ("expires", token.map_or("", TokenView::expiry).to_owned()),
            ("revision", self.made.revision.clone()),
            (
                "enforced",
                self.made
                    .enforcement
                    .as_ref()
                    .map(EnforcementView::text)
                    .unwrap_or_default(),
            ),
            ("secret", self.secret.clone().unwrap_or_default()),
        ]);
        page.line(if self.secret_withheld {
            format!(
                "This repeats an earlier answer, which had the secret. If that was lost, rotate the {}.",
                self.called
            )
        } else {
            "The secret is shown this once; only its digest is kept.".to_owned()
        });
    }
}

/// The answer of a check.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Decision {
    /// Whether the token may do all that was asked.
    pub allowed: bool,
    reason: String,
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    token_id: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_for_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u128>,
    revision: String,
    #[serde(skip)]
    narrowed: String,
}

impl From<v1::CheckResponse> for Decision {
    fn from(answer: v1::CheckResponse) -> Self {
        let narrowed = answer.scopes.map_or_else(String::new, |scopes| {
            match (scopes.all, scopes.narrowed, scopes.permission_count) {
                (true, ..) => "all".to_owned(),
                (false, true, 0) => "those of what it came from".to_owned(),
                (false, _, count) => format!("{count} permissions"),
            }
        });
        Self {
            allowed: answer.allowed,
            reason: reason(answer.reason),
            kind: kind(answer.kind),
            expires_at: instant(answer.expires_at.as_ref()),
            valid_for_ms: duration(answer.valid_for.as_ref()).map(|valid| valid.as_millis()),
            retry_after_ms: duration(answer.retry_after.as_ref()).map(|wait| wait.as_millis()),
            revision: revision(answer.revision.as_ref()),
            message: answer.message,
            token_id: answer.token_id,
            subject: answer.subject,
            resource: answer.resource,
            narrowed,
        }
    }
}

impl Decision {
    /// One word and what is known, for people.
    pub(crate) fn page(&self, page: &mut Page) {
        if self.allowed {
            page.line("allowed");
        } else {
            page.line(format!("denied: {} ({})", self.message, self.reason));
        }
        page.fields(&[
            ("token id", self.token_id.clone()),
            ("kind", self.kind.to_owned()),
            ("subject", self.subject.clone()),
            ("resource", self.resource.clone()),
            ("scopes", self.narrowed.clone()),
            ("expires", self.expires_at.clone().unwrap_or_default()),
            ("revision", self.revision.clone()),
        ]);
    }
}
