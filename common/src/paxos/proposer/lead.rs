//! Leading: proposing values in slot order, counting votes, and telling callers once everything below is chosen.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{Effect, Limits, Outcome, RequestId, Scan, Takeover, queue::Queue};
use crate::paxos::{
    ballot::Ballot,
    identity::AcceptorUuid,
    message::{Accept, AcceptAnswer, UNANSWERED_MAX},
    quorum::{Electorate, Tally},
    slot::{Slot, SlotRange, Version},
    value::Value,
};

mod fill;
mod repair;
use fill::Unproven;
use repair::Repair;

/// A reign.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lead {
    ballot: Ballot,
    address: Arc<str>,
    /// Slot of the first of `slots`: what is below it is for repair.
    base: Slot,
    /// What was proposed: chosen slots kept for acceptors that lag, then the window.
    slots: VecDeque<Proposed>,
    bytes: usize,
    bytes_in_flight: usize,
    /// Every slot below it is chosen: at first what the promises showed, from there on only what was counted here.
    chosen_to: Slot,
    /// What the promises demand to be proposed next, before anything new.
    takeover: VecDeque<Value>,
    /// What they demand further on.
    far: BTreeMap<Slot, Value>,
    /// One past the highest slot voted on anywhere, as far as acceptors told, without those that are too far ahead.
    voted_to: Slot,
    /// Slots that were filled though no acceptor is known to have voted on them.
    unproven: Unproven,
    /// Slots below it that nobody uses become no-ops.
    fill_to: Slot,
    followers: BTreeMap<AcceptorUuid, Follower>,
    /// What each acceptor is being brought.
    repairs: BTreeMap<AcceptorUuid, Repair>,
    /// How many questions repairs have asked.
    asks: u64,
    /// Where it began.
    from: Slot,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Proposed {
    value: Value,
    votes: Tally,
    /// In the order of their offsets; empty once they are answered.
    requests: Vec<RequestId>,
}

/// An acceptor, as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Follower {
    /// Its own watermark, as it last told; it may go back when it restarts.
    chosen_to: Option<Slot>,
    /// Every slot below it is chosen, as it last told. Where it is above `chosen_to`, the row at `chosen_to` is damaged.
    known_to: Slot,
    /// It is being repaired up to here.
    repair_to: Slot,
    /// Reading chosen rows for it came to nothing: all are asked next.
    fetch_failed: bool,
    /// The first slot that it needs and that nothing could be found out about: asked for alone.
    doubtful: Option<Slot>,
    /// The first slot not sent yet.
    cursor: Slot,
    /// The number of the last message.
    sent: u64,
    /// Messages that it has not answered, by their numbers, with the slots that they propose.
    unanswered: BTreeMap<u64, Vec<SlotRange>>,
    /// Slots that it turned away: they are sent again once it can take them.
    again: BTreeSet<Slot>,
    /// Nothing was sent to it since the last heartbeat.
    idle: bool,
    /// Its watermark was not asked for since the last check: it goes back when a row is found damaged.
    unasked: bool,
    /// Its disk has no space: it is sent no proposals until there is space again.
    no_space: bool,
    /// It refused: it is sent nothing again until it was led up to our ballot, or the next check.
    refused: bool,
    /// Its watermark at the last check, if that was short of the leader's.
    behind: Option<Slot>,
    /// It was the same at the check before, and was told again since: it does not come of itself. Of an acceptor that does
    /// not answer nothing is known, and nobody is asked on its behalf.
    stuck: bool,
    /// It told its watermark since the last check.
    marked: bool,
}

/// The watermarks that an acceptor tells with its vote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// One past the highest slot accepted there.
    pub(super) voted_to: Slot,
    /// The acceptor's own watermark.
    pub(super) chosen_to: Slot,
    /// Every slot below it is chosen.
    pub(super) known_to: Slot,
}

impl Lead {
    pub(super) fn new(
        ballot: Ballot,
        address: Arc<str>,
        takeover: Takeover,
        members: &[AcceptorUuid],
    ) -> Self {
        let Takeover { from, values, far } = takeover;
        let follower = Follower {
            cursor: from,
            idle: true,
            ..Follower::default()
        };
        Self {
            ballot,
            address,
            base: from,
            slots: VecDeque::new(),
            bytes: 0,
            bytes_in_flight: 0,
            chosen_to: from,
            takeover: values.into(),
            far,
            voted_to: from,
            unproven: Unproven::default(),
            fill_to: from,
            followers: members.iter().map(|&member| (member, follower.clone())).collect(),
            repairs: BTreeMap::new(),
            asks: 0,
            from,
        }
    }

