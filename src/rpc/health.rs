//! Health per service, and the whole server's under the empty name.
//!
//! Used by `serve`, which follows it while it serves and stops it before it stops accepting, so
//! that a balancer looks elsewhere first. Serving is what the authority says it may answer.

use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthRpc, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

use crate::authority::Authority;
use crate::proto::v1::{
    audit_service_server, check_service_server, directory_service_server, token_service_server,
};

/// The names that health is told of.
const NAMES: [&str; 5] = [
    "",
    check_service_server::SERVICE_NAME,
    token_service_server::SERVICE_NAME,
    directory_service_server::SERVICE_NAME,
    audit_service_server::SERVICE_NAME,
];

/// How often the authority is asked; telling costs nothing while nothing changes.
const EVERY: Duration = Duration::from_millis(250);

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
        health.tell(health.authority.may_answer()).await;
        health
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
            let serving = self.authority.may_answer();
            if told.replace(serving) != Some(serving) {
                self.tell(serving).await;
            }
        }
    }

    /// Tells that nothing is served any more, and ends the streams of those who watch.
    pub(super) async fn stop(mut self) {
        self.tell(false).await;
        for name in NAMES {
            // Who watches gets the last status before the end of its stream.
            self.reporter.clear_service_status(name).await;
        }
    }

    async fn tell(&self, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for name in NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }
}
