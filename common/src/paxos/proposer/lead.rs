//! Leading: proposes values in slot order, counts votes, and answers callers once every slot below is chosen too.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{Effect, Limits, ProposalOutcome, RequestId, Scan, Takeover, queue::CommandQueue};
use crate::paxos::{
    ballot::Ballot,
    identity::AcceptorUuid,
    message::{Accept, AcceptAnswer, UNANSWERED_MAX},
    quorum::{Electorate, Tally},
    slot::{Slot, SlotRange, Version},
    value::Value,
};

mod beats;
mod change;
mod fill;
mod refusals;
mod repair;
mod trimmed;
mod view;
pub use change::ChangeVotes;
use change::Ending;
use fill::Unproven;
use repair::Repair;
use view::AcceptorView;

/// A reign: leadership at a single ballot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lead {
    ballot: Ballot,
    address: Arc<str>,
    /// Slot of the first of `slots`. Slots below belong to repair.
    base: Slot,
    /// Proposed slots: chosen slots kept for lagging acceptors, then the window.
    slots: VecDeque<Proposed>,
    bytes: usize,
    bytes_in_flight: usize,
    /// Every slot below is chosen: at first as shown by the promises, from there on only as counted here.
    chosen_to: Slot,
    /// Values demanded by the promises, to be proposed next, before anything new.
    takeover: VecDeque<Value>,
    /// Values demanded by the promises at slots further on.
    far: BTreeMap<Slot, Value>,
    /// One past the highest slot voted on anywhere, as far as acceptors reported; votes too far ahead are excluded.
    voted_to: Slot,
    /// Slots filled although no acceptor is known to have voted there.
    unproven: Unproven,
    /// Unused slots below become no-ops.
    fill_to: Slot,
    views: BTreeMap<AcceptorUuid, AcceptorView>,
    /// Current repair of each acceptor.
    repairs: BTreeMap<AcceptorUuid, Repair>,
    /// Number of questions asked by repairs.
    asks: u64,
    /// Checks since the last questions for watermarks.
    checks: u8,
    /// Where the reign began.
    from: Slot,
    /// The change that ends the era, once proposed. Nothing is proposed above.
    ending: Option<Ending>,
    /// A change to propose next, once nothing is left to take over or to fill. A value demanded further on may be chosen, so
    /// the change waits until the log has reached it.
    next_change: Option<Value>,
    /// No new batches are proposed: the acceptors are to reach the leader's watermark.
    paused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Proposed {
    value: Value,
    votes: Tally,
    /// In the order of their offsets; empty once answered.
    requests: Vec<RequestId>,
}

/// Watermarks reported by an acceptor with its vote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// One past the highest slot accepted by the acceptor.
    pub(super) voted_to: Slot,
    /// The acceptor's own watermark.
    pub(super) chosen_to: Slot,
    /// Every slot below is chosen.
    pub(super) known_to: Slot,
}

impl Lead {
    pub(super) fn new(
        ballot: Ballot,
        address: Arc<str>,
        takeover: Takeover,
        followers: impl IntoIterator<Item = AcceptorUuid>,
    ) -> Self {
        let Takeover { from, values, far } = takeover;
        let view = AcceptorView {
            cursor: from,
            idle: true,
            ..AcceptorView::default()
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
            views: followers
                .into_iter()
                .map(|follower| (follower, view.clone()))
                .collect(),
            repairs: BTreeMap::new(),
            asks: 0,
            checks: 0,
            from,
            ending: None,
            next_change: None,
            paused: false,
        }
    }

    /// The ballot of this reign.
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// Every slot below is chosen.
    pub fn chosen_to(&self) -> Slot {
        self.chosen_to
    }

    /// Requests for the commands in a slot, in the order of offsets. Empty once answered, and for values of other
    /// proposers.
    pub fn requests(&self, slot: Slot) -> &[RequestId] {
        if slot < self.base || slot >= self.proposed_to() {
            return &[];
        }
        &self.slots[index(self.base, slot)].requests
    }

    /// Whether any acceptor is under repair.
    pub fn is_repairing(&self) -> bool {
        !self.repairs.is_empty()
    }

    /// The bytes of values sent in the present stretch of the repair of an acceptor; `None`: the acceptor is not under repair.
    pub(super) fn repair_bytes(&self, acceptor: AcceptorUuid) -> Option<u64> {
        Some(self.repairs.get(&acceptor)?.bytes)
    }

    /// One past the last slot proposed.
    pub fn proposed_to(&self) -> Slot {
        self.base.plus(self.slots.len() as u64)
    }

    /// Whether anything was chosen since the reign began.
    pub(super) fn has_chosen(&self) -> bool {
        self.chosen_to > self.from
    }

