//! Power: what a caller holds at this moment, and the boundary on what it may hand on.
//!
//! A token's power is its subject's live permissions, cut by its scopes, by its ceiling and by
//! those of every ancestor. A permission is *held* when every one of these layers covers it;
//! where coverage cannot be shown it is not held. Nobody hands on what they do not hold, and a
//! refusal lists exactly what is missing. Used by `decide` and, for reads, by the authority.

use crate::domain::change::Subject;
use crate::domain::permission::{Need, Permission, ResourcePattern};
use crate::domain::scopes::{PermissionSet, Scopes, SetTooLarge};
use crate::domain::token::TokenId;

use super::State;
use super::decide::Caller;
use super::directory::Principal;
use super::lineage::{Cut, Lineage};
use super::scopeset::ScopeSet;

/// Most permissions that are looked at for an action that may be held anywhere.
const CUT_DOWN_MAX: usize = 4_096;

/// What a caller holds, on one State.
pub struct Power<'s> {
    state: &'s State,
    holder: Holder<'s>,
}

#[allow(
    clippy::large_enum_variant,
    reason = "nearly every caller has a token, and none is kept for long"
)]
enum Holder<'s> {
    // Access to the store itself: bootstrap and recovery.
    Local,
    Token {
        lineage: Lineage<'s>,
        principal: Option<&'s Principal>,
    },
}

impl<'s> Power<'s> {
    /// The power of whoever has the store itself in hand.
    pub(super) fn local(state: &'s State) -> Self {
        Self {
            state,
            holder: Holder::Local,
        }
    }

    /// The power of a token that was found good.
    pub(super) fn of_token(state: &'s State, lineage: Lineage<'s>) -> Self {
        let principal = lineage.principal();
        let principal = principal.and_then(|id| state.directory.principal(id));
        Self {
            state,
            holder: Holder::Token { lineage, principal },
        }
    }

