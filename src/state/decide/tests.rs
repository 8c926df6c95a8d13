//! Decide by table: who may do what, the boundary, lifetimes, and what is refused.

use super::super::check::check;
use super::super::explain::{Target, explain};
use super::*;
use crate::domain::chain::Head;
use crate::domain::entropy::SeededEntropy;
use crate::domain::entry::{Entry, LogEntry};
use crate::domain::token::Secret;

const T0: UnixMs = 1_700_000_000_000;

/// A state with a clock, where commands are decided and applied one after the other.
struct World {
    state: State,
    now_ms: UnixMs,
    entropy: SeededEntropy,
    lifetimes: Lifetimes,
    log: Vec<LogEntry>,
}

fn name(text: &str) -> PrincipalName {
    PrincipalName::parse(text).expect(text)
}

fn resource(text: &str) -> Resource {
    Resource::parse(text).expect(text)
}

fn scopes(texts: &[&str]) -> ScopesAsked {
    let entries = texts
        .iter()
        .map(|text| ScopeEntry::parse(text).expect(text));
    ScopesAsked::Only(entries.collect())
}

impl World {
    /// Home `acme`; alice holds everything, bob manages tokens and reads secrets in `acme/web`,
    /// carol is in the platform team, which deploys; dave holds nothing.
    fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            now_ms: T0,
            entropy: SeededEntropy::new(7),
            lifetimes: Lifetimes::default(),
            log: Vec::new(),
        };
        for one in [
            "user:alice",
            "user:bob",
            "user:carol",
            "user:dave",
            "team:platform",
            "service:ci",
        ] {
            world.local(Command::CreatePrincipal {
                name: name(one),
                home: resource("acme"),
                display: Display::default(),
            });
        }
        for (role, actions) in [
            ("admin", vec!["*"]),
            (
                "keeper",
                vec![
                    "tokens:issue",
                    "tokens:read",
                    "tokens:revoke",
                    "secrets:read",
                ],
            ),
            ("deployer", vec!["deploy:run"]),
        ] {
            world.local(Command::CreateRole {
                name: RoleName::parse(role).expect("valid"),
                home: resource("acme"),
                actions: actions
                    .iter()
                    .map(|a| ActionPattern::parse(a).expect("valid"))
                    .collect(),
                display: Display::default(),
            });
        }
        world.grant("user:alice", "admin", "**");
        world.grant("user:bob", "keeper", "acme/web/**");
        world.grant("team:platform", "deployer", "acme/**");
        world.local(Command::AddMember {
            team: name("team:platform"),
            member: name("user:carol"),
        });
        world
    }

    fn local(&mut self, command: Command) {
        self.run(Caller::Local, command, "set up").expect("set up");
    }

    fn grant(&mut self, principal: &str, role: &str, on: &str) {
        self.local(Command::CreateGrant {
            principal: name(principal),
            role: RoleName::parse(role).expect("valid"),
            resource: ResourcePattern::parse(on).expect("valid"),
        });
    }

    fn run(&mut self, caller: Caller, command: Command, reason: &str) -> Result<Outcome, Refusal> {
        let envelope = Envelope {
            caller,
            reason: reason.to_owned(),
            request: None,
            command,
        };
        let moment = Moment {
            revision: self.state.head().revision + 1,
            now: Now::at(self.now_ms),
            lifetimes: self.lifetimes,
        };
        let decided = decide(&self.state, &envelope, moment)?;
        if let Outcome::Change {
            kind,
            target,
            change,
        } = &decided.outcome
        {
            let entry = Entry {
                revision: moment.revision,
                instant_ms: self.now_ms,
                actor: decided.actor.clone(),
                kind: *kind,
                target: target.clone(),
                reason: reason.to_owned(),
                batch_id: [0; 16],
                request: None,
                state_digest: None,
                change: change.clone(),
            };
            let logged = LogEntry::new(entry, &self.state.head());
            self.state.apply(&logged).expect("follows");
            self.log.push(logged);
        }
        Ok(decided.outcome)
    }

    fn as_bearer(&mut self, secret: &str, command: Command) -> Result<Outcome, Refusal> {
        self.run(bearer(secret), command, "because")
    }

    fn asked(
        &self,
        kind: TokenKind,
        subject: Option<&str>,
        asked: ScopesAsked,
    ) -> (String, IssueToken) {
        let secret = Secret::generate(kind, &self.entropy);
        let issue = IssueToken {
            id: TokenId::generate(self.now_ms, &self.entropy),
            digest: secret.digest(),
            kind,
            subject: subject.map(name),
            resource: None,
            scopes: asked,
            ttl_s: None,
            not_before_ms: None,
            max_lifetime_s: None,
            period_s: None,
            uses: None,
            limits: LimitsAsked::default(),
            derive: false,
            display: Display::default(),
        };
        (secret.reveal().to_owned(), issue)
    }

    fn issue(
        &mut self,
        caller: Caller,
        secret: String,
        issue: IssueToken,
    ) -> Result<String, Refusal> {
        self.run(caller, Command::IssueToken(Box::new(issue)), "because")?;
        Ok(secret)
    }

    /// A user token without scopes, made by local access.
    fn user(&mut self, subject: &str) -> String {
        let (secret, issue) = self.asked(TokenKind::User, Some(subject), ScopesAsked::All);
        self.issue(Caller::Local, secret, issue).expect("set up")
    }

    fn check(&self, secret: &str, action: &str, on: &str) -> Reason {
        let needs = [Need::parse(action, on).expect("need")];
        let request = CheckRequest {
            token: secret,
            needs: &needs,
            context: Context::default(),
            kinds: KindSet::ALL,
        };
        check(&self.state, &request, Now::at(self.now_ms)).reason
    }

    fn id_of(&self, secret: &str) -> TokenId {
        self.state
            .token_by_key(Digest::of(secret).key())
            .expect("known")
    }
}