    /// Whether no slot is in flight and no taken-over value is owed. A change may be in flight: no caller waits for it, and
    /// any later leader carries it on.
    pub(super) fn is_drained(&self) -> bool {
        self.chosen_to == self.end_of_era().min(self.proposed_to()) && self.takeover.is_empty()
    }

    /// Proposes waiting values, within the limits: first values demanded by the promises, then requested no-ops, then
    /// batches of new commands.
    pub(super) fn fill_window(&mut self, electorate: &Electorate, queue: &mut CommandQueue, limits: &Limits) {
        while self.ending.is_none() {
            let in_flight = self.proposed_to().since(self.chosen_to);
            if in_flight >= limits.slots_in_flight_max || self.bytes_in_flight >= limits.bytes_in_flight_max {
                return;
            }
            if let Some(value) = self.takeover.pop_front() {
                self.propose(electorate, value, Vec::new());
            } else if let Some(value) = self.far.remove(&self.proposed_to()) {
                self.propose(electorate, value, Vec::new());
            } else if self.proposed_to() < self.fill_to {
                self.propose(electorate, Value::noop(), Vec::new());
            } else if self.far.is_empty()
                && let Some(change) = self.next_change.take()
            {
                self.propose(electorate, change, Vec::new());
            } else if !queue.is_empty() && !self.paused && in_flight < limits.batches_in_flight_max {
                let (value, requests) = queue.take_batch(limits);
                self.propose(electorate, value, requests);
            } else {
                return;
            }
        }
    }

    fn propose(&mut self, electorate: &Electorate, value: Value, requests: Vec<RequestId>) {
        self.look_for_change(electorate, &value);
        let bytes = value.as_bytes().len();
        self.bytes += bytes;
        self.bytes_in_flight += bytes;
        self.slots.push_back(Proposed {
            value,
            votes: Tally::default(),
            requests,
        });
    }

