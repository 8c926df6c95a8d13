//! The verbs about tokens that need more than a command: making secrets, and reading.
//!
//! Secrets are made here and leave in the one answer that created them; the store and the log
//! see digests only. What a caller may not read does not exist for it.

use std::collections::BTreeMap;

use crate::domain::chain::Revision;
use crate::domain::change::{Change, Display, Subject, TokenRecord};
use crate::domain::permission::{Permission, Resource, ResourcePattern};
use crate::domain::principal::{PrincipalId, PrincipalKind, PrincipalName};
use crate::domain::reason::Reason;
use crate::domain::refusal::Refusal;
use crate::domain::seal::claims::Sealed;
use crate::domain::seal::text::is_sealed;
use crate::domain::token::{Digest, KindSet, Secret, TokenId, TokenKind, recognise};
use crate::replica::unavailable;
use crate::state::check::{Context, Step};
use crate::state::decide::{About, CallAbout, Caller, Command, RevokeTarget, read_action};
use crate::state::explain::{ExplainedStep, Target, explain};
use crate::state::login::ends;
use crate::store::list::{Page, StoredToken, TokenQuery};

use super::{Authority, Call, Credentials, IssueToken, Reader, Written};

/// What is asked of a new token, before id and secret are made.
#[derive(Clone, Debug)]
pub struct IssueAsked {
    /// The kind; none for a derived token, which has its parent's.
    pub kind: Option<TokenKind>,
    /// Everything else; its id and digest are filled in here.
    pub token: IssueToken,
}

/// A token that was made or got a new secret.
#[derive(Debug)]
pub struct Issued {
    /// The secret; none when the same request was answered before.
    pub secret: Option<Secret>,
    /// The write.
    pub written: Written,
}

/// The answer to a bearer that asks who it is.
#[derive(Debug)]
pub struct WhoAmI {
    /// The calling token.
    pub token: StoredToken,
    /// What it holds now.
    pub permissions: Vec<Permission>,
    /// Whether there are more.
    pub truncated: bool,
    /// The revision that this was read at.
    pub revision: Revision,
}

/// Whether a token can be used now, whatever it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Why every Check of it is denied; `Allowed` if none need be.
    pub reason: Reason,
    /// Its nearest ancestor that was revoked.
    pub revoked_ancestor: Option<TokenId>,
}

/// Whose tokens to list, by name; the rest is in the query.
#[derive(Clone, Debug, Default)]
pub struct TokenFilter {
    /// Those that speak for this principal.
    pub subject: Option<PrincipalName>,
    /// Those that this principal issued.
    pub issuer: Option<PrincipalName>,
    /// The other filters and the page.
    pub query: TokenQuery,
}

/// What is known of the rows that a query finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    /// The caller may read them all.
    Whole,
    /// Each is still to be judged.
    EachRow,
}

impl Authority {
    /// A new id, as a place holder for a command that fills it in itself.
    #[must_use]
    pub fn new_token_id(&self) -> TokenId {
        TokenId::generate(self.replica.clock().now().latest, &*self.entropy)
    }

    /// Issues a token; its secret is in this answer and nowhere else.
    ///
    /// # Errors
    /// The command's [`Refusal`].
    pub async fn issue(&self, call: Call<'_>, asked: IssueAsked) -> Result<Issued, Refusal> {
        let kind = match asked.kind {
            Some(kind) => kind,
            None if asked.token.derive => {
                let what = "what is sealed hands on by an exchange (latchkey token exchange)";
                self.calling_kind(&call, what).await?
            }
            None => return Err(Refusal::invalid("kind", "is required")),
        };
        let secret = Secret::generate(kind, &*self.entropy);
        let command = Command::IssueToken(Box::new(self.with_secret(asked.token, kind, &secret)));
        let written = self.write(call, command).await?;
        Ok(Issued {
            secret: (!written.repeated).then_some(secret),
            written,
        })
    }

    pub(super) fn with_secret(
        &self,
        token: IssueToken,
        kind: TokenKind,
        secret: &Secret,
    ) -> IssueToken {
        IssueToken {
            id: self.new_token_id(),
            digest: secret.digest(),
            kind,
            display: Display {
                last4: Some(secret.last4().to_owned()),
                ..token.display
            },
            ..token
        }
    }