fn bearer(secret: &str) -> Caller {
    Caller::Bearer {
        key: Digest::of(secret).key(),
        client_ip: None,
    }
}

fn missing(refusal: &Refusal) -> Vec<String> {
    match refusal {
        Refusal::Boundary(list) | Refusal::NotPermitted(list) => {
            list.iter().map(ToString::to_string).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_user_token_follows_the_live_permissions_of_its_user() {
    let mut world = World::new();
    let dave = world.user("user:dave");
    assert_eq!(
        world.check(&dave, "secrets:read", "acme/web"),
        Reason::NotPermitted
    );
    world.grant("user:dave", "keeper", "acme/**");
    assert_eq!(
        world.check(&dave, "secrets:read", "acme/web"),
        Reason::Allowed
    );
    world.local(Command::DeleteGrant(GrantId(4)));
    assert_eq!(
        world.check(&dave, "secrets:read", "acme/web"),
        Reason::NotPermitted
    );
}

#[test]
fn a_removed_member_loses_the_teams_rights_at_once() {
    let mut world = World::new();
    let carol = world.user("user:carol");
    assert_eq!(
        world.check(&carol, "deploy:run", "acme/api"),
        Reason::Allowed
    );
    world.local(Command::RemoveMember {
        team: name("team:platform"),
        member: name("user:carol"),
        cut_off_tokens: false,
    });
    assert_eq!(
        world.check(&carol, "deploy:run", "acme/api"),
        Reason::NotPermitted
    );
}

#[test]
fn only_a_current_member_issues_team_tokens_and_a_team_token_is_not_a_member() {
    let mut world = World::new();
    let carol = world.user("user:carol");
    let (secret, issue) = world.asked(TokenKind::Team, Some("team:platform"), ScopesAsked::All);
    let team = world
        .issue(bearer(&carol), secret, issue)
        .expect("a member");
    assert_eq!(
        world.check(&team, "deploy:run", "acme/api"),
        Reason::Allowed
    );
    for caller in ["user:alice", "user:dave"] {
        let caller = world.user(caller);
        let (secret, issue) = world.asked(TokenKind::Team, Some("team:platform"), ScopesAsked::All);
        assert_eq!(
            world.issue(bearer(&caller), secret, issue),
            Err(Refusal::NotAMember)
        );
    }
    let (secret, issue) = world.asked(TokenKind::Team, Some("team:platform"), ScopesAsked::All);
    assert_eq!(
        world.issue(bearer(&team), secret, issue),
        Err(Refusal::NotAMember)
    );
    // Removal with the cut-off ends what the member issued, and a new member starts afresh.
    world.local(Command::RemoveMember {
        team: name("team:platform"),
        member: name("user:carol"),
        cut_off_tokens: true,
    });
    assert_eq!(
        world.check(&team, "deploy:run", "acme/api"),
        Reason::Revoked
    );
}

#[test]
fn a_resource_token_is_covered_by_what_its_issuer_holds() {
    let mut world = World::new();
    let bob = world.user("user:bob");
    let (secret, mut issue) = world.asked(
        TokenKind::Resource,
        None,
        scopes(&["secrets:read@acme/web/prod"]),
    );
    issue.resource = Some(resource("acme/web/prod"));
    let token = world.issue(bearer(&bob), secret, issue).expect("held");
    assert_eq!(
        world.check(&token, "secrets:read", "acme/web/prod"),
        Reason::Allowed
    );
    assert_eq!(
        world.check(&token, "secrets:read", "acme/web/dev"),
        Reason::NotPermitted
    );

    let wanted = ["secrets:read,secrets:write,deploy:run@acme/web/prod"];
    let (secret, mut issue) = world.asked(TokenKind::Resource, None, scopes(&wanted));
    issue.resource = Some(resource("acme/web/prod"));
    let refused = world
        .issue(bearer(&bob), secret, issue)
        .expect_err("more than held");
    assert_eq!(
        missing(&refused),
        ["deploy:run@acme/web/prod", "secrets:write@acme/web/prod"]
    );

    let dave = world.user("user:dave");
    let (secret, mut issue) = world.asked(
        TokenKind::Resource,
        None,
        scopes(&["secrets:read@acme/web"]),
    );
    issue.resource = Some(resource("acme/web"));
    let refused = world
        .issue(bearer(&dave), secret, issue)
        .expect_err("not flagged");
    assert_eq!(missing(&refused), ["tokens:issue@acme/web"]);
}

#[test]
fn issuing_for_another_sets_a_ceiling_and_everything_sets_none() {
    let mut world = World::new();
    world.grant("user:bob", "keeper", "acme");
    let (alice, bob) = (world.user("user:alice"), world.user("user:bob"));
    let (secret, issue) = world.asked(TokenKind::User, Some("user:carol"), ScopesAsked::All);
    let bounded = world
        .issue(bearer(&bob), secret, issue)
        .expect("tokens:issue at home");
    assert_eq!(
        world.check(&bounded, "deploy:run", "acme/web"),
        Reason::NotPermitted
    );
    world.grant("user:carol", "keeper", "acme/**");
    assert_eq!(
        world.check(&bounded, "secrets:read", "acme/web/x"),
        Reason::Allowed
    );
    assert_eq!(
        world.check(&bounded, "secrets:read", "acme/api"),
        Reason::NotPermitted
    );
    let (secret, issue) = world.asked(TokenKind::User, Some("user:carol"), ScopesAsked::All);
    let free = world
        .issue(bearer(&alice), secret, issue)
        .expect("everything");
    assert_eq!(
        world.state.token(world.id_of(&free)).expect("kept").ceiling,
        None
    );
    assert_eq!(
        world.check(&free, "deploy:run", "acme/web"),
        Reason::Allowed
    );
}

#[test]
fn a_service_token_needs_all_that_the_account_holds() {
    let mut world = World::new();
    world.grant("service:ci", "deployer", "acme/**");
    world.grant("user:bob", "keeper", "acme");
    let bob = world.user("user:bob");
    let (secret, issue) = world.asked(TokenKind::Service, Some("service:ci"), ScopesAsked::All);
    let refused = world
        .issue(bearer(&bob), secret, issue)
        .expect_err("beyond bob");
    assert_eq!(missing(&refused), ["deploy:run@acme/**"]);
    world.grant("user:bob", "deployer", "acme/**");
    let (secret, issue) = world.asked(TokenKind::Service, Some("service:ci"), ScopesAsked::All);
    let token = world.issue(bearer(&bob), secret, issue).expect("held now");
    assert_eq!(world.check(&token, "deploy:run", "acme/x"), Reason::Allowed);
    world.grant("service:ci", "admin", "**");
    assert_eq!(
        world.check(&token, "billing:read", "acme/x"),
        Reason::NotPermitted,
        "ceiling"
    );
}

#[test]
fn derived_tokens_are_bounded_by_every_ancestor_and_die_with_them() {
    let mut world = World::new();
    let mut chain = vec![world.user("user:alice")];
    for depth in 0..8 {
        let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
        if depth == 0 {
            issue.scopes = scopes(&["secrets:*,tokens:issue@acme/**"]);
            issue.ttl_s = Some(100);
        } else {
            issue.ttl_s = Some(1_000);
        }
        issue.derive = true;
        let parent = chain.last().expect("one").clone();
        chain.push(
            world
                .issue(bearer(&parent), secret, issue)
                .expect("derived"),
        );
    }
    let last = chain[8].clone();
    assert_eq!(
        world.check(&last, "secrets:read", "acme/x"),
        Reason::Allowed
    );
    assert_eq!(
        world.check(&last, "deploy:run", "acme/x"),
        Reason::NotPermitted
    );
    let record = world.state.token(world.id_of(&last)).expect("kept");
    assert_eq!(
        record.expires_ms,
        Some(T0 + 100_000),
        "clipped to the ancestor's"
    );
    let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    issue.derive = true;
    let refused = world
        .issue(bearer(&last), secret, issue)
        .expect_err("too deep");
    assert!(matches!(refused, Refusal::Limit(_)), "{refused:?}");
    let wider = scopes(&["secrets:read@**"]);
    let (secret, mut issue) = world.asked(TokenKind::User, None, wider);
    issue.derive = true;
    let refused = world
        .issue(bearer(&chain[7]), secret, issue)
        .expect_err("wider");
    assert_eq!(missing(&refused), ["secrets:read@**"]);
    let middle = world.id_of(&chain[3]);
    world.local(Command::RevokeToken {
        target: RevokeTarget::Id(middle),
        compromised: false,
    });
    assert_eq!(
        world.check(&chain[2], "secrets:read", "acme/x"),
        Reason::Allowed
    );
    for child in &chain[3..] {
        assert_eq!(
            world.check(child, "secrets:read", "acme/x"),
            Reason::Revoked
        );
    }
}

#[test]
fn a_narrowed_token_needs_tokens_issue_even_for_its_own() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    let (secret, issue) = world.asked(TokenKind::User, None, scopes(&["secrets:read@acme/**"]));
    let narrow = world.issue(bearer(&alice), secret, issue).expect("own");
    let (secret, issue) = world.asked(TokenKind::User, None, scopes(&["secrets:read@acme/x"]));
    let refused = world
        .issue(bearer(&narrow), secret, issue)
        .expect_err("not in scopes");
    assert_eq!(missing(&refused), ["tokens:issue@acme"]);
    let (secret, issue) = world.asked(
        TokenKind::User,
        None,
        scopes(&["secrets:read@acme/**", "tokens:issue@acme"]),
    );
    let able = world.issue(bearer(&alice), secret, issue).expect("own");
    let (secret, issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    let child = world
        .issue(bearer(&able), secret, issue)
        .expect("bounded by a ceiling");
    assert_eq!(
        world.check(&child, "secrets:read", "acme/x"),
        Reason::Allowed
    );
    assert_eq!(
        world.check(&child, "deploy:run", "acme/x"),
        Reason::NotPermitted
    );
}

#[test]
fn grants_memberships_and_role_edits_hand_on_only_what_is_held() {
    let mut world = World::new();
    let manager = ActionPattern::parse("grants:write").expect("valid");
    world.local(Command::CreateRole {
        name: RoleName::parse("manager").expect("valid"),
        home: resource("acme"),
        actions: vec![
            manager,
            ActionPattern::parse("roles:write").expect("valid"),
            ActionPattern::parse("teams:write").expect("valid"),
            ActionPattern::parse("users:write").expect("valid"),
        ],
        display: Display::default(),
    });
    world.grant("user:dave", "manager", "acme/**");
    let dave = world.user("user:dave");
    let grant = |role: &str| Command::CreateGrant {
        principal: name("user:dave"),
        role: RoleName::parse(role).expect("valid"),
        resource: ResourcePattern::parse("acme/**").expect("valid"),
    };
    let refused = world
        .as_bearer(&dave, grant("deployer"))
        .expect_err("not held");
    assert_eq!(missing(&refused), ["deploy:run@acme/**"]);
    let refused = world
        .as_bearer(&dave, grant("admin"))
        .expect_err("not held");
    assert_eq!(missing(&refused), ["*@acme/**"]);
    let join = Command::AddMember {
        team: name("team:platform"),
        member: name("user:dave"),
    };
    let refused = world
        .as_bearer(&dave, join)
        .expect_err("the team holds more");
    assert_eq!(missing(&refused), ["deploy:run@acme/**"]);
    let edit = Command::UpdateRole {
        name: RoleName::parse("manager").expect("valid"),
        actions: Some(vec![ActionPattern::parse("*").expect("valid")]),
        display: Display::default(),
    };
    let refused = world.as_bearer(&dave, edit).expect_err("added actions");
    assert_eq!(missing(&refused), ["*@acme/**"]);
    // Pausing is free to who manages; ending the pause hands on all that the principal holds.
    let pause = |disabled| Command::SetDisabled {
        name: name("user:alice"),
        disabled,
    };
    world.as_bearer(&dave, pause(true)).expect("managed");
    let refused = world
        .as_bearer(&dave, pause(false))
        .expect_err("holds everything");
    assert_eq!(missing(&refused), ["*@**"]);
}

#[test]
fn a_name_given_a_second_time_revives_nothing() {
    let mut world = World::new();
    let bob = world.user("user:bob");
    world.local(Command::DeletePrincipal(name("user:bob")));
    assert_eq!(
        world.check(&bob, "secrets:read", "acme/web"),
        Reason::Revoked
    );
    world.local(Command::CreatePrincipal {
        name: name("user:bob"),
        home: resource("acme"),
        display: Display::default(),
    });
    assert_eq!(
        world.check(&bob, "secrets:read", "acme/web"),
        Reason::Revoked
    );
    let again = world.user("user:bob");
    assert_eq!(
        world.check(&again, "secrets:read", "acme/web"),
        Reason::NotPermitted
    );
}

#[test]
fn cut_offs_refuse_what_was_made_before_and_nothing_after() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    let issue_for_carol = |world: &mut World| {
        let (secret, issue) = world.asked(TokenKind::User, Some("user:carol"), ScopesAsked::All);
        world
            .issue(bearer(&alice), secret, issue)
            .expect("everything")
    };
    let before = issue_for_carol(&mut world);
    let by_token = CutOffRequest::IssuedByToken(world.id_of(&alice));
    for request in [
        CutOffRequest::Subject(name("user:carol")),
        CutOffRequest::IssuedByPrincipal(name("user:alice")),
        by_token,
    ] {
        let after_last = issue_for_carol(&mut world);
        assert_eq!(
            world.check(&after_last, "deploy:run", "acme/x"),
            Reason::Allowed
        );
        world.local(Command::RevokeAll(request));
        for cut in [&before, &after_last] {
            assert_eq!(world.check(cut, "deploy:run", "acme/x"), Reason::Revoked);
        }
    }
    let (secret, mut issue) = world.asked(TokenKind::Resource, None, scopes(&["a:b@acme/web/x"]));
    issue.resource = Some(resource("acme/web/x"));
    let under = world
        .issue(bearer(&alice), secret, issue)
        .expect("everything");
    let (secret, mut issue) = world.asked(TokenKind::Resource, None, scopes(&["a:b@acme/webx"]));
    issue.resource = Some(resource("acme/webx"));
    let beside = world
        .issue(bearer(&alice), secret, issue)
        .expect("everything");
    world.local(Command::RevokeAll(CutOffRequest::ResourceUnder(resource(
        "acme/web",
    ))));
    assert_eq!(world.check(&under, "a:b", "acme/web/x"), Reason::Revoked);
    assert_eq!(world.check(&beside, "a:b", "acme/webx"), Reason::Allowed);
}

#[test]
fn rotation_keeps_two_secrets_at_most_and_the_old_one_manages_nothing() {
    let mut world = World::new();
    let first = world.user("user:alice");
    let id = world.id_of(&first);
    let rotate = |world: &mut World, caller: &str, grace_s: u32, expected: Option<u32>| {
        let secret = Secret::generate(TokenKind::User, &world.entropy);
        let command = Command::RotateToken {
            id: Some(id),
            digest: secret.digest(),
            last4: secret.last4().to_owned(),
            grace_s,
            expected,
        };
        let outcome = world.run(bearer(caller), command, "");
        outcome.map(|_| secret.reveal().to_owned())
    };
    let second = rotate(&mut world, &first, 60, Some(0)).expect("rotated");
    assert_eq!(
        world.check(&first, "a:b", "acme"),
        Reason::Allowed,
        "in its grace"
    );
    assert_eq!(world.id_of(&second), id);
    assert_eq!(
        rotate(&mut world, &first, 60, None),
        Err(Refusal::Unauthenticated)
    );
    let stale = rotate(&mut world, &second, 60, Some(0));
    assert!(matches!(stale, Err(Refusal::Conflict(_))), "{stale:?}");
    let third = rotate(&mut world, &second, 60, Some(1)).expect("rotated");
    assert_eq!(
        world.check(&first, "a:b", "acme"),
        Reason::Unknown,
        "the older ends at once"
    );
    assert_eq!(world.check(&second, "a:b", "acme"), Reason::Allowed);
    world.now_ms += 60_000;
    assert_eq!(
        world.check(&second, "a:b", "acme"),
        Reason::Expired,
        "its grace is over"
    );
    let fourth = rotate(&mut world, &third, 0, None).expect("rotated");
    assert_eq!(
        world.check(&third, "a:b", "acme"),
        Reason::Unknown,
        "grace 0 is now"
    );
    assert_eq!(world.check(&fourth, "a:b", "acme"), Reason::Allowed);
}

#[test]
fn renewals_are_clipped_and_never_refused_at_the_maximum() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    (issue.ttl_s, issue.max_lifetime_s) = (Some(100), Some(150));
    let token = world.issue(bearer(&alice), secret, issue).expect("own");
    let expiry = |world: &World| {
        world
            .state
            .token(world.id_of(&token))
            .expect("kept")
            .expires_ms
    };
    let renew = Command::RenewToken {
        id: None,
        ttl_s: None,
    };
    world.now_ms += 90_000;
    world
        .run(bearer(&token), renew.clone(), "")
        .expect("itself");
    assert_eq!(expiry(&world), Some(T0 + 150_000), "clipped");
    let outcome = world
        .run(bearer(&token), renew.clone(), "")
        .expect("itself");
    assert!(matches!(outcome, Outcome::Already), "{outcome:?}");
    let outcome = world.run(bearer(&alice), renew, "");
    assert!(
        matches!(outcome, Err(Refusal::Precondition(_))),
        "{outcome:?}"
    );
}

#[test]
fn a_budget_of_uses_is_counted_down_to_a_denial() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    issue.uses = Some(2);
    let token = world.issue(bearer(&alice), secret, issue).expect("own");
    let using = |action: &str| {
        Command::UseToken(Box::new(UseToken {
            key: Digest::of(&token).key(),
            needs: vec![(action.to_owned(), "acme".to_owned())],
            client_ip: None,
            audience: None,
            workload: None,
            kinds: KindSet::ALL,
        }))
    };
    for _ in 0..2 {
        assert_eq!(world.check(&token, "a:b", "acme"), Reason::Allowed);
        world
            .run(Caller::System, using("a:b"), "")
            .expect("counted");
    }
    assert_eq!(world.check(&token, "a:b", "acme"), Reason::UsesExhausted);
    let outcome = world.run(Caller::System, using("a:b"), "").expect("judged");
    assert!(
        matches!(outcome, Outcome::Denied(Reason::UsesExhausted)),
        "{outcome:?}"
    );
    assert!(
        world
            .as_bearer(&token, Command::DeleteGrant(GrantId(1)))
            .is_err(),
        "manages nothing"
    );
}

