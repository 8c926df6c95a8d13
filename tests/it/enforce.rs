//! Every write RPC says how far it is enforced: always if it may take something away, if it was
//! asked to if it only adds.
//!
//! The story below calls each of them; one that is added to the API and not to the story fails.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use latchkey::proto::{DESCRIPTOR, v1};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::transport::Channel;
use v1::credential_service_client::CredentialServiceClient;
use v1::directory_service_client::DirectoryServiceClient;
use v1::enforcement::State;
use v1::key_service_client::KeyServiceClient;
use v1::token_service_client::TokenServiceClient;

use crate::crash::issue;
use crate::program::{Server, fresh};
use crate::wire::{bearer, channel};

/// When a write says how far it is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Always,
    IfAsked,
    Never,
    /// What has to be waited for longer than any story.
    InThirtyDays,
}

/// Every method that writes, by service and name.
const WRITES: [(&str, Says); 36] = [
    ("IssueToken", Says::IfAsked),
    ("UpdateToken", Says::Always),
    ("RenewToken", Says::IfAsked),
    ("RotateToken", Says::Always),
    ("RevokeToken", Says::Always),
    ("RevokeAll", Says::Always),
    ("CreateUser", Says::IfAsked),
    ("UpdateUser", Says::Never),
    ("DeleteUser", Says::Always),
    ("DisableUser", Says::Always),
    ("EnableUser", Says::IfAsked),
    ("CreateTeam", Says::IfAsked),
    ("UpdateTeam", Says::Never),
    ("DeleteTeam", Says::Always),
    ("DisableTeam", Says::Always),
    ("EnableTeam", Says::IfAsked),
    ("AddTeamMember", Says::IfAsked),
    ("RemoveTeamMember", Says::Always),
    ("CreateServiceAccount", Says::IfAsked),
    ("UpdateServiceAccount", Says::Never),
    ("DeleteServiceAccount", Says::Always),
    ("DisableServiceAccount", Says::Always),
    ("EnableServiceAccount", Says::IfAsked),
    ("CreateRole", Says::IfAsked),
    ("UpdateRole", Says::Always),
    ("DeleteRole", Says::Always),
    ("CreateGrant", Says::IfAsked),
    ("DeleteGrant", Says::Always),
    ("SetLoginMethod", Says::Always),
    ("CreateClientSecret", Says::IfAsked),
    ("RegisterPublicKey", Says::IfAsked),
    ("UnlockLogins", Says::Always),
    ("RemoveLoginMethod", Says::Always),
    ("RotateKey", Says::IfAsked),
    ("RevokeKey", Says::Always),
    ("RetireKey", Says::InThirtyDays),
];

