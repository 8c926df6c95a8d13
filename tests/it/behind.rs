//! A replica that is behind the log: callers that it does not know yet, answers that it cannot read
//! again, revisions that it need not confirm.
//!
//! By the verbs of two authorities on one database in memory, whose feed is cut, in virtual time.

use std::sync::Arc;
use std::time::Duration;

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
struct Node {
    authority: Authority,
    replica: Replica,
    line: Arc<Line>,
    task: WriterTask,
}

async fn start(database: &Arc<Database>, number: u64) -> Node {
    let line = Arc::new(Line::new(Arc::clone(database), LEASE_MS));
    let entropy = Arc::new(SeededEntropy::new(number));
    let settings = replica::Settings {
        lease: LeaseSettings {
            length_ms: LEASE_MS,
            ..LeaseSettings::default()
        },
        ..replica::Settings::default()
    };
    let (store, clock) = (Arc::clone(&line), Arc::new(VirtualClock::start()));
    let started = Replica::start(store, clock, Arc::clone(&entropy) as _, settings).await;
    let (replica, task) = started.expect("started");
    let settings = Settings {
        check_open: true,
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
/// yet: it reads the log no more.
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
        let (ahead, behind) = (start(&database, 1).await, start(&database, 2).await);
        let admin = ahead.authority.bootstrap(false).await.expect("written");
        let admin = admin.expect("the first");
        let made = ahead.replica.state().head().revision;
        behind.replica.reach(made, None).await.expect("followed");
        behind.line.cut_feed(true);
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
        client_ip: None,
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
    pair.behind.line.cut_feed(false);
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
