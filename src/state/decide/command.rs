//! Commands: what can be asked of State, with who asks, why and under which request id.
//!
//! Everything in a command is parsed already; what it needs of randomness (ids, digests) was
//! made outside, so that deciding stays pure. Made by the authority and by the replica's sweep.

use std::net::IpAddr;
use std::sync::Arc;

use crate::domain::change::Display;
use crate::domain::clock::UnixMs;
use crate::domain::entry::{EntryKind, Request};
use crate::domain::limits::{Audience, Networks, Workload};
use crate::domain::login::{ClientNetwork, LoginMethod};
use crate::domain::peer::Proven;
use crate::domain::permission::{ActionPattern, Resource, ResourcePattern};
use crate::domain::principal::{GrantId, PrincipalId, PrincipalName, RoleName};
use crate::domain::scopes::ScopeEntry;
use crate::domain::seal::claims::Sealed;
use crate::domain::seal::key::KeyId;
use crate::domain::seal::ring::Salt;
use crate::domain::token::{Digest, KindSet, TokenId};

use super::super::State;
use super::super::lineage::Lineage;
use super::issue::IssueToken;
use super::logins::{CreateCredential, Login, SetMethod};
use super::revoke::RevokeTarget;
use super::tokens::UpdateToken;

/// Who commands.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Whoever has the store itself in hand: bootstrap and recovery.
    Local,
    /// The server itself: forgetting.
    System,
    /// The bearer of a secret with this digest, from this address.
    Bearer {
        /// The first 128 bits of the presented secret's digest.
        key: u128,
        /// Where the call came from.
        client_ip: Option<IpAddr>,
        /// Who the peer has proven to be.
        peer: Option<Arc<Proven>>,
    },
    /// The bearer of a sealed token whose seal was found whole, from this address.
    Sealed {
        /// Its claims.
        claims: Arc<[u8]>,
        /// Where the call came from.
        client_ip: Option<IpAddr>,
        /// Who the peer has proven to be.
        peer: Option<Arc<Proven>>,
    },
}

impl Caller {
    /// The token that calls, with its ancestors; none if State knows no such token.
    pub(in crate::state) fn lineage<'s>(&'s self, state: &'s State) -> Option<Lineage<'s>> {
        match self {
            Self::Local | Self::System => None,
            Self::Bearer { key, .. } => {
                let found = state.tokens.find(*key)?;
                Some(Lineage::found(state, &found))
            }
            Self::Sealed { claims, .. } => {
                let lineage = Lineage::sealed(state, Sealed::read(claims)?);
                // Without its origin nothing is known of it.
                (!lineage.is_empty()).then_some(lineage)
            }
        }
    }

    /// Where the call came from.
    #[must_use]
    pub fn client_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Local | Self::System => None,
            Self::Bearer { client_ip, .. } | Self::Sealed { client_ip, .. } => *client_ip,
        }
    }

    /// The workload that calls, for a token that is bound to this one.
    pub(in crate::state) fn workload(&self, bound: Option<&str>) -> Option<&str> {
        match self {
            Self::Local | Self::System => None,
            Self::Bearer { peer, .. } | Self::Sealed { peer, .. } => {
                Some(peer.as_ref()?.named(bound))
            }
        }
    }
}

/// A command with who, why and under which id.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Who commands.
    pub caller: Caller,
    /// Why; empty where none was given.
    pub reason: String,
    /// The request id, reduced to hashes; none where none was given.
    pub request: Option<Request>,
    /// What is commanded.
    pub command: Command,
}

