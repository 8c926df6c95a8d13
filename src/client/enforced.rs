//! How far a change is enforced, as a caller acts on it.
//!
//! Used with the answers of writes, all of which carry an `enforcement`. Promise: only what the
//! server calls confirmed is taken for it; a state that is not known here is not.

use std::time::Duration;

use super::v1;
use super::v1::enforcement::State;

/// How far a change is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// By every replica: no Check that any of them receives from now on is answered without it.
    Confirmed {
        /// The replicas that have applied it, by name; all others have lost their leases.
        replicas: Vec<String>,
    },
    /// Durable, and not yet enforced everywhere.
    Committed {
        /// In how long it is at the most, from when the answer was made; none if that is not
        /// known: a replica that has not reported it may answer without its lease.
        everywhere_after: Option<Duration>,
        /// The replicas that have applied it, by name.
        replicas: Vec<String>,
        /// The replicas that have not reported it, by name; none if they could not be read.
        missing: Vec<String>,
    },
    /// The answer did not wait for replicas: the change only adds, and was not asked to.
    NotAwaited,
}

impl Enforced {
    /// What an answer tells.
    #[must_use]
    pub fn of(told: Option<&v1::Enforcement>) -> Self {
        let Some(told) = told else {
            return Self::NotAwaited;
        };
        let replicas = told.replicas.clone();
        if told.state() == State::Confirmed {
            return Self::Confirmed { replicas };
        }
        let after = told.everywhere_after.as_ref();
        Self::Committed {
            everywhere_after: after.and_then(|after| Duration::try_from(*after).ok()),
            replicas,
            missing: told.missing.clone(),
        }
    }

    /// Whether every replica enforces it.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        matches!(self, Self::Confirmed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(state: i32) -> v1::Enforcement {
        v1::Enforcement {
            state,
            replicas: vec!["a".to_owned()],
            everywhere_after: Some(prost_types::Duration {
                seconds: 1,
                nanos: 500_000_000,
            }),
            missing: vec!["b".to_owned()],
        }
    }

    #[test]
    fn only_what_is_called_confirmed_is_taken_for_it() {
        let confirmed = Enforced::of(Some(&told(State::Confirmed.into())));
        assert!(confirmed.is_confirmed());
        let committed = Enforced::Committed {
            everywhere_after: Some(Duration::from_millis(1_500)),
            replicas: vec!["a".to_owned()],
            missing: vec!["b".to_owned()],
        };
        for state in [State::Committed.into(), 0, 77] {
            let found = Enforced::of(Some(&told(state)));
            assert_eq!(found, committed, "{state}");
            assert!(!found.is_confirmed());
        }
        assert_eq!(Enforced::of(None), Enforced::NotAwaited);
        let unsaid = Enforced::of(Some(&v1::Enforcement::default()));
        assert!(matches!(
            unsaid,
            Enforced::Committed {
                everywhere_after: None,
                ..
            }
        ));
    }
}
