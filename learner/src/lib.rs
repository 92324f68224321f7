//! The learner: learns the chosen values, keeps the log in slot order, and shows the same log to every reader.
//!
//! ```text
//!  acceptor ──votes──▶ observe ─┐
//!  acceptor ──votes──▶ observe ─┼─▶ driver (owns the core) ─▶ apply ─▶ knowledge ─▶ service ─▶ readers
//!  acceptor ──votes──▶ observe ─┤                               │
//!     one   ──values─▶ observe ─┘                            persist (owns the store)
//!
//!  reader ──▶ service ──▶ barrier (owns the reads' core) ◀── tails ◀── acceptors
//!                            └─▶ fill ─▶ leading proposer
//!
//!  writer (log has grown) ──▶ snapshots (reads a kept state) ──▶ file ──▶ next start
//!  operator ──▶ service ──▶ snapshots ──▶ file ──▶ operator
//!  acceptor ──▶ attach ──▶ give ──▶ snapshots ──▶ file ──▶ acceptor
//! ```
//!
//! The start of learning finds out whether the acceptors still have the next slots. If not, or if the position watch of
//! the running learner finds this out, the learner ends all these tasks but the service, installs the snapshot of an
//! acceptor, and starts again: learner ◀── install ◀── acceptor.
//!
//! When the members of the cluster change, the connections to the members begin again in the next era: observe, tails and
//! attach. The applier adopts a change; an acceptor's answer to `Form` reports a later configuration. The driver, the
//! barrier, the writer and everything else follow the cluster, and go on.
//!
//! Every queue on the way is bounded: votes and values beyond the bound wait on the acceptor's disk.

mod acceptors;
mod apply;
mod attach;
mod barrier;
mod blocking;
mod catch_up;
mod changes;
mod cluster;
mod config;
mod connections;
mod cut_off;
mod directory;
mod disk;
mod driver;
mod fill;
mod forming;
mod give;
mod history;
mod install;
mod knowledge;
mod live;
mod log_growth;
mod metrics;
mod observe;
mod persist;
mod position;
mod progress;
mod recent;
mod record;
mod service;
mod snapshot_end;
mod snapshot_file;
mod snapshots;
mod start;
mod start_work;
mod store;
mod subscribe;
mod survey;
mod tails;
mod trace;
mod trims;

use std::{sync::Arc, time::Duration};

use paxos_common::{
    service::{
        failure::Failure,
        role::{RoleFrame, RolePlace},
        shutdown::Shutdown,
    },
    tls::RoleName,
};
use paxos_proto::v1::learner_server::LearnerServer;
use tokio::net::TcpListener;

use crate::{
    catch_up::CatchUp, disk::DiskSpace, metrics::Instruments, service::LearnerService, start::Starter,
};

pub use config::{Args, Config, METRICS_PORT, PORT, STALL_TIMEOUT};

/// Maximum time of a stop: a commit, and the grace period of open calls.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Runs a learner on a bound listener until the stop begins. Serves the log once the acceptors have reported the
/// cluster.
///
/// # Errors
/// The addresses do not belong to the acceptors of a single cluster, the data directory belongs to another cluster or
/// is in use (exit 78), or the disk failed (exit 74).
pub async fn run(config: Config, listener: TcpListener, shutdown: Shutdown) -> Result<(), Failure> {
    let (role, advertise) = (RoleName::Learner, config.advertise.as_ref());
    let place = RolePlace::of(
        role,
        &listener,
        advertise,
        config.security.clone(),
        &config.acceptors,
    )?;
    let RolePlace {
        local,
        address,
        security,
    } = place;
    tracing::info!(listen = %local, %address, %config, "learner starts");
    let (directory, temporary) = directory::open(config.data_dir.clone()).await?;

    // A name for people to distinguish learners; no logic depends on the name.
    let learner = rand::random::<u64>() >> 1;
    let frame = RoleFrame::start(role, &learner.to_string(), &security, &shutdown)?;
    let instruments = Instruments::new(&frame.metrics);
    let (catch_up, disk) = (Arc::new(CatchUp::default()), Arc::new(DiskSpace::default()));
    let service = LearnerService::new(
        learner,
        address.clone(),
        instruments.reads.clone(),
        Arc::clone(&catch_up),
        Arc::clone(&disk),
        instruments.data_dir.clone(),
    );
    let space = instruments.data_dir.clone();
    shutdown.spawn_until_stop(space.keep_measured(directory.path().to_owned()));
    metrics::show(&frame.metrics, &service, &catch_up);
    let seen = service.clone();
    frame.report_readiness(move || seen.readiness());
    frame.serve_metrics(config.metrics).await?;
    let (server, health) = frame
        .server(listener, LearnerServer::new(service.clone()))
        .await?;
    shutdown.spawn_vital("server", server.run(shutdown.clone()));
    frame.report_health(health);

    let starter = Starter {
        config,
        directory: Arc::new(directory),
        learner,
        address,
        service,
        catch_up,
        disk,
        instruments,
        shutdown: shutdown.clone(),
        tracer: frame.tracer(),
        dialer: frame.dialer().clone(),
    };
    let log = starter.learn_until_stop().await;
    shutdown.begun().await;
    let drained = shutdown.drain(STOP_GRACE).await;
    if let Some(log) = log {
        log.close().await;
    }
    directory::remove(temporary).await;
    frame.end().await;
    drained
}
