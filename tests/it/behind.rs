//! A replica that is behind the log: callers that it does not know yet, answers that it cannot read
//! again, revisions that it need not confirm.
//!
//! By the verbs of two authorities on one database in memory, in virtual time. One of them hears of
//! nothing and is not told to look.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use latchkey::authority::audit::RevisionAsked;
use latchkey::authority::cluster::Enforced;
use latchkey::authority::tokens::{IssueAsked, Issued};
use latchkey::authority::{
    Authority, Call, Command, Credentials, IssueToken, LimitsAsked, RequestId, ScopesAsked,
    Settings, Written,
};
use latchkey::domain::chain::Revision;
use latchkey::domain::change::Display;
use latchkey::domain::entropy::SeededEntropy;
use latchkey::domain::permission::Resource;
use latchkey::domain::principal::PrincipalName;
use latchkey::domain::refusal::Refusal;
use latchkey::domain::scopes::ScopeEntry;
use latchkey::domain::token::{Digest, Secret, TokenId, TokenKind};
use latchkey::replica::{self, LeaseSettings, Replica, WriterTask};
use tokio::time::Instant;

use crate::outage::line::{Database, Line, VirtualClock};

const LEASE_MS: u64 = 60_000;

/// One server.
pub(crate) struct Node {
    pub(crate) authority: Authority,
    pub(crate) replica: Replica,
    pub(crate) line: Arc<Line>,
    pub(crate) task: WriterTask,
}

/// One that follows the log by itself.
pub(crate) async fn start(database: &Arc<Database>, number: u64) -> Node {
    let line = Line::new(Arc::clone(database), LEASE_MS);
    start_on(line, number, LeaseSettings::default().poll).await
}

/// One that does not, but when it renews.
async fn start_deaf(database: &Arc<Database>, number: u64) -> Node {
    let line = Line::new(Arc::clone(database), LEASE_MS).deaf();
    start_on(line, number, Duration::from_millis(LEASE_MS)).await
}

async fn start_on(line: Line, number: u64, poll: Duration) -> Node {
    let line = Arc::new(line);
    let entropy = Arc::new(SeededEntropy::new(number));
    let settings = replica::Settings {
        lease: LeaseSettings {
            length_ms: LEASE_MS,
            poll,
            ..LeaseSettings::default()
        },
        ..replica::Settings::default()
    };
    let (store, clock) = (Arc::clone(&line), Arc::new(VirtualClock::start()));
    let started = Replica::start(store, clock, Arc::clone(&entropy) as _, settings).await;
    let (replica, task) = started.expect("started");
    let settings = Settings {
        valid_for_ms: 1_000,
        confirm_time_max: Duration::from_secs(10),
    };
    Node {
        authority: Authority::new(replica.clone(), entropy, settings),
        replica,
        line,
        task,
    }
}

/// Two servers on one database, the administrator's token, and one that the second does not have
/// yet.
struct Pair {
    database: Arc<Database>,
    ahead: Node,
    behind: Node,
    admin: Secret,
    new: Issued,
}

impl Pair {
    async fn start() -> Self {
        let database = Database::new();
        let (ahead, behind) = (start(&database, 1).await, start_deaf(&database, 2).await);
        let admin = ahead.authority.bootstrap(false).await.expect("written");
        let admin = admin.expect("the first");
        let made = ahead.replica.state().head().revision;
        behind.replica.reach(made, None).await.expect("followed");
        let asked = issuing(TokenKind::User);
        let new = ahead
            .authority
            .issue(call(admin.reveal(), None), asked)
            .await;
        let new = new.expect("issued");
        assert!(behind.replica.state().head().revision < new.written.revision.number);
        Self {
            database,
            ahead,
            behind,
            admin,
            new,
        }
    }

    fn new_secret(&self) -> &str {
        self.new.secret.as_ref().expect("the first answer").reveal()
    }

    async fn stop(self) {
        self.ahead.task.stop().await;
        self.behind.task.stop().await;
    }
}

fn credentials(token: &str) -> Credentials<'_> {
    Credentials {
        token: Some(token),
        ..Credentials::default()
    }
}

