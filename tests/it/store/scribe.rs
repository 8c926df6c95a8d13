//! Writes batches as a replica would: dense, chained, with an instant that never runs backwards.
//!
//! Also the records that tests put: small, valid, and different where a number is given.

use std::collections::BTreeMap;

use latchkey::domain::chain::Head;
use latchkey::domain::change::{
    Change, Display, GrantRecord, Issuer, PrincipalRecord, RoleRecord, Row, Subject, TokenRecord,
};
use latchkey::domain::entry::{Actor, Entry, EntryKind, LogEntry, Request};
use latchkey::domain::key::PublicKey;
use latchkey::domain::limits::Networks;
use latchkey::domain::permission::{ActionPattern, Permission, Resource, ResourcePattern};
use latchkey::domain::principal::{GrantId, PrincipalId, PrincipalName, RoleName};
use latchkey::domain::scopes::{PermissionSet, Scopes};
use latchkey::domain::token::{Digest, TokenId, TokenKind};
use latchkey::store::{Appended, Batch, Store, StoreError};

pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// The next entries of one log.
#[derive(Clone)]
pub(crate) struct Scribe {
    pub(crate) head: Head,
    pub(crate) instant_ms: u64,
    batches: u128,
}

impl Scribe {
    pub(crate) fn new() -> Self {
        Self {
            head: Head::EMPTY,
            instant_ms: START_MS,
            batches: 0,
        }
    }

    /// The revision that the next entry has.
    pub(crate) fn next(&self) -> u64 {
        self.head.revision + 1
    }

    /// A batch of these changes behind the head; the head does not move.
    pub(crate) fn batch(&mut self, changes: impl IntoIterator<Item = Change>) -> Batch {
        let with_requests = changes.into_iter().map(|change| (change, None));
        self.batch_with(with_requests)
    }

    /// A batch of changes with the requests that asked for them.
    pub(crate) fn batch_with(
        &mut self,
        changes: impl IntoIterator<Item = (Change, Option<Request>)>,
    ) -> Batch {
        self.batches += 1;
        let id = self.batches.to_be_bytes();
        let base = self.head;
        let mut head = base;
        let mut entries = Vec::new();
        for (change, request) in changes {
            let logged = LogEntry::new(self.entry(head.revision + 1, id, change, request), &head);
            head = logged.head;
            entries.push(logged);
        }
        Batch { id, base, entries }
    }

    fn entry(
        &mut self,
        revision: u64,
        batch_id: [u8; 16],
        change: Change,
        request: Option<Request>,
    ) -> Entry {
        self.instant_ms += 1;
        Entry {
            revision,
            instant_ms: self.instant_ms,
            actor: Actor {
                principal: Some(PrincipalId(1)),
                token: Some(TokenId::from_u128(9)),
                name: "user:admin".to_owned(),
            },
            kind: kind_of(&change),
            target: format!("target {revision}"),
            reason: format!("reason {revision}"),
            batch_id,
            request,
            state_digest: Some([revision.to_le_bytes()[0]; 32]),
            change,
        }
    }

    /// Appends one batch, which must be committed, and moves the head.
    pub(crate) async fn append(
        &mut self,
        store: &dyn Store,
        changes: impl IntoIterator<Item = Change>,
    ) {
        let batch = self.batch(changes);
        self.commit(store, batch).await;
    }

    /// Appends a batch, which must be committed, and moves the head.
    pub(crate) async fn commit(&mut self, store: &dyn Store, batch: Batch) {
        let head = batch.entries.last().map_or(batch.base, |last| last.head);
        match store.append(batch).await {
            Ok(Appended::Committed) => self.head = head,
            other => panic!("not committed: {other:?}"),
        }
    }

