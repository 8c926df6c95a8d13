//! The model of the database: one log, the rows of members, and what a failover makes of both.
//!
//! Everything here happens at once; how long a call takes to come here and back, and whether it
//! comes back, is the [`super::world`]'s affair. What was committed is kept with what the members'
//! rows were before it, so that a failover can lose the last batches with all that came with them:
//! without a synchronous standby any of them, with one only what no acknowledged write came after.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;

use crate::domain::chain::{Head, RevisionNumber};
use crate::domain::change::{Change, Row};
use crate::domain::clock::UnixMs;
use crate::domain::entry::LogEntry;
use crate::state::State;
use crate::store::cluster::{History, Incarnation, Joining, Member, Renewal, Renewed, Roster};
use crate::store::{Appended, Batch, Snapshot};

/// Batches that a failover can lose at the most.
const TAIL_MAX: usize = 3;

/// What a failover goes back to.
#[derive(Clone, Default)]
struct Checkpoint {
    revision: usize,
    members: BTreeMap<Incarnation, Member>,
    lease_ms: u64,
}

/// The database.
pub(super) struct Database {
    pub(super) now_ms: UnixMs,
    pub(super) state: State,
    log: Vec<LogEntry>,
    members: BTreeMap<Incarnation, Member>,
    lease_ms: u64,
    timeline: u32,
    tail: Vec<Checkpoint>,
    // What the synchronous standby has.
    standby: Checkpoint,
    /// Reports are taken whatever history they are of: a rule that is broken.
    pub(super) takes_any_report: bool,
    /// Renewals are committed so long after they have read the head.
    pub(super) commits_late_ms: u64,
    // Those that are not yet, and when they will be.
    uncommitted: Vec<(UnixMs, Renewal)>,
    /// Whether anything was written that a commit waits for the standby with.
    pub(super) wrote: bool,
    /// Moves with every commit that others must hear of.
    pub(super) commits: u64,
    /// How often a member has joined.
    pub(super) joins: u64,
    /// Members that were removed as dead.
    pub(super) removed: u64,
    /// How often the cluster's lease got shorter.
    pub(super) lowered: u64,
}

impl Database {
    pub(super) fn new(now_ms: UnixMs) -> Self {
        Self {
            now_ms,
            state: State::default(),
            log: Vec::new(),
            members: BTreeMap::new(),
            lease_ms: 0,
            timeline: 1,
            tail: Vec::new(),
            standby: Checkpoint::default(),
            takes_any_report: false,
            commits_late_ms: 0,
            uncommitted: Vec::new(),
            wrote: false,
            commits: 0,
            joins: 0,
            removed: 0,
            lowered: 0,
        }
    }

    pub(super) fn head(&self) -> Head {
        self.state.head()
    }

    pub(super) fn chain_at(&self, revision: RevisionNumber) -> Option<[u8; 32]> {
        let index = usize::try_from(revision).ok()?.checked_sub(1)?;
        self.log.get(index).map(|entry| entry.head.chain)
    }

    pub(super) fn append(&mut self, batch: Batch) -> Appended {
        if batch.base != self.head() {
            return Appended::Conflict(self.changes_after(batch.base.revision, 100));
        }
        self.wrote = true;
        if batch.entries.is_empty() {
            return Appended::Committed;
        }
        if self.tail.len() == TAIL_MAX {
            self.tail.remove(0);
        }
        self.tail.push(self.checkpoint());
        for entry in &batch.entries {
            self.state.apply(entry).expect("what a server decided");
        }
        self.log.extend(batch.entries);
        self.commits += 1;
        Appended::Committed
    }