    /// Gives a token a new secret, which is in this answer and nowhere else.
    ///
    /// # Errors
    /// The command's [`Refusal`].
    pub async fn rotate(
        &self,
        call: Call<'_>,
        id: Option<TokenId>,
        grace_s: u32,
        expected: Option<u32>,
    ) -> Result<Issued, Refusal> {
        let kind = match id {
            None => {
                let what = "a sealed access token has no secret to rotate: renew it, or log in \
                            again";
                self.calling_kind(&call, what).await?
            }
            // Of an unknown token the kind does not matter: the command is refused.
            Some(id) => {
                self.recognised(&call).await?;
                self.comes_to_know(|state| state.token(id).is_some())
                    .await?;
                let record = self.replica.state().token(id);
                record.map_or(TokenKind::User, |record| record.kind)
            }
        };
        let secret = Secret::generate(kind, &*self.entropy);
        let command = Command::RotateToken {
            id,
            digest: secret.digest(),
            last4: secret.last4().to_owned(),
            grace_s,
            expected,
        };
        let written = self.write(call, command).await?;
        Ok(Issued {
            secret: (!written.repeated).then_some(secret),
            written,
        })
    }

    /// The kind of the calling token, which is stored; `sealed` is what one is told that is not.
    async fn calling_kind(&self, call: &Call<'_>, sealed: &str) -> Result<TokenKind, Refusal> {
        match self.recognised(call).await? {
            Caller::Sealed { .. } => Err(Refusal::Precondition(sealed.to_owned())),
            _ => {
                let kind = call.credentials.token.and_then(recognise);
                kind.ok_or(Refusal::Unauthenticated)
            }
        }
    }

    /// The token that a write was about, as the write left it.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when the store cannot be read.
    pub async fn written_token(&self, written: &Written) -> Result<Option<StoredToken>, Refusal> {
        let About::Token(id) = &written.about else {
            return Ok(None);
        };
        let stored = self.stored(*id).await?;
        Ok(stored.map(|mut stored| {
            // The row may have moved on; the answer is about this change.
            if let Some(Change::PutToken { record, .. }) = &written.change {
                stored.record = (**record).clone();
            }
            stored
        }))
    }

    async fn stored(&self, id: TokenId) -> Result<Option<StoredToken>, Refusal> {
        let stored = self.replica.store().token(id).await;
        stored.map_err(|error| unavailable(&error))
    }

    /// One token.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] also when the caller may not read it.
    pub async fn token(
        &self,
        credentials: Credentials<'_>,
        id: TokenId,
    ) -> Result<StoredToken, Refusal> {
        let reader = self.reader(credentials)?;
        let stored = self.stored(id).await?.ok_or(Refusal::NotFound("token"))?;
        if reader.token == id || reader.may_read(&stored.record) {
            Ok(stored)
        } else {
            Err(Refusal::NotFound("token"))
        }
    }

    /// Whether a token that a write was about may be shown whole to its caller.
    #[must_use]
    pub fn may_read_token(&self, credentials: Credentials<'_>, stored: &StoredToken) -> bool {
        self.reader(credentials)
            .is_ok_and(|reader| reader.token == stored.record.id || reader.may_read(&stored.record))
    }

    /// A page of tokens. Without a filter, callers who may not list everything see their own; of
    /// what came of a token that they may read they see what they may read of it, so that a page
    /// may be short.
    ///
    /// # Errors
    /// [`Refusal::NotPermitted`] with what is missing.
    pub async fn tokens(
        &self,
        credentials: Credentials<'_>,
        filter: TokenFilter,
    ) -> Result<Page<StoredToken, TokenId>, Refusal> {
        let reader = self.reader(credentials)?;
        let (query, judged) = reader.token_query(filter)?;
        let page = self.replica.store().tokens(query).await;
        let mut page = page.map_err(|error| unavailable(&error))?;
        if judged == Judged::EachRow {
            page.rows.retain(|stored| reader.may_read(&stored.record));
        }
        Ok(page)
    }

