//! The work of a start before the learner learns, for readers and operators.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

const MIB: u64 = 1024 * 1024;

/// The work of this learner's start, shared by all interested tasks; empty while there is no such work.
#[derive(Debug, Default)]
pub(crate) struct StartWork(Mutex<Option<StartStep>>);

/// A step of the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartStep {
    /// The files of an older release are rewritten: the size of the old file in bytes.
    Upgrades { bytes: u64 },
    /// The same, and the disk has too little space: the required free bytes.
    NeedsSpace { bytes: u64 },
    /// The state is read from the snapshot file: done, and in all, in bytes.
    Loads { read: u64, bytes: u64 },
    /// The log after the snapshot is applied again: done, and in all, in slots.
    Replays { done: u64, slots: u64 },
}

impl fmt::Display for StartStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Upgrades { bytes } => write!(
                formatter,
                "this learner upgrades its files to this release ({} MiB)",
                bytes.div_ceil(MIB)
            ),
            Self::NeedsSpace { bytes } => write!(
                formatter,
                "this learner must upgrade its files to this release, and needs {} MiB of free space on the disk: free \
                 some, or empty the data directory",
                bytes.div_ceil(MIB)
            ),
            Self::Loads { read, bytes } => write!(
                formatter,
                "this learner loads its state ({} of {} MiB)",
                read / MIB,
                bytes.div_ceil(MIB)
            ),
            Self::Replays { done, slots } => write!(
                formatter,
                "this learner applies its own log again ({done} of {slots} slots)"
            ),
        }
    }
}

impl StartWork {
    /// The step that runs now.
    pub(crate) fn does(&self, step: StartStep) {
        *self.lock() = Some(step);
    }

    /// The work is done.
    pub(crate) fn end(&self) {
        *self.lock() = None;
    }

    /// The running step, if any.
    pub(crate) fn look(&self) -> Option<StartStep> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<StartStep>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_what_the_learner_does() {
        let work = StartWork::default();
        let text = || work.look().map(|step| step.to_string());
        assert_eq!(text(), None);
        for (step, expected) in [
            (
                StartStep::Upgrades { bytes: (7 << 20) - 5 },
                "this learner upgrades its files to this release (7 MiB)",
            ),
            (
                StartStep::NeedsSpace { bytes: 7 << 20 },
                "this learner must upgrade its files to this release, and needs 7 MiB of free space on the disk: free \
                 some, or empty the data directory",
            ),
            (
                StartStep::Loads {
                    read: (120 << 20) + 9,
                    bytes: (340 << 20) - 5,
                },
                "this learner loads its state (120 of 340 MiB)",
            ),
            (
                StartStep::Replays { done: 12, slots: 34 },
                "this learner applies its own log again (12 of 34 slots)",
            ),
        ] {
            work.does(step);
            assert_eq!(text().unwrap(), expected);
        }
        work.end();
        assert_eq!(text(), None);
    }
}