    pub(super) fn changes_after(&self, revision: RevisionNumber, limit: usize) -> Vec<LogEntry> {
        let behind = self.log.iter().skip(revision as usize);
        behind.take(limit).cloned().collect()
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            revision: self.log.len(),
            members: self.members.clone(),
            lease_ms: self.lease_ms,
        }
    }

    /// The standby has all that was written.
    pub(super) fn replicated(&mut self) {
        self.standby = self.checkpoint();
    }

    /// Another server of the database goes on, without the last batches.
    pub(super) fn fail_over(&mut self, lost: usize) {
        if let Some(first) = self.tail.len().checked_sub(lost)
            && lost > 0
        {
            let checkpoint = self.tail[first].clone();
            self.tail.truncate(first);
            self.go_back_to(checkpoint);
        }
        self.timeline += 1;
        self.replicated();
    }

    /// The synchronous standby goes on; whether anything was lost that no acknowledged write came
    /// after.
    pub(super) fn fail_over_to_standby(&mut self) -> bool {
        let lost = self.standby.revision < self.log.len();
        self.tail.clear();
        self.go_back_to(self.standby.clone());
        self.timeline += 1;
        lost
    }

    fn go_back_to(&mut self, checkpoint: Checkpoint) {
        self.log.truncate(checkpoint.revision);
        self.members = checkpoint.members;
        self.lease_ms = checkpoint.lease_ms;
        self.state = State::replay(&self.log).expect("a log");
    }

    /// All that a State has, of what the log has ever named.
    pub(super) fn rows_of(&self, state: &State) -> Vec<Row> {
        rows(state, &self.log)
    }

    /// All that the log makes.
    pub(super) fn replayed(&self) -> Vec<Row> {
        self.rows_of(&State::replay(&self.log).expect("a log"))
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let rows = self.rows_of(&self.state);
        let (sender, receiver) = mpsc::channel(1);
        sender.try_send(Ok(rows)).expect("there is room for one");
        Snapshot {
            head: self.head(),
            instant_ms: self.state.instant_ms(),
            state_digest: self.log.last().and_then(|entry| entry.entry.state_digest),
            rows: receiver,
        }
    }

    pub(super) fn join(&mut self, joining: Joining) -> u64 {
        let member = Member {
            incarnation: joining.incarnation,
            name: joining.name,
            address: joining.address,
            lease_ms: joining.lease_ms,
            heartbeat: 0,
            applied: 0,
            format_max: joining.format_max,
            joined_ms: self.now_ms,
            reported_ms: self.now_ms,
            serves_stale: joining.serves_stale,
            keys: joining.keys,
        };
        self.members.insert(joining.incarnation, member);
        self.fit_lease();
        self.wrote = true;
        self.joins += 1;
        self.lease_ms
    }

    // The longest of those that are there; what the last one had stays until somebody joins.
    fn fit_lease(&mut self) {
        if let Some(longest) = self.members.values().map(|one| one.lease_ms).max() {
            self.lowered += u64::from(longest < self.lease_ms);
            self.lease_ms = longest;
        }
    }

    pub(super) fn renew(&mut self, renewal: Renewal) -> Renewed {
        if !self.members.contains_key(&renewal.incarnation) {
            return Renewed::Unknown;
        }
        self.wrote = true;
        match self.commits_late_ms {
            0 => self.commit_renewal(renewal.clone()),
            late_ms => self
                .uncommitted
                .push((self.now_ms + late_ms, renewal.clone())),
        }
        Renewed::Held {
            head: self.head(),
            chain_at_applied: self.chain_at(renewal.applied.revision),
            database_ms: self.now_ms,
            history: History {
                system: 1,
                timeline: self.timeline,
            },
        }
    }

    fn commit_renewal(&mut self, renewal: Renewal) {
        if let Some(member) = self.members.get_mut(&renewal.incarnation) {
            member.heartbeat += 1;
            member.lease_ms = renewal.lease_ms;
            member.keys = renewal.keys;
            self.lease_ms = self.lease_ms.max(renewal.lease_ms);
            self.report(renewal.incarnation, renewal.applied);
        }
    }

    /// Commits the renewals whose time has come.
    pub(super) fn commit_renewals(&mut self) {
        let now_ms = self.now_ms;
        let due: Vec<_> = self
            .uncommitted
            .extract_if(.., |one| one.0 <= now_ms)
            .collect();
        for (_, renewal) in due {
            self.commit_renewal(renewal);
        }
    }

    pub(super) fn report(&mut self, incarnation: Incarnation, applied: Head) {
        let taken = self.takes_any_report || self.chain_at(applied.revision) == Some(applied.chain);
        if let Some(member) = self.members.get_mut(&incarnation)
            && taken
        {
            member.applied = member.applied.max(applied.revision);
            member.reported_ms = self.now_ms;
        }
    }

    pub(super) fn roster(&self) -> Roster {
        Roster {
            members: self.members.values().cloned().collect(),
            lease_ms: self.lease_ms,
            head: self.head(),
            database_ms: self.now_ms,
        }
    }

    pub(super) fn leave(&mut self, incarnation: Incarnation) {
        self.wrote |= self.members.remove(&incarnation).is_some();
        self.fit_lease();
    }

    /// How long its lease is by its row, if it is a member.
    pub(super) fn lease_of(&self, incarnation: Incarnation) -> Option<u64> {
        let member = self.members.get(&incarnation);
        member.map(|member| member.lease_ms)
    }

    /// As if another had held all of them for dead.
    pub(super) fn remove_all(&mut self) {
        self.members.clear();
    }

    pub(super) fn remove(&mut self, incarnation: Incarnation, heartbeat: u64) -> bool {
        let still = self.members.get(&incarnation);
        let dead = still.is_some_and(|member| member.heartbeat == heartbeat);
        if dead {
            self.members.remove(&incarnation);
            self.fit_lease();
            self.wrote = true;
            self.removed += 1;
        }
        dead
    }
}

/// The rows that make a State, of everything that its log has ever named.
fn rows(state: &State, log: &[LogEntry]) -> Vec<Row> {
    let mut rows = Vec::new();
    let (mut tokens, mut cut_offs) = (BTreeSet::new(), BTreeSet::new());
    let (mut principals, mut grants, mut roles) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for logged in log {
        match &logged.entry.change {
            Change::PutToken { record, .. } => {
                tokens.insert(record.id);
            }
            Change::CutOff(target) => {
                cut_offs.insert(target.clone());
            }
            Change::PutPrincipal { record, .. } => {
                principals.insert(record.id);
            }
            Change::PutRole { record, .. } => roles.push(record.name.clone()),
            Change::PutGrant(record) => {
                grants.insert(record.id);
            }
            _ => {}
        }
    }
    rows.push(Row::Counters {
        principal: principals.last().map_or(0, |id| id.0),
        grant: grants.last().map_or(0, |id| id.0),
    });
    let principals = principals.into_iter().filter_map(|id| state.principal(id));
    rows.extend(principals.cloned().map(Row::Principal));
    let roles = roles.iter().filter_map(|name| state.role(name));
    rows.extend(roles.cloned().map(Row::Role));
    let grants = grants.into_iter().filter_map(|id| state.grant(id));
    rows.extend(grants.cloned().map(Row::Grant));
    rows.extend(cut_offs.into_iter().map(|target| {
        let revision = state.cut_off(&target);
        Row::CutOff(target, revision)
    }));
    let tokens = tokens.into_iter().filter_map(|id| state.token(id));
    rows.extend(tokens.map(|record| Row::Token(Box::new(record))));
    rows
}