    /// Who the calling token is and what it holds.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] for anything but a good token.
    pub async fn who_am_i(
        &self,
        credentials: Credentials<'_>,
        limit: usize,
    ) -> Result<WhoAmI, Refusal> {
        let reader = self.reader_about(credentials, CallAbout::Itself)?;
        let token = match reader.sealed() {
            Some(sealed) => sealed,
            None => {
                let stored = self.stored(reader.token).await?;
                stored.ok_or(Refusal::Unauthenticated)?
            }
        };
        let (permissions, truncated) = reader.power().list(limit);
        Ok(WhoAmI {
            token,
            permissions,
            truncated,
            revision: reader.revision(),
        })
    }

    /// Where a token is managed.
    #[must_use]
    pub fn home_of(&self, stored: &StoredToken) -> Resource {
        self.replica.state().home_of(&stored.record)
    }

    /// Whether a token can be used now, by the evaluator that Checks pass.
    #[must_use]
    pub fn standing(&self, stored: &StoredToken) -> Standing {
        let record = &stored.record;
        let state = self.replica.state();
        let now = self.replica.clock().now();
        let target = Target::Id(record.id);
        let told = explain(&state, target, &[], Context::default(), KindSet::ALL, now);
        let lasting = |step: &ExplainedStep| match step.step {
            Step::Revocation | Step::Subject | Step::Expiry | Step::NotBefore | Step::Uses => {
                step.failed
            }
            _ => None,
        };
        let reason = match told.token {
            Some(_) => told
                .steps
                .iter()
                .find_map(lasting)
                .unwrap_or(Reason::Allowed),
            // It has no row to be forgotten: it called just now.
            None if record.kind == TokenKind::Access && record.key == 0 => Reason::Allowed,
            // State has forgotten it: what it had ended by stands in its row.
            None if record.revoked.is_some() || stored.cut_off => Reason::Revoked,
            None => Reason::Expired,
        };
        // The methods of a credential and its uses are of its logins, of which a Check knows nothing.
        let gone = state.lacks_method(record);
        let spent = record.kind.is_credential() && record.uses.is_some_and(|uses| uses.left == 0);
        let reason = match reason {
            _ if gone => Reason::Revoked,
            Reason::Allowed if spent => Reason::UsesExhausted,
            reason => reason,
        };
        let parent = |record: &TokenRecord| record.parent.and_then(|id| state.token(id));
        let mut ancestors = std::iter::successors(parent(record), parent);
        let revoked = ancestors.find(|ancestor| ancestor.revoked.is_some());
        Standing {
            reason,
            revoked_ancestor: revoked.map(|ancestor| ancestor.id),
        }
    }

    /// The id of the calling token.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] for anything but a good token.
    pub fn calling_token(&self, credentials: Credentials<'_>) -> Result<TokenId, Refusal> {
        Ok(self.reader(credentials)?.token)
    }

    /// The calling token as a row would show it, if it is sealed and has none.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] for anything but a good token.
    pub fn sealed_caller(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<StoredToken>, Refusal> {
        let reader = self.reader_about(credentials, CallAbout::Itself)?;
        Ok(reader.sealed())
    }

    /// What a presented text is revoked by.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for what is no token of ours, malformed or unknown alike.
    pub fn revoke_target(&self, text: &str) -> Result<RevokeTarget, Refusal> {
        if is_sealed(text) {
            return match self.claims(&self.replica.state(), text) {
                Ok(claims) => Ok(RevokeTarget::Sealed(claims)),
                Err(Refusal::Unauthenticated) => Err(Refusal::NotFound("token")),
                Err(refusal) => Err(refusal),
            };
        }
        let digest = recognise(text).map(|_| Digest::of(text));
        digest
            .map(RevokeTarget::Secret)
            .ok_or(Refusal::NotFound("token"))
    }

    /// The id of the calling token of a write, which judges whether it is good.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] for a token that nobody knows.
    pub async fn writing_token(&self, credentials: Credentials<'_>) -> Result<TokenId, Refusal> {
        let caller = self.caller(credentials)?;
        self.look_for(&caller).await?;
        self.replica
            .state()
            .calling(&caller)
            .ok_or(Refusal::Unauthenticated)
    }

    /// The principal that the calling token speaks for, if it is good and speaks for one.
    #[must_use]
    pub fn calling_principal(&self, credentials: Credentials<'_>) -> Option<PrincipalId> {
        self.reader(credentials).ok()?.principal
    }

    /// The reading of the clock that states of tokens are judged by.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.replica.clock().now().latest
    }
}