    /// The ballot of this reign.
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// Every slot below it is chosen.
    pub fn chosen_to(&self) -> Slot {
        self.chosen_to
    }

    /// The requests whose commands were put into a slot, in the order of their offsets; none once they are answered, nor
    /// for what others proposed.
    pub fn requests(&self, slot: Slot) -> &[RequestId] {
        if slot < self.base || slot >= self.proposed_to() {
            return &[];
        }
        &self.slots[index(self.base, slot)].requests
    }

    /// Whether acceptors are brought what they miss.
    pub fn is_repairing(&self) -> bool {
        !self.repairs.is_empty()
    }

    /// One past the last slot proposed.
    pub fn proposed_to(&self) -> Slot {
        self.base.plus(self.slots.len() as u64)
    }

    /// Whether anything was chosen since it began.
    pub(super) fn has_chosen(&self) -> bool {
        self.chosen_to > self.from
    }

    /// Whether nothing is in flight or owed.
    pub(super) fn is_drained(&self) -> bool {
        self.chosen_to == self.proposed_to() && self.takeover.is_empty()
    }

    /// Proposes what waits, within the limits: first what the promises demand, then no-ops asked for, then batches
    /// of new commands.
    pub(super) fn fill_window(&mut self, queue: &mut Queue, limits: &Limits) {
        loop {
            let in_flight = self.proposed_to().since(self.chosen_to);
            if in_flight >= limits.slots_in_flight_max || self.bytes_in_flight >= limits.bytes_in_flight_max {
                return;
            }
            if let Some(value) = self.takeover.pop_front() {
                self.propose(value, Vec::new());
            } else if let Some(value) = self.far.remove(&self.proposed_to()) {
                self.propose(value, Vec::new());
            } else if self.proposed_to() < self.fill_to {
                self.propose(Value::noop(), Vec::new());
            } else if !queue.is_empty() && in_flight < limits.batches_in_flight_max {
                let (value, requests) = queue.take_batch(limits);
                self.propose(value, requests);
            } else {
                return;
            }
        }
    }

    fn propose(&mut self, value: Value, requests: Vec<RequestId>) {
        let bytes = value.as_bytes().len();
        self.bytes += bytes;
        self.bytes_in_flight += bytes;
        self.slots.push_back(Proposed {
            value,
            votes: Tally::default(),
            requests,
        });
    }

    /// Sends every acceptor what it has not been sent, as long as it answers.
    pub(super) fn send(
        &mut self,
        electorate: &Electorate,
        reachable: &BTreeSet<AcceptorUuid>,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        for acceptor in reachable {
            let takes = |lead: &Self| {
                let follower = lead.followers.get(acceptor);
                follower.is_some_and(|follower| !follower.no_space && !follower.refused)
                    && lead.outstanding(*acceptor) < limits.unanswered_max.min(UNANSWERED_MAX - 1)
            };
            while takes(self) {
                let Some(proposals) = self.next_proposals(electorate, *acceptor, limits) else {
                    break;
                };
                effects.push(self.accept(*acceptor, proposals, false));
            }
        }
    }

    fn outstanding(&self, acceptor: AcceptorUuid) -> u64 {
        self.followers
            .get(&acceptor)
            .map_or(u64::MAX, |follower| follower.unanswered.len() as u64)
    }

    /// What to send next to an acceptor: what it turned away, and then what was not sent yet; the cursor moves past that.
    fn next_proposals(
        &mut self,
        electorate: &Electorate,
        acceptor: AcceptorUuid,
        limits: &Limits,
    ) -> Option<Vec<(Slot, Value)>> {
        let end = self.proposed_to();
        let follower = self.followers.get_mut(&acceptor)?;
        // What is retained no more is for repair.
        follower.cursor = follower.cursor.max(self.base);
        follower.again = follower.again.split_off(&self.base);
        let mut proposals = Vec::new();
        let mut bytes = 0;
        loop {
            let again = follower.again.first().copied();
            let next = again.unwrap_or(follower.cursor);
            if next >= end {
                break;
            }
            let proposed = &self.slots[index(self.base, next)];
            if !proposed.votes.contains(electorate, acceptor) {
                bytes += proposed.value.as_bytes().len();
                if bytes > limits.message_bytes_max && !proposals.is_empty() {
                    break;
                }
                proposals.push((next, proposed.value.clone()));
            }
            if again.is_some() {
                follower.again.remove(&next);
            } else {
                follower.cursor = follower.cursor.next();
            }
        }
        (!proposals.is_empty()).then_some(proposals)
    }

