//! Reading: when a learner's state is recent enough to answer a linearizable read. No leader is needed for that.
//!
//! A write is answered when a phase-2 quorum voted for its slot, and every phase-1 quorum meets that one. So a learner
//! asks all acceptors how far they have voted, *after* the read came in; any phase-1 quorum of answers bounds all that
//! was answered before. The lowest such bound m is the phase1-th smallest answer. Once everything below m is applied,
//! the state holds every write that the reader may know of, and everything that an earlier reader saw, for that was
//! chosen.
//!
//! The same bound proves a loss. Whatever this learner has applied is chosen, every phase-1 quorum holds a vote for it,
//! and every such vote is covered by the tails that are measured later. So a bound below what was applied when its round
//! began (a *short* round) says that acceptors have lost votes. One exception passes by itself: an acceptor of an older
//! release shows a vote for the time of one commit before its tail covers that vote. So a short round answers nothing, a
//! fresh round follows after L, and [`SHORT_ROUNDS_MAX`] short rounds about the same slots prove the loss: nothing is
//! answered any more. Rounds of other quorums in between, which are not short, do not take the proof away.
//!
//! One *round* of questions serves all reads that waited when it began. An answer that was measured for an earlier
//! round proves nothing to a read that came in since.
//!
//! Source: Charapko, Ailijiang, Demirbas, *Linearizable Quorum Reads in Paxos* (2019).

use std::collections::BTreeMap;

use super::{identity::AcceptorUuid, quorum::Electorate, slot::Slot};

/// Most reads that wait at a time (inclusive): more are turned away.
pub const READS_MAX: usize = 16_384;

/// Short rounds about the same slots, begun L apart, that prove a loss of votes. With an L of 200 ms an acceptor of an older
/// release may take 1.6 s for the commit whose votes it shows too early.
pub const SHORT_ROUNDS_MAX: u32 = 10;

/// Names a caller's read. The driver counts them up in the order in which they come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Callers ask for linearizable reads: all that came in since the event before, so that one round serves them.
    Asked {
        /// The first of them.
        from: ReadId,
        /// One past the last of them.
        to: ReadId,
    },
    /// The caller does not wait any more.
    Abandoned(ReadId),
    /// An acceptor tells how far it has voted. Its runs were held against what is remembered of it before.
    Tailed {
        /// Who.
        acceptor: AcceptorUuid,
        /// The nonce of the question.
        nonce: u64,
        /// What it tells.
        tail: Tail,
    },
    /// Every slot below is applied here.
    Applied(Slot),
    /// A timer has run for L.
    Fired(u64),
}

/// How far an acceptor has voted: at least as high as every vote of its that was answered before it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tail {
    /// One past the highest slot accepted there.
    pub voted_to: Slot,
    /// Every slot below it is gone from there.
    pub trimmed_to: Slot,
}

impl Tail {
    /// Nothing at or above it was voted for there.
    fn bound(self) -> Slot {
        self.voted_to.max(self.trimmed_to)
    }
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Ask these acceptors for their tails.
    Ask {
        /// To be told with every answer.
        nonce: u64,
        /// All of them, or those that have not answered this question.
        acceptors: Vec<AcceptorUuid>,
    },
    /// Hand in [`Event::Fired`] with this generation L from now, L being the leader timeout.
    SetTimer(u64),
    /// Ask the leader to have every slot below this one chosen.
    Fill(Slot),
    /// Answer from the state that is applied now.
    Answer(ReadId),
    /// Too many reads wait; this one has to be sent again later.
    TurnAway(ReadId),
    /// Acceptors have lost votes that they had shown: every read that waits, and every later one, stays unanswered. It is
    /// the last effect.
    LostVotes {
        /// No acceptor of a phase-1 quorum has voted at or above it.
        bound: Slot,
        /// Every slot below it was applied here before that quorum was asked.
        applied_to: Slot,
    },
}

