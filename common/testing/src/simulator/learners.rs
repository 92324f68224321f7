//! Simulated learner processes: the core, the feeds, and a log with a last part lost in a crash.

use std::collections::BTreeMap;

use paxos_common::paxos::{
    identity::{CommitCounter, RunNumber},
    learner::Learner,
    quorum::{Electorate, Quorums},
    reading::ReadEvent,
    slot::Slot,
    witness::Guard,
};
use rand::RngExt as _;

use super::{
    knobs::MILLISECOND,
    network::{Kind, Message, Node},
    reads::Readers,
    sessions::State,
    statistics::Counted,
    world::{Happening, Time, World, uuid},
};

pub(crate) struct LearnerProcess {
    /// `None` while the process is down.
    pub(crate) core: Option<Learner>,
    pub(crate) run: u64,
    /// End of the slots on the disk.
    pub(crate) stored: Slot,
    /// Decides which acceptors count.
    pub(crate) guard: Guard,
    /// The members on the disk, if later than at first.
    pub(crate) stored_electorate: Option<Electorate>,
    /// Latest shown run of each trusted acceptor.
    pub(crate) shown: BTreeMap<usize, RunNumber>,
    /// The state after all handed-out values.
    pub(crate) state: State,
    /// The acceptor acting as the source of values.
    pub(crate) feed: usize,
    /// First unlearned slot at the last stall check.
    looked_at: Slot,
    /// Waiting readers; `None` while the process is down.
    pub(crate) readers: Option<Readers>,
    pub(crate) paused_until: Time,
}

