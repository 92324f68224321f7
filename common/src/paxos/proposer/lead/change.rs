//! The change of members that ends an era, at its leader: the last value that the leader proposes.
//!
//! **A change is the last value of its era.** Nothing is proposed above the change, and the leader's watermark stops *at* the
//! change. So no watermark of an era passes the change of the era, and every later campaign of the era looks at its slot.
//!
//! **In force.** The leader of ballot b, whose change to C′ is in slot s, puts C′ in force when all three hold:
//!
//! 1. A phase-2 quorum of the leader's own configuration accepted the change at b: the old members chose it.
//! 2. A phase-2 quorum of C′ accepted the change at b.
//! 3. A phase-2 quorum of C′ has a watermark at or above s: rows, or a snapshot and rows, for every slot below.
//!
//! By 3, every phase-1 quorum of C′ finds each slot below s, ever after, whatever watermarks are lost. By 2, the same holds
//! for s. A leader that *found* a change carries it on by the same conditions.

use std::sync::Arc;

use super::{Lead, index};
use crate::paxos::{
    identity::AcceptorUuid,
    quorum::{Configuration, Electorate, Tally},
    slot::{Slot, SlotRange},
    value::Value,
};

/// The proposed change, and its votes among the new members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ending {
    slot: Slot,
    configuration: Arc<Configuration>,
    /// The new members.
    electorate: Electorate,
    /// New members that accepted the change at the leader's ballot.
    accepted: Tally,
    /// The proposer follows the new members.
    is_followed: bool,
}

impl Ending {
    /// Counts an acceptor that accepted the slots of `range` at the leader's ballot.
    pub(super) fn count(&mut self, acceptor: AcceptorUuid, range: &SlotRange) {
        if (range.from..range.to).contains(&self.slot) {
            self.accepted.add(&self.electorate, acceptor);
        }
    }
}

/// Number of new members with the change, and the number needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChangeVotes {
    /// New members that accepted the change.
    pub accepted: usize,
    /// A phase-2 quorum of the new members.
    pub needed: usize,
}

impl Lead {
    /// The change that ends the era, with its slot, once proposed.
    pub fn change(&self) -> Option<(Slot, &Arc<Configuration>)> {
        let ending = self.ending.as_ref()?;
        Some((ending.slot, &ending.configuration))
    }

    /// The watermark of this leader never passes this slot: the slot of the change.
    pub(super) fn end_of_era(&self) -> Slot {
        self.ending.as_ref().map_or(Slot::MAX, |ending| ending.slot)
    }

    /// Whether a change is proposed, or about to be proposed.
    pub(in crate::paxos::proposer) fn ends_era(&self) -> bool {
        self.ending.is_some() || self.next_change.is_some()
    }

    /// Proposes a change next, as the last value of the era. Values demanded by the promises come first.
    pub(in crate::paxos::proposer) fn end_era(&mut self, change: Value) {
        self.next_change = Some(change);
    }

    /// The last slot of a value that the promises demand further on, beyond slots that are not filled for it. No change is
    /// proposed below.
    pub(in crate::paxos::proposer) fn demanded_ahead(&self) -> Option<Slot> {
        self.far.keys().next_back().copied()
    }

    /// Proposes no new batches, or proposes them again.
    pub(in crate::paxos::proposer) fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Notes that the next proposed value ends the era. Everything demanded above was not chosen, and is dropped: only a change
    /// found by the campaign stands below demanded values.
    pub(super) fn look_for_change(&mut self, electorate: &Electorate, value: &Value) {
        let slot = self.proposed_to();
        let Some(configuration) = value.ends(electorate) else {
            return;
        };
        for &uuid in configuration.members().keys() {
            self.follow(uuid);
        }
        self.takeover.clear();
        self.far.clear();
        self.next_change = None;
        self.ending = Some(Ending {
            slot,
            electorate: configuration.electorate(),
            configuration: Arc::clone(configuration),
            accepted: Tally::default(),
            is_followed: false,
        });
    }

