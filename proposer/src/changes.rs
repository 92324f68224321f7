//! Passes the stages of the change under way to its callers. A slow caller may miss stages, and never the last stage.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use paxos_common::paxos::{
    identity::AcceptorUuid,
    proposer::{ChangeRefusal, ChangeRequest, ChangeStage},
    quorum::Configuration,
};
use tokio::{
    sync::{oneshot, watch},
    task::AbortHandle,
    time::Instant,
};

/// The news of a change. A caller that is slow misses stages, and never the last.
#[derive(Clone, Debug)]
pub(crate) struct ChangeNews {
    pub(crate) stages: watch::Receiver<ChangeStage>,
    /// Bytes of snapshots taken by joiners.
    pub(crate) taken: Arc<AtomicU64>,
}

/// A caller's request for a change.
#[derive(Debug)]
pub(crate) struct AskedChange {
    pub(crate) request: ChangeRequest,
    /// Dropped without an answer when the driver ends.
    pub(crate) reply: oneshot::Sender<Result<ChangeNews, ChangeRefusal>>,
}

/// A change under way, as shown to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownChange {
    /// The configuration that the change makes.
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) stage: ChangeStage,
    pub(crate) taken: u64,
    /// The time of the request; `None` for a change found by the campaign of this proposer.
    pub(crate) begun: Option<Instant>,
}

/// The change under way.
#[derive(Debug)]
struct RunningChange {
    configuration: Arc<Configuration>,
    stages: watch::Sender<ChangeStage>,
    taken: Arc<AtomicU64>,
    begun: Instant,
}

/// The change under way, and the requests that the core has not seen yet.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    running: Option<RunningChange>,
    asked: Vec<AskedChange>,
    /// Uploads of snapshots, also for a change found by the campaign of this proposer: no caller asked this proposer for such a
    /// change.
    uploads: BTreeMap<AcceptorUuid, AbortHandle>,
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.end_uploads();
    }
}

/// Whether no further stage follows.
fn is_last(stage: &ChangeStage) -> bool {
    match stage {
        ChangeStage::Copying { .. } | ChangeStage::Deciding { .. } | ChangeStage::Switching(_) => false,
        ChangeStage::Done { .. } | ChangeStage::Refused(_) | ChangeStage::Unknown => true,
    }
}

impl Changes {
    pub(crate) fn ask(&mut self, asked: AskedChange) {
        self.asked.push(asked);
    }

    pub(crate) fn take_asked(&mut self) -> Vec<AskedChange> {
        std::mem::take(&mut self.asked)
    }

    /// The core has accepted a request. The news begin with `stage`, unless the change was under way before.
    pub(crate) fn accepted(&mut self, configuration: Arc<Configuration>, stage: ChangeStage) -> ChangeNews {
        let running = self.running.get_or_insert_with(|| RunningChange {
            configuration,
            stages: watch::Sender::new(stage),
            taken: Arc::default(),
            begun: Instant::now(),
        });
        ChangeNews {
            stages: running.stages.subscribe(),
            taken: Arc::clone(&running.taken),
        }
    }

    /// The core reports a stage of the change under way.
    pub(crate) fn reached(&mut self, stage: ChangeStage) {
        let ended = is_last(&stage);
        if let Some(running) = &self.running {
            running.stages.send_replace(stage);
        }
        if ended {
            self.running = None;
            self.end_uploads();
        }
    }

    /// Counts the bytes of uploads to joiners.
    pub(crate) fn taken(&self) -> Arc<AtomicU64> {
        let running = self.running.as_ref();
        running.map_or_else(Arc::default, |running| Arc::clone(&running.taken))
    }

    /// Notes the upload to a joiner: the end of a change ends all uploads. An earlier upload to the joiner ends.
    pub(crate) fn uploading(&mut self, joiner: AcceptorUuid, upload: AbortHandle) {
        if let Some(earlier) = self.uploads.insert(joiner, upload) {
            earlier.abort();
        }
    }

    fn end_uploads(&mut self) {
        std::mem::take(&mut self.uploads)
            .values()
            .for_each(AbortHandle::abort);
    }

    pub(crate) fn shown(&self) -> Option<ShownChange> {
        let running = self.running.as_ref()?;
        Some(ShownChange {
            configuration: Arc::clone(&running.configuration),
            stage: running.stages.borrow().clone(),
            taken: running.taken.load(Ordering::Relaxed),
            begun: Some(running.begun),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use paxos_common::paxos::era::Era;

    fn configuration() -> Arc<Configuration> {
        let members = [(AcceptorUuid::from_u128(1), "http://a:1".into())];
        Arc::new(Configuration::new(members, 1, 1).unwrap())
    }

    fn copying(slots: u64) -> ChangeStage {
        ChangeStage::Copying { slots, of: 9 }
    }

    #[tokio::test]
    async fn every_caller_hears_the_last_stage() {
        let mut changes = Changes::default();
        let mut first = changes.accepted(configuration(), copying(1));
        changes.reached(copying(2));
        let mut second = changes.accepted(configuration(), copying(1));
        assert_eq!(*second.stages.borrow(), copying(2), "under way before");
        assert_eq!(changes.shown().unwrap().stage, copying(2));
        changes.reached(ChangeStage::Switching(Era::FIRST.next()));
        let done = ChangeStage::Done {
            configuration: configuration(),
            waited: Duration::ZERO,
        };
        changes.reached(done.clone());
        assert_eq!(changes.shown(), None);
        for news in [&mut first, &mut second] {
            news.stages.changed().await.unwrap();
            assert_eq!(*news.stages.borrow_and_update(), done);
            assert!(news.stages.changed().await.is_err(), "no news follow");
        }
        // News of no change.
        changes.reached(ChangeStage::Unknown);
    }

    #[tokio::test]
    async fn uploads_end_with_the_change_or_with_the_driver() {
        let upload = || tokio::spawn(std::future::pending::<()>());
        let mut changes = Changes::default();
        let joiner = AcceptorUuid::from_u128(4);
        // For a change that the campaign has found: no caller has asked this proposer.
        let (found, first, second, last) = (upload(), upload(), upload(), upload());
        changes.uploading(joiner, found.abort_handle());
        tokio::task::yield_now().await;
        assert!(!found.is_finished());
        drop(changes.accepted(configuration(), copying(0)));
        changes.uploading(joiner, first.abort_handle());
        assert!(found.await.unwrap_err().is_cancelled());
        changes.uploading(joiner, second.abort_handle());
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(!second.is_finished());
        changes.reached(ChangeStage::Unknown);
        assert!(second.await.unwrap_err().is_cancelled());
        changes.uploading(joiner, last.abort_handle());
        drop(changes);
        assert!(last.await.unwrap_err().is_cancelled());
    }
}
