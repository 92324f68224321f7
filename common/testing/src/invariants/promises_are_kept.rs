//! Invariant 3: promises never decrease, restarts included; no acceptor votes below a promise; every answer was
//! durable.

use std::collections::BTreeMap;

use paxos_common::paxos::{ballot::Ballot, slot::Slot, value::Value};

/// Rows of a disk, by slot.
pub(crate) type DiskRows = BTreeMap<Slot, (Ballot, Value)>;

/// All statements of each acceptor to other processes.
pub(crate) struct Promises {
    acceptors: Vec<Said>,
}

#[derive(Clone, Default)]
pub(crate) struct Said {
    /// The highest promise ever reported, and the highest promise ever on the disk.
    answered: Ballot,
    durable: Ballot,
    accepted: BTreeMap<Slot, Ballot>,
}

impl Promises {
    pub(crate) fn new(acceptors: usize) -> Self {
        Self {
            acceptors: vec![Said::default(); acceptors],
        }
    }

    /// An acceptor that has said nothing yet.
    pub(crate) fn came(&mut self) {
        self.acceptors.push(Said::default());
    }

    /// The disk of an acceptor went back. Returns the acceptor's earlier statements: no process may rely on them.
    pub(crate) fn lost(&mut self, acceptor: usize) -> Said {
        std::mem::take(&mut self.acceptors[acceptor])
    }

    /// The right disk of an acceptor is back, and holds all of the acceptor's statements.
    pub(crate) fn put_back(&mut self, acceptor: usize, said: Said) {
        self.acceptors[acceptor] = said;
    }

    /// An acceptor's snapshot stands for the votes below `to`.
    pub(crate) fn trimmed(&mut self, acceptor: usize, to: Slot) {
        let accepted = &mut self.acceptors[acceptor].accepted;
        *accepted = accepted.split_off(&to);
    }

    /// A row becomes durable, on a disk with the earlier promise `promised`.
    pub(crate) fn row_written(&self, acceptor: usize, promised: Ballot, ballot: Ballot, slot: Slot) {
        assert!(
            ballot >= promised,
            "acceptor {acceptor} votes for slot {slot} at {ballot}, below its promise {promised}"
        );
    }

    /// A commit is done, or a disk is read at a restart.
    pub(crate) fn disk(&mut self, acceptor: usize, promised: Ballot) {
        let said = &mut self.acceptors[acceptor];
        assert!(
            promised >= said.durable && promised >= said.answered,
            "acceptor {acceptor} went back from {} (answered {}) to {promised}",
            said.durable,
            said.answered
        );
        said.durable = promised;
    }

    /// An acceptor reports a promise of `ballot` or of a higher ballot.
    pub(crate) fn answered(&mut self, acceptor: usize, ballot: Ballot, promised: Ballot) {
        assert!(
            promised >= ballot,
            "acceptor {acceptor} tells {ballot} before it is durable: its disk has {promised}"
        );
        let said = &mut self.acceptors[acceptor];
        said.answered = said.answered.max(ballot);
    }

    /// An acceptor reads a page of its promise of `ballot`. Votes after a higher promise must not reach the candidate
    /// of `ballot`.
    pub(crate) fn paged(&self, acceptor: usize, ballot: Ballot, promised: Ballot) {
        assert_eq!(
            promised, ballot,
            "acceptor {acceptor} pages a promise that it has overtaken"
        );
    }

    /// An acceptor reports a vote for `slot` at `ballot`.
    pub(crate) fn accepted(&mut self, acceptor: usize, ballot: Ballot, slot: Slot, rows: &DiskRows) {
        let held = rows.get(&slot).map(|(held, _)| *held);
        assert!(
            held.is_some_and(|held| held >= ballot),
            "acceptor {acceptor} says that it voted for slot {slot} at {ballot}, and its disk has {held:?}"
        );
        let said = self.acceptors[acceptor].accepted.entry(slot).or_default();
        *said = ballot.max(*said);
    }

    /// An acceptor restarts: its disk must hold every reported vote, possibly overwritten at a higher ballot.
    pub(crate) fn restarted(&mut self, acceptor: usize, promised: Ballot, rows: &DiskRows) {
        self.disk(acceptor, promised);
        for (slot, said) in &self.acceptors[acceptor].accepted {
            let held = rows.get(slot).map(|(held, _)| *held);
            assert!(
                held.is_some_and(|held| held >= *said),
                "acceptor {acceptor} said that it voted for slot {slot} at {said}, and restarts with {held:?}"
            );
        }
    }
}