    /// The token whose power it is; none of access to the store itself.
    pub(super) fn lineage(&self) -> Option<&Lineage<'s>> {
        match &self.holder {
            Holder::Local => None,
            Holder::Token { lineage, .. } => Some(lineage),
        }
    }

    /// Whether every layer covers `permission`.
    #[must_use]
    pub fn holds(&self, permission: &Permission) -> bool {
        match &self.holder {
            Holder::Local => true,
            Holder::Token { lineage, principal } => {
                self.cuts(lineage).all(|cut| cut.covers(permission))
                    && principal.is_none_or(|one| self.state.directory.covers(one, permission))
            }
        }
    }

    /// Whether every layer permits `need`.
    #[must_use]
    pub fn permits(&self, need: Need<'_>) -> bool {
        match &self.holder {
            Holder::Local => true,
            Holder::Token { lineage, principal } => {
                self.cuts(lineage).all(|cut| cut.permits(&need))
                    && principal.is_none_or(|one| self.state.directory.permits(one, &need))
            }
        }
    }

    /// Whether the calling token is narrowed: then even a right that comes with being someone
    /// must be in its scopes.
    #[must_use]
    pub fn is_narrowed(&self) -> bool {
        match &self.holder {
            Holder::Local => false,
            Holder::Token { lineage, .. } => self.cuts(lineage).next().is_some(),
        }
    }

    /// Whether the scopes and ceilings alone cover `permission`, whatever the subject holds now.
    #[must_use]
    pub fn cut_covers(&self, permission: &Permission) -> bool {
        match &self.holder {
            Holder::Local => true,
            Holder::Token { lineage, .. } => self.cuts(lineage).all(|cut| cut.covers(permission)),
        }
    }

    /// Whether `action` is held on some resource or other, with `live` by the subject as well:
    /// all that can be asked about what is gone.
    pub(super) fn has_somewhere(&self, action: &str, live: bool) -> bool {
        let Holder::Token { lineage, principal } = &self.holder else {
            return true;
        };
        let anywhere = Permission::known(action, ResourcePattern::everything());
        let held = match principal {
            Some(one) if live => self
                .live(one)
                .filter_map(|mine| mine.meet(&anywhere))
                .collect(),
            _ => vec![anywhere],
        };
        !self.cut_down(held, lineage, CUT_DOWN_MAX).is_empty()
    }

    /// Whether it is everything: `*` on `**`.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.holds(&Permission::everything())
    }

    /// Those of `wanted` that are not held.
    #[must_use]
    pub fn missing(&self, wanted: impl IntoIterator<Item = Permission>) -> Vec<Permission> {
        let mut missing: Vec<Permission> =
            wanted.into_iter().filter(|one| !self.holds(one)).collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// The scopes and ceilings of the whole lineage as one; `All` when nothing narrows.
    ///
    /// # Errors
    /// [`SetTooLarge`] when the product passes the limits of a set.
    pub fn cut(&self) -> Result<Scopes, SetTooLarge> {
        match &self.holder {
            Holder::Local => Ok(Scopes::All),
            Holder::Token { lineage, .. } => {
                self.cuts(lineage).try_fold(Scopes::All, |met, cut| {
                    met.meet(&Scopes::Only(cut.to_set()))
                })
            }
        }
    }

    /// Everything that is held, as a ceiling for what is handed on; none for everything.
    ///
    /// # Errors
    /// [`SetTooLarge`] when the product passes the limits of a set.
    pub fn ceiling(&self) -> Result<Option<PermissionSet>, SetTooLarge> {
        if self.is_everything() {
            return Ok(None);
        }
        let cut = self.cut()?;
        let live = match &self.holder {
            Holder::Local
            | Holder::Token {
                principal: None, ..
            } => Scopes::All,
            Holder::Token {
                principal: Some(one),
                ..
            } => Scopes::Only(PermissionSet::new(self.live(one).cloned())?),
        };
        Ok(match live.meet(&cut)? {
            Scopes::All => None,
            Scopes::Only(set) => Some(set),
        })
    }

    /// What is held, for people: at most `limit` permissions, and whether there are more.
    #[must_use]
    pub fn list(&self, limit: usize) -> (Vec<Permission>, bool) {
        let Holder::Token { lineage, principal } = &self.holder else {
            return (vec![Permission::everything()], false);
        };
        let mut held: Vec<Permission> = match principal {
            Some(one) => self.live(one).cloned().collect(),
            None => vec![Permission::everything()],
        };
        held = self.cut_down(held, lineage, limit.saturating_mul(4));
        held.sort_unstable();
        held.dedup();
        let truncated = held.len() > limit;
        held.truncate(limit);
        (held, truncated)
    }

    /// What the scopes and ceilings leave of a list, at most `limit`.
    fn cut_down(
        &self,
        mut held: Vec<Permission>,
        lineage: &Lineage<'s>,
        limit: usize,
    ) -> Vec<Permission> {
        for cut in self.cuts(lineage) {
            let set = cut.to_set();
            held = held
                .iter()
                .flat_map(|mine| set.iter().filter_map(|cut| mine.meet(cut)))
                .take(limit)
                .collect();
        }
        held
    }

    fn cuts(&self, lineage: &Lineage<'s>) -> impl Iterator<Item = Cut<'s>> {
        lineage.cuts(self.state)
    }

    fn live(&self, principal: &'s Principal) -> impl Iterator<Item = &'s Permission> {
        self.state
            .directory
            .live_powers(principal)
            .flat_map(ScopeSet::permissions)
    }
}

impl State {
    /// The power of a token, whether it is good or not; none if there is none.
    #[must_use]
    pub fn power(&self, token: TokenId) -> Option<Power<'_>> {
        let hot = self.tokens.by_id(token)?;
        Some(Power::of_token(self, Lineage::of(self, hot)))
    }

    /// The power of a caller, whether it is good or not; none if nothing is known of it.
    #[must_use]
    pub fn power_of<'s>(&'s self, caller: &'s Caller) -> Option<Power<'s>> {
        Some(Power::of_token(self, caller.lineage(self)?))
    }

    /// The id of a caller; none if nothing is known of it.
    #[must_use]
    pub fn calling(&self, caller: &Caller) -> Option<TokenId> {
        caller.lineage(self)?.id()
    }

    /// Whom or what a caller speaks for; none if nothing is known of it.
    #[must_use]
    pub fn subject_of(&self, caller: &Caller) -> Option<Subject> {
        caller.lineage(self)?.subject(self)
    }

    /// Everything that a principal holds now, own and through its teams.
    pub(super) fn live_permissions(&self, principal: &Principal) -> Vec<Permission> {
        self.directory
            .live_powers(principal)
            .flat_map(|power| power.permissions().iter().cloned())
            .collect()
    }
}