type Told = Vec<(&'static str, Option<v1::Enforcement>)>;

struct Story {
    tokens: TokenServiceClient<Channel>,
    directory: DirectoryServiceClient<Channel>,
    credentials: CredentialServiceClient<Channel>,
    keys: KeyServiceClient<Channel>,
    admin: String,
    wait: bool,
    // Names are used once.
    suffix: &'static str,
    told: Told,
}

/// Calls a method with the fields given, the reason among them, and notes what it told.
macro_rules! call {
    ($story:ident.$client:ident.$method:ident($request:ident { $($field:ident $(: $value:expr)?),* $(,)? })) => {{
        #[allow(clippy::needless_update, reason = "some requests have no other field")]
        let request = v1::$request {
            reason: "story".to_owned(),
            $($field $(: $value)?,)*
            ..v1::$request::default()
        };
        let answer = $story.$client.$method(bearer(&$story.admin, request)).await;
        let answer = answer.unwrap_or_else(|status| panic!("{}: {status}", stringify!($request))).into_inner();
        $story.told.push((stringify!($request), answer.enforcement.clone()));
        answer
    }};
}

/// Creates, updates, disables, enables and deletes a principal of one kind.
macro_rules! principal {
    ($story:ident, $kind:ident, $field:ident, $text:literal:
     $create:ident $update:ident $disable:ident $enable:ident $delete:ident,
     $creates:ident $updates:ident $disables:ident $enables:ident $deletes:ident) => {{
        let name = format!("{}:story{}", $text, $story.suffix);
        call!($story.directory.$create($creates {
            name: name.clone(),
            home: "acme".to_owned(),
            wait_for_replicas: $story.wait,
        }));
        call!($story.directory.$update($updates {
            $field: Some(v1::$kind {
                name: name.clone(),
                description: "new".to_owned(),
                ..v1::$kind::default()
            }),
            update_mask: Some(mask("description")),
        }));
        call!($story.directory.$disable($disables { name: name.clone() }));
        // Again: it is so already, here, and perhaps nowhere else yet.
        call!($story.directory.$disable($disables { name: name.clone() }));
        call!($story.directory.$enable($enables {
            name: name.clone(),
            wait_for_replicas: $story.wait,
        }));
        call!($story.directory.$delete($deletes { name }));
    }};
}

fn mask(path: &str) -> prost_types::FieldMask {
    prost_types::FieldMask {
        paths: vec![path.to_owned()],
    }
}

impl Story {
    async fn principals(&mut self) {
        let story = self;
        principal!(story, User, user, "user":
            create_user update_user disable_user enable_user delete_user,
            CreateUserRequest UpdateUserRequest DisableUserRequest EnableUserRequest
            DeleteUserRequest);
        principal!(story, Team, team, "team":
            create_team update_team disable_team enable_team delete_team,
            CreateTeamRequest UpdateTeamRequest DisableTeamRequest EnableTeamRequest
            DeleteTeamRequest);
        principal!(story, ServiceAccount, service_account, "service":
            create_service_account update_service_account disable_service_account
            enable_service_account delete_service_account,
            CreateServiceAccountRequest UpdateServiceAccountRequest
            DisableServiceAccountRequest EnableServiceAccountRequest
            DeleteServiceAccountRequest);
    }

    async fn tokens(&mut self) {
        let story = self;
        let asked = v1::IssueTokenRequest {
            max_lifetime: Some(prost_types::Duration {
                seconds: 7_200,
                nanos: 0,
            }),
            ttl: Some(prost_types::Duration {
                seconds: 3_600,
                nanos: 0,
            }),
            wait_for_replicas: story.wait,
            ..issue(1)
        };
        let issued = story.tokens.issue_token(bearer(&story.admin, asked)).await;
        let issued = issued.expect("issued").into_inner();
        story.told.push(("IssueTokenRequest", issued.enforcement));
        let token_id = issued.token.expect("a token").token_id;
        call!(story.tokens.renew_token(RenewTokenRequest {
            token_id: token_id.clone(),
            wait_for_replicas: story.wait,
        }));
        call!(story.tokens.update_token(UpdateTokenRequest {
            token_id: token_id.clone(),
            update_mask: Some(mask("networks")),
            update: Some(v1::TokenUpdate {
                networks: vec!["192.0.2.0/24".to_owned()],
                ..v1::TokenUpdate::default()
            }),
        }));
        call!(story.tokens.rotate_token(RotateTokenRequest {
            token_id: token_id.clone(),
        }));
        for already in [false, true] {
            let target = v1::revoke_token_request::Target::TokenId(token_id.clone());
            let revoked = call!(story.tokens.revoke_token(RevokeTokenRequest {
                target: Some(target),
            }));
            assert_eq!(revoked.already_revoked, already);
        }
        let target = v1::revoke_all_request::Target::ResourceUnder("crash".to_owned());
        for _ in 0..2 {
            // The same request again is answered again, with a barrier of its own.
            call!(story.tokens.revoke_all(RevokeAllRequest {
                target: Some(target.clone()),
                request_id: format!("all{}", story.suffix),
            }));
        }
    }

    async fn rights(&mut self) {
        let story = self;
        let role = format!("role{}", story.suffix);
        let team = format!("team:rights{}", story.suffix);
        let user = format!("user:rights{}", story.suffix);
        call!(story.directory.create_team(CreateTeamRequest {
            name: team.clone(),
            home: "acme".to_owned(),
            wait_for_replicas: story.wait,
        }));
        call!(story.directory.create_user(CreateUserRequest {
            name: user.clone(),
            home: "acme".to_owned(),
            wait_for_replicas: story.wait,
        }));
        call!(story.directory.add_team_member(AddTeamMemberRequest {
            name: team.clone(),
            member: user.clone(),
            wait_for_replicas: story.wait,
        }));
        for _ in 0..2 {
            call!(story.directory.remove_team_member(RemoveTeamMemberRequest {
                name: team.clone(),
                member: user.clone(),
            }));
        }
        call!(story.directory.create_role(CreateRoleRequest {
            name: role.clone(),
            home: "acme".to_owned(),
            actions: vec!["a:b".to_owned()],
            wait_for_replicas: story.wait,
        }));
        call!(story.directory.update_role(UpdateRoleRequest {
            role: Some(v1::Role {
                name: role.clone(),
                actions: vec!["a:c".to_owned()],
                ..v1::Role::default()
            }),
            update_mask: Some(mask("actions")),
        }));
        let granted = call!(story.directory.create_grant(CreateGrantRequest {
            principal: user,
            role: role.clone(),
            resource: "acme/**".to_owned(),
            wait_for_replicas: story.wait,
        }));
        let grant_id = granted.grant.expect("a grant").grant_id;
        call!(
            story
                .directory
                .delete_grant(DeleteGrantRequest { grant_id })
        );
        call!(
            story
                .directory
                .delete_role(DeleteRoleRequest { name: role })
        );
    }
}

/// An Ed25519 key of its own for each story (RFC 8410, section 4).
fn public_key(story: &str) -> String {
    const INFO: [u8; 12] = [
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    let key: [u8; 32] = std::array::from_fn(|at| story.as_bytes()[at % story.len()] + at as u8);
    let key = STANDARD.encode([&INFO[..], &key[..]].concat());
    format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n")
}

impl Story {
    async fn logins(&mut self) {
        let story = self;
        let account = format!("service:logins{}", story.suffix);
        call!(
            story
                .directory
                .create_service_account(CreateServiceAccountRequest {
                    name: account.clone(),
                    home: "acme".to_owned(),
                    wait_for_replicas: story.wait,
                })
        );
        for kind in [
            v1::LoginMethodKind::UniversalAuth,
            v1::LoginMethodKind::KeyPair,
        ] {
            call!(story.credentials.set_login_method(SetLoginMethodRequest {
                service_account: account.clone(),
                kind: kind.into(),
            }));
        }
        call!(
            story
                .credentials
                .create_client_secret(CreateClientSecretRequest {
                    service_account: account.clone(),
                    name: "story".to_owned(),
                    wait_for_replicas: story.wait,
                })
        );
        call!(
            story
                .credentials
                .register_public_key(RegisterPublicKeyRequest {
                    service_account: account.clone(),
                    name: "story".to_owned(),
                    public_key: public_key(story.suffix),
                    wait_for_replicas: story.wait,
                })
        );
        call!(story.credentials.unlock_logins(UnlockLoginsRequest {
            service_account: account.clone(),
        }));
        for _ in 0..2 {
            call!(
                story
                    .credentials
                    .remove_login_method(RemoveLoginMethodRequest {
                        service_account: account.clone(),
                        kind: v1::LoginMethodKind::KeyPair.into(),
                    })
            );
        }
    }

    async fn keys(&mut self) {
        let story = self;
        let listed = bearer(&story.admin, v1::ListKeysRequest {});
        let listed = story
            .keys
            .list_keys(listed)
            .await
            .expect("keys")
            .into_inner();
        let new = listed.keys.into_iter();
        let new = new.filter(|key| key.phase() == v1::KeyPhase::Unspecified);
        let new: Vec<_> = new.take(2).map(|key| key.key_id).collect();
        for key in &new {
            call!(story.keys.rotate_key(RotateKeyRequest {
                key_id: key.clone(),
                wait_for_replicas: story.wait,
            }));
        }
        for _ in 0..2 {
            call!(story.keys.revoke_key(RevokeKeyRequest {
                key_id: new[0].clone(),
            }));
        }
    }
}

async fn told(server: &Server, wait: bool, suffix: &'static str) -> Told {
    let channel = channel(&server.address).await;
    let mut story = Story {
        tokens: TokenServiceClient::new(channel.clone()),
        directory: DirectoryServiceClient::new(channel.clone()),
        credentials: CredentialServiceClient::new(channel.clone()),
        keys: KeyServiceClient::new(channel),
        admin: server.admin.clone().expect("fresh"),
        wait,
        suffix,
        told: Vec::new(),
    };
    story.principals().await;
    story.tokens().await;
    story.rights().await;
    story.logins().await;
    story.keys().await;
    story.told
}

#[tokio::test]
async fn every_write_says_how_far_it_is_enforced_embedded() {
    let dir = fresh();
    let keys = dir.path().join("keys");
    let lines = (1..=6_u8)
        .map(|byte| STANDARD.encode(std::array::from_fn::<u8, 32, _>(|at| byte + at as u8)));
    std::fs::write(&keys, lines.map(|line| line + "\n").collect::<String>()).expect("written");
    std::fs::set_permissions(&keys, Permissions::from_mode(0o600)).expect("ours");
    let keys = format!("seal.keys_file={}", keys.display());
    let settings = ["--set", "replica.name=only", "--set", &keys];
    let server = Server::start_with(dir.path(), &settings).expect("starts");
    let writes: BTreeMap<&str, Says> = WRITES.into_iter().collect();
    for (wait, suffix) in [(false, "-1"), (true, "-2")] {
        let told = told(&server, wait, suffix).await;
        for (request, enforcement) in &told {
            let says = writes[request.trim_end_matches("Request")];
            let expected = match says {
                Says::Always => true,
                Says::IfAsked => wait,
                Says::Never | Says::InThirtyDays => false,
            };
            assert_eq!(enforcement.is_some(), expected, "{request} {says:?}");
            if let Some(told) = enforcement {
                assert_eq!(told.state(), State::Confirmed, "{request}");
                assert_eq!(told.replicas, ["only"], "{request}");
                assert!(told.missing.is_empty() && told.everywhere_after.is_none());
            }
        }
        let told_of = |says: Says| says != Says::InThirtyDays;
        for (method, _) in WRITES.into_iter().filter(|(_, says)| told_of(*says)) {
            let called = told.iter().any(|(request, _)| {
                request
                    .strip_prefix(method)
                    .is_some_and(|rest| rest == "Request")
            });
            assert!(called, "the story does not call {method}");
        }
    }
}

#[test]
fn the_table_of_writes_is_the_apis() {
    let files = FileDescriptorSet::decode(DESCRIPTOR).expect("encoded").file;
    let files = files.iter().filter(|file| file.package() == "latchkey.v1");
    let (mut methods, mut fields) = (Vec::new(), BTreeMap::new());
    for file in files {
        // A Check writes only where it spends a use, and tells nothing of it.
        let services = file.service.iter();
        let services = services.filter(|service| service.name() != "CheckService");
        let described = services.flat_map(|service| &service.method);
        methods.extend(described.map(|method| method.name().to_owned()));
        for message in &file.message_type {
            let named = message.field.iter().map(|field| field.name().to_owned());
            let names: Vec<String> = named.collect();
            fields.insert(message.name().to_owned(), names);
        }
    }
    let has = |message: &str, field: &str| {
        let names: &Vec<String> = &fields[message];
        names.iter().any(|one| one == field)
    };
    // What marks a write, in the log and in the metrics too.
    methods.retain(|name| {
        let request = format!("{name}Request");
        let (id, reason) = (has(&request, "request_id"), has(&request, "reason"));
        assert_eq!(id, reason, "{name} has one of the two");
        id
    });
    methods.sort();
    let mut known: Vec<&str> = WRITES.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    assert_eq!(methods, known);
    for (name, says) in WRITES {
        assert!(has(&format!("{name}Response"), "enforcement"), "{name}");
        let asks = has(&format!("{name}Request"), "wait_for_replicas");
        assert_eq!(asks, says == Says::IfAsked, "{name}");
    }
}