/// What can be commanded.
#[derive(Clone, Debug)]
pub enum Command {
    /// Issue a token, or derive one from the calling token.
    IssueToken(Box<IssueToken>),
    /// Change scopes, limits or texts of a token.
    UpdateToken(Box<UpdateToken>),
    /// Give a token more time.
    RenewToken {
        /// The token; none is the calling one.
        id: Option<TokenId>,
        /// How long from now; none is as long as at issue.
        ttl_s: Option<u32>,
    },
    /// Give a token a new secret.
    RotateToken {
        /// The token; none is the calling one.
        id: Option<TokenId>,
        /// The digest of the new secret.
        digest: Digest,
        /// The last four characters of the new secret.
        last4: String,
        /// How long the present secret stays good, in seconds; 0 is not at all.
        grace_s: u32,
        /// How often the caller believes it was rotated.
        expected: Option<u32>,
    },
    /// Revoke one token.
    RevokeToken {
        /// Which.
        target: RevokeTarget,
        /// Whether what it issued is cut off as well.
        compromised: bool,
    },
    /// Refuse everything that was made until now.
    RevokeAll(CutOffRequest),
    /// Count a use of a token with a budget, if a Check of it is allowed.
    UseToken(Box<UseToken>),
    /// Make a principal.
    CreatePrincipal {
        /// Its name.
        name: PrincipalName,
        /// Where it is managed.
        home: Resource,
        /// What the tables keep beside it.
        display: Display,
    },
    /// Change the texts of a principal.
    UpdatePrincipal {
        /// Its name.
        name: PrincipalName,
        /// What changes.
        display: Display,
    },
    /// Remove a principal with its grants, memberships and tokens.
    DeletePrincipal(PrincipalName),
    /// Pause a principal, or end the pause.
    SetDisabled {
        /// Its name.
        name: PrincipalName,
        /// Whether it is paused.
        disabled: bool,
    },
    /// Put a user or a service account into a team.
    AddMember {
        /// The team.
        team: PrincipalName,
        /// The member.
        member: PrincipalName,
    },
    /// Take a member out of a team.
    RemoveMember {
        /// The team.
        team: PrincipalName,
        /// The member.
        member: PrincipalName,
        /// Whether the team tokens that it issued are cut off.
        cut_off_tokens: bool,
    },
    /// Make a role.
    CreateRole {
        /// Its name.
        name: RoleName,
        /// Where it is managed.
        home: Resource,
        /// Its actions.
        actions: Vec<ActionPattern>,
        /// What the tables keep beside it.
        display: Display,
    },
    /// Change a role.
    UpdateRole {
        /// Its name.
        name: RoleName,
        /// Its new actions; none leaves them.
        actions: Option<Vec<ActionPattern>>,
        /// What changes in the tables.
        display: Display,
    },
    /// Remove a role that is granted nowhere.
    DeleteRole(RoleName),
    /// Give a role to a principal on a resource pattern.
    CreateGrant {
        /// Who gets it.
        principal: PrincipalName,
        /// The role.
        role: RoleName,
        /// Where.
        resource: ResourcePattern,
    },
    /// Take a grant away.
    DeleteGrant(GrantId),
    /// Make a client secret of a service account, or register a key of it.
    CreateCredential(Box<CreateCredential>),
    /// Set how an account logs in.
    SetMethod(Box<SetMethod>),
    /// Take a login method from an account, with all that was born by it.
    RemoveMethod {
        /// The account.
        account: PrincipalName,
        /// The method.
        method: LoginMethod,
    },
    /// Log in, where that spends a use or the token is stored.
    Login(Box<Login>),
    /// Refuse logins of an account from one network for a while.
    LockLogins {
        /// The account.
        account: PrincipalId,
        /// The method whose settings say for how long.
        method: LoginMethod,
        /// From where.
        network: ClientNetwork,
    },
    /// End the locks of an account that stand.
    UnlockLogins {
        /// The account.
        account: PrincipalName,
        /// From where; none is from anywhere.
        network: Option<ClientNetwork>,
    },
    /// Seal new tokens by a key.
    MintBy {
        /// The key.
        key: KeyId,
        /// Its salt, if it is new here.
        salt: Salt,
    },
    /// Let go of a key whose tokens have ended.
    RetireKey(KeyId),
    /// Refuse all that a key has sealed.
    RevokeKey(KeyId),
    /// Change nothing: compare State with the head, durably.
    Confirm,
    /// Forget what ended before an instant, in one slice of the index.
    Forget {
        /// What ended before it.
        before_ms: UnixMs,
        /// The slice.
        slice: u8,
    },
    /// Let kinds up to this format be written: every server reads them.
    RaiseFormat(u32),
    /// Write an entry of the next format that changes nothing.
    #[cfg(debug_assertions)]
    Note,
}

