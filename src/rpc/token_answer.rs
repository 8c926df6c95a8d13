//! Tokens as answers show them: everything that is known but the secret and its digest.
//!
//! Used by the token service and, for the tokens that a removed member leaves, by the directory.
//! The row comes from the store, the state from the same evaluator that answers Checks.

use crate::authority::Authority;
use crate::authority::list::StoredToken;
use crate::authority::tokens::Standing;
use crate::domain::change::Subject;
use crate::domain::key::PublicKey;
use crate::domain::permission::Resource;
use crate::domain::reason::Reason;
use crate::domain::token::{TokenId, TokenKind};
use crate::proto::v1;

use super::convert::{self, duration, timestamp};
use super::scopes;

/// A token whole, for who may read it.
pub(super) fn whole(authority: &Authority, stored: &StoredToken) -> v1::Token {
    let home = authority.home_of(stored);
    token(
        stored,
        &home,
        authority.standing(stored),
        authority.now_ms(),
    )
}

/// What whoever had the secret may know of a token.
pub(super) fn brief(authority: &Authority, stored: &StoredToken) -> v1::Token {
    let whole = whole(authority, stored);
    v1::Token {
        token_id: whole.token_id,
        kind: whole.kind,
        state: whole.state,
        prefix: whole.prefix,
        last_four: whole.last_four,
        revocation: whole.revocation,
        ..v1::Token::default()
    }
}

/// What is known of a sealed token that was revoked: no row tells more.
pub(super) fn sealed(id: TokenId) -> v1::Token {
    v1::Token {
        token_id: id.to_string(),
        kind: convert::kind_number(TokenKind::Access),
        state: v1::TokenState::Revoked.into(),
        prefix: TokenKind::Access.prefix().to_owned(),
        sealed: true,
        ..v1::Token::default()
    }
}

fn token(stored: &StoredToken, home: &Resource, standing: Standing, now_ms: u64) -> v1::Token {
    let record = &stored.record;
    let (subject, resource) = match &record.subject {
        Subject::Principal(_) => (stored.subject_name.clone(), String::new()),
        Subject::Resource(resource) => (String::new(), resource.to_string()),
    };
    let issuer_token = record
        .issuers
        .first()
        .and_then(|issuer| issuer.tokens.first());
    let text = |limit: Option<&str>| limit.unwrap_or_default().to_owned();
    let grace = record.grace.filter(|grace| grace.until_ms > now_ms);
    v1::Token {
        token_id: record.id.to_string(),
        kind: convert::kind_number(record.kind),
        state: state(standing.reason).into(),
        subject,
        resource,
        home: home.to_string(),
        scopes: Some(scopes::answered(&record.scopes)),
        ceiling: record.ceiling.as_ref().map(scopes::ceiling),
        issuer: text(stored.issuer_name.as_deref()),
        issuer_token_id: issuer_token.map(ToString::to_string).unwrap_or_default(),
        parent_token_id: record.parent.map(|id| id.to_string()).unwrap_or_default(),
        created_at: Some(timestamp(record.id.created_ms())),
        created_revision: record.made_at,
        not_before: record.not_before_ms.map(timestamp),
        expires_at: record.expires_ms.map(timestamp),
        max_expires_at: record.expires_max_ms.map(timestamp),
        period: record.period_s.map(duration),
        uses_limit: record.uses.map(|uses| uses.limit),
        uses_left: record.uses.map(|uses| uses.left),
        networks: record.networks.iter().collect(),
        audience: text(record.audience.as_ref().map(|audience| audience.as_str())),
        workload: text(record.workload.as_ref().map(|workload| workload.as_str())),
        name: stored.name.clone(),
        description: stored.description.clone(),
        labels: stored.labels.clone(),
        rotation: record.rotation,
        grace_until: grace.map(|grace| timestamp(grace.until_ms)),
        prefix: record.kind.prefix().to_owned(),
        last_four: stored.last4.clone(),
        revocation: revocation(stored, standing),
        changed_at_revision: stored.changed_at,
        last_used_at: stored.last_used.map(|used| timestamp(used.at_ms)),
        last_used_from: stored
            .last_used
            .and_then(|used| used.from)
            .map(|address| address.to_string())
            .unwrap_or_default(),
        public_key: record
            .public_key
            .as_ref()
            .map(PublicKey::to_pem)
            .unwrap_or_default(),
        sealed: record.kind == TokenKind::Access && record.key == 0,
    }
}