#[test]
fn updates_narrow_freely_and_widen_by_the_issue_rule() {
    let mut world = World::new();
    let bob = world.user("user:bob");
    let (secret, mut issue) = world.asked(
        TokenKind::Resource,
        None,
        scopes(&["secrets:read@acme/web/**"]),
    );
    issue.resource = Some(resource("acme/web"));
    let token = world.issue(bearer(&bob), secret, issue).expect("held");
    let id = world.id_of(&token);
    let update = |asked: &[&str]| {
        Command::UpdateToken(Box::new(UpdateToken {
            id,
            scopes: Some(scopes(asked)),
            expires_ms: None,
            not_before_ms: None,
            expires_max_ms: None,
            period_s: None,
            uses_left: None,
            networks: None,
            audience: None,
            workload: None,
            display: Display::default(),
        }))
    };
    world
        .run(bearer(&token), update(&["secrets:read@acme/web/x"]), "")
        .expect("narrows itself");
    assert_eq!(
        world.check(&token, "secrets:read", "acme/web/y"),
        Reason::NotPermitted
    );
    let widened = world.run(
        bearer(&token),
        update(&["secrets:read@acme/web/**"]),
        "because",
    );
    assert_eq!(
        missing(&widened.expect_err("not by itself")),
        ["tokens:issue@acme/web"]
    );
    world
        .as_bearer(&bob, update(&["secrets:read@acme/web/**"]))
        .expect("by the issue rule");
    let beyond = world
        .as_bearer(&bob, update(&["secrets:*@acme/web/**"]))
        .expect_err("not held");
    assert_eq!(missing(&beyond), ["secrets:*@acme/web/**"]);
    let none = world.run(bearer(&bob), update(&["secrets:read@acme/web"]), "");
    assert!(
        matches!(
            none,
            Err(Refusal::Invalid {
                field: "reason",
                ..
            })
        ),
        "{none:?}"
    );
}