impl Command {
    /// The kind of the entry that it makes if it changes anything; none if it never does.
    #[must_use]
    pub fn kind(&self) -> Option<EntryKind> {
        Some(match self {
            Self::IssueToken(_) => EntryKind::TokenIssue,
            Self::UpdateToken(_) => EntryKind::TokenUpdate,
            Self::RenewToken { .. } => EntryKind::TokenRenew,
            Self::RotateToken { .. } => EntryKind::TokenRotate,
            Self::RevokeToken { .. } => EntryKind::TokenRevoke,
            Self::RevokeAll(CutOffRequest::Sessions(_)) => EntryKind::SessionRevokeAll,
            Self::RevokeAll(_) => EntryKind::TokenRevokeAll,
            Self::UseToken(_) => EntryKind::TokenUse,
            Self::CreatePrincipal { .. } => EntryKind::PrincipalCreate,
            Self::UpdatePrincipal { .. } => EntryKind::PrincipalUpdate,
            Self::DeletePrincipal(_) => EntryKind::PrincipalDelete,
            Self::SetDisabled { disabled: true, .. } => EntryKind::PrincipalDisable,
            Self::SetDisabled { .. } => EntryKind::PrincipalEnable,
            Self::AddMember { .. } => EntryKind::MemberAdd,
            Self::RemoveMember { .. } => EntryKind::MemberRemove,
            Self::CreateRole { .. } => EntryKind::RoleCreate,
            Self::UpdateRole { .. } => EntryKind::RoleUpdate,
            Self::DeleteRole(_) => EntryKind::RoleDelete,
            Self::CreateGrant { .. } => EntryKind::GrantCreate,
            Self::DeleteGrant(_) => EntryKind::GrantDelete,
            Self::CreateCredential(_) => EntryKind::CredentialCreate,
            Self::SetMethod(_) => EntryKind::MethodSet,
            Self::RemoveMethod { .. } => EntryKind::MethodRemove,
            Self::Login(_) => EntryKind::Login,
            Self::LockLogins { .. } => EntryKind::LoginLock,
            Self::UnlockLogins { .. } => EntryKind::LoginUnlock,
            Self::MintBy { .. } => EntryKind::KeyMint,
            Self::RetireKey(_) => EntryKind::KeyRetire,
            Self::RevokeKey(_) => EntryKind::KeyRevoke,
            Self::Confirm => return None,
            Self::Forget { .. } => EntryKind::Forget,
            Self::RaiseFormat(_) => EntryKind::FormatRaise,
            #[cfg(debug_assertions)]
            Self::Note => EntryKind::Note,
        })
    }
}

/// Whose tokens a cut-off refuses, by name.
#[derive(Clone, Debug)]
pub enum CutOffRequest {
    /// Those that speak for a principal.
    Subject(PrincipalName),
    /// Those that a principal issued.
    IssuedByPrincipal(PrincipalName),
    /// The same by its number, also when it is gone.
    IssuedByNumber(PrincipalId),
    /// Those that a token issued.
    IssuedByToken(TokenId),
    /// What was born from a credential, and what that issued.
    IssuedByCredential(TokenId),
    /// Resource tokens at or under a resource.
    ResourceUnder(Resource),
    /// The access tokens of a principal.
    Sessions(PrincipalName),
}

/// A Check whose allow must be counted first.
#[derive(Clone, Debug)]
pub struct UseToken {
    /// The first 128 bits of the presented secret's digest.
    pub key: u128,
    /// The needs: action and resource.
    pub needs: Vec<(String, String)>,
    /// What is known of the request.
    pub client_ip: Option<IpAddr>,
    /// For whom the token was presented.
    pub audience: Option<String>,
    /// The mTLS peer that presented it.
    pub workload: Option<String>,
    /// The kinds that the caller accepts.
    pub kinds: KindSet,
}

/// What a token is to be narrowed to, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopesAsked {
    /// Not narrowed.
    All,
    /// These entries; roles are written out on the State decided on.
    Only(Vec<ScopeEntry>),
}

/// The limits that issue and update have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitsAsked {
    /// Client networks.
    pub networks: Networks,
    /// The audience.
    pub audience: Option<Audience>,
    /// The workload.
    pub workload: Option<Workload>,
}
