//! When a learner is cut off: acceptors have trimmed slots that the learner has not learned, so a snapshot alone proves
//! these slots. Decisions without a network or a clock.
//!
//! - *At start*: the position is below the logs of all acceptors that answer, a phase-1 quorum at least. The position is
//!   the first slot that the learner has not learned.
//! - *While the learner runs*: the position is below the log of any acceptor, and has not moved for a while. The
//!   learner may hold votes of this acceptor for slots that the acceptor has trimmed since, and other acceptors may have
//!   the rows. So a learner that moves is never cut off, and a learner that stands still is, even if another acceptor has
//!   the rows: these rows may never be proved, because too few acceptors have them. The time is shorter once too few
//!   acceptors can have the rows: then only the watermark of an acceptor with the rows can prove the rows, and a late
//!   acceptor may be without this watermark until a snapshot lifts the acceptor.
//!
//! A cut off learner installs the snapshot that ends lowest above its position. So each installation raises the position,
//! and a learner that installs again and again reaches the highest beginning of a log.
//!
//! A learner *gives up* an installation when learning is worth a try again. A learner that could not learn before does not
//! alternate for long: after each installation given up at a position, the learner may stand still there for twice the
//! time.
//!
//! The tests check exhaustively, in small clusters, that a learner always ends with every chosen slot or a snapshot beyond,
//! if the acceptors that answer still have the slots, provable or in a snapshot.

use std::time::{Duration, Instant};

use paxos_common::paxos::{quorum::Electorate, slot::Slot};

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

/// Why a learner is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CutOffCause {
    /// No acceptor with an answer has the next slots. Another acceptor may come back with these slots.
    NoAcceptorHas,
    /// The running learner could not learn the next slots, whether or not an acceptor has these slots.
    NotProved,
}

/// How long a learner tries useful snapshots without success, before the learner tries to learn from an acceptor with the
/// next slots again.
const ATTEMPTS_MAX: Duration = Duration::from_secs(60);

/// Whether the learner learns instead of waiting for a snapshot. An acceptor must have the next slots. If the running
/// learner could not learn these slots, a useful snapshot is preferred, but not without end: a reporting acceptor may be
/// gone, or may never give its snapshot.
///
/// `standing` rests on reports since the installation began: an older report may be of an acceptor that is gone.
pub(crate) fn is_given_up(
    cause: CutOffCause,
    standing: StartStanding,
    is_useful: bool,
    tried: Duration,
) -> bool {
    let is_served = matches!(standing, StartStanding::Served(_));
    is_served && (cause == CutOffCause::NoAcceptorHas || !is_useful || tried >= ATTEMPTS_MAX)
}

/// Highest factor of the patience at a position where installations were given up.
const PATIENCE_FACTOR_MAX: u32 = 8;

/// The installations given up at the latest position where the running learner could not learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct GivenUp {
    position: Slot,
    /// Factor of the patience at this position; 0 before the first installation.
    factor: u32,
}

impl GivenUp {
    /// The running learner is cut off at a position: an installation follows.
    #[must_use]
    pub(crate) fn cut_off_at(self, position: Slot) -> Self {
        let again = self.factor > 0 && self.position == position;
        let factor = if again { self.factor * 2 } else { 2 };
        Self {
            position,
            factor: factor.min(PATIENCE_FACTOR_MAX),
        }
    }

    /// Each installation raises the position: a learner at the same position has given the installation up.
    fn factor_at(self, position: Slot) -> u32 {
        if self.position == position {
            self.factor.max(1)
        } else {
            1
        }
    }
}

/// The acceptors that prove a slot by votes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotVoters {
    pub(crate) members: usize,
    /// Size of a quorum of votes.
    pub(crate) quorum: usize,
}

impl SlotVoters {
    pub(crate) fn of(electorate: &Electorate) -> Self {
        Self {
            members: electorate.members().len(),
            quorum: electorate.quorums().phase2(),
        }
    }

    /// Whether enough acceptors for a quorum may have a row of the slot. A trimmed row never comes back.
    fn may_prove(self, slot: Slot, reports: &[TrimReport]) -> bool {
        let without = reports.iter().filter(|report| report.trimmed_to > slot).count();
        self.members.saturating_sub(without) >= self.quorum
    }
}

/// The part of the patience that remains once votes alone cannot prove the next slot: 3 tenths, so that a value feed has
/// time for three acceptors.
const WITHOUT_VOTES: (u32, u32) = (3, 10);

/// Decides while the learner runs.
#[derive(Debug)]
pub(crate) struct Standstill {
    voters: SlotVoters,
    /// How long the position may stand still below the log of an acceptor.
    patience: Duration,
    given_up: GivenUp,
    /// The position below the log of an acceptor, and the time of the first look with this position.
    stands: Option<(Slot, Instant)>,
}

impl Standstill {
    pub(crate) fn new(patience: Duration, given_up: GivenUp, voters: SlotVoters) -> Self {
        Self {
            voters,
            patience,
            given_up,
            stands: None,
        }
    }

    /// Whether the learner is cut off; `reports` are recent. To be called about once a second.
    pub(crate) fn look(&mut self, position: Slot, reports: &[TrimReport], now: Instant) -> bool {
        if !reports.iter().any(|report| report.trimmed_to > position) {
            self.stands = None;
            return false;
        }
        let stands = self.stands.filter(|(slot, _)| *slot == position);
        let (_, since) = *self.stands.insert(stands.unwrap_or((position, now)));
        let mut patience = self.patience * self.given_up.factor_at(position);
        if !self.voters.may_prove(position, reports) {
            let (part, whole) = WITHOUT_VOTES;
            patience = patience * part / whole;
        }
        now.saturating_duration_since(since) >= patience
    }
}

#[cfg(test)]
mod tests;
