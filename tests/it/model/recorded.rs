//! A random history as a store would hold it: decided, digested, with names and labels on it.
//!
//! For tests of what keeps or carries a history. The commands are those of the model test; texts
//! are such as a careless encoding would spoil.

use latchkey::domain::chain::Head;
use latchkey::domain::change::{Change, Display};
use latchkey::domain::entry::LogEntry;
use latchkey::state::State;
use latchkey::store::{Appended, Batch, Store};

use super::T0;
use super::direct::{Pair, Step, tick};
use super::generate::Generator;
use super::oracle::{Oracle, Token};

/// What was made.
pub(crate) struct Recorded {
    /// Every secret that any command used, whether a token ever had it or not.
    pub(crate) secrets: Vec<String>,
    /// The instant after the last command.
    pub(crate) now: u64,
}

/// Appends what so many random commands come to.
pub(crate) async fn record(store: &dyn Store, seed: u64, commands: usize) -> Recorded {
    let mut generator = Generator::new(seed);
    let mut pair = Pair::new();
    let mut now = T0;
    let setup = generator.setup(now);
    for envelope in setup {
        let step = Step::Command(now, envelope);
        pair.step(&step, &generator.known).expect("the set-up");
    }
    for _ in 0..commands {
        now = tick(&mut generator, now);
        generator.look(&pair.oracle, now);
        generator.look_at_logins(&pair.oracle, &pair.sealed, now);
        let command = Step::Command(now, generator.command(now));
        let login = Step::Login(now, generator.login_step(now));
        for step in [command, login] {
            pair.step(&step, &generator.known)
                .expect("as the oracle says");
        }
    }
    for envelope in generator.ending(now) {
        let step = Step::Command(now, envelope);
        pair.step(&step, &generator.known).expect("the ending");
    }
    let lock = Step::Command(now, generator.lock(&pair.oracle));
    pair.step(&lock, &generator.known).expect("the lock");
    assert_eq!(missing(&pair.oracle), [""; 0], "seed {seed}");
    append(store, &pair.log).await;
    let secrets = generator.known.iter().map(|one| one.text.clone());
    Recorded {
        secrets: secrets.collect(),
        now,
    }
}

/// What a history is to hold at its end, so that whatever is done to a store is done to it.
fn missing(oracle: &Oracle) -> Vec<&'static str> {
    let revoked = |one: &Token| one.revoked.is_some();
    let kept = [
        ("a revoked token", oracle.tokens.iter().any(revoked)),
        (
            "a credential",
            oracle.tokens.iter().any(Token::is_credential),
        ),
        ("a member", !oracle.members.is_empty()),
        ("a role", !oracle.roles.is_empty()),
        ("a grant", !oracle.grants.is_empty()),
        ("a cut-off", !oracle.cuts.is_empty()),
        ("a request", !oracle.requests.is_empty()),
        ("a method", !oracle.methods.is_empty()),
        ("a lock", !oracle.locks.is_empty()),
        ("a revoked session", !oracle.ended_sessions.is_empty()),
        ("a seal key", !oracle.keys.is_empty()),
    ];
    let missing = kept.into_iter().filter(|(_, is_there)| !is_there);
    missing.map(|(what, _)| what).collect()
}

async fn append(store: &dyn Store, log: &[LogEntry]) {
    let mut state = State::default();
    let mut head = Head::EMPTY;
    for (number, decided) in (1_u128..).zip(log.chunks(3)) {
        let id = number.to_be_bytes();
        let base = head;
        let mut entries = Vec::new();
        for (index, logged) in decided.iter().enumerate() {
            let mut entry = logged.entry.clone();
            entry.batch_id = id;
            dress(&mut entry.change);
            state.advance(&entry);
            if index + 1 == decided.len() {
                entry.state_digest = Some(state.digest());
            }
            let logged = LogEntry::new(entry, &head);
            head = logged.head;
            entries.push(logged);
        }
        let appended = store.append(Batch { id, base, entries }).await;
        assert!(matches!(appended, Ok(Appended::Committed)), "{appended:?}");
    }
}

/// Gives what is new a name, a description and labels.
fn dress(change: &mut Change) {
    let (display, text) = match change {
        Change::PutToken {
            record,
            digest: Some(_),
            display,
        } => (display, record.id.to_string()),
        Change::PutPrincipal { record, display } => (display, record.name.to_string()),
        Change::PutRole { record, display } => (display, record.name.to_string()),
        _ => return,
    };
    let labels = [
        ("app", "web"),
        ("odd", "a\tb\\N\n\"c\"\r{é}"),
        ("of", &text),
    ];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    *display = Display {
        name: Some(format!("{text}\\x00 \t tab")),
        description: Some("line\nline\\.\n".to_owned()),
        labels: Some(labels.into()),
        last4: display.last4.take().or_else(|| Some("ab\\.".to_owned())),
    };
}
