//! `latchkey service login-method`: how a service account logs in, and what holds for that.
//!
//! A method that is set has all its settings from this one command: what is not given is the
//! default, so that nobody has to know what was there. They hold for the access tokens that are
//! there as well.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::cli::connect::CallerArgs;
use crate::cli::failure::CliError;
use crate::cli::output::made::Made;
use crate::cli::output::{Output, Page, duration, instant, revision, span};
use crate::cli::parse::{self, wire_duration};
use crate::cli::token::RequestId;
use crate::domain::principal::PrincipalKind;
use crate::proto::v1;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum LoginMethodCommand {
    /// Set a method with its settings; what is not given is the default.
    Set(Box<SetArgs>),
    /// Show the methods that are set, and who is locked out.
    Show(ShowArgs),
    /// Remove a method: its credentials and what they gave are refused for good.
    Remove(RemoveArgs),
    /// End lockouts before their time.
    Unlock(UnlockArgs),
}

/// How credentials are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// The account's name and a client secret.
    #[value(alias = "universal_auth")]
    UniversalAuth,
    /// An assertion that is signed with a registered key (RFC 7523).
    #[value(alias = "key_pair")]
    KeyPair,
}

impl Method {
    fn wire(self) -> v1::LoginMethodKind {
        match self {
            Self::UniversalAuth => v1::LoginMethodKind::UniversalAuth,
            Self::KeyPair => v1::LoginMethodKind::KeyPair,
        }
    }

    fn name(number: i32) -> &'static str {
        match v1::LoginMethodKind::try_from(number) {
            Ok(v1::LoginMethodKind::UniversalAuth) => "universal_auth",
            Ok(v1::LoginMethodKind::KeyPair) => "key_pair",
            _ => "",
        }
    }
}

/// What shall hold.
#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// The service account.
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The method.
    #[arg(value_enum)]
    method: Method,
    /// How long an access token lives [default: 1h].
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime, conflicts_with = "period")]
    ttl: Option<Duration>,
    /// Renewable up to this long after the login.
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime, conflicts_with = "period")]
    max_ttl: Option<Duration>,
    /// Renewable for ever, each time by this.
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime)]
    period: Option<Duration>,
    /// How often an access token can be used; such tokens are stored.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "period")]
    uses: Option<u32>,
    /// Client network, as CIDR, that access tokens may be used from; may be repeated.
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<String>,
    /// Client network, as CIDR, that logins may come from; may be repeated.
    #[arg(long = "login-network", value_name = "CIDR")]
    login_networks: Vec<String>,
    #[command(flatten)]
    lockout: LockoutArgs,
    /// Why; kept in the audit trail.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

/// When failing logins lock out whoever makes them.
#[derive(Args, Debug)]
pub(crate) struct LockoutArgs {
    /// Failed logins that lock out the network they come from [default: 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    lockout_threshold: Option<u32>,
    /// For how long [default: 5m].
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime)]
    lockout_duration: Option<Duration>,
    /// Failures further apart than this do not add up [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = parse::lifetime)]
    lockout_reset: Option<Duration>,
    /// Never lock out.
    #[arg(long, conflicts_with_all = ["lockout_threshold", "lockout_duration", "lockout_reset"])]
    no_lockout: bool,
}

impl LockoutArgs {
    /// None is the defaults; of a policy that is given in part the rest are the defaults.
    fn policy(&self) -> Option<v1::LockoutPolicy> {
        let given = self.lockout_threshold.is_some()
            || self.lockout_duration.is_some()
            || self.lockout_reset.is_some();
        let or = |given: Option<Duration>, seconds| given.unwrap_or(Duration::from_secs(seconds));
        given.then(|| v1::LockoutPolicy {
            threshold: self.lockout_threshold.unwrap_or(3),
            duration: Some(wire_duration(or(self.lockout_duration, 300))),
            reset: Some(wire_duration(or(self.lockout_reset, 30))),
        })
    }
}

