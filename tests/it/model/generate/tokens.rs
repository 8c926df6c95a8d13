//! Random commands about tokens: issue, update, rotate, revoke, use.
//!
//! Part of the generator.

use latchkey::domain::principal::PrincipalId;
use latchkey::domain::token::{Digest, KindSet, TokenId, TokenKind};
use latchkey::state::decide::{Command, CutOffRequest, LimitsAsked, RevokeTarget, UseToken};

use super::super::commands::{name, plain_issue, plain_update, resource};
use super::{Generator, PRINCIPALS, RESOURCES, STRAY_INSTANTS, kind_of};

impl Generator {
    pub(super) fn issue(&mut self, now: u64, caller: Option<TokenKind>) -> Command {
        let derive = caller.is_some() && self.dice.percent(30);
        let text = self.dice.one(&PRINCIPALS);
        let kind = match (self.dice.below(10), caller) {
            (0..9, Some(kind)) if derive => kind,
            (0..3, _) => TokenKind::Resource,
            _ => kind_of(text),
        };
        let (id, digest) = self.secret(kind, now);
        let mut issue = plain_issue(id, digest, kind);
        issue.derive = derive;
        let stray = self.dice.percent(3);
        if kind == TokenKind::Resource && !derive || stray {
            issue.resource = Some(resource(self.dice.one(&RESOURCES)));
        }
        if kind != TokenKind::Resource && !derive && !self.dice.percent(20) || stray {
            issue.subject = Some(name(text));
        }
        issue.scopes = self.scopes();
        issue.ttl_s = self
            .dice
            .one(&[None, None, Some(30), Some(900), Some(3_600), Some(80_000)]);
        if self.dice.percent(20) {
            issue.max_lifetime_s = self.dice.one(&[Some(20), Some(900)]);
        }
        if self.dice.percent(10) {
            issue.period_s = self.dice.one(&[Some(0), Some(40), Some(400)]);
        }
        if self.dice.percent(8) {
            issue.not_before_ms = Some(now + 1_000 * self.dice.below(60) as u64);
        }
        if self.dice.percent(5) {
            issue.uses = Some(self.dice.below(3) as u32);
        }
        if self.dice.percent(15) {
            issue.limits = LimitsAsked {
                networks: self.networks(),
                audience: self.audience(),
                workload: self.workload(),
            };
        }
        Command::IssueToken(Box::new(issue))
    }

    pub(super) fn update(&mut self, now: u64) -> Command {
        let mut update = plain_update(self.any_known().id);
        let soon = now + 1_000 * self.dice.below(900) as u64 + 1;
        let instant = if self.dice.percent(30) {
            None
        } else {
            Some(soon)
        };
        for _ in 0..=self.dice.below(2) {
            match self.dice.below(9) {
                0..3 => update.scopes = Some(self.scopes()),
                3 => update.expires_ms = Some(instant),
                4 => update.not_before_ms = Some(instant),
                5 => update.expires_max_ms = Some(instant),
                6 => update.networks = Some(self.networks()),
                7 => update.audience = Some(self.audience()),
                _ => update.workload = Some(self.workload()),
            }
        }
        if self.dice.percent(5) {
            update.uses_left = Some(self.dice.one(&[None, Some(1), Some(2)]));
        }
        if self.dice.percent(8) {
            update.period_s = Some(self.dice.one(&[None, Some(40), Some(400)]));
        }
        if self.dice.percent(3) {
            update.expires_ms = Some(Some(self.dice.one(&STRAY_INSTANTS)));
        }
        if self.dice.percent(3) {
            update.expires_max_ms = Some(Some(self.dice.one(&STRAY_INSTANTS)));
        }
        if self.dice.percent(6) {
            update.display.name = Some("another".to_owned());
        }
        Command::UpdateToken(Box::new(update))
    }

    pub(super) fn rotate(&mut self, now: u64) -> Command {
        let (id, kind) = {
            let one = self.any_known();
            (one.id, one.kind)
        };
        let itself = self.dice.percent(35);
        let (_, digest) = self.secret(kind, now);
        // The new secret belongs to the old id.
        let last = self.known.len() - 1;
        self.known[last].id = id;
        Command::RotateToken {
            id: (!itself).then_some(id),
            digest,
            last4: "0000".to_owned(),
            grace_s: self.dice.one(&[0, 5, 60, 100_000]),
            expected: self.dice.one(&[None, None, None, Some(0), Some(1)]),
        }
    }

    pub(super) fn revoke(&mut self) -> Command {
        let (id, digest) = {
            let one = self.any_known();
            (one.id, Digest::of(&one.text))
        };
        let target = match self.dice.below(10) {
            0..2 => RevokeTarget::Itself,
            2..4 => RevokeTarget::Secret(digest),
            _ => RevokeTarget::Id(id),
        };
        Command::RevokeToken {
            target,
            compromised: self.dice.percent(35),
        }
    }

    pub(super) fn revoke_all(&mut self) -> Command {
        let principal = name(self.dice.one(&PRINCIPALS));
        Command::RevokeAll(match self.dice.below(5) {
            0 => CutOffRequest::Subject(principal),
            1 => CutOffRequest::IssuedByPrincipal(principal),
            2 => CutOffRequest::IssuedByToken(self.any_known().id),
            3 => CutOffRequest::IssuedByNumber(PrincipalId(self.dice.below(14) as u32)),
            _ => CutOffRequest::ResourceUnder(resource(self.dice.one(&RESOURCES))),
        })
    }

    /// One token revoked, and what lies below a resource cut off.
    pub(super) fn revocations(&self, id: TokenId) -> [Command; 2] {
        let revoke = Command::RevokeToken {
            target: RevokeTarget::Id(id),
            compromised: false,
        };
        let below = CutOffRequest::ResourceUnder(resource("a/x/y"));
        [revoke, Command::RevokeAll(below)]
    }

    pub(super) fn use_token(&mut self) -> Command {
        let asked = self.asked();
        Command::UseToken(Box::new(UseToken {
            key: asked.key,
            needs: asked.needs,
            client_ip: asked.address,
            audience: asked.audience,
            workload: asked.workload,
            kinds: KindSet::from_kinds(asked.kinds),
        }))
    }
}
