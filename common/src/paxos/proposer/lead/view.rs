//! An acceptor as its leader sees it: watermarks, unanswered messages, and the slots to send next.

use std::collections::{BTreeMap, BTreeSet};

use super::refusals::MessageRefusals;
use crate::paxos::{
    identity::AcceptorUuid,
    slot::{Slot, SlotRange},
};

/// A slot without a source: trimmed on some acceptors, without a row or unreadable on others. Only a snapshot brings the
/// acceptor further.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Hopeless {
    pub(super) slot: Slot,
    /// The acceptors whose reports on the slot are in. A trimmed row never comes back, so only another acceptor can
    /// hold the value.
    pub(super) asked: BTreeSet<AcceptorUuid>,
}

/// An acceptor, as seen by the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct AcceptorView {
    /// The acceptor's own watermark, as last reported; may go back when the acceptor restarts.
    pub(super) chosen_to: Option<Slot>,
    /// Every slot below is chosen, as last reported. If above `chosen_to`, the row at `chosen_to` is damaged.
    pub(super) known_to: Slot,
    /// Slots below are trimmed, proved by an answer at the leader's own ballot: counted as votes, and never sent.
    pub(super) trimmed_to: Slot,
    /// Slots below `trimmed_to` and below this slot are counted.
    pub(super) counted_to: Slot,
    /// Slots below are trimmed, as last reported outside the leader's ballot: no vote, and no source of rows.
    pub(super) trimmed_hint: Slot,
    /// A repair from this slot is impossible without further acceptors.
    pub(super) hopeless: Option<Hopeless>,
    /// Exclusive end of the last begun repair.
    pub(super) repair_to: Slot,
    /// Reading chosen rows for this acceptor failed: next, all acceptors are asked.
    pub(super) fetch_failed: bool,
    /// The first needed slot without a conclusive report: the next scan is for this slot alone.
    pub(super) doubtful: Option<Slot>,
    /// The first slot not sent yet.
    pub(super) cursor: Slot,
    /// The number of the last message.
    pub(super) sent: u64,
    /// Unanswered messages by number, with the proposed slots.
    pub(super) unanswered: BTreeMap<u64, Vec<SlotRange>>,
    /// Slots turned away by the acceptor: sent again once the acceptor can take them.
    pub(super) again: BTreeSet<Slot>,
    /// Nothing was sent since the last heartbeat.
    pub(super) idle: bool,
    /// The next heartbeat asks for the watermark: a watermark goes back when a row is found damaged.
    pub(super) unasked: bool,
    /// The disk has no space: no proposals are sent until there is space again.
    pub(super) no_space: bool,
    /// Refusals of proposed values. After a refusal, a single message with a single slot shows whether the acceptor takes
    /// values again. Slots chosen meanwhile are left to repair.
    pub(super) refusals: MessageRefusals,
    /// Refusals of repairs: they delay no proposal.
    pub(super) repair_refusals: MessageRefusals,
    /// The numbers of unanswered messages of a repair.
    pub(super) repairing: BTreeSet<u64>,
    /// The watermark at the last check, if below the leader's.
    pub(super) behind: Option<Slot>,
    /// The watermark was the same at the check before, and was reported again since: no advance without repair. About
    /// an acceptor without answers nothing is known, and no acceptor is asked on its behalf.
    pub(super) stuck: bool,
    /// The watermark was reported since the last check.
    pub(super) marked: bool,
}

impl AcceptorView {
    /// Nothing stands against values any more.
    pub(super) fn forget_refusals(&mut self) {
        self.refusals = MessageRefusals::default();
        self.repair_refusals = MessageRefusals::default();
    }
}
