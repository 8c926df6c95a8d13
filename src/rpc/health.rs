//! Health per service, and the whole server's under the empty name.
//!
//! Used by `serve`, which follows it while it serves and tells that it leaves before it stops
//! accepting, so that a balancer looks elsewhere first, and by the admin port, where who does not
//! speak gRPC asks the same. Check, and with it the whole server, serves while the
//! authority may answer, which a lease allows without the store; logins that write nothing while
//! it is vouched for and has the key that seals; all else needs the lease and the store.

use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthRpc, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

use crate::authority::Authority;
use crate::proto::v1::{
    audit_service_server, check_service_server, cluster_service_server, credential_service_server,
    directory_service_server, key_service_server, login_service_server, token_service_server,
};

use super::envoy;

/// What serves from memory.
const FROM_MEMORY: [&str; 3] = ["", check_service_server::SERVICE_NAME, envoy::SERVICE_NAME];
/// What gives sealed tokens from memory.
const BY_SEAL: [&str; 1] = [login_service_server::SERVICE_NAME];
/// What cannot do without the store.
const FROM_STORE: [&str; 6] = [
    token_service_server::SERVICE_NAME,
    directory_service_server::SERVICE_NAME,
    audit_service_server::SERVICE_NAME,
    cluster_service_server::SERVICE_NAME,
    credential_service_server::SERVICE_NAME,
    key_service_server::SERVICE_NAME,
];

/// How often the authority is asked; telling costs nothing while nothing changes.
const EVERY: Duration = Duration::from_millis(250);

/// What serves; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Serving {
    memory: bool,
    seal: bool,
    store: bool,
}

impl Serving {
    fn of(authority: &Authority) -> Self {
        Self {
            memory: authority.may_answer(),
            seal: authority.is_vouched_for() && authority.can_seal(),
            store: authority.is_vouched_for() && authority.store_answers(),
        }
    }

    /// Which services go by what.
    fn by_names(self) -> [(&'static [&'static str], bool); 3] {
        [
            (&FROM_MEMORY, self.memory),
            (&BY_SEAL, self.seal),
            (&FROM_STORE, self.store),
        ]
    }
}

/// Whether a service serves; none for one that nobody knows.
pub(super) fn serves(authority: &Authority, service: &str) -> Option<bool> {
    let found = Serving::of(authority).by_names();
    let mut known = found
        .into_iter()
        .filter(|(names, _)| names.contains(&service));
    known.next().map(|(_, serves)| serves)
}

/// The health of one server.
pub(super) struct Health {
    authority: Authority,
    reporter: HealthReporter,
}

impl Health {
    /// Health that tells the truth from the start.
    pub(super) async fn of(authority: Authority) -> Self {
        let health = Self {
            authority,
            reporter: HealthReporter::new(),
        };
        health.tell(health.found()).await;
        health
    }

    fn found(&self) -> Serving {
        Serving::of(&self.authority)
    }

    /// The service that answers for it.
    pub(super) fn service(&self) -> HealthServer<impl HealthRpc> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    /// Follows the authority; never returns.
    pub(super) async fn follow(&self) {
        let mut told = None;
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            let found = self.found();
            if told.replace(found) != Some(found) {
                self.tell(found).await;
            }
        }
    }

    /// Tells that nothing is served any more, while all of it still is.
    pub(super) async fn leave(&self) {
        self.tell(Serving::default()).await;
    }

    /// Ends the streams of those who watch.
    pub(super) async fn stop(mut self) {
        for name in FROM_MEMORY.into_iter().chain(BY_SEAL).chain(FROM_STORE) {
            // Who watches gets the last status before the end of its stream.
            self.reporter.clear_service_status(name).await;
        }
    }

    async fn tell(&self, found: Serving) {
        for (names, serves) in found.by_names() {
            let status = if serves {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            for name in names {
                self.reporter.set_service_status(*name, status).await;
            }
        }
    }
}
