//! The start of the acceptor: opens the store, and starts every task but the server.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use paxos_common::{
    paxos::{acceptor::Membership, identity::RunNumber},
    peer::Address,
    service::{failure::Failure, role::RoleFrame, shutdown::Shutdown},
    sqlite::DataDir,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    config::Config,
    damage::scrub,
    metrics::Instruments,
    peers::PeerReader,
    queue::WorkerQueue,
    service::{Name, Service, ServiceParts},
    shared::Shared,
    snapshot::{SnapshotFiles, seed::read_seed},
    store::{
        RecoveredRun, Store as _,
        snapshots::SnapshotId,
        sqlite::{SqliteReader, SqliteStore},
    },
    trim_task::{Snapshots, Trimmer, check_files},
    worker::Worker,
};

/// Interval of checks of the queue.
const QUEUE_INTERVAL: Duration = Duration::from_secs(1);

/// Everything needed to start an acceptor.
pub(crate) struct Starter<'a> {
    pub(crate) config: Config,
    pub(crate) local: SocketAddr,
    pub(crate) address: Address,
    pub(crate) frame: &'a RoleFrame,
    pub(crate) instruments: Instruments,
    pub(crate) shutdown: Shutdown,
}

impl Starter<'_> {
    /// Opens the store and starts the tasks. Returns the service, and the stop of the worker; `None` when the stop
    /// begins first. The worker outlives the server, so requests from before the stop are still answered.
    ///
    /// # Errors
    /// The directory cannot be used (74; 78 for a foreign directory).
    pub(crate) async fn start(self) -> Result<Option<(Service<SqliteReader>, CancellationToken)>, Failure> {
        let directory = DataDir::open(&self.config.data_dir)?;
        let path = directory.path().to_owned();
        let data_dir = path.display().to_string();
        let run = RunNumber::from_random(rand::random());
        let Some((store, mut opened)) = self.open_store(directory, &data_dir, run).await? else {
            return Ok(None);
        };
        let damaged_seed = take_seed(&path, &mut opened).await?;
        let Self {
            config,
            local,
            address,
            frame,
            instruments,
            shutdown,
        } = self;

        let files = SnapshotFiles::open(&path, &store.snapshots());
        if let Some(id) = damaged_seed {
            files.missing(id, || true);
        }
        let retain_bytes = config.retain_bytes;
        let snapshots = Arc::new(Snapshots::new(files, retain_bytes, config.restart_max));
        let reader = store.reader();
        let (counter, stop_counter) = (store.counter_file(), shutdown.token().clone());
        shutdown.spawn_vital("commit counter", async move {
            let synced = counter.keep_synced(stop_counter).await;
            synced.map_err(|error| Failure::from(error).context("sync the commit counter"))
        });
        let (worker, shared, queue) = Worker::new(
            store,
            opened,
            run,
            retain_bytes,
            frame.tracer(),
            instruments.clone(),
        );
        instruments.show(&frame.metrics, &shared, &queue);
        Instruments::show_snapshots(&frame.metrics, &shared, &snapshots.files);
        let (seen, queued, ready) = (Arc::clone(&shared), Arc::clone(&queue), instruments.clone());
        frame.report_readiness(move || ready.readiness(&seen, &queued));
        let space = instruments.data_dir().clone();
        shutdown.spawn_until_stop(space.keep_measured(data_dir.clone().into()));
        let (seen, queued, slow) = (Arc::clone(&shared), Arc::clone(&queue), instruments.clone());
        shutdown.spawn_until_stop(watch(seen, queued, slow));
        let stop_scrub = shutdown.token().clone();
        shutdown.spawn_vital("scrub", scrub(reader.clone(), Arc::clone(&shared), stop_scrub));
        let reader = PeerReader::new(reader, Arc::clone(&shared), shutdown.clone());
        let published = shared.published();
        info!(
            node_id = config.id, acceptor = %published.stamp.acceptor, listen = %local, %address, data_dir,
            promised = %published.leadership.promised, chosen_to = published.chosen_to.get(),
            voted_to = published.voted_to.get(), formed = shared.formed().is_some(), "acceptor recovered"
        );

        let stop_worker = CancellationToken::new();
        shutdown.spawn_vital("worker", worker.run(stop_worker.clone()));
        let name = Name {
            id: config.id,
            address: address.to_string(),
        };
        let service = Service::new(ServiceParts {
            name,
            queue,
            shared: Arc::clone(&shared),
            reader,
            snapshots: Arc::clone(&snapshots),
            instruments: instruments.clone(),
            shutdown: shutdown.clone(),
            tracer: frame.tracer(),
        });
        let trimmer = Trimmer {
            snapshots,
            shared,
            roster: service.roster(),
            instruments,
            tracer: frame.tracer(),
        };
        spawn_trims(trimmer, &shutdown);
        Ok(Some((service, stop_worker)))
    }

    /// Opens the store; `None` when the stop begins first.
    async fn open_store(
        &self,
        directory: DataDir,
        data_dir: &str,
        run: RunNumber,
    ) -> Result<Option<(SqliteStore, RecoveredRun)>, Failure> {
        // The last step of opening makes the run durable. All other fallible steps of a start come before, so a failed
        // start leaves no run, except for an acceptor with a damaged seed: such an acceptor has never voted. Safe to
        // cancel: the connection is closed with any open work. Opening may wait for another process's lock.
        let opening = SqliteStore::open(directory, &self.config.id, run);
        let opened = self.shutdown.token().run_until_cancelled(opening).await;
        let opened = opened.transpose();
        opened.map_err(|error| Failure::from(error).context(format!("open store in {data_dir}")))
    }
}

/// Takes the seed of a blank acceptor into the recovered state. Returns the seed if its file is damaged and the restore,
/// repeated, sends the seed again.
async fn take_seed(directory: &Path, opened: &mut RecoveredRun) -> Result<Option<SnapshotId>, Failure> {
    let Some(waiting) = opened.snapshots.waiting else {
        return Ok(None);
    };
    match opened.recovered.membership {
        Membership::Blank => {
            opened.recovered.membership = Membership::Seeded(read_seed(directory, waiting.id).await?);
            Ok(None)
        }
        // Before any caller can make this acceptor a member.
        Membership::Forming(_) => Ok(read_seed(directory, waiting.id).await.err().map(|_| waiting.id)),
        Membership::Seeded(_) | Membership::Formed(_) => Ok(None),
    }
}

/// Starts the checks of snapshot files, and the trims.
fn spawn_trims(trimmer: Trimmer, shutdown: &Shutdown) {
    let stop = shutdown.token().clone();
    let (checked, seen, stop_checks) = (
        Arc::clone(&trimmer.snapshots),
        Arc::clone(&trimmer.shared),
        stop.clone(),
    );
    shutdown.spawn_vital("checks of snapshots", async move {
        check_files(checked, seen, stop_checks).await;
        Ok(())
    });
    shutdown.spawn_vital("trimmer", async move {
        trimmer.run(stop).await;
        Ok(())
    });
}

/// Notifies attached proposers when the heard proposer falls silent, and logs long waits of requests.
async fn watch(shared: Arc<Shared>, queue: Arc<WorkerQueue>, instruments: Instruments) {
    let mut ticks = shared.hearing.ticker(QUEUE_INTERVAL);
    let look = async {
        loop {
            ticks.tick().await;
            instruments.look_at_queue(&queue);
        }
    };
    tokio::select! {
        // Both arms only wait.
        () = shared.hearing.watch_silence() => {}
        () = look => {}
    }
}
