//! The acceptor: the role that votes, and remembers on disk. Acceptors start no calls and only answer.
//!
//! ```text
//! service ──▶ bounded queue ──▶ worker ──▶ core (decides) ──▶ store (one commit) ──▶ answers
//!    │                             └──▶ what memory shows, and the ring of live frames
//!    ├──▶ hearing: which proposer is heard, whatever the disk does ──▶ attached proposers, *alive* to leaders
//!    ├──▶ snapshot files (a learner's `Keep`) ──▶ trim task ──▶ bounded queue
//!    └── pages of what is on disk, live frames, who leads, the bottom snapshot (`Snapshot`)
//! ```

mod attach;
mod commits;
mod config;
mod contradictions;
mod damage;
mod hearing;
mod inbox;
mod metrics;
mod observe;
mod peers;
mod pulse;
mod queue;
mod refusals;
mod request;
mod ring;
mod service;
mod shared;
mod snapshot;
mod snapshot_change;
mod start;
pub mod store;
mod sweep;
#[cfg(test)]
mod testing;
mod trace;
mod trim_policy;
mod trim_task;
mod worker;

use std::time::Duration;

use paxos_common::{
    service::{
        failure::Failure,
        role::{RoleFrame, RolePlace},
        shutdown::Shutdown,
    },
    tls::RoleName,
};
use paxos_proto::v1::acceptor_server::AcceptorServer;
use tokio::net::TcpListener;

use crate::{metrics::Instruments, start::Starter};

pub use config::{Args, Config, METRICS_PORT, PORT};
pub use trim_policy::RetainBytes;

/// Maximum time of a stop once the server has stopped: the last commit.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Runs an acceptor on a bound listener until the stop begins.
///
/// # Errors
/// The directory cannot be used (74; 78 for a foreign directory), a commit failed (74).
pub async fn run(config: Config, listener: TcpListener, shutdown: Shutdown) -> Result<(), Failure> {
    let (role, advertise) = (RoleName::Acceptor, config.advertise.as_ref());
    let place = RolePlace::of(role, &listener, advertise, config.security.clone(), &[])?;
    let frame = RoleFrame::start(role, &config.id, &place.security, &shutdown)?;
    let instruments = Instruments::new(&frame.metrics);
    frame.serve_metrics(config.metrics).await?;

    let starter = Starter {
        config,
        local: place.local,
        address: place.address,
        frame: &frame,
        instruments,
        shutdown: shutdown.clone(),
    };
    let Some((service, stop_worker)) = starter.start().await? else {
        return Ok(());
    };
    let (server, health) = frame.server(listener, AcceptorServer::new(service)).await?;
    // The process as a whole serves from now on: a cluster is formed by calling its blank acceptors. The service of
    // this name serves once the acceptor can vote.
    health.set_live().await;
    frame.report_health(health.clone().of_service_alone());

    let served = server.run(shutdown.clone()).await;
    health.set_serving(false).await;
    stop_worker.cancel();
    let drained = shutdown.drain(STOP_GRACE).await;
    frame.end().await;
    drained.and(served)
}
