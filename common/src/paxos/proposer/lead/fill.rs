//! Filling slots without proposals: choice of the slots, and number at a time.

use std::time::Duration;

use super::Lead;
use crate::paxos::{message::SLOTS_AHEAD_MAX, slot::Slot};

/// Most slots added by one request to fill (exclusive bound above the proposed slots). The rest is requested again.
const FILL_SLOTS_MAX: u64 = 1_024;

/// In this period, at most [`FILL_SLOTS_MAX`] slots wanted by readers are filled without a known vote of any acceptor.
/// Sessions expire after 1,048,576 slots, so made-up requests need three hours to expire sessions. A reader may have
/// seen a vote invisible to this leader, and needs no more slots: at most `slots_in_flight_max` were in flight.
const UNPROVEN_INTERVAL: Duration = Duration::from_secs(10);

/// Slots filled without a known vote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Unproven {
    /// When the current interval began; `None` before the first.
    since: Option<Duration>,
    /// Slots filled in the current interval.
    slots: u64,
}

impl Unproven {
    /// Number of slots still allowed now.
    fn left(&mut self, now: Duration) -> u64 {
        let is_over = |since| now.saturating_sub(since) >= UNPROVEN_INTERVAL;
        if self.since.is_none_or(is_over) {
            *self = Self {
                since: Some(now),
                slots: 0,
            };
        }
        FILL_SLOTS_MAX - self.slots
    }
}

impl Lead {
    /// Has slots up to `to` chosen, with no-ops in unused slots, a bounded number at a time. Safe without asking
    /// acceptors: every phase-2 quorum contains an acceptor that promised this ballot, reported no vote there, and no
    /// longer votes below this ballot.
    pub(super) fn fill(&mut self, to: Slot) {
        self.fill_to = self.fill_to.max(to.min(self.demanded_to().plus(FILL_SLOTS_MAX)));
    }

    /// A reader wants slots up to `to` chosen. Slots without a known vote of any acceptor are filled rarely: a request
    /// proves nothing.
    pub(in crate::paxos::proposer) fn fill_wanted(&mut self, to: Slot, now: Duration) {
        let proven = self.voted_to.max(self.demanded_to());
        if to <= proven {
            self.fill(to);
            return;
        }
        let left = self.unproven.left(now);
        let to = to.min(proven.plus(left));
        // Slots already filled for an earlier request count once.
        let before = self.fill_to.max(proven);
        self.fill(to);
        self.unproven.slots += self.fill_to.get().saturating_sub(before.get());
    }

    /// One past the last slot proposed or still to be taken over.
    pub(super) fn demanded_to(&self) -> Slot {
        self.proposed_to().plus(self.takeover.len() as u64)
    }

    /// An acceptor has voted below `voted_to`. No leader of this protocol leaves votes too far ahead: the slots between
    /// are not filled for such votes. `far` holds the values that may be chosen there, as reported by the promises.
    pub(in crate::paxos::proposer) fn heard_voted(&mut self, voted_to: Slot) -> bool {
        let is_near = voted_to <= self.demanded_to().plus(SLOTS_AHEAD_MAX);
        if is_near {
            self.voted_to = self.voted_to.max(voted_to);
        }
        is_near
    }
}
