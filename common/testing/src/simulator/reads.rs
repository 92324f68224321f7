//! Simulated reads: the readers of a learner, the learner's rounds of questions to acceptors, and the answers.
//!
//! A read begins on arrival at the learner, and ends with the learner's answer. The reader is further away, so for the
//! reader the read begins earlier and ends later. A guarantee for the shorter interval is also a guarantee for the
//! longer interval.

use std::collections::BTreeMap;

use paxos_common::paxos::{
    era::Era,
    learner::Learner,
    quorum::Electorate,
    reading::{ReadEffect, ReadEvent, ReadId, Reading, Tail},
    slot::Slot,
};
use rand::RngExt as _;

use super::{
    network::{Message, Node},
    statistics::Counted,
    world::{Happening, Time, World, micros, uuid},
};
use crate::bug::Bug;

/// Limit of readers arriving at a learner at the same time.
const TOGETHER_MAX: u64 = 3;

/// The readers of a single run of a learner.
#[derive(Debug)]
pub(crate) struct Readers {
    core: Reading,
    asked: u64,
    waiting: BTreeMap<ReadId, Waiting>,
    /// Duration of a timer on the learner's clock, in percent of simulated time.
    clock: Time,
}

/// History of a waiting read.
#[derive(Debug, Default)]
struct Waiting {
    /// The read waited for L, and the acceptors were asked again.
    retried: bool,
    /// The leader was asked to fill unchosen slots.
    filled: bool,
}