fn call<'a>(token: &'a str, request: Option<&'a str>) -> Call<'a> {
    Call {
        credentials: credentials(token),
        reason: "test",
        request: request.map(|id| RequestId {
            method: "Test",
            id,
            content: b"the same",
        }),
        ..Call::default()
    }
}

fn issuing(kind: TokenKind) -> IssueAsked {
    let resource = (kind == TokenKind::Resource).then(|| Resource::parse("acme").expect("a path"));
    let user = || PrincipalName::parse("user:admin").expect("a name");
    let scopes = match kind {
        TokenKind::Resource => {
            ScopesAsked::Only(vec![ScopeEntry::parse("a:b@acme/**").expect("a scope")])
        }
        _ => ScopesAsked::All,
    };
    IssueAsked {
        kind: Some(kind),
        token: IssueToken {
            id: TokenId::from_u128(0),
            digest: Digest::from_bytes([0; 32]),
            kind,
            subject: resource.is_none().then(user),
            resource,
            scopes,
            ttl_s: None,
            not_before_ms: None,
            max_lifetime_s: None,
            period_s: None,
            uses: None,
            limits: LimitsAsked::default(),
            derive: false,
            display: Display::default(),
        },
    }
}

async fn create(node: &Node, token: &str, request: Option<&str>) -> Result<Written, Refusal> {
    let command = Command::CreatePrincipal {
        name: PrincipalName::parse("user:alice").expect("a name"),
        home: Resource::parse("acme").expect("a path"),
        display: Display::default(),
    };
    node.authority.write(call(token, request), command).await
}