    pub(super) fn accept(
        &mut self,
        acceptor: AcceptorUuid,
        proposals: Vec<(Slot, Value)>,
        resign: bool,
    ) -> Effect {
        let follower = self.followers.entry(acceptor).or_default();
        follower.sent += 1;
        follower.idle = false;
        let slots = SlotRange::collect(proposals.iter().map(|&(slot, _)| slot));
        follower.unanswered.insert(follower.sent, slots);
        debug_assert!(
            follower.unanswered.len() as u64 <= UNANSWERED_MAX,
            "a bound of both sides"
        );
        Effect::Accept(
            acceptor,
            Accept {
                ballot: self.ballot,
                sequence: follower.sent,
                chosen_to: self.chosen_to,
                proposals,
                address: Arc::clone(&self.address),
                resign,
            },
        )
    }

    /// An acceptor has answered a message: whatever it says, the message is under way no more. What it turned away is
    /// sent again once it can be.
    pub(super) fn settled(&mut self, acceptor: AcceptorUuid, sequence: u64, answer: &AcceptAnswer) {
        let Some(follower) = self.followers.get_mut(&acceptor) else {
            return;
        };
        let slots = follower.unanswered.remove(&sequence).unwrap_or_default();
        let again_from = match answer {
            AcceptAnswer::Accepted { .. } | AcceptAnswer::Rejected(_) => return,
            AcceptAnswer::Trimmed { trimmed_to } => *trimmed_to,
            AcceptAnswer::NoSpace => {
                follower.no_space = true;
                Slot::ZERO
            }
            AcceptAnswer::Refused(_) => {
                follower.refused = true;
                Slot::ZERO
            }
        };
        let turned_away = slots.iter().flat_map(|range| range.from.to(range.to));
        follower
            .again
            .extend(turned_away.filter(|slot| *slot >= again_from && *slot < follower.cursor));
        self.repair_closed(acceptor);
    }

    /// An acceptor says whether there is space on its disk.
    pub(super) fn space(&mut self, acceptor: AcceptorUuid, has_space: bool) {
        if let Some(follower) = self.followers.get_mut(&acceptor) {
            follower.no_space = !has_space;
        }
    }

    /// An acceptor was led up to our ballot.
    pub(super) fn climbed(&mut self, acceptor: AcceptorUuid) {
        if let Some(follower) = self.followers.get_mut(&acceptor) {
            follower.refused = false;
        }
    }

    /// Counts an acceptor's votes, and answers the callers whose slots are chosen with everything below them.
    pub(super) fn accepted(
        &mut self,
        electorate: &Electorate,
        acceptor: AcceptorUuid,
        slots: &[SlotRange],
        marks: Marks,
        effects: &mut Vec<Effect>,
    ) {
        let Some(follower) = self.followers.get_mut(&acceptor) else {
            return;
        };
        follower.no_space = false;
        follower.refused = false;
        follower.marked = true;
        follower.chosen_to = Some(marks.chosen_to);
        follower.known_to = marks.known_to;
        let end = self.proposed_to();
        for range in slots {
            for slot in range.from.max(self.base).to(range.to.min(end)) {
                self.slots[index(self.base, slot)].votes.add(electorate, acceptor);
            }
        }
        self.advance(electorate.quorums().phase2(), effects);
        self.repair_heard(acceptor, marks.chosen_to);
        if self.heard_voted(marks.voted_to) && marks.voted_to > self.demanded_to() {
            // A vote that a dead leader got from a minority: nothing of it can be chosen, and a reader may ask.
            self.fill(marks.voted_to);
        }
    }