/// Of which account.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// The service account.
    #[arg(value_name = "SERVICE")]
    service: String,
    #[command(flatten)]
    caller: CallerArgs,
}

/// Which to remove.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// The service account.
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The method.
    #[arg(value_enum)]
    method: Method,
    /// Why; kept in the audit trail.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

/// Which lockouts to end.
#[derive(Args, Debug)]
pub(crate) struct UnlockArgs {
    /// The service account.
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The address or network that is locked out [default: all of them].
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Why; kept in the audit trail.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    request: RequestId,
    #[command(flatten)]
    caller: CallerArgs,
}

/// A method that is set.
#[derive(Serialize)]
struct MethodView {
    method: &'static str,
    /// None where tokens live by a period.
    ttl_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_ttl_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    period_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uses: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    networks: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    login_networks: Vec<String>,
    /// None where failures never lock out.
    lockout: Option<LockoutView>,
    set_at_revision: u64,
}

#[derive(Serialize)]
struct LockoutView {
    threshold: u32,
    duration_seconds: Option<u64>,
    reset_seconds: Option<u64>,
}

fn seconds(given: Option<&prost_types::Duration>) -> Option<u64> {
    duration(given).map(|given| given.as_secs())
}

impl From<v1::LoginMethod> for MethodView {
    fn from(method: v1::LoginMethod) -> Self {
        let settings = method.settings.unwrap_or_default();
        let lockout = settings.lockout.filter(|_| !settings.lockout_disabled);
        Self {
            method: Method::name(method.kind),
            ttl_seconds: seconds(settings.ttl.as_ref()),
            max_ttl_seconds: seconds(settings.max_ttl.as_ref()),
            period_seconds: seconds(settings.period.as_ref()),
            uses: settings.uses,
            networks: settings.networks,
            login_networks: settings.login_networks,
            lockout: lockout.map(|policy| LockoutView {
                threshold: policy.threshold,
                duration_seconds: seconds(policy.duration.as_ref()),
                reset_seconds: seconds(policy.reset.as_ref()),
            }),
            set_at_revision: method.set_at_revision,
        }
    }
}

impl MethodView {
    fn fields(&self, page: &mut Page) {
        let time = |seconds: Option<u64>| span(seconds.map(Duration::from_secs));
        let lockout = self.lockout.as_ref().map_or_else(
            || "never".to_owned(),
            |policy| {
                let (lasts, reset) = (time(policy.duration_seconds), time(policy.reset_seconds));
                format!(
                    "for {lasts} at {} failures no more than {reset} apart",
                    policy.threshold
                )
            },
        );
        page.fields(&[
            ("method", self.method.to_owned()),
            ("access tokens live", time(self.ttl_seconds)),
            ("renewable up to", time(self.max_ttl_seconds)),
            ("renewable by", time(self.period_seconds)),
            (
                "uses",
                self.uses.map(|uses| uses.to_string()).unwrap_or_default(),
            ),
            ("used from", self.networks.join(", ")),
            ("logins from", self.login_networks.join(", ")),
            ("locks out", lockout),
            ("set at revision", self.set_at_revision.to_string()),
        ]);
    }
}

/// A method after it was set.
#[derive(Serialize)]
struct SetView {
    #[serde(flatten)]
    method: MethodView,
    #[serde(flatten)]
    made: Made,
}

#[derive(Serialize)]
struct LockedView {
    network: String,
    until: Option<String>,
}

#[derive(Serialize)]
struct UnlockedView {
    unlocked: Vec<String>,
    #[serde(flatten)]
    made: Made,
}

#[derive(Serialize)]
struct MethodsView {
    methods: Vec<MethodView>,
    locked: Vec<LockedView>,
    revision: String,
}