#[test]
fn what_one_may_not_read_does_not_exist() {
    let mut world = World::new();
    let (alice, dave) = (world.user("user:alice"), world.user("user:dave"));
    let revoke = Command::RevokeToken {
        target: RevokeTarget::Id(world.id_of(&alice)),
        compromised: false,
    };
    let outcome = world.as_bearer(&dave, revoke).map(|_| ());
    assert_eq!(outcome, Err(Refusal::NotFound("token")));
    let outcome = world
        .as_bearer(&dave, Command::DeletePrincipal(name("user:alice")))
        .map(|_| ());
    assert_eq!(outcome, Err(Refusal::NotFound("user")));
    let outcome = world
        .as_bearer(&dave, Command::DeletePrincipal(name("user:nobody")))
        .map(|_| ());
    assert_eq!(outcome, Err(Refusal::NotFound("user")));
}

#[test]
fn lifetimes_are_bounded_by_the_setting() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    world.lifetimes.max_s[TokenKind::User as usize - 1] = Some(3_600);
    let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    issue.ttl_s = Some(3_601);
    let refused = world
        .issue(bearer(&alice), secret, issue)
        .expect_err("too long");
    assert!(matches!(refused, Refusal::Limit(_)), "{refused:?}");
    let (secret, issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
    let token = world.issue(bearer(&alice), secret, issue).expect("own");
    let record = world.state.token(world.id_of(&token)).expect("kept");
    assert_eq!(
        record.expires_ms,
        Some(T0 + 3_600_000),
        "the longest where none was asked"
    );
}

