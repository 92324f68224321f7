//! When a learner is cut off: acceptors have trimmed slots that the learner has not learned, so a snapshot alone proves
//! these slots. Decisions without a network or a clock.
//!
//! - *At start*: the position is below the logs of all acceptors that answer, a phase-1 quorum at least. The position is
//!   the first slot that the learner has not learned.
//! - *While the learner runs*: the position is below the log of any acceptor, and has not moved for a while. The
//!   learner may hold votes of this acceptor for slots that the acceptor has trimmed since, and other acceptors may have
//!   the rows. So a learner that moves is never cut off, and a learner that stands still is, even if another acceptor has
//!   the rows: these rows may never be proved, because too few acceptors have them.
//!
//! A cut off learner installs the snapshot that ends lowest above its position. So each installation raises the position,
//! and a learner that installs again and again reaches the highest beginning of a log.

use std::time::{Duration, Instant};

use paxos_common::paxos::slot::Slot;

use crate::trims::TrimReport;

/// The standing of a learner at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartStanding {
    /// An acceptor has every slot from the position on.
    Served(TrimReport),
    /// Only a snapshot proves the next slots.
    CutOff,
    /// Too few acceptors have answered.
    Unknown,
}

/// Decides at start; `quorum` acceptors have to report.
pub(crate) fn at_start(position: Slot, quorum: usize, reports: &[TrimReport]) -> StartStanding {
    let serves = |report: &&TrimReport| report.trimmed_to <= position;
    match reports.iter().find(serves) {
        Some(&report) => StartStanding::Served(report),
        None if reports.len() >= quorum => StartStanding::CutOff,
        None => StartStanding::Unknown,
    }
}

/// The acceptors with a useful snapshot, the best first: the lowest end above the position.
pub(crate) fn sources(position: Slot, mut reports: Vec<TrimReport>) -> Vec<TrimReport> {
    reports.retain(|report| report.trimmed_to > position);
    reports.sort_by_key(|report| report.trimmed_to);
    reports
}

/// Decides while the learner runs.
#[derive(Debug)]
pub(crate) struct Standstill {
    /// How long the position may stand still below the log of an acceptor.
    patience: Duration,
    /// The position below the log of an acceptor, and the time of the first look with this position.
    stands: Option<(Slot, Instant)>,
}

impl Standstill {
    pub(crate) fn new(patience: Duration) -> Self {
        let stands = None;
        Self { patience, stands }
    }

    /// Whether the learner is cut off; `reports` are recent. To be called about once a second.
    pub(crate) fn look(&mut self, position: Slot, reports: &[TrimReport], now: Instant) -> bool {
        if !reports.iter().any(|report| report.trimmed_to > position) {
            self.stands = None;
            return false;
        }
        let stands = self.stands.filter(|(slot, _)| *slot == position);
        let (_, since) = *self.stands.insert(stands.unwrap_or((position, now)));
        now.saturating_duration_since(since) >= self.patience
    }
}

#[cfg(test)]
mod tests;