/// The state machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    electorate: Electorate,
    applied_to: Slot,
    /// The reads that wait, each with the smallest m of the rounds begun after it came in. Whoever came in earlier was
    /// served by at least the same rounds: in this order bounds never decrease, and those without one come last.
    waiting: BTreeMap<ReadId, Option<Slot>>,
    /// Above every read that ever came in.
    next_read: ReadId,
    /// The latest round, as long as somebody waits.
    round: Option<Round>,
    next_nonce: u64,
    timer: Option<Timer>,
    next_generation: u64,
    effects: Vec<Effect>,
    /// The slots that the latest short rounds miss.
    missing: Option<Missing>,
    /// Acceptors were found to have lost votes.
    has_ended: bool,
}

/// What short rounds are about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Missing {
    /// Every slot below it was applied before the first of these rounds began.
    applied_to: Slot,
    /// Short rounds that a quorum answered with less, at most [`SHORT_ROUNDS_MAX`].
    rounds: u32,
}

/// One question to all acceptors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Round {
    nonce: u64,
    /// The reads below it had come in when the round began.
    serves_to: ReadId,
    /// Every slot below it was applied when the round began.
    applied_to: Slot,
    /// By acceptor, so that each counts once.
    bounds: BTreeMap<AcceptorUuid, Slot>,
    /// A quorum has answered with less than was applied when the round began.
    is_short: bool,
}

