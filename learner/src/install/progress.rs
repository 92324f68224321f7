//! The progress of an installation, for readers and operators.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use paxos_common::paxos::slot::Slot;

/// The progress of this learner's installation, shared by all interested tasks; empty while the learner installs nothing.
#[derive(Debug, Default)]
pub(crate) struct InstallProgress(Mutex<Option<InstallState>>);

/// A running installation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InstallState {
    /// The end of the snapshot; 0 while no snapshot arrives.
    pub(crate) to: Slot,
    /// Number of received bytes.
    pub(crate) received: u64,
    /// Size of the snapshot in bytes; 0 while no snapshot arrives.
    pub(crate) bytes: u64,
    /// Why the latest attempt failed; empty before the first failure.
    pub(crate) hindrance: String,
}

impl fmt::Display for InstallState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1024 * 1024;
        if self.bytes > 0 {
            let (received, bytes) = (self.received / MIB, self.bytes.div_ceil(MIB));
            return write!(
                formatter,
                "this learner installs a snapshot ({received} of {bytes} MiB)"
            );
        }
        write!(formatter, "this learner must install a snapshot")?;
        if !self.hindrance.is_empty() {
            write!(formatter, ", and the last attempt failed: {}", self.hindrance)?;
        }
        Ok(())
    }
}

impl InstallProgress {
    /// The learner needs a snapshot.
    pub(crate) fn begin(&self) {
        *self.lock() = Some(InstallState::default());
    }

    /// A snapshot with this end and size arrives.
    pub(crate) fn arrives(&self, to: Slot, bytes: u64) {
        self.change(|state| {
            let received = 0;
            (state.to, state.received, state.bytes) = (to, received, bytes);
        });
    }

    /// This many bytes of the snapshot have arrived in all.
    pub(crate) fn received(&self, bytes: u64) {
        self.change(|state| state.received = bytes);
    }

    /// The attempt failed. Returns whether the reason differs from the reason before.
    pub(crate) fn failed(&self, reason: &str) -> bool {
        let mut is_news = false;
        self.change(|state| {
            is_news = state.hindrance != reason;
            *state = InstallState {
                hindrance: reason.to_owned(),
                ..InstallState::default()
            };
        });
        is_news
    }

    /// The learner serves its state again.
    pub(crate) fn end(&self) {
        *self.lock() = None;
    }

    /// The running installation.
    pub(crate) fn look(&self) -> Option<InstallState> {
        self.lock().clone()
    }

    fn change(&self, change: impl FnOnce(&mut InstallState)) {
        if let Some(state) = &mut *self.lock() {
            change(state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<InstallState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_how_far_the_installation_is() {
        let progress = InstallProgress::default();
        let text = || progress.look().map(|state| state.to_string());
        assert_eq!(text(), None);
        progress.received(7);
        assert_eq!(text(), None);
        progress.begin();
        assert_eq!(text().unwrap(), "this learner must install a snapshot");
        progress.arrives(Slot::new(7).unwrap(), (340 << 20) - 5);
        progress.received(120 << 20);
        assert_eq!(
            text().unwrap(),
            "this learner installs a snapshot (120 of 340 MiB)"
        );
        assert!(progress.failed("the disk is full"));
        assert!(!progress.failed("the disk is full"));
        assert_eq!(
            text().unwrap(),
            "this learner must install a snapshot, and the last attempt failed: the disk is full"
        );
        progress.end();
        assert_eq!(text(), None);
    }
}