impl Reader {
    /// The caller's claims as a row, if it is sealed.
    fn sealed(&self) -> Option<StoredToken> {
        let Caller::Sealed { claims, .. } = &self.caller else {
            return None;
        };
        let sealed = Sealed::read(claims)?;
        let claims = sealed.to_claims();
        let (ends_ms, session_end_ms) = ends(&self.state, sealed);
        let subject = self.state.subject_of(&self.caller)?;
        let subject_name = match &subject {
            Subject::Principal(id) => self.state.principal(*id)?.name.to_string(),
            Subject::Resource(resource) => resource.to_string(),
        };
        Some(StoredToken {
            record: TokenRecord {
                id: claims.id,
                key: 0,
                kind: TokenKind::Access,
                subject,
                scopes: claims.scopes,
                ceiling: None,
                issuers: Vec::new(),
                parent: Some(claims.origin),
                made_at: claims.made_at,
                not_before_ms: None,
                expires_ms: ends_ms,
                expires_max_ms: session_end_ms,
                ttl_s: None,
                period_s: None,
                uses: None,
                networks: claims.networks,
                audience: claims.audience,
                workload: claims.workload,
                rotation: 0,
                grace: None,
                revoked: None,
                public_key: None,
            },
            subject_name,
            issuer_name: None,
            name: String::new(),
            description: String::new(),
            labels: BTreeMap::new(),
            last4: String::new(),
            changed_at: sealed.made_at,
            cut_off: false,
            revoke_reason: None,
            last_used: None,
        })
    }

    // Own tokens, and those of one's teams, can be read unless the calling token is narrowed.
    fn may_read(&self, record: &TokenRecord) -> bool {
        let home = self.state.home_of(record);
        let own = self.is_own(&record.subject) && self.in_scopes("tokens:read", &home);
        own || self.permits("tokens:read", &home)
    }

    fn in_scopes(&self, action: &str, at: &Resource) -> bool {
        let permission = Permission::known(action, ResourcePattern::exactly(at));
        self.power().cut_covers(&permission)
    }

    fn token_query(&self, filter: TokenFilter) -> Result<(TokenQuery, Judged), Refusal> {
        let mut query = filter.query;
        query.now_ms = self.now.latest;
        if let Some(name) = &filter.subject {
            query.subject = Some(self.named(name)?);
        }
        if let Some(name) = &filter.issuer {
            query.issuer = Some(self.may_see(name)?);
        }
        if let Some(subject) = query.subject {
            let home = self
                .state
                .principal(subject)
                .map(|record| record.home.clone());
            let home = home.ok_or(Refusal::NotFound("subject"))?;
            let own = self.is_own(&Subject::Principal(subject));
            if !(own && self.in_scopes("tokens:read", &home)) {
                let kind = filter.subject.as_ref().map(PrincipalName::kind);
                let readable = kind.is_some_and(|kind| self.permits(read_action(kind), &home));
                match self.require("tokens:read", ResourcePattern::exactly(&home)) {
                    Err(_) if !readable => {
                        let what = kind.map_or("subject", PrincipalKind::name);
                        return Err(Refusal::NotFound(what));
                    }
                    judged => judged?,
                }
            }
            return Ok((query, Judged::Whole));
        }
        let everywhere = self.require_under("tokens:read", query.resource_under.as_ref());
        if everywhere.is_err() && self.came_of_readable(&query) {
            return Ok((query, Judged::EachRow));
        }
        let narrowed = self.power().is_narrowed();
        if everywhere.is_err()
            && query.resource_under.is_none()
            && !narrowed
            && self.principal.is_some()
        {
            // What one has issued oneself, or else one's own.
            if query.issuer != self.principal {
                query.subject = self.principal;
            }
            return Ok((query, Judged::Whole));
        }
        everywhere.map(|()| (query, Judged::Whole))
    }

    /// Whether only what came of tokens is asked for that the caller may read.
    fn came_of_readable(&self, query: &TokenQuery) -> bool {
        let mut named = query.issuer_token.iter().chain(&query.parent).peekable();
        let may_read = |id: &TokenId| {
            let record = self.state.token(*id);
            record.is_some_and(|record| self.may_read(&record))
        };
        named.peek().is_some() && named.all(may_read)
    }
}
