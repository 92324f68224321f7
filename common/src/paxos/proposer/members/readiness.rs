//! When joiners are close enough for a pause, when the new members are ready for the change, and how long commands waited.

use std::{sync::Arc, time::Duration};

use super::{ChangeStage, ChangeStep, MemberChange};
use crate::paxos::{identity::AcceptorUuid, proposer::Lead, slot::Slot};

/// Most slots that a joiner may lack when new batches are paused for it.
const NEAR_SLOTS: u64 = 1_024;

/// A joiner that lacks only the slots in flight and this many more is at the tip in a moment.
const HEEL_SLOTS: u64 = 16;

/// How long near joiners may stay too slow for the load before new batches are paused nevertheless.
const SLOW_MAX: Duration = Duration::from_secs(10);

impl MemberChange {
    /// Longest time that commands waited until `now`: during a pause, or from the last pause on.
    pub(super) fn waited(&self, now: Duration) -> Duration {
        let present = self.paused_at.map(|begun| now.saturating_sub(begun));
        self.longest_pause.max(present.unwrap_or_default())
    }

    /// The last news of this change, once its era orders values.
    pub(super) fn done(&self, now: Duration) -> ChangeStage {
        ChangeStage::Done {
            configuration: Arc::clone(&self.configuration),
            waited: self.waited(now),
        }
    }

    /// Whether no joiner lacks more than this many slots.
    fn lack_at_most(&self, lead: &Lead, most: u64) -> bool {
        let is_close = |joiner: &AcceptorUuid| {
            let own = lead.sound_to(*joiner);
            own.is_some_and(|own| lead.chosen_to().since(own) <= most)
        };
        self.joiners.iter().all(is_close)
    }

    /// Whether every joiner lacks few slots only.
    pub(super) fn is_near(&self, lead: &Lead) -> bool {
        self.lack_at_most(lead, NEAR_SLOTS)
    }

    /// Whether to pause: for joiners that will be at the tip soon, because commands wait meanwhile. The first pause waits for
    /// nothing else; after a pause, commands go on for a leader timeout. Joiners that are too slow for the load need a
    /// pause, too.
    pub(super) fn may_pause(&self, lead: &Lead, now: Duration, timeout: Duration) -> bool {
        let waited = now.saturating_sub(self.since);
        let in_flight = lead.proposed_to().since(lead.chosen_to());
        let is_soon = self.is_soon || self.lack_at_most(lead, in_flight + HEEL_SLOTS);
        self.step == ChangeStep::Copying
            && self.is_near(lead)
            && (is_soon && (self.pauses == 0 || waited >= timeout) || waited >= SLOW_MAX)
    }

    /// Once every leader timeout: compares the joiners with the last check.
    pub(super) fn measure(&mut self, lead: &Lead) {
        let tip = lead.chosen_to();
        self.is_soon = true;
        for &joiner in &self.joiners {
            let own = lead.sound_to(joiner).unwrap_or(Slot::ZERO).min(tip);
            let before = self.seen.insert(joiner, own);
            let gained = before.map_or(0, |before| own.get().saturating_sub(before.get()));
            self.is_soon &= 2 * tip.since(own) <= gained;
        }
    }

    /// Whether everything proposed is chosen, and a phase-2 quorum of the new members holds all of it.
    pub(super) fn is_at_tip(&self, lead: &Lead) -> bool {
        let tip = lead.chosen_to();
        lead.is_drained()
            && tip == lead.proposed_to()
            && lead.count_at(&self.electorate, tip) >= self.electorate.quorums().phase2()
    }

    pub(super) fn progress(&self, lead: &Lead) -> ChangeStage {
        let of = lead.chosen_to();
        let own = |joiner: &AcceptorUuid| lead.sound_to(*joiner).unwrap_or(Slot::ZERO).min(of);
        let slots = self.joiners.iter().map(own).min().unwrap_or(of);
        ChangeStage::Copying {
            slots: slots.get(),
            of: of.get(),
        }
    }
}