impl LearnerProcess {
    /// A learner not started yet.
    pub(crate) fn new(quorums: Quorums) -> Self {
        Self {
            core: None,
            run: 0,
            stored: Slot::ZERO,
            stored_electorate: None,
            guard: Guard::new(quorums),
            shown: BTreeMap::new(),
            state: State::default(),
            feed: 0,
            looked_at: Slot::ZERO,
            readers: None,
            paused_until: 0,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    pub(crate) fn describe(&self) -> String {
        self.core.as_ref().map_or_else(
            || "down".to_owned(),
            |core| {
                format!(
                    "next {}, era {}, lacks value: {}, knows of more: {}, readers {:?}",
                    core.next(),
                    core.electorate().era(),
                    core.lacks_value(),
                    core.knows_of_more(),
                    self.readers
                )
            },
        )
    }
}

impl World<'_> {
    pub(crate) fn start_learner(&mut self, learner: usize) {
        let electorate = self.electorate_at_start(learner);
        let process = &mut self.learners[learner];
        process.run += 1;
        process.guard = Guard::new(electorate.quorums());
        process.shown.clear();
        process.looked_at = process.stored;
        process.core = Some(Learner::new(electorate, process.stored));
        let feed = self.some_feed(learner);
        let process = &mut self.learners[learner];
        process.feed = feed;
        let (run, stored) = (process.run, process.stored);
        process.state = State::default();
        // The disk holds the state after the stored slots. Applying the slots again gives the same state.
        for slot in Slot::ZERO.to(stored) {
            let value = self
                .invariants
                .chosen
                .value(slot)
                .expect("it was learned")
                .clone();
            let (book, tampering) = (&self.clients.book, &self.tampering);
            process
                .state
                .apply(slot, &value, book, tampering, &mut self.invariants);
        }
        self.invariants.learners.restarted(learner, stored);
        self.look_at_era(learner);
        self.start_readers(learner, stored);
        self.note(|| format!("learner {learner} starts at {stored}"));
        self.observe(learner);
        self.plan_within(200 * MILLISECOND, Happening::StallCheck { learner, run });
    }

    pub(crate) fn crash_learner(&mut self, learner: usize) {
        self.learners[learner].core = None;
        self.lose_readers(learner);
        self.tamper_with_gone_reader(learner);
        self.statistics.count(Counted::LearnersRestarted);
        self.note(|| format!("learner {learner} crashes"));
    }

    /// Requests votes from every acceptor, and values from a single acceptor, from the first unlearned slot on.
    pub(crate) fn observe(&mut self, learner: usize) {
        let process = &self.learners[learner];
        let Some(core) = &process.core else { return };
        let (from, feed) = (self.tamper_with_cursor(learner, core.next()), process.feed);
        let this = Node::Learner(learner);
        let (run, era) = (process.run, core.electorate().era());
        let members = self.members_of(learner);
        // Each acceptor shows the runs before the stream opens.
        for &acceptor in &members {
            self.introduce_to_learner(learner, acceptor);
            let process = &self.learners[learner];
            let core = process.core.as_ref();
            if process.run != run || core.is_none_or(|core| core.electorate().era() != era) {
                return;
            }
        }
        for acceptor in members {
            self.send(
                this,
                Node::Acceptor(acceptor),
                Message::Observe(Kind::Votes, from),
            );
        }
        self.send(this, Node::Acceptor(feed), Message::Observe(Kind::Values, from));
    }

    /// A learner without progress requests everything again, from a randomly drawn feed.
    pub(crate) fn stall_check(&mut self, learner: usize, run: u64) {
        let feed = self.some_feed(learner);
        let process = &mut self.learners[learner];
        if process.run != run {
            return;
        }
        let Some(core) = &mut process.core else { return };
        if process.looked_at == core.next() {
            if self.is_cut_off(learner) {
                self.install(learner);
                return;
            }
            let process = &mut self.learners[learner];
            let Some(core) = &mut process.core else { return };
            if process.feed != feed {
                process.feed = feed;
                core.change_feed();
                self.statistics.count(Counted::FeedsChanged);
            }
            self.observe(learner);
        } else {
            process.looked_at = core.next();
        }
        self.plan_within(200 * MILLISECOND, Happening::StallCheck { learner, run });
        if self.rng.random_bool(0.05) {
            // A reader waits for slots above the chosen prefix, perhaps with votes.
            let to = self.invariants.chosen.prefix().plus(self.rng.random_range(0..4));
            let proposer = self.rng.random_range(0..self.proposers.len());
            self.send(
                Node::Learner(learner),
                Node::Proposer(proposer),
                Message::Fill(to),
            );
        }
    }

    pub(crate) fn learner_receives(
        &mut self,
        learner: usize,
        from: Node,
        mut message: Message,
        stamp: (RunNumber, CommitCounter),
    ) {
        self.tampering.tamper_with_frame(learner, &mut message);
        let acceptor = match from {
            Node::Acceptor(acceptor) => acceptor,
            Node::Proposer(_) | Node::Learner(_) | Node::Clients => panic!("not for a learner"),
        };
        if !self.learners[learner].is_up() {
            return;
        }
        if !self.learner_counts(learner, acceptor, stamp) {
            // The acceptor must show its runs first. A frame is sent again on a stream opened afterwards.
            if !matches!(message, Message::Tailed(..)) {
                return;
            }
            self.introduce_to_learner(learner, acceptor);
            if !self.learner_counts(learner, acceptor, stamp) {
                return;
            }
        }
        if let Message::Tailed(nonce, tail) = message {
            self.tailed(learner, acceptor, nonce, tail);
            return;
        }
        let take = self.rng.random_range(1..=4);
        if self.adopts_chosen(learner, &message) {
            return;
        }
        if let Message::Votes(votes) = &mut message {
            self.tamper_with_earlier_votes(learner, votes);
        }
        let process = &mut self.learners[learner];
        let Some(core) = &mut process.core else { return };
        let era = core.electorate().era();
        // The window is larger than any log of a run, so the core always takes all votes and rows.
        match message {
            Message::Votes(votes) => {
                for votes in &votes {
                    let _ = core.votes(uuid(acceptor), votes);
                }
            }
            Message::Rows(rows, known_to) => {
                let _ = core.rows(&rows, known_to);
            }
            Message::Prepare(..)
            | Message::Accept(..)
            | Message::FetchChosen(..)
            | Message::Fetched(..)
            | Message::Page(..)
            | Message::PrepareRejected(..)
            | Message::PrepareRefused(_)
            | Message::Answer(..)
            | Message::Ask(_)
            | Message::Recall(_)
            | Message::Recalled(..)
            | Message::Said(..)
            | Message::Alive { .. }
            | Message::Opened
            | Message::Observe(..)
            | Message::Tail(_)
            | Message::Tailed(..)
            | Message::Propose { .. }
            | Message::Cancel { .. }
            | Message::Outcome { .. }
            | Message::Fill(_)
            | Message::Form(..)
            | Message::Formed(_) => panic!("not for a learner: {message:?}"),
        }
        let mut count = 0;
        loop {
            let learned = core.take_learned(take);
            if learned.is_empty() {
                break;
            }
            count += learned.len();
            for (slot, value) in learned {
                self.invariants
                    .learners
                    .learned(&self.invariants.chosen, learner, slot, &value);
                self.invariants.reads.applied(learner, &value);
                let (book, tampering) = (&self.clients.book, &self.tampering);
                process
                    .state
                    .apply(slot, &value, book, tampering, &mut self.invariants);
            }
        }
        if count > 0 {
            let (run, applied_to) = (process.run, core.next());
            if core.electorate().era() > era {
                // A change is adopted before the reads hear that it is applied.
                self.learner_adopted(learner);
            }
            self.look_at_era(learner);
            self.tell_readers(learner, ReadEvent::Applied(applied_to));
            self.plan_within(20 * MILLISECOND, Happening::Stored { learner, run, count });
        }
    }

    /// Some handed-out slots are on the disk now.
    pub(crate) fn learner_stored(&mut self, learner: usize, run: u64, count: usize) {
        let process = &mut self.learners[learner];
        if process.run == run && process.core.is_some() {
            process.stored = process.stored.plus(count as u64);
            process.stored_electorate = process.core.as_ref().map(|core| core.electorate().clone());
        }
    }
}