    /// Appends changes that the store must refuse for good.
    pub(crate) async fn refused(
        &mut self,
        store: &dyn Store,
        changes: impl IntoIterator<Item = Change>,
    ) {
        let batch = self.batch(changes);
        match store.append(batch).await {
            Err(StoreError::Refused(_)) => {}
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn kind_of(change: &Change) -> EntryKind {
    match change {
        Change::PutToken { .. } => EntryKind::TokenIssue,
        Change::RevokeToken { .. } => EntryKind::TokenRevoke,
        Change::CutOff(_) => EntryKind::TokenRevokeAll,
        Change::UseToken { .. } => EntryKind::TokenUse,
        Change::PutPrincipal { .. } => EntryKind::PrincipalCreate,
        Change::DeletePrincipal(_) => EntryKind::PrincipalDelete,
        Change::AddMember { .. } => EntryKind::MemberAdd,
        Change::RemoveMember { .. } => EntryKind::MemberRemove,
        Change::PutRole { .. } => EntryKind::RoleCreate,
        Change::DeleteRole(_) => EntryKind::RoleDelete,
        Change::PutGrant(_) => EntryKind::GrantCreate,
        Change::DeleteGrant(_) => EntryKind::GrantDelete,
        Change::Forget { .. } => EntryKind::Forget,
        Change::RaiseFormat(_) => EntryKind::FormatRaise,
        Change::Login { .. } => EntryKind::Login,
        Change::RevokeSession { .. } => EntryKind::SessionRevoke,
        Change::PutMethod(_) => EntryKind::MethodSet,
        Change::DeleteMethod { .. } => EntryKind::MethodRemove,
        Change::Lock { .. } => EntryKind::LoginLock,
        Change::Unlock { .. } => EntryKind::LoginUnlock,
        Change::PutSealKeys(_) => EntryKind::KeyMint,
    }
}

/// Every row of a snapshot, with its head.
pub(crate) async fn rows(store: &dyn Store) -> (Head, Vec<Row>) {
    let mut snapshot = store.snapshot().await.expect("a snapshot");
    let mut rows = Vec::new();
    while let Some(chunk) = snapshot.rows.recv().await {
        rows.extend(chunk.expect("a chunk"));
    }
    (snapshot.head, rows)
}

/// The whole log.
pub(crate) async fn whole_log(store: &dyn Store) -> Vec<LogEntry> {
    let mut entries: Vec<LogEntry> = Vec::new();
    loop {
        let after = entries.last().map_or(0, |last| last.head.revision);
        let more = store.changes_after(after, 100).await.expect("the log");
        if more.is_empty() {
            return entries;
        }
        entries.extend(more);
    }
}

pub(crate) fn resource(path: &str) -> Resource {
    Resource::parse(path).expect("a path")
}

pub(crate) fn set(texts: &[&str]) -> PermissionSet {
    let parse = |text: &&str| {
        let (action, resource) = text.split_once('@').expect("ACTION@RESOURCE");
        Permission::parse(action, resource).expect("in the grammar")
    };
    PermissionSet::new(texts.iter().map(parse)).expect("small")
}

pub(crate) fn principal(id: u32, name: &str) -> PrincipalRecord {
    PrincipalRecord {
        id: PrincipalId(id),
        name: PrincipalName::parse(name).expect("a name"),
        home: resource("acme"),
        disabled: false,
        made_at: 1,
    }
}

pub(crate) fn put_principal(id: u32, name: &str) -> Change {
    Change::PutPrincipal {
        record: principal(id, name),
        display: Display::default(),
    }
}

pub(crate) fn role(name: &str, home: &str, actions: &[&str]) -> RoleRecord {
    let parse = |action: &&str| ActionPattern::parse(action).expect("in the grammar");
    RoleRecord {
        name: RoleName::parse(name).expect("a name"),
        home: resource(home),
        actions: actions.iter().map(parse).collect(),
        made_at: 1,
    }
}

pub(crate) fn put_role(name: &str, home: &str, actions: &[&str]) -> Change {
    Change::PutRole {
        record: role(name, home, actions),
        display: Display::default(),
    }
}

pub(crate) fn grant(id: u32, principal: u32, role: &str, pattern: &str) -> GrantRecord {
    GrantRecord {
        id: GrantId(id),
        principal: PrincipalId(principal),
        role: RoleName::parse(role).expect("a name"),
        resource: ResourcePattern::parse(pattern).expect("in the grammar"),
        made_at: 1,
    }
}

pub(crate) fn token_id(number: u128) -> TokenId {
    TokenId::from_u128(number)
}

/// A digest that begins with `slice` and belongs to `number`.
pub(crate) fn digest(slice: u8, number: u128) -> Digest {
    let mut bytes = [slice; 32];
    // The key is the first 16 bytes.
    bytes[1..16].copy_from_slice(&number.to_be_bytes()[1..]);
    Digest::from_bytes(bytes)
}

/// A plain token of a user, made at `made_at`, in slice 0.
pub(crate) fn user_token(number: u128, user: u32, made_at: u64) -> TokenRecord {
    TokenRecord {
        id: token_id(number),
        key: digest(0, number).key(),
        kind: TokenKind::User,
        subject: Subject::Principal(PrincipalId(user)),
        scopes: Scopes::All,
        ceiling: None,
        issuers: vec![Issuer {
            principal: Some(PrincipalId(user)),
            tokens: Vec::new(),
            since: 0,
        }],
        parent: None,
        made_at,
        not_before_ms: None,
        expires_ms: None,
        expires_max_ms: None,
        ttl_s: None,
        period_s: None,
        uses: None,
        networks: Networks::default(),
        audience: None,
        workload: None,
        rotation: 0,
        grace: None,
        revoked: None,
        public_key: None,
    }
}

/// A client secret of a service account, made at `made_at`, in slice 0.
pub(crate) fn client_secret(number: u128, account: u32, made_at: u64) -> TokenRecord {
    TokenRecord {
        kind: TokenKind::ClientSecret,
        ..user_token(number, account, made_at)
    }
}

/// What stands for a key, whichever account it is registered for here.
pub(crate) fn key_digest(key: &PublicKey) -> Digest {
    key.digest(&PrincipalName::parse("service:keys").expect("a name"))
}

/// A registered key of a service account, made at `made_at`, in the slice of its digest.
pub(crate) fn registered(number: u128, account: u32, made_at: u64) -> TokenRecord {
    let key = public_key(number);
    TokenRecord {
        kind: TokenKind::PublicKey,
        key: key_digest(&key).key(),
        public_key: Some(key),
        ..user_token(number, account, made_at)
    }
}

/// A key that belongs to `number`: Ed25519 or P-256.
pub(crate) fn public_key(number: u128) -> PublicKey {
    let mut bytes = vec![number.to_le_bytes()[0]; 32];
    bytes[..16].copy_from_slice(&number.to_be_bytes());
    if number % 2 == 1 {
        bytes.resize(65, 7);
        bytes[0] = 4;
    }
    PublicKey::parse(&bytes).expect("of its form")
}

/// A resource token, in slice 0.
pub(crate) fn resource_token(number: u128, path: &str, made_at: u64) -> TokenRecord {
    TokenRecord {
        kind: TokenKind::Resource,
        subject: Subject::Resource(resource(path)),
        scopes: Scopes::Only(set(&["secrets:read@acme/**"])),
        ..user_token(number, 1, made_at)
    }
}

/// The issue of a token: a new digest in slice 0, a name, and no labels.
pub(crate) fn issue(record: TokenRecord) -> Change {
    issue_labelled(record, &[])
}

/// The issue of a token with labels, or without if there are none.
pub(crate) fn issue_labelled(record: TokenRecord, pairs: &[(&str, &str)]) -> Change {
    let display = Display {
        name: Some(format!("token {}", record.id.as_u128())),
        description: Some("described".to_owned()),
        labels: (!pairs.is_empty()).then(|| labels(pairs)),
        last4: Some("abcd".to_owned()),
    };
    let key = record.public_key.as_ref().map(key_digest);
    Change::PutToken {
        digest: Some(key.unwrap_or_else(|| digest(0, record.id.as_u128()))),
        record: Box::new(record),
        display,
    }
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}