fn state(reason: Reason) -> v1::TokenState {
    match reason {
        Reason::Revoked => v1::TokenState::Revoked,
        Reason::SubjectDisabled => v1::TokenState::SubjectDisabled,
        Reason::Expired => v1::TokenState::Expired,
        Reason::NotYetValid => v1::TokenState::NotYetValid,
        Reason::UsesExhausted => v1::TokenState::UsesExhausted,
        // What is left depends on the request that a token comes with.
        _ => v1::TokenState::Active,
    }
}

fn revocation(stored: &StoredToken, standing: Standing) -> Option<v1::Revocation> {
    if let Some(revoked) = stored.record.revoked {
        return Some(v1::Revocation {
            revoked_at: Some(timestamp(revoked.at_ms)),
            revision: revoked.revision,
            reason: stored.revoke_reason.clone().unwrap_or_default(),
            ..v1::Revocation::default()
        });
    }
    if standing.reason != Reason::Revoked {
        return None;
    }
    let ancestor = standing.revoked_ancestor;
    Some(v1::Revocation {
        ancestor_token_id: ancestor.map(|id| id.to_string()).unwrap_or_default(),
        cutoff: ancestor.is_none(),
        ..v1::Revocation::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::authority::list::LastUsed;
    use crate::domain::change::{Grace, Issuer, Revoked, TokenRecord};
    use crate::domain::limits::{Audience, Networks, Uses};
    use crate::domain::principal::PrincipalId;
    use crate::domain::scopes::{PermissionSet, Scopes};
    use crate::domain::token::{TokenId, TokenKind};

    const NOW: u64 = 5_000_000;

    fn id(number: u128) -> TokenId {
        TokenId::from_u128((1_000_000 << 80) + number)
    }

    fn stored() -> StoredToken {
        StoredToken {
            record: TokenRecord {
                id: id(1),
                key: 0x5ec2e7,
                kind: TokenKind::Service,
                subject: Subject::Principal(PrincipalId(7)),
                scopes: Scopes::All,
                ceiling: Some(PermissionSet::default()),
                issuers: vec![Issuer {
                    principal: Some(PrincipalId(1)),
                    tokens: vec![id(2), id(3)],
                    since: 0,
                }],
                parent: Some(id(2)),
                made_at: 9,
                not_before_ms: None,
                expires_ms: Some(6_000_000),
                expires_max_ms: Some(7_000_000),
                ttl_s: Some(60),
                period_s: Some(60),
                uses: Some(Uses { limit: 5, left: 3 }),
                networks: Networks::parse(&["10.0.0.0/8"]).expect("valid"),
                audience: Audience::parse("vault"),
                workload: None,
                rotation: 2,
                grace: Some(Grace {
                    key: 0x5ec2e8,
                    until_ms: NOW + 1,
                }),
                revoked: None,
                public_key: None,
            },
            subject_name: "service:ci".to_owned(),
            issuer_name: Some("user:alice".to_owned()),
            name: "ci".to_owned(),
            description: "builds".to_owned(),
            labels: BTreeMap::new(),
            last4: "WXYZ".to_owned(),
            changed_at: 12,
            cut_off: false,
            revoke_reason: None,
            last_used: Some(LastUsed {
                at_ms: 4_000_000,
                from: Some([192, 0, 2, 7].into()),
            }),
        }
    }

    fn shown(stored: &StoredToken, reason: Reason, ancestor: Option<TokenId>) -> v1::Token {
        let home = Resource::parse("acme").expect("valid");
        let standing = Standing {
            reason,
            revoked_ancestor: ancestor,
        };
        token(stored, &home, standing, NOW)
    }

    #[test]
    fn every_fact_of_a_token_is_shown() {
        let token = shown(&stored(), Reason::Allowed, None);
        assert_eq!(token.token_id, id(1).to_string());
        assert_eq!(token.kind(), v1::TokenKind::Service);
        assert_eq!(token.state(), v1::TokenState::Active);
        assert_eq!(
            (token.subject.as_str(), token.resource.as_str()),
            ("service:ci", "")
        );
        assert_eq!(
            (token.home.as_str(), token.issuer.as_str()),
            ("acme", "user:alice")
        );
        assert_eq!(token.issuer_token_id, id(2).to_string());
        assert_eq!(token.parent_token_id, id(2).to_string());
        assert_eq!(token.created_at, Some(timestamp(1_000_000)));
        assert_eq!((token.created_revision, token.changed_at_revision), (9, 12));
        assert_eq!(token.expires_at, Some(timestamp(6_000_000)));
        assert_eq!(token.max_expires_at, Some(timestamp(7_000_000)));
        assert_eq!(token.period, Some(duration(60)));
        assert_eq!((token.uses_limit, token.uses_left), (Some(5), Some(3)));
        assert_eq!(token.networks, ["10.0.0.0/8"]);
        assert_eq!(
            (token.audience.as_str(), token.workload.as_str()),
            ("vault", "")
        );
        assert_eq!(
            (token.prefix.as_str(), token.last_four.as_str()),
            ("lks_", "WXYZ")
        );
        assert_eq!(token.grace_until, Some(timestamp(NOW + 1)));
        assert_eq!(
            token.ceiling,
            Some(scopes::ceiling(&PermissionSet::default()))
        );
        assert_eq!(token.revocation, None);
        assert_eq!(token.last_used_at, Some(timestamp(4_000_000)));
        assert_eq!(token.last_used_from, "192.0.2.7");
    }

    #[test]
    fn a_use_from_nowhere_and_no_use_are_told_apart() {
        let mut unseen = stored();
        unseen.last_used = unseen.last_used.map(|used| LastUsed { from: None, ..used });
        let token = shown(&unseen, Reason::Allowed, None);
        assert!(token.last_used_at.is_some() && token.last_used_from.is_empty());
        unseen.last_used = None;
        let token = shown(&unseen, Reason::Allowed, None);
        assert!(token.last_used_at.is_none() && token.last_used_from.is_empty());
    }

    #[test]
    fn a_grace_that_is_over_is_not_shown() {
        let mut over = stored();
        over.record.grace = over.record.grace.map(|grace| Grace {
            until_ms: NOW,
            ..grace
        });
        assert_eq!(shown(&over, Reason::Allowed, None).grace_until, None);
    }

    #[test]
    fn a_resource_token_has_a_resource_and_no_subject() {
        let mut of_resource = stored();
        of_resource.record.subject = Subject::Resource(Resource::parse("acme/web").expect("valid"));
        "acme/web".clone_into(&mut of_resource.subject_name);
        let token = shown(&of_resource, Reason::Allowed, None);
        assert_eq!(
            (token.subject.as_str(), token.resource.as_str()),
            ("", "acme/web")
        );
    }

    #[test]
    fn the_state_is_the_first_that_a_check_would_name() {
        for (reason, expected) in [
            (Reason::Allowed, v1::TokenState::Active),
            (Reason::Revoked, v1::TokenState::Revoked),
            (Reason::SubjectDisabled, v1::TokenState::SubjectDisabled),
            (Reason::Expired, v1::TokenState::Expired),
            (Reason::NotYetValid, v1::TokenState::NotYetValid),
            (Reason::UsesExhausted, v1::TokenState::UsesExhausted),
        ] {
            assert_eq!(
                shown(&stored(), reason, None).state(),
                expected,
                "{reason:?}"
            );
        }
    }

    #[test]
    fn a_revocation_tells_itself_from_an_ancestors_and_from_a_cut_off() {
        let mut itself = stored();
        itself.record.revoked = Some(Revoked {
            revision: 11,
            at_ms: 4_000_000,
        });
        itself.revoke_reason = Some("lost".to_owned());
        let of = |stored: &StoredToken, ancestor| {
            let token = shown(stored, Reason::Revoked, ancestor);
            token.revocation.expect("revoked")
        };
        let own = of(&itself, None);
        assert_eq!(
            (own.revision, own.reason.as_str(), own.cutoff),
            (11, "lost", false)
        );
        assert_eq!(own.revoked_at, Some(timestamp(4_000_000)));
        let inherited = of(&stored(), Some(id(2)));
        assert_eq!(inherited.ancestor_token_id, id(2).to_string());
        assert!(!inherited.cutoff && inherited.revoked_at.is_none());
        assert!(of(&stored(), None).cutoff);
    }
}