/// Runs one verb.
///
/// # Errors
/// What the server refuses, and what cannot be reached or printed.
pub(crate) async fn run(command: LoginMethodCommand, output: Output) -> Result<(), CliError> {
    match command {
        LoginMethodCommand::Set(args) => set(*args, output).await,
        LoginMethodCommand::Show(args) => show(args, output).await,
        LoginMethodCommand::Remove(args) => remove(args, output).await,
        LoginMethodCommand::Unlock(args) => unlock(args, output).await,
    }
}

fn service(name: &str) -> String {
    parse::principal_of(PrincipalKind::Service, name)
}

async fn set(args: SetArgs, output: Output) -> Result<(), CliError> {
    let mut credentials = args.caller.session().await?.credentials();
    let settings = v1::LoginSettings {
        ttl: args.ttl.map(wire_duration),
        max_ttl: args.max_ttl.map(wire_duration),
        period: args.period.map(wire_duration),
        uses: args.uses,
        networks: args.networks,
        login_networks: args.login_networks,
        lockout: args.lockout.policy(),
        lockout_disabled: args.lockout.no_lockout,
    };
    let request = v1::SetLoginMethodRequest {
        service_account: service(&args.service),
        kind: args.method.wire().into(),
        settings: Some(settings),
        reason: args.reason,
        request_id: args.request.request_id,
    };
    let answer = credentials.set_login_method(request).await?.into_inner();
    let view = SetView {
        method: MethodView::from(answer.method.unwrap_or_default()),
        made: Made::new(answer.revision.as_ref(), answer.enforcement),
    };
    output.show(&view, |page| {
        view.made.page("set", page);
        view.method.fields(page);
    })
}

async fn show(args: ShowArgs, output: Output) -> Result<(), CliError> {
    let mut credentials = args.caller.session().await?.credentials();
    let request = v1::GetLoginMethodsRequest {
        service_account: service(&args.service),
    };
    let answer = credentials.get_login_methods(request).await?.into_inner();
    let locked = |locked: v1::LockedNetwork| LockedView {
        until: instant(locked.until.as_ref()),
        network: locked.network,
    };
    let view = MethodsView {
        methods: answer.methods.into_iter().map(MethodView::from).collect(),
        locked: answer.locked.into_iter().map(locked).collect(),
        revision: revision(answer.revision.as_ref()),
    };
    output.show(&view, |page| {
        if view.methods.is_empty() {
            page.line("no login method is set: it cannot log in");
        }
        for (index, method) in view.methods.iter().enumerate() {
            if index > 0 {
                page.line("");
            }
            method.fields(page);
        }
        for locked in &view.locked {
            let until = locked.until.as_deref().unwrap_or_default();
            page.line(format!("{} is locked out until {until}", locked.network));
        }
    })
}

async fn remove(args: RemoveArgs, output: Output) -> Result<(), CliError> {
    let mut credentials = args.caller.session().await?.credentials();
    let request = v1::RemoveLoginMethodRequest {
        service_account: service(&args.service),
        kind: args.method.wire().into(),
        reason: args.reason,
        request_id: args.request.request_id,
    };
    let answer = credentials.remove_login_method(request).await?.into_inner();
    let made = Made::new(answer.revision.as_ref(), answer.enforcement);
    output.show(&made, |page| made.page("removed", page))
}

async fn unlock(args: UnlockArgs, output: Output) -> Result<(), CliError> {
    let mut credentials = args.caller.session().await?.credentials();
    let request = v1::UnlockLoginsRequest {
        service_account: service(&args.service),
        network: args.network.unwrap_or_default(),
        reason: args.reason,
        request_id: args.request.request_id,
    };
    let answer = credentials.unlock_logins(request).await?.into_inner();
    let view = UnlockedView {
        unlocked: answer.unlocked,
        made: Made::new(answer.revision.as_ref(), answer.enforcement),
    };
    output.show(&view, |page| {
        let what = match view.unlocked.is_empty() {
            true => "nobody was locked out".to_owned(),
            false => format!("unlocked {}", view.unlocked.join(", ")),
        };
        view.made.page(&what, page);
    })
}
