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
}

/// The change under way.
#[derive(Debug)]
struct RunningChange {
    configuration: Arc<Configuration>,
    stages: watch::Sender<ChangeStage>,
    taken: Arc<AtomicU64>,
    uploads: BTreeMap<AcceptorUuid, AbortHandle>,
}

impl Drop for RunningChange {
    fn drop(&mut self) {
        self.uploads.values().for_each(AbortHandle::abort);
    }
}

/// The change under way, and the requests that the core has not seen yet.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    running: Option<RunningChange>,
    asked: Vec<AskedChange>,
}

/// Whether no further stage follows.
fn is_last(stage: &ChangeStage) -> bool {
    match stage {
        ChangeStage::Copying { .. } | ChangeStage::Deciding { .. } | ChangeStage::Switching(_) => false,
        ChangeStage::Done(_) | ChangeStage::Refused(_) | ChangeStage::Unknown => true,
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
            uploads: BTreeMap::new(),
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
        }
    }

    /// Counts the bytes of uploads to joiners; none without a change.
    pub(crate) fn taken(&self) -> Option<Arc<AtomicU64>> {
        Some(Arc::clone(&self.running.as_ref()?.taken))
    }

    /// Notes the upload to a joiner: it ends with the change at the latest. An earlier upload to the joiner ends.
    pub(crate) fn uploading(&mut self, joiner: AcceptorUuid, upload: AbortHandle) {
        let Some(running) = &mut self.running else {
            return upload.abort();
        };
        if let Some(earlier) = running.uploads.insert(joiner, upload) {
            earlier.abort();
        }
    }

    pub(crate) fn shown(&self) -> Option<ShownChange> {
        let running = self.running.as_ref()?;
        Some(ShownChange {
            configuration: Arc::clone(&running.configuration),
            stage: running.stages.borrow().clone(),
            taken: running.taken.load(Ordering::Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
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
        let done = ChangeStage::Done(configuration());
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
    async fn uploads_end_with_the_change() {
        let upload = || tokio::spawn(std::future::pending::<()>());
        let mut changes = Changes::default();
        let joiner = AcceptorUuid::from_u128(4);
        let late = upload();
        changes.uploading(joiner, late.abort_handle());
        assert!(late.await.unwrap_err().is_cancelled(), "no change is under way");
        drop(changes.accepted(configuration(), copying(0)));
        let (first, second) = (upload(), upload());
        changes.uploading(joiner, first.abort_handle());
        changes.uploading(joiner, second.abort_handle());
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(!second.is_finished());
        changes.reached(ChangeStage::Unknown);
        assert!(second.await.unwrap_err().is_cancelled());
    }
}