#[tokio::test(start_paused = true)]
async fn a_token_that_another_server_has_just_made_may_write_here() {
    for request in [None, Some("id-1")] {
        let pair = Pair::start().await;
        let written = create(&pair.behind, pair.new_secret(), request).await;
        let written = written.expect("the log knows the caller");
        assert!(!written.repeated);
        let again = create(&pair.ahead, pair.new_secret(), request).await;
        match request {
            Some(_) => assert!(again.expect("the first answer").repeated),
            None => assert!(matches!(again, Err(Refusal::AlreadyExists(_))), "{again:?}"),
        }
        pair.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_nobody_has_made_may_not() {
    let pair = Pair::start().await;
    let stranger = Secret::generate(TokenKind::User, &SeededEntropy::new(99));
    for request in [None, Some("id-1")] {
        let refused = create(&pair.behind, stranger.reveal(), request).await;
        let refused = refused.expect_err("a stranger");
        assert!(matches!(refused, Refusal::Unauthenticated), "{refused:?}");
    }
    pair.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_strangers_cost_a_reading_or_two_and_no_write() {
    let pair = Pair::start().await;
    let (appends, readings) = (pair.database.appends(), pair.behind.line.readings());
    let stranger = |number| Secret::generate(TokenKind::User, &SeededEntropy::new(number));
    let strangers: Vec<Secret> = (1_000..2_000).map(stranger).collect();
    let calls = strangers.iter().map(|one| async {
        let behind = &pair.behind;
        match one.digest().key() % 2 {
            0 => create(behind, one.reveal(), None).await.map(drop),
            // Nor for a token that is only asked for.
            _ => {
                let id = Some(TokenId::from_u128(1));
                let call = call(one.reveal(), None);
                behind.authority.rotate(call, id, 0, None).await.map(drop)
            }
        }
    });
    let refused = join_all(calls).await;
    let count = |wanted: fn(&Refusal) -> bool| {
        let refusals = refused.iter().filter_map(|one| one.as_ref().err());
        refusals.filter(|one| wanted(one)).count()
    };
    let unknown = count(|refusal| matches!(refusal, Refusal::Unauthenticated));
    let too_many = count(|refusal| matches!(refusal, Refusal::Unavailable(_)));
    assert_eq!(unknown + too_many, strangers.len());
    assert!(unknown > 0 && too_many > 0, "{unknown} and {too_many}");
    assert_eq!(pair.database.appends(), appends);
    let readings = pair.behind.line.readings() - readings;
    assert!(readings <= 4, "{readings} readings");
    // Their places are free again.
    let written = create(&pair.behind, pair.new_secret(), None).await;
    written.expect("the log knows the caller");
    pair.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_a_stranger_while_the_log_cannot_be_read() {
    let pair = Pair::start().await;
    pair.behind.line.cut_feed(true);
    let refused = create(&pair.behind, pair.new_secret(), None).await;
    let refused = refused.expect_err("it is not known");
    assert!(matches!(refused, Refusal::Unavailable(_)), "{refused:?}");
    pair.behind.line.cut_feed(false);
    let written = create(&pair.behind, pair.new_secret(), None).await;
    written.expect("the log knows the caller");
    pair.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_the_log_does_not_have_is_not_waited_for() {
    let pair = Pair::start().await;
    let reach = |number| {
        let asked = RevisionAsked {
            number,
            chain: None,
        };
        tokio::time::timeout(Duration::from_secs(5), pair.behind.authority.reach(asked))
    };
    let begun = Instant::now();
    let new = pair.new.written.revision.number;
    reach(new).await.expect("at once").expect("it is there");
    let refused = reach(1 << 60).await.expect("at once");
    assert!(
        matches!(refused, Err(Refusal::NotReached(_))),
        "{refused:?}"
    );
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // Where nobody can tell, it may be there.
    pair.behind.line.cut_feed(true);
    reach(new + 1).await.expect_err("it is waited for");
    pair.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_kind_that_is_not_known_here_is_rotated_to_its_own_kind() {
    let pair = Pair::start().await;
    let admin = pair.admin.reveal();
    let asked = issuing(TokenKind::Resource);
    let made = pair.ahead.authority.issue(call(admin, None), asked).await;
    let made = made.expect("issued").written;
    let latchkey::authority::About::Token(id) = made.about else {
        panic!("a token: {made:?}");
    };
    let behind = &pair.behind.authority;
    let rotated = behind.rotate(call(admin, None), Some(id), 0, None).await;
    let secret = rotated.expect("rotated").secret.expect("the first answer");
    assert!(secret.reveal().starts_with("lkr_"));
    pair.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_first_answer_that_cannot_be_read_again_is_an_unknown_outcome() {
    let pair = Pair::start().await;
    let admin = pair.admin.reveal();
    let first = create(&pair.ahead, admin, Some("id-1")).await;
    let first = first.expect("written");
    pair.ahead.line.cut_feed(true);
    let again = create(&pair.ahead, admin, Some("id-1")).await;
    // Something was written: whoever hears otherwise may do it another way.
    assert!(matches!(again, Err(Refusal::OutcomeUnknown)), "{again:?}");
    pair.ahead.line.cut_feed(false);
    let again = create(&pair.ahead, admin, Some("id-1")).await;
    let again = again.expect("the first answer");
    assert!(again.repeated && again.revision == first.revision);
    pair.stop().await;
}

async fn wait_for(node: &Node, token: &str, revision: Revision) -> Result<Enforced, Refusal> {
    let asked = RevisionAsked {
        number: revision.number,
        chain: Some(revision.chain),
    };
    let until = Instant::now() + Duration::from_secs(5);
    node.authority
        .wait_for(credentials(token), asked, until)
        .await
}

#[tokio::test(start_paused = true)]
async fn what_this_server_has_had_acknowledged_is_waited_for_without_another_write() {
    let pair = Pair::start().await;
    let (admin, revision) = (pair.admin.reveal(), pair.new.written.revision);
    let followed = pair.behind.replica.reach(revision.number, None).await;
    followed.expect("followed");
    let appends = pair.database.appends();
    for _ in 0..5 {
        let enforced = wait_for(&pair.ahead, admin, revision).await;
        assert!(
            matches!(enforced, Ok(Enforced::Confirmed { .. })),
            "{enforced:?}"
        );
    }
    assert_eq!(pair.database.appends(), appends);
    // The other has only seen it: one write of its own, and no more.
    for _ in 0..5 {
        let enforced = wait_for(&pair.behind, admin, revision).await;
        assert!(
            matches!(enforced, Ok(Enforced::Confirmed { .. })),
            "{enforced:?}"
        );
    }
    assert_eq!(pair.database.appends(), appends + 1);
    let other = Revision {
        chain: [9; 8],
        ..revision
    };
    for node in [&pair.ahead, &pair.behind] {
        let refused = wait_for(node, admin, other).await;
        assert!(
            matches!(refused, Err(Refusal::OtherHistory(_))),
            "{refused:?}"
        );
    }
    pair.stop().await;
}
