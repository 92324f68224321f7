//! Invariant 5: every slot claimed to be chosen is chosen, and the claimant's own rows from its first slot on hold the
//! chosen values.

use paxos_common::paxos::slot::Slot;

use super::{chosen_is_final::Chosen, promises_are_kept::DiskRows};

/// End of each acceptor's claims checked against its disk.
pub(crate) struct Watermarks {
    checked_to: Vec<Slot>,
}

impl Watermarks {
    pub(crate) fn new(acceptors: usize) -> Self {
        Self {
            checked_to: vec![Slot::ZERO; acceptors],
        }
    }

    /// An acceptor that has claimed nothing yet.
    pub(crate) fn came(&mut self) {
        self.checked_to.push(Slot::ZERO);
    }

    /// The disk of an acceptor went back.
    pub(crate) fn lost(&mut self, acceptor: usize) {
        self.checked_to[acceptor] = Slot::ZERO;
    }

    /// An acceptor's snapshot stands for the slots below `to`.
    pub(crate) fn trimmed(&mut self, acceptor: usize, to: Slot) {
        let checked_to = &mut self.checked_to[acceptor];
        *checked_to = to.max(*checked_to);
    }

    /// A process claims every slot below `claimed` as chosen.
    pub(crate) fn claimed(chosen: &Chosen, who: &str, claimed: Slot) {
        assert!(
            claimed <= chosen.prefix(),
            "{who} claims that everything below {claimed} is chosen, and slot {} is not",
            chosen.prefix()
        );
    }

    /// Checks an acceptor's watermark, in memory or on the disk.
    pub(crate) fn acceptor(&mut self, chosen: &Chosen, acceptor: usize, claimed: Slot, rows: &DiskRows) {
        Self::claimed(chosen, "an acceptor", claimed);
        let checked_to = &mut self.checked_to[acceptor];
        while *checked_to < claimed {
            Self::row(chosen, acceptor, *checked_to, rows);
            *checked_to = checked_to.next();
        }
    }

    /// An acceptor writes a row: earlier claims must stay true.
    pub(crate) fn written(&self, chosen: &Chosen, acceptor: usize, slot: Slot, rows: &DiskRows) {
        if slot < self.checked_to[acceptor] {
            Self::row(chosen, acceptor, slot, rows);
        }
    }

    fn row(chosen: &Chosen, acceptor: usize, slot: Slot, rows: &DiskRows) {
        assert_eq!(
            rows.get(&slot).map(|(_, value)| value),
            chosen.value(slot),
            "acceptor {acceptor} claims slot {slot}, and its own row is not the chosen value"
        );
    }
}