    fn advance(&mut self, phase2: usize, effects: &mut Vec<Effect>) {
        let end = self.proposed_to();
        while self.chosen_to < end {
            let proposed = &mut self.slots[index(self.base, self.chosen_to)];
            if proposed.votes.count() < phase2 {
                break;
            }
            self.bytes_in_flight -= proposed.value.as_bytes().len();
            let slot = self.chosen_to;
            let answers = std::mem::take(&mut proposed.requests)
                .into_iter()
                .zip(0..=u16::MAX);
            effects.extend(
                answers.map(|(request, offset)| {
                    Effect::Answer(request, Outcome::Chosen(Version { slot, offset }))
                }),
            );
            self.chosen_to = self.chosen_to.next();
        }
    }

    /// Forgets chosen slots that every acceptor has, or that are too many to keep.
    pub(super) fn retire(&mut self, electorate: &Electorate, limits: &Limits) {
        while self.base < self.chosen_to {
            let Some(first) = self.slots.front() else { break };
            let crowded =
                self.slots.len() > limits.retained_slots_max || self.bytes > limits.retained_bytes_max;
            if first.votes.count() < electorate.members().len() && !crowded {
                break;
            }
            self.bytes -= first.value.as_bytes().len();
            self.slots.pop_front();
            self.base = self.base.next();
        }
    }

    /// The stream to an acceptor is open again: everything it did not vote for is sent again.
    pub(super) fn reopened(&mut self, acceptor: AcceptorUuid) {
        let base = self.base;
        if let Some(follower) = self.followers.get_mut(&acceptor) {
            follower.unanswered.clear();
            follower.again.clear();
            follower.cursor = base;
            follower.no_space = false;
            follower.refused = false;
            follower.chosen_to = None;
        }
        self.repair_closed(acceptor);
    }

    /// The stream to an acceptor broke. What it knows is asked again when it is back.
    pub(super) fn closed(&mut self, acceptor: AcceptorUuid) {
        if let Some(follower) = self.followers.get_mut(&acceptor) {
            follower.chosen_to = None;
        }
        self.repair_closed(acceptor);
    }

    /// Says to acceptors that were sent nothing lately who leads and what is chosen, however much they have not answered.
    /// One that has answered everything is asked for its watermark instead, if that is not known to be up to ours, and
    /// once after each check: a heartbeat gets no answer.
    pub(super) fn heartbeat(&mut self, reachable: &BTreeSet<AcceptorUuid>, effects: &mut Vec<Effect>) {
        let chosen_to = self.chosen_to;
        for &acceptor in reachable {
            let Some(follower) = self.followers.get_mut(&acceptor) else {
                continue;
            };
            let is_behind = follower.chosen_to.is_none_or(|own| own < chosen_to);
            let is_asked = is_behind || follower.no_space || follower.unasked;
            if follower.idle && is_asked && follower.unanswered.is_empty() {
                follower.unasked = false;
                effects.push(self.accept(acceptor, Vec::new(), false));
            } else if follower.idle {
                let beat = Accept {
                    ballot: self.ballot,
                    sequence: 0,
                    chosen_to,
                    proposals: Vec::new(),
                    address: Arc::clone(&self.address),
                    resign: false,
                };
                effects.push(Effect::Accept(acceptor, beat));
            }
            if let Some(follower) = self.followers.get_mut(&acceptor) {
                follower.idle = true;
            }
        }
    }

    /// Once every leader timeout: gives up repairs that stand still, and finds out who lags.
    pub(super) fn check(&mut self) {
        for follower in self.followers.values_mut() {
            follower.refused = false;
            follower.unasked = true;
            let behind = follower.chosen_to.filter(|&own| own < self.chosen_to);
            follower.stuck = follower.marked && behind.is_some() && behind == follower.behind;
            follower.marked = false;
            follower.behind = behind;
        }
        self.check_repair();
    }

    pub(super) fn say_resigned(&mut self, reachable: &BTreeSet<AcceptorUuid>, effects: &mut Vec<Effect>) {
        for &acceptor in reachable {
            effects.push(self.accept(acceptor, Vec::new(), true));
        }
    }

    /// The requests whose outcome this leader will not learn.
    pub(super) fn into_unanswered(self) -> impl Iterator<Item = RequestId> {
        self.slots.into_iter().flat_map(|proposed| proposed.requests)
    }
}

/// Position in `slots` of a slot at or above `base`, which is in memory and so fits.
fn index(base: Slot, slot: Slot) -> usize {
    usize::try_from(slot.since(base)).expect("a slot in memory has an index")
}