impl Round {
    /// m, once a quorum has answered: it sinks with further answers.
    fn bound(&self, quorum: usize) -> Option<Slot> {
        let mut bounds: Vec<Slot> = self.bounds.values().copied().collect();
        bounds.sort_unstable();
        bounds.get(quorum - 1).copied()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Timer {
    generation: u64,
    /// The reads below it have waited since it was set, or longer.
    set_before: ReadId,
}

impl Reading {
    /// Begins with everything below `applied_to` applied. The first nonce is drawn at random; later ones follow it.
    pub fn new(electorate: Electorate, applied_to: Slot, first_nonce: u64) -> Self {
        Self {
            electorate,
            applied_to,
            waiting: BTreeMap::new(),
            next_read: ReadId::default(),
            round: None,
            next_nonce: first_nonce,
            timer: None,
            next_generation: 0,
            effects: Vec::new(),
            missing: None,
            has_ended: false,
        }
    }

    /// How many reads wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes in what happened.
    ///
    /// # Panics
    /// When reads come in with ids that are not above all earlier ones.
    pub fn handle(&mut self, event: Event) {
        if self.has_ended {
            return;
        }
        match event {
            Event::Asked { from, to } => self.asked(from, to),
            Event::Abandoned(read) => {
                self.waiting.remove(&read);
            }
            Event::Tailed {
                acceptor,
                nonce,
                tail,
            } => self.tailed(acceptor, nonce, tail),
            Event::Applied(applied_to) => self.applied_to = self.applied_to.max(applied_to),
            Event::Fired(generation) => self.fired(generation),
        }
        if self.has_ended {
            return;
        }
        self.answer();
        self.go_on();
    }

    /// What is to be done, in this order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn asked(&mut self, from: ReadId, to: ReadId) {
        assert!(
            self.next_read <= from && from <= to,
            "reads are counted up in the order in which they come in"
        );
        self.next_read = to;
        for read in (from.0..to.0).map(ReadId) {
            if self.waiting.len() < READS_MAX {
                self.waiting.insert(read, None);
            } else {
                self.effects.push(Effect::TurnAway(read));
            }
        }
    }

    /// Counts an answer to the latest round. One to an earlier round was measured before some of the reads came in.
    fn tailed(&mut self, acceptor: AcceptorUuid, nonce: u64, tail: Tail) {
        let Some(round) = self.round.as_mut().filter(|round| round.nonce == nonce) else {
            return;
        };
        if !self.electorate.includes(acceptor) {
            return;
        }
        // Asked again it may answer twice. Both answers were measured after the round began.
        let told = round.bounds.entry(acceptor).or_insert(Slot::MAX);
        *told = tail.bound().min(*told);
        let Some(bound) = round.bound(self.electorate.quorums().phase1()) else {
            return;
        };
        if bound < round.applied_to {
            if !round.is_short {
                round.is_short = true;
                let applied_to = round.applied_to;
                self.missed(bound, applied_to);
            }
            return;
        }
        for (_, held) in self.waiting.range_mut(..round.serves_to).rev() {
            if held.is_some_and(|held| held <= bound) {
                break;
            }
            *held = Some(bound);
        }
    }

    /// Counts a short round.
    fn missed(&mut self, bound: Slot, applied_to: Slot) {
        let missing = self.missing.get_or_insert(Missing {
            applied_to,
            rounds: 0,
        });
        if bound >= missing.applied_to {
            // Those slots are covered now, and others are not.
            *missing = Missing {
                applied_to,
                rounds: 0,
            };
        }
        missing.rounds += 1;
        if missing.rounds == SHORT_ROUNDS_MAX {
            self.has_ended = true;
            self.effects.push(Effect::LostVotes {
                bound,
                applied_to: missing.applied_to,
            });
        }
    }

    /// Asks anew for those that have waited for L, and has the leader fill what they wait for.
    fn fired(&mut self, generation: u64) {
        let Some(timer) = self.timer.take_if(|timer| timer.generation == generation) else {
            return;
        };
        let overdue = self.waiting.range(..timer.set_before);
        if self.is_short() {
            // Kept until now, so that the next round begins no earlier.
            self.round = None;
        } else if overdue.clone().next().is_none() {
            return;
        }
        if let Some(bound) = overdue.filter_map(|(_, bound)| *bound).next_back() {
            self.effects.push(Effect::Fill(bound));
        }
        if self.waiting.is_empty() {
            return;
        }
        if self.is_bounded() {
            self.begin_round();
        } else {
            self.ask_again();
        }
    }

    /// Answers all whose bound is applied.
    fn answer(&mut self) {
        while let Some(first) = self.waiting.first_entry() {
            if first.get().is_none_or(|bound| bound > self.applied_to) {
                break;
            }
            self.effects.push(Effect::Answer(*first.key()));
            first.remove();
        }
    }

    /// Begins what those that still wait need.
    fn go_on(&mut self) {
        let Some((&last, _)) = self.waiting.last_key_value() else {
            if !self.is_short() {
                self.round = None;
                self.timer = None;
            }
            return;
        };
        let is_served = |round: &Round| last < round.serves_to;
        // Whoever comes in during a round waits for its end, so that the next one serves many.
        if self.is_bounded() && !self.is_short() && !self.round.as_ref().is_some_and(is_served) {
            self.begin_round();
        }
        if self.timer.is_none() {
            let generation = self.next_generation;
            self.next_generation += 1;
            self.timer = Some(Timer {
                generation,
                set_before: self.next_read,
            });
            self.effects.push(Effect::SetTimer(generation));
        }
    }

    /// Whether the latest round is short.
    fn is_short(&self) -> bool {
        self.round.as_ref().is_some_and(|round| round.is_short)
    }

    /// Whether a quorum has answered the latest round, if there is one.
    pub fn is_bounded(&self) -> bool {
        let phase1 = self.electorate.quorums().phase1();
        self.round
            .as_ref()
            .is_none_or(|round| round.bounds.len() >= phase1)
    }

    fn begin_round(&mut self) {
        let nonce = self.next_nonce;
        self.next_nonce = nonce.wrapping_add(1);
        self.round = Some(Round {
            nonce,
            serves_to: self.next_read,
            applied_to: self.applied_to,
            bounds: BTreeMap::new(),
            is_short: false,
        });
        self.effects.push(Effect::Ask {
            nonce,
            acceptors: self.electorate.members().to_vec(),
        });
    }

    /// Asks those that have not answered the latest round once more. A fresh round in its place would never end where
    /// answers take longer than L.
    fn ask_again(&mut self) {
        let Some(round) = &self.round else { return };
        let members = self.electorate.members().iter();
        self.effects.push(Effect::Ask {
            nonce: round.nonce,
            acceptors: members
                .filter(|&acceptor| !round.bounds.contains_key(acceptor))
                .copied()
                .collect(),
        });
    }
}

#[cfg(test)]
mod tests;