    /// Sends every acceptor all unsent proposals, as long as the acceptor answers.
    pub(super) fn send(
        &mut self,
        electorate: &Electorate,
        reachable: &BTreeSet<AcceptorUuid>,
        limits: &Limits,
        effects: &mut Vec<Effect>,
    ) {
        for acceptor in reachable {
            let takes = |lead: &Self| {
                let view = lead.views.get(acceptor);
                view.is_some_and(|view| {
                    let limit = match view.refusals.is_refusing() {
                        false => limits.unanswered_max.min(UNANSWERED_MAX - 1),
                        true => 1,
                    };
                    !view.no_space && !view.refusals.must_wait() && lead.outstanding(*acceptor) < limit
                })
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
        self.views
            .get(&acceptor)
            .map_or(u64::MAX, |view| view.unanswered.len() as u64)
    }

    /// The next proposals for an acceptor: slots turned away before, then unsent slots. Moves the cursor past the
    /// unsent slots.
    fn next_proposals(
        &mut self,
        electorate: &Electorate,
        acceptor: AcceptorUuid,
        limits: &Limits,
    ) -> Option<Vec<(Slot, Value)>> {
        let end = self.proposed_to();
        let view = self.views.get_mut(&acceptor)?;
        let is_refusing = view.refusals.is_refusing();
        // Slots no longer retained are left to repair. So are chosen slots while the acceptor refuses: one of them may be
        // the refused slot, and no chosen slot needs this vote.
        let from = if is_refusing { self.chosen_to } else { self.base };
        view.cursor = view.cursor.max(from);
        view.again = view.again.split_off(&from);
        let mut proposals = Vec::new();
        let mut bytes = 0;
        loop {
            let again = view.again.first().copied();
            let next = again.unwrap_or(view.cursor);
            if next >= end {
                break;
            }
            let proposed = &self.slots[index(self.base, next)];
            if !proposed.votes.contains(electorate, acceptor) {
                bytes += proposed.value.as_bytes().len();
                if (bytes > limits.message_bytes_max || is_refusing) && !proposals.is_empty() {
                    break;
                }
                proposals.push((next, proposed.value.clone()));
            }
            if again.is_some() {
                view.again.remove(&next);
            } else {
                view.cursor = view.cursor.next();
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
        let view = self.views.entry(acceptor).or_default();
        view.sent += 1;
        view.idle = false;
        let slots = SlotRange::collect(proposals.iter().map(|&(slot, _)| slot));
        view.unanswered.insert(view.sent, slots);
        debug_assert!(
            view.unanswered.len() as u64 <= UNANSWERED_MAX,
            "leader and acceptor share this limit"
        );
        Effect::Accept(
            acceptor,
            Accept {
                ballot: self.ballot,
                sequence: view.sent,
                chosen_to: self.chosen_to,
                proposals,
                address: Arc::clone(&self.address),
                resign,
            },
        )
    }

    /// An acceptor answered a message. With any answer, the message is no longer under way. Slots turned away are sent
    /// again once possible.
    pub(super) fn settled(&mut self, acceptor: AcceptorUuid, sequence: u64, answer: &AcceptAnswer) {
        let Some(view) = self.views.get_mut(&acceptor) else {
            return;
        };
        let slots = view.unanswered.remove(&sequence).unwrap_or_default();
        let refusals = match view.repairing.remove(&sequence) {
            false => &mut view.refusals,
            true => &mut view.repair_refusals,
        };
        let again_from = match answer {
            AcceptAnswer::Accepted { slots, .. } => {
                if !slots.is_empty() {
                    refusals.note_acceptance(sequence);
                }
                return;
            }
            AcceptAnswer::Rejected(_) => return,
            AcceptAnswer::Trimmed { trimmed_to } => *trimmed_to,
            AcceptAnswer::NoSpace => {
                view.no_space = true;
                Slot::ZERO
            }
            AcceptAnswer::Refused(_) => {
                refusals.note(view.sent);
                Slot::ZERO
            }
        };
        let turned_away = slots.iter().flat_map(|range| range.from.to(range.to));
        view.again
            .extend(turned_away.filter(|slot| *slot >= again_from && *slot < view.cursor));
        self.repair_closed(acceptor);
    }

    /// An acceptor reports whether the disk has space.
    pub(super) fn space(&mut self, acceptor: AcceptorUuid, has_space: bool) {
        if let Some(view) = self.views.get_mut(&acceptor) {
            view.no_space = !has_space;
        }
    }

    /// An acceptor was raised to our ballot.
    pub(super) fn climbed(&mut self, acceptor: AcceptorUuid) {
        if let Some(view) = self.views.get_mut(&acceptor) {
            view.forget_refusals();
        }
    }

    /// Counts an acceptor's votes. Answers callers once their slot and every slot below are chosen.
    pub(super) fn accepted(
        &mut self,
        electorate: &Electorate,
        acceptor: AcceptorUuid,
        slots: &[SlotRange],
        marks: Marks,
        effects: &mut Vec<Effect>,
    ) {
        let Some(view) = self.views.get_mut(&acceptor) else {
            return;
        };
        view.no_space = false;
        view.marked = true;
        view.chosen_to = Some(marks.chosen_to);
        view.known_to = marks.known_to;
        let end = self.proposed_to();
        for range in slots {
            for slot in range.from.max(self.base).to(range.to.min(end)) {
                self.slots[index(self.base, slot)].votes.add(electorate, acceptor);
            }
            if let Some(ending) = &mut self.ending {
                ending.count(acceptor, range);
            }
        }
        self.advance(electorate.quorums().phase2(), effects);
        self.repair_heard(acceptor, marks.chosen_to);
        if self.heard_voted(marks.voted_to) && marks.voted_to > self.demanded_to() {
            // A dead leader got such votes from a minority: their values cannot be chosen, but a reader may ask for the
            // slots.
            self.fill(marks.voted_to);
        }
    }

    fn advance(&mut self, phase2: usize, effects: &mut Vec<Effect>) {
        // No watermark of an era passes the change that ends the era.
        let end = self.proposed_to().min(self.end_of_era());
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
            effects.extend(answers.map(|(request, offset)| {
                Effect::Answer(request, ProposalOutcome::Chosen(Version { slot, offset }))
            }));
            self.chosen_to = self.chosen_to.next();
        }
    }

    /// Forgets chosen slots held by every acceptor, or exceeding the limits.
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

    /// The stream to an acceptor is open again: everything without a vote of the acceptor is sent again.
    pub(super) fn reopened(&mut self, acceptor: AcceptorUuid) {
        let base = self.base;
        if let Some(view) = self.views.get_mut(&acceptor) {
            view.unanswered.clear();
            view.repairing.clear();
            view.again.clear();
            view.cursor = base;
            view.no_space = false;
            view.forget_refusals();
            view.chosen_to = None;
        }
        // A restarted acceptor may read again what was unreadable before.
        for view in self.views.values_mut() {
            if let Some(hopeless) = &mut view.hopeless {
                hopeless.asked.remove(&acceptor);
            }
        }
        self.repair_closed(acceptor);
    }

    /// The stream to an acceptor broke. The watermark is requested again when the stream is back.
    pub(super) fn closed(&mut self, acceptor: AcceptorUuid) {
        if let Some(view) = self.views.get_mut(&acceptor) {
            view.chosen_to = None;
        }
        self.repair_closed(acceptor);
    }

    /// Requests with an outcome that this leader will not learn.
    pub(super) fn into_unanswered(self) -> impl Iterator<Item = RequestId> {
        self.slots.into_iter().flat_map(|proposed| proposed.requests)
    }
}

/// Position in `slots` of a slot at or above `base`. The slot is in memory, so the position fits.
fn index(base: Slot, slot: Slot) -> usize {
    usize::try_from(slot.since(base)).expect("a slot in memory has an index")
}
