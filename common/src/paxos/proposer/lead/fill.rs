//! Filling slots that nobody proposes anything for: which, and how many at a time.

use std::time::Duration;

use super::Lead;
use crate::paxos::{message::SLOTS_AHEAD_MAX, slot::Slot};

/// Most slots that one request to fill adds (exclusive bound above what is proposed): the rest is asked for again.
const FILL_SLOTS_MAX: u64 = 1_024;

/// In this time at most [`FILL_SLOTS_MAX`] slots are filled that readers want and where no acceptor is known to have voted.
/// Sessions expire after 1,048,576 slots, so made-up requests need three hours for that. A reader that saw a vote which this
/// leader cannot see needs no more slots: at most `slots_in_flight_max` were in flight.
const UNPROVEN_INTERVAL: Duration = Duration::from_secs(10);

/// Slots that were filled without a known vote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Unproven {
    /// When the present interval began; `None` before the first.
    since: Option<Duration>,
    /// How many were filled in it.
    slots: u64,
}

impl Unproven {
    /// How many more may be filled now.
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
    /// Has slots up to `to` chosen, with no-ops where nobody proposes, a bounded number at a time. Safe without
    /// asking: every phase-2 quorum contains an acceptor that promised this ballot, reported no vote there, and
    /// votes below it no more.
    pub(super) fn fill(&mut self, to: Slot) {
        self.fill_to = self.fill_to.max(to.min(self.demanded_to().plus(FILL_SLOTS_MAX)));
    }

    /// A reader wants slots up to `to` chosen. Those that no acceptor is known to have voted on are filled seldom: a request
    /// proves nothing.
    pub(in crate::paxos::proposer) fn fill_wanted(&mut self, to: Slot, now: Duration) {
        let proven = self.voted_to.max(self.demanded_to());
        if to <= proven {
            self.fill(to);
            return;
        }
        let left = self.unproven.left(now);
        let to = to.min(proven.plus(left));
        // What an earlier request filled already counts once.
        let before = self.fill_to.max(proven);
        self.fill(to);
        self.unproven.slots += self.fill_to.get().saturating_sub(before.get());
    }

    /// One past the last slot that is proposed or must be.
    pub(super) fn demanded_to(&self) -> Slot {
        self.proposed_to().plus(self.takeover.len() as u64)
    }

    /// An acceptor has voted below `voted_to`. Votes too far ahead are no leader's of this protocol: the slots between are
    /// not filled for them, and what may be chosen there is kept from the promises.
    pub(in crate::paxos::proposer) fn heard_voted(&mut self, voted_to: Slot) -> bool {
        let is_near = voted_to <= self.demanded_to().plus(SLOTS_AHEAD_MAX);
        if is_near {
            self.voted_to = self.voted_to.max(voted_to);
        }
        is_near
    }
}