#[test]
fn explain_tells_every_step_and_what_is_missing() {
    let mut world = World::new();
    let bob = world.user("user:bob");
    let needs = [Need::parse("secrets:write", "acme/web").expect("valid")];
    let told = |world: &World, target: Target<'_>| {
        let now = Now::at(world.now_ms);
        explain(
            &world.state,
            target,
            &needs,
            Context::default(),
            KindSet::ALL,
            now,
        )
    };
    let explanation = told(&world, Target::Token(&bob));
    assert_eq!(explanation.reason, Reason::NotPermitted);
    assert_eq!(explanation.steps.len(), 12);
    let failed: Vec<_> = explanation
        .steps
        .iter()
        .filter_map(|step| step.failed)
        .collect();
    assert_eq!(failed, [Reason::NotPermitted]);
    assert_eq!(
        explanation.missing[0].layers,
        [super::super::explain::Layer::Subject]
    );
    world.local(Command::RevokeToken {
        target: RevokeTarget::Id(world.id_of(&bob)),
        compromised: false,
    });
    let explanation = told(&world, Target::Token(&bob));
    assert_eq!(explanation.reason, Reason::Revoked, "the first that failed");
    let failed = explanation
        .steps
        .iter()
        .filter(|step| step.failed.is_some())
        .count();
    assert_eq!(failed, 2, "and it goes on");
    let explanation = told(&world, Target::Token("lku_garbage"));
    assert_eq!(explanation.reason, Reason::Malformed);
    assert!(!format!("{explanation:?}").contains("lku_garbage"));
}

#[test]
fn forgetting_removes_what_ended_and_replay_agrees() {
    let mut world = World::new();
    let alice = world.user("user:alice");
    for ttl in [10, 10, 1_000] {
        let (secret, mut issue) = world.asked(TokenKind::User, None, ScopesAsked::All);
        issue.ttl_s = Some(ttl);
        world.issue(bearer(&alice), secret, issue).expect("own");
    }
    assert_eq!(world.state.token_count(), 4);
    world.now_ms += 20_000;
    for slice in 0..=u8::MAX {
        let command = Command::Forget {
            before_ms: world.now_ms,
            slice,
        };
        world.run(Caller::System, command, "").expect("system");
    }
    assert_eq!(world.state.token_count(), 2);
    let replayed = State::replay(&world.log).expect("follows");
    assert_eq!(
        (replayed.head(), replayed.digest()),
        (world.state.head(), world.state.digest())
    );
    assert_ne!(replayed.head(), Head::EMPTY);
}
