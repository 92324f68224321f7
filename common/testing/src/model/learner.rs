//! A modelled learner: the real core, the feed of values, and the contents of the disk.

use paxos_common::paxos::{
    era::Era,
    learner::Learner,
    quorum::Electorate,
    reading::{self, ReadEffect, ReadId, Reading},
    slot::Slot,
    value::Value,
};

use super::{
    acceptor::{place_of, uuid},
    cluster::Cluster,
    disk::Snapshot,
    ledger::Broken,
    network::{Envelope, Message, Node},
    outputs::{Claim, Outputs},
    shared::Shared,
    sights::Sight,
    tamper::LearnerScratch,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LearnerNode {
    pub(crate) place: usize,
    pub(crate) core: Learner,
    pub(crate) reading: Reading,
    /// Number of requested reads.
    reads: u64,
    /// Generation of the armed timer for reads, until the timer fires.
    pub(crate) timer: Option<u64>,
    /// Exclusive end of the slots to be filled for the learner.
    pub(crate) fill_to: Slot,
    /// Above every nonce used by any run of this learner.
    pub(crate) next_nonce: u64,
    /// The acceptor acting as the source of values. Values from other acceptors are ignored.
    pub(crate) feed: usize,
    /// The latest configuration on the disk, adopted together with the handed-out slots.
    pub(crate) stored: Electorate,
    /// Values handed out by all runs, in order.
    pub(crate) handed_out: Vec<Value>,
    pub(crate) scratch: LearnerScratch,
}

impl LearnerNode {
    pub(crate) fn new(place: usize, electorate: &Electorate) -> Self {
        Self {
            place,
            core: Learner::new(electorate.clone(), Slot::ZERO),
            reading: Reading::new(electorate.clone(), Slot::ZERO, 0),
            reads: 0,
            timer: None,
            fill_to: Slot::ZERO,
            next_nonce: 0,
            feed: 0,
            stored: electorate.clone(),
            handed_out: Vec::new(),
            scratch: LearnerScratch::default(),
        }
    }
}

/// An event at a learner.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Input<'a> {
    Receive(&'a Shared<Envelope>),
    SwitchFeed(usize),
    /// A client asks for a linearizable read.
    Read,
    /// The timer for reads fires.
    Limit,
    /// The learner crashes. Its disk holds the handed-out slots below the given slot.
    Restart(Slot),
    /// The learner restarts from the bottom of an acceptor.
    Install(&'a Snapshot),
    /// An acceptor shows the configuration of a later era.
    Adopt(&'a Electorate),
}

/// A step of a learner.
pub(crate) struct LearnerStep<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) node: LearnerNode,
    pub(crate) outputs: Outputs,
}

impl LearnerStep<'_> {
    pub(crate) fn take(&mut self, input: &Input<'_>) {
        match *input {
            Input::Receive(envelope) => {
                self.receive(envelope);
                self.apply();
            }
            Input::Read => {
                let (read, next) = (ReadId(self.node.reads), ReadId(self.node.reads + 1));
                self.node.reads = next.0;
                self.outputs.claim(Claim::ReadBegins(self.node.place, read));
                self.handle(reading::ReadEvent::Asked { from: read, to: next });
            }
            Input::Limit => {
                if let Some(generation) = self.node.timer.take() {
                    self.handle(reading::ReadEvent::Fired(generation));
                }
            }
            Input::SwitchFeed(feed) => {
                self.outputs.saw(Sight::FeedSwitched);
                self.node.feed = feed;
                self.node.core.change_feed();
            }
            Input::Restart(stored) => {
                self.outputs.saw(Sight::LearnerRestarted);
                self.restart(stored);
            }
            Input::Install(snapshot) => self.install(snapshot),
            Input::Adopt(electorate) => self.shown(electorate),
        }
        self.check_era();
    }

    /// Starts again with every slot below `stored` applied.
    pub(crate) fn restart(&mut self, stored: Slot) {
        self.restart_with(self.electorate_at(stored), stored);
    }

    /// The same, with a configuration.
    pub(crate) fn restart_with(&mut self, electorate: Electorate, stored: Slot) {
        self.node.stored = electorate.clone();
        self.node.core = Learner::new(electorate.clone(), stored);
        self.tamper_with_restart();
        let applied_to = self.node.core.next();
        self.node.reading = Reading::new(electorate, applied_to, self.node.next_nonce);
        self.node.timer = None;
        self.node.fill_to = Slot::ZERO;
    }

    fn receive(&mut self, envelope: &Envelope) {
        let Node::Acceptor(acceptor) = envelope.from else {
            unreachable!("only acceptors tell learners")
        };
        // The window is larger than any log of this model, so the core always takes all votes and rows.
        match &envelope.message {
            Message::Votes(votes) => {
                self.tamper_with_later_votes(acceptor, votes);
                let votes = self.tamper_with_votes(votes);
                let votes = self.tamper_with_eras(votes);
                let _ = self.node.core.votes(uuid(acceptor), &votes);
            }
            Message::Rows(rows, known_to) => {
                if self.node.feed == acceptor {
                    let rows = self.tamper_with_rows(rows);
                    let rows = self.tamper_with_rows_of_eras(rows);
                    self.adopt_chosen(&rows);
                    let _ = self.node.core.rows(&rows, *known_to);
                }
            }
            Message::Tailed(nonce, tail) => {
                for (acceptor, nonce) in self.tamper_with_tail(acceptor, *nonce) {
                    self.handle(reading::ReadEvent::Tailed {
                        acceptor: uuid(acceptor),
                        nonce,
                        tail: *tail,
                    });
                }
            }
            Message::Tail(_)
            | Message::Prepare(..)
            | Message::Accept(_)
            | Message::Fetch(..)
            | Message::Form(_)
            | Message::Formed(_)
            | Message::Page(..)
            | Message::PrepareRejected(..)
            | Message::PrepareRefused(_)
            | Message::Answer(..)
            | Message::Fetched(..) => unreachable!("not for a learner: {envelope:?}"),
        }
    }

    /// Hands an event to the core for reads, and carries out the effects.
    pub(crate) fn handle(&mut self, event: reading::ReadEvent) {
        self.node.reading.handle(event);
        self.carry_out_reads();
    }

    /// Carries out the effects of the core for reads.
    pub(crate) fn carry_out_reads(&mut self) {
        for effect in self.node.reading.take_effects() {
            match effect {
                ReadEffect::Ask { nonce, acceptors } => {
                    self.tamper_with_round(nonce);
                    self.node.next_nonce = nonce + 1;
                    for acceptor in acceptors {
                        self.outputs.send(Envelope {
                            from: Node::Learner(self.node.place),
                            to: Node::Acceptor(place_of(acceptor)),
                            message: Message::Tail(nonce),
                        });
                    }
                }
                ReadEffect::SetTimer(generation) => self.node.timer = Some(generation),
                ReadEffect::Fill(to) => self.node.fill_to = self.node.fill_to.max(to),
                ReadEffect::Answer(read) => self.answer(read),
                ReadEffect::LostVotes { .. } | ReadEffect::TurnAway(_) => {
                    self.outputs.broken(Broken::NoProcessHalts);
                }
            }
        }
    }

    /// Answers a read from all applied slots.
    fn answer(&mut self, read: ReadId) {
        let applied = usize::try_from(self.node.core.next().get()).expect("few slots");
        let values = self.node.handed_out[..applied].to_vec();
        if self.node.core.electorate().era() > Era::FIRST {
            self.outputs.saw(Sight::ReadLater);
        }
        if self.node.fill_to > Slot::ZERO {
            self.outputs.saw(Sight::ReadAfterLimit);
        }
        self.outputs.claim(Claim::ReadEnds(self.node.place, read, values));
    }

    pub(crate) fn hand_out(&mut self, slot: Slot, value: Value) {
        self.outputs.saw(Sight::Learned);
        self.outputs.claim(Claim::Learns(slot, value.clone()));
        let place = usize::try_from(slot.get()).expect("few slots");
        let before = self.node.handed_out.get(place);
        let in_order = match before {
            Some(before) => *before == value,
            None => place == self.node.handed_out.len(),
        };
        if before.is_none() {
            self.node.handed_out.push(value);
        }
        if !in_order {
            self.outputs.broken(Broken::LearnersAgree);
        }
    }
}