    /// The proposed change, once.
    pub(in crate::paxos::proposer) fn take_new_change(&mut self) -> Option<(Slot, Arc<Configuration>)> {
        let ending = self.ending.as_mut().filter(|ending| !ending.is_followed)?;
        ending.is_followed = true;
        Some((ending.slot, Arc::clone(&ending.configuration)))
    }

    /// Sends an acceptor everything from now on: a joiner.
    pub(in crate::paxos::proposer) fn follow(&mut self, acceptor: AcceptorUuid) {
        let base = self.base;
        let view = self.views.entry(acceptor).or_default();
        view.cursor = view.cursor.max(base);
    }

    /// The votes of the new members for the change.
    pub fn change_votes(&self) -> Option<ChangeVotes> {
        let ending = self.ending.as_ref()?;
        Some(ChangeVotes {
            accepted: ending.accepted.count(),
            needed: ending.electorate.quorums().phase2(),
        })
    }

    /// Whether the vote of an acceptor for the change was counted among the new members.
    pub(in crate::paxos::proposer) fn has_vote_for_change(&self, acceptor: AcceptorUuid) -> bool {
        let ending = self.ending.as_ref();
        ending.is_some_and(|ending| ending.accepted.contains(&ending.electorate, acceptor))
    }

    /// The configuration that this leader puts in force, once the three conditions hold.
    pub(in crate::paxos::proposer) fn in_force(
        &self,
        electorate: &Electorate,
    ) -> Option<&Arc<Configuration>> {
        let ending = self.ending.as_ref()?;
        let phase2 = ending.electorate.quorums().phase2();
        let by_old = self.slots[index(self.base, ending.slot)].votes.count();
        let is_chosen = by_old >= electorate.quorums().phase2() && ending.accepted.count() >= phase2;
        let holds = self.count_at(&ending.electorate, ending.slot) >= phase2;
        (is_chosen && holds).then_some(&ending.configuration)
    }

    /// Number of members of `electorate` with a sound watermark at or above `slot`, as last reported at this ballot.
    pub(in crate::paxos::proposer) fn count_at(&self, electorate: &Electorate, slot: Slot) -> usize {
        let members = electorate.members().iter();
        let is_at = |member: &&AcceptorUuid| self.sound_to(**member).is_some_and(|sound| sound >= slot);
        members.filter(is_at).count()
    }

    /// The sound watermark of a follower, as last reported at this ballot.
    pub(in crate::paxos::proposer) fn sound_to(&self, follower: AcceptorUuid) -> Option<Slot> {
        self.views.get(&follower)?.chosen_to
    }

    /// The acceptor whose snapshot a lagging follower needs: no other acceptor of `sources` has the follower's next row any
    /// more, or a scan has found no source for this row.
    pub(in crate::paxos::proposer) fn snapshot_source<'a>(
        &self,
        follower: AcceptorUuid,
        sources: impl Iterator<Item = &'a AcceptorUuid>,
    ) -> Option<AcceptorUuid> {
        let view = self.views.get(&follower)?;
        let own = view.chosen_to.filter(|&own| own < self.base)?;
        let bottom = |&source: &AcceptorUuid| {
            let view = self.views.get(&source)?;
            Some((view.trimmed_hint.max(view.trimmed_to), source))
        };
        let others = sources.filter(|source| **source != follower);
        let bottoms: Vec<_> = others.filter_map(bottom).collect();
        let is_hopeless = view
            .hopeless
            .as_ref()
            .is_some_and(|hopeless| hopeless.slot == own);
        let is_gone = is_hopeless || bottoms.iter().all(|&(bottom, _)| bottom > own);
        let highest = bottoms.into_iter().max();
        highest
            .filter(|&(bottom, _)| is_gone && bottom > own)
            .map(|(_, source)| source)
    }
}