impl World<'_> {
    /// A learner starts with the contents of the disk, and without waiting readers.
    pub(crate) fn start_readers(&mut self, learner: usize, stored: Slot) {
        let nonce = self.rng.random();
        let clock = self.rng.random_range(80..=125);
        let kept = usize::try_from(stored.get()).expect("few slots");
        self.invariants.reads.restarted(learner, kept);
        let core = self.learners[learner].core.as_ref();
        let electorate = core.map_or(&self.electorate, Learner::electorate).clone();
        // The last slot on the disk may be a change that is not in force yet.
        let proves_from = if electorate.era() > Era::FIRST {
            stored
        } else {
            Slot::ZERO
        };
        self.learners[learner].readers = Some(Readers {
            core: Reading::new(electorate, stored, nonce).proving_from(proves_from),
            asked: 0,
            waiting: BTreeMap::new(),
            clock,
        });
    }

    /// The learner is gone, together with all waiting reads.
    pub(crate) fn lose_readers(&mut self, learner: usize) {
        let readers = self.learners[learner].readers.take();
        let lost = readers.map_or(0, |readers| readers.waiting.len());
        self.statistics.add(Counted::ReadsLost, lost as u64);
    }

    /// Some readers ask a learner at the same time, and the next readers ask later.
    pub(crate) fn read_due(&mut self, learner: usize) {
        let readers = self.rng.random_range(1..=TOGETHER_MAX);
        self.ask_to_read(learner, readers);
        self.plan_within(2 * self.knobs.read_every, Happening::ReadDue { learner });
    }

    fn ask_to_read(&mut self, learner: usize, together: u64) {
        let process = &mut self.learners[learner];
        let Some(readers) = &mut process.readers else {
            return;
        };
        let run = process.run;
        let asked = readers.asked..readers.asked + together;
        readers.asked = asked.end;
        let (from, to) = (ReadId(asked.start), ReadId(asked.end));
        let new = asked.clone().map(|read| (ReadId(read), Waiting::default()));
        readers.waiting.extend(new);
        for read in asked {
            self.invariants.reads.begins(learner, read);
            if self.rng.random_bool(0.05) && self.healed_at.is_none() {
                let read = ReadId(read);
                let abandoned = Happening::ReadAbandoned { learner, run, read };
                self.plan_within(2 * micros(self.knobs.leader_timeout), abandoned);
            }
        }
        self.tell_readers(learner, ReadEvent::Asked { from, to });
    }

    /// The faults stop: every waiting reader, and one more reader at each learner, must be answered.
    pub(crate) fn expect_reads(&mut self) {
        for learner in 0..self.learners.len() {
            if let Some(readers) = &self.learners[learner].readers {
                let waiting = readers.waiting.keys().copied();
                for read in waiting.chain([ReadId(readers.asked)]) {
                    self.invariants.progress.read_due(learner, read.0);
                }
            }
            self.ask_to_read(learner, 1);
        }
    }

    /// A learner has restarted after the end of the faults: its waiting readers are gone, and a new reader must be
    /// answered.
    pub(crate) fn expect_reads_again(&mut self, learner: usize) {
        self.invariants.progress.reads_lost(learner);
        self.invariants.progress.read_due(learner, 0);
        self.ask_to_read(learner, 1);
    }

    pub(crate) fn read_abandoned(&mut self, learner: usize, run: u64, read: ReadId) {
        let process = &mut self.learners[learner];
        let Some(readers) = process.readers.as_mut().filter(|_| process.run == run) else {
            return;
        };
        if readers.waiting.remove(&read).is_some() {
            self.statistics.count(Counted::ReadsAbandoned);
            self.invariants.reads.abandoned(learner, read.0);
            self.invariants.progress.read_done(learner, read.0);
            self.tell_readers(learner, ReadEvent::Abandoned(read));
        }
    }

    pub(crate) fn read_limit(&mut self, learner: usize, run: u64, generation: u64) {
        if self.learners[learner].run == run {
            self.tell_readers(learner, ReadEvent::Fired(generation));
        }
    }

    /// A counted acceptor reports its tail.
    pub(crate) fn tailed(&mut self, learner: usize, acceptor: usize, nonce: u64, tail: Tail) {
        for (acceptor, nonce) in self.tamper_with_tail(learner, acceptor, nonce) {
            let acceptor = uuid(acceptor);
            let tailed = ReadEvent::Tailed {
                acceptor,
                nonce,
                tail,
            };
            self.tell_readers(learner, tailed);
        }
    }

    /// Hands an event to the core for reads, and carries out the effects.
    pub(crate) fn tell_readers(&mut self, learner: usize, event: ReadEvent) {
        if let Some(readers) = &mut self.learners[learner].readers {
            readers.core.handle(event);
            self.carry_out_reads(learner, matches!(event, ReadEvent::Fired(_)));
        }
    }

    /// The reads follow the era of the learner. `next`: the first slot that the learner has not learned.
    pub(crate) fn readers_adopt(&mut self, learner: usize, electorate: &Electorate, next: Slot) {
        let keeps_round = self.tampering.has(Bug::ReadKeepsItsRound);
        if let Some(readers) = &mut self.learners[learner].readers
            && (!keeps_round || readers.core.is_bounded())
        {
            readers.core.adopt(electorate, next);
            self.carry_out_reads(learner, false);
        }
    }

    fn carry_out_reads(&mut self, learner: usize, has_fired: bool) {
        let this = Node::Learner(learner);
        let process = &mut self.learners[learner];
        let Some(readers) = &mut process.readers else {
            return;
        };
        let (run, clock) = (process.run, readers.clock);
        for effect in readers.core.take_effects() {
            match effect {
                ReadEffect::Ask { nonce, acceptors } => {
                    self.tamper_with_round(learner, nonce);
                    if has_fired {
                        self.mark_waiting(learner, |waiting| waiting.retried = true);
                    }
                    for acceptor in acceptors {
                        let to = Node::Acceptor(self.place(acceptor));
                        self.send(this, to, Message::Tail(nonce));
                    }
                }
                ReadEffect::SetTimer(generation) => {
                    let limit = Happening::ReadLimit {
                        learner,
                        run,
                        generation,
                    };
                    self.plan(self.now + micros(self.knobs.leader_timeout) * clock / 100, limit);
                }
                ReadEffect::Fill(to) => {
                    if to > self.invariants.chosen.prefix() {
                        self.mark_waiting(learner, |waiting| waiting.filled = true);
                    }
                    // A proposer that does not lead ignores the message.
                    for proposer in 0..self.proposers.len() {
                        self.send(this, Node::Proposer(proposer), Message::Fill(to));
                    }
                }
                ReadEffect::Answer(read) => self.answer_read(learner, read),
                ReadEffect::LostVotes { bound, applied_to } => {
                    self.votes_are_missed(learner, bound, applied_to);
                    return;
                }
                ReadEffect::TurnAway(read) => panic!("learner {learner} turns {read:?} away, and few wait"),
            }
        }
    }

    /// A learner finds that acceptors have lost votes, and ends. Only rolled-back disks lose votes.
    fn votes_are_missed(&mut self, learner: usize, bound: Slot, applied_to: Slot) {
        assert!(
            self.acceptors.iter().any(|acceptor| acceptor.went_back),
            "learner {learner} misses votes from {bound} on, had applied all below {applied_to}, and no disk lost any"
        );
        self.note(|| format!("learner {learner} misses votes from {bound} on"));
        self.crash(Node::Learner(learner));
    }

    fn mark_waiting(&mut self, learner: usize, mark: impl Fn(&mut Waiting)) {
        if let Some(readers) = &mut self.learners[learner].readers {
            readers.waiting.values_mut().for_each(mark);
        }
    }

    /// Answers a read from all applied slots.
    fn answer_read(&mut self, learner: usize, read: ReadId) {
        let readers = self.learners[learner].readers.as_mut();
        let Some(waited) = readers.and_then(|readers| readers.waiting.remove(&read)) else {
            panic!("learner {learner} answers {read:?}, for which nobody waits");
        };
        let saw = self.invariants.reads.ends(learner, read.0);
        self.invariants.progress.read_done(learner, read.0);
        self.note(|| format!("learner {learner} answers {read:?}, {waited:?}"));
        let is_led = self.proposers.iter().any(|proposer| proposer.leads());
        for (what, is_so) in [
            (Counted::ReadsAnswered, true),
            (Counted::ReadsAnsweredWithoutLeader, !is_led),
            (Counted::ReadsAnsweredAfterFill, waited.filled),
            (Counted::ReadsAnsweredAfterRetry, waited.retried),
            (Counted::ReadsOfFreshWrites, saw.fresh_write),
        ] {
            self.statistics.add(what, u64::from(is_so));
        }
    }
}
