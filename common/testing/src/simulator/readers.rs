//! Disk reads of simulated acceptors for other processes: pages of promises, frames, chosen rows, reports.

use std::collections::BTreeMap;

use paxos_common::paxos::{
    acceptor::Acceptor,
    ballot::Ballot,
    message::{PromisePage, Row, VoteRange},
    proposer::Scan,
    reading::Tail,
    slot::Slot,
    value::Value,
    witness::Witnesses,
};
use rand::RngExt as _;

use super::{
    answers::Answer,
    invariants::watermarks_are_true::Watermarks,
    network::{Kind, Message, Node},
    statistics::Counted,
    world::{Happening, World},
};

impl World<'_> {
    /// Whether a disk read must wait until memory shows the same commit as the disk. Then the read happens again.
    fn is_held_back(&mut self, acceptor: usize, read: Happening) -> bool {
        let process = &mut self.acceptors[acceptor];
        let shown = process.core.as_ref().map(Acceptor::stamp);
        let covered = shown.is_none_or(|stamp| stamp.covers(process.disk.commit_counter));
        if covered || self.tampering.shows_pages_early() {
            return false;
        }
        process.held_back.push(read);
        self.statistics.count(Counted::PagesHeldBack);
        true
    }

    /// Reads a page of a promise, and plans the next page.
    pub(crate) fn send_page(
        &mut self,
        acceptor: usize,
        run: u64,
        to: Node,
        ballot: Ballot,
        (from, scan): (Slot, Option<Scan>),
        first: bool,
    ) {
        let rows_max = self.rng.random_range(1..=self.knobs.page_rows_max);
        let process = &self.acceptors[acceptor];
        if process.core.is_none() || process.run != run {
            return;
        }
        let due = Happening::PageDue {
            acceptor,
            run,
            to,
            ballot,
            from,
            scan,
            first,
        };
        if self.is_held_back(acceptor, due) || self.finds_garbled_state(acceptor) {
            return;
        }
        let process = &self.acceptors[acceptor];
        let Some(core) = &process.core else { return };
        let disk = &process.disk;
        if disk.promised > ballot && !self.tampering.pages_outlive_promise() {
            self.statistics.count(Counted::PagesOvertaken);
            let rejected = Message::PrepareRejected(ballot, disk.promised);
            self.answer(acceptor, Answer::Message(to, rejected, None));
            return;
        }
        self.invariants.promises.paged(acceptor, ballot, disk.promised);
        let (rows, last) = disk.rows_from(from, rows_max);
        let next = rows
            .last()
            .map_or(from.max(disk.trimmed_to), |row| row.slot.next());
        if rows.iter().any(|row| row.accepted.is_none()) {
            self.statistics.count(Counted::RowsUnknownInPromises);
        }
        let damaged_at = first_unknown(&rows);
        let page = PromisePage {
            from,
            next,
            last,
            chosen_to: disk.known_to.min(damaged_at),
            known_to: disk.known_to,
            trimmed_to: disk.trimmed_to,
            voted_to: disk.voted_to(),
            rows,
        };
        // The table goes with the first page: no page counts before the first page.
        let remembers = if first {
            core.witnesses().clone()
        } else {
            Witnesses::default()
        };
        let bytes = page.rows.len() as u64;
        self.detect(acceptor, |detector, _| detector.worked(ballot, 1 + bytes));
        let message = Message::Page(ballot, scan, page, remembers);
        self.send(Node::Acceptor(acceptor), to, message);
        if !last && scan.is_none_or(|scan| next < scan.to) {
            self.statistics.count(Counted::PromisesOfManyPages);
            let due = Happening::PageDue {
                acceptor,
                run,
                to,
                ballot,
                from: next,
                scan,
                first: false,
            };
            self.plan_within(2_000, due);
        }
    }

    /// Reads the rows observed by a learner from a slot on, frame by frame. Rows committed meanwhile are shown as well.
    pub(crate) fn send_frame(&mut self, acceptor: usize, run: u64, learner: usize, kind: Kind, from: Slot) {
        let rows_max = self.rng.random_range(1..=self.knobs.page_rows_max * 4);
        let from_memory = self.rng.random_bool(0.5);
        let process = &self.acceptors[acceptor];
        if process.core.is_none() || process.run != run {
            return;
        }
        let due = Happening::FrameDue {
            acceptor,
            run,
            learner,
            kind,
            from,
        };
        if self.is_held_back(acceptor, due) || self.finds_garbled_state(acceptor) {
            return;
        }
        let process = &self.acceptors[acceptor];
        let Some(core) = &process.core else { return };
        let (rows, last) = process.disk.rows_from(from, rows_max);
        let next = rows.last().map_or(from, |row| row.slot.next());
        // Both watermarks are true of the readable rows: the disk's watermark lags behind.
        let known_to = if from_memory {
            core.known_to()
        } else {
            process.disk.known_to
        };
        self.show(acceptor, learner, kind, &rows, known_to);
        if !last {
            let due = Happening::FrameDue {
                acceptor,
                run,
                learner,
                kind,
                from: next,
            };
            self.plan_within(2_000, due);
        }
    }

    /// Reads rows below this acceptor's own watermark, as the frames of a reader would show the rows.
    pub(crate) fn fetch_chosen(
        &mut self,
        acceptor: usize,
        asker: Node,
        number: u64,
        (first, to): (Slot, Slot),
    ) {
        let again = Happening::Deliver {
            from: asker,
            to: Node::Acceptor(acceptor),
            message: Message::FetchChosen(number, first, to),
            stamp: None,
        };
        if self.is_held_back(acceptor, again) {
            return;
        }
        let rows_max = self.rng.random_range(0..=self.knobs.page_rows_max * 4);
        let from_memory = self.rng.random_bool(0.5);
        if self.finds_garbled_state(acceptor) {
            return;
        }
        let process = &self.acceptors[acceptor];
        let Some(core) = &process.core else { return };
        let known_to = if from_memory {
            core.known_to()
        } else {
            process.disk.known_to
        };
        let values: Vec<(Slot, Value)> = first
            .to(to.min(known_to))
            .map_while(|slot| Some((slot, process.disk.row(slot)?.accepted?.1)))
            .take(rows_max)
            .collect();
        let fetched = Message::Fetched(number, first, values);
        self.send(Node::Acceptor(acceptor), asker, fetched);
    }

    /// Reports the acceptor's tail from memory: memory shows every commit whose answers have left.
    pub(crate) fn tell_tail(&mut self, acceptor: usize, asker: Node, nonce: u64) {
        let process = &self.acceptors[acceptor];
        let Some(core) = &process.core else { return };
        let tail = Tail {
            voted_to: core.voted_to(),
            trimmed_to: core.trimmed_to(),
        };
        let tailed = Message::Tailed(nonce, tail);
        self.send(Node::Acceptor(acceptor), asker, tailed);
    }

    pub(crate) fn show_observers(&mut self, acceptor: usize, rows: &BTreeMap<Slot, (Ballot, Value)>) {
        if rows.is_empty() {
            return;
        }
        let process = &self.acceptors[acceptor];
        let Some(core) = &process.core else { return };
        let known_to = core.known_to();
        let observers: Vec<(usize, Kind)> = process.observers.iter().copied().collect();
        let rows: Vec<Row> = rows
            .iter()
            .map(|(&slot, accepted)| Row {
                slot,
                accepted: Some(accepted.clone()),
            })
            .collect();
        for (learner, kind) in observers {
            self.show(acceptor, learner, kind, &rows, known_to);
        }
    }

    fn show(&mut self, acceptor: usize, learner: usize, kind: Kind, rows: &[Row], known_to: Slot) {
        Watermarks::claimed(&self.invariants.chosen, "a frame", known_to);
        let message = match kind {
            Kind::Votes => Message::Votes(VoteRange::collect(rows)),
            Kind::Values => Message::Rows(rows.to_vec(), known_to),
        };
        self.send(Node::Acceptor(acceptor), Node::Learner(learner), message);
    }
}

/// The slot of the first unreadable row: nothing from this slot on is vouched for.
fn first_unknown(rows: &[Row]) -> Slot {
    let unknown = rows.iter().find(|row| row.accepted.is_none());
    unknown.map_or(Slot::MAX, |row| row.slot)
}
