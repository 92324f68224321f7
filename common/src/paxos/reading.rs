//! Reading: decides when a learner's state is recent enough to answer a linearizable read. No leader is needed.
//!
//! A write is answered when a phase-2 quorum has voted for its slot, and every phase-1 quorum intersects this quorum.
//! So a learner asks all acceptors how far they have voted, *after* the read arrived. Any phase-1 quorum of answers
//! gives an upper bound of all writes answered before the question. The lowest such bound m is the phase1-th smallest
//! answer. Once everything below m is applied, the state holds every write that the reader may know of. The state also
//! holds everything seen by an earlier reader, because earlier readers saw only chosen slots.
//!
//! The same bound proves a loss. A round is *short* if its bound is below the slots applied when the round began. Every
//! slot applied by this learner is chosen. So every phase-1 quorum holds a vote for the slot, and later tails cover
//! every such vote. A short round says that acceptors have lost votes. There is a passing exception: an acceptor of an
//! older release shows a vote for the time of one commit before the tail covers the vote. So a short round answers no
//! read, and a fresh round follows after L, the leader timeout. [`SHORT_ROUNDS_MAX`] short rounds about the same slots
//! prove the loss: no read is answered any more. A round that is not short does not reset the count, because other
//! acceptors may have answered.
//!
//! A *round* of questions serves all reads that waited when the round began. An answer measured for an earlier round
//! proves nothing to a later read.
//!
//! # Eras
//!
//! Write W was answered before the round began. In the reader's own era, the quorums meet. If W is of an earlier era, a
//! phase-2 quorum of the reader's configuration held every slot of the earlier eras before the configuration took force. If W
//! is of a later era, a phase-2 quorum of the reader's configuration holds the change that ended the reader's era. So the bound
//! is above the change, the reader must apply the change first, and thereby adopts the next era. A bound was measured in one
//! configuration, and proves nothing in another: on a change of era, every waiting read loses its bound, and a fresh round
//! begins among the new members.
//!
//! A change is chosen before the new configuration takes force, so the new members may lack votes for a moment. Until a slot
//! of the new era is applied here, a short round proves no loss: see [`Reading::adopt`].
//!
//! Source: Charapko, Ailijiang, Demirbas, *Linearizable Quorum Reads in Paxos* (2019).

use std::collections::BTreeMap;

use super::{identity::AcceptorUuid, quorum::Electorate, slot::Slot};

/// Limit of waiting reads (inclusive). Further reads are turned away.
pub const READS_MAX: usize = 16_384;

/// Number of short rounds about the same slots, begun L apart, that prove a loss of votes. With an L of 200 ms, an
/// acceptor of an older release may take 1.6 s for a commit whose votes were shown too early.
pub const SHORT_ROUNDS_MAX: u32 = 10;

/// Names a caller's read. The driver numbers the reads upwards in the order of arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// An input of the state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadEvent {
    /// Callers request linearizable reads: all reads since the previous event, for a single round to serve.
    Asked {
        /// Id of the first read.
        from: ReadId,
        /// One past the id of the last read.
        to: ReadId,
    },
    /// The caller does not wait any more.
    Abandoned(ReadId),
    /// An acceptor reports how far it has voted. The caller has compared the acceptor's runs with the remembered runs
    /// before.
    Tailed {
        /// The acceptor.
        acceptor: AcceptorUuid,
        /// The nonce of the question.
        nonce: u64,
        /// The report.
        tail: Tail,
    },
    /// Every slot below is applied here.
    Applied(Slot),
    /// A timer has run for L.
    Fired(u64),
}

/// How far an acceptor has voted: at least as high as every vote that the acceptor had answered before the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tail {
    /// One past the highest slot accepted by the acceptor.
    pub voted_to: Slot,
    /// Slots below are trimmed: the acceptor holds no row there.
    pub trimmed_to: Slot,
}

impl Tail {
    /// The acceptor has voted for no slot at or above this bound.
    fn bound(self) -> Slot {
        self.voted_to.max(self.trimmed_to)
    }
}

/// An instruction to the driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReadEffect {
    /// Ask these acceptors for their tails.
    Ask {
        /// The number of the round, returned with every answer.
        nonce: u64,
        /// All members, or the members without an answer to this question.
        acceptors: Vec<AcceptorUuid>,
    },
    /// Hand in [`ReadEvent::Fired`] with this generation L from now, L being the leader timeout.
    SetTimer(u64),
    /// Ask the leader to have every slot below this one chosen.
    Fill(Slot),
    /// Answer from the present applied state.
    Answer(ReadId),
    /// Too many reads wait: the caller has to send this read again later.
    TurnAway(ReadId),
    /// Acceptors have lost votes that they had shown: every waiting read, and every later read, stays unanswered. The
    /// last effect.
    LostVotes {
        /// No acceptor of a phase-1 quorum has voted at or above this slot.
        bound: Slot,
        /// Every slot below was applied here before the quorum was asked.
        applied_to: Slot,
    },
}

/// The state machine of reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    electorate: Electorate,
    applied_to: Slot,
    /// The waiting reads, each with the smallest m of the rounds begun after the read's arrival. An earlier read was
    /// served by at least the same rounds. So bounds never decrease in this order, and reads without a bound come last.
    waiting: BTreeMap<ReadId, Option<Slot>>,
    /// Above every read so far.
    next_read: ReadId,
    /// The latest round, as long as a read waits.
    round: Option<QuestionRound>,
    next_nonce: u64,
    timer: Option<RoundTimer>,
    next_generation: u64,
    effects: Vec<ReadEffect>,
    /// Slots missing from the latest short rounds.
    missing: Option<Missing>,
    /// A short round proves a loss only if a slot from here on was applied when the round began.
    proves_from: Slot,
    /// Acceptors were found to have lost votes.
    has_ended: bool,
}

/// Short rounds about the same slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Missing {
    /// Every slot below was applied before the first of the rounds began.
    applied_to: Slot,
    /// Number of short rounds with a quorum's bound below `applied_to`; at most [`SHORT_ROUNDS_MAX`].
    rounds: u32,
}

/// One question to all acceptors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct QuestionRound {
    nonce: u64,
    /// The reads below had arrived when the round began.
    serves_to: ReadId,
    /// Every slot below was applied when the round began.
    applied_to: Slot,
    /// By acceptor, so that each acceptor counts once.
    bounds: BTreeMap<AcceptorUuid, Slot>,
    /// A quorum has answered with less than was applied when the round began.
    is_short: bool,
}

impl QuestionRound {
    /// m, once a quorum has answered. Further answers can lower m.
    fn bound(&self, quorum: usize) -> Option<Slot> {
        let mut bounds: Vec<Slot> = self.bounds.values().copied().collect();
        bounds.sort_unstable();
        bounds.get(quorum - 1).copied()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RoundTimer {
    generation: u64,
    /// The reads below have waited since the timer was set, or longer.
    set_before: ReadId,
}

impl Reading {
    /// Begins with everything below `applied_to` applied. The first nonce is drawn at random; later nonces follow.
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
            proves_from: Slot::ZERO,
            has_ended: false,
        }
    }

    /// The same for a reader that may have adopted its configuration before it was in force: see [`Self::adopt`].
    #[must_use]
    pub fn proving_from(self, slot: Slot) -> Self {
        Self {
            proves_from: slot,
            ..self
        }
    }

    /// Works with the members of a later era from now on. Waiting reads stay, and lose the bounds that they hold; the present
    /// round ends, and a fresh round of all new members begins. An earlier era, the present one, or another cluster changes
    /// nothing.
    ///
    /// `proves_from`: the slot after the change that was applied, because slots from there on are of the new era. Until such a
    /// slot is applied, the configuration may not be in force, and short rounds prove no loss. Slot 0 for a configuration
    /// that is known to be in force.
    pub fn adopt(&mut self, electorate: &Electorate, proves_from: Slot) {
        if self.has_ended || !electorate.is_later_than(&self.electorate) {
            return;
        }
        self.electorate = electorate.clone();
        self.proves_from = proves_from;
        for bound in self.waiting.values_mut() {
            *bound = None;
        }
        self.round = None;
        // Other acceptors are asked: a loss must be proved again.
        self.missing = None;
        self.go_on();
    }

    /// Number of waiting reads.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Processes an event.
    ///
    /// # Panics
    /// When the ids of new reads are not above all earlier ids.
    pub fn handle(&mut self, event: ReadEvent) {
        if self.has_ended {
            return;
        }
        match event {
            ReadEvent::Asked { from, to } => self.asked(from, to),
            ReadEvent::Abandoned(read) => {
                self.waiting.remove(&read);
            }
            ReadEvent::Tailed {
                acceptor,
                nonce,
                tail,
            } => self.tailed(acceptor, nonce, tail),
            ReadEvent::Applied(applied_to) => self.applied_to = self.applied_to.max(applied_to),
            ReadEvent::Fired(generation) => self.fired(generation),
        }
        if self.has_ended {
            return;
        }
        self.answer();
        self.go_on();
    }

    /// Takes the effects to carry out, in this order.
    pub fn take_effects(&mut self) -> Vec<ReadEffect> {
        std::mem::take(&mut self.effects)
    }

    fn asked(&mut self, from: ReadId, to: ReadId) {
        assert!(
            self.next_read <= from && from <= to,
            "reads are numbered in order of arrival"
        );
        self.next_read = to;
        for read in (from.0..to.0).map(ReadId) {
            if self.waiting.len() < READS_MAX {
                self.waiting.insert(read, None);
            } else {
                self.effects.push(ReadEffect::TurnAway(read));
            }
        }
    }

    /// Counts an answer to the latest round. An answer to an earlier round was measured before some of the reads
    /// arrived.
    fn tailed(&mut self, acceptor: AcceptorUuid, nonce: u64, tail: Tail) {
        let Some(round) = self.round.as_mut().filter(|round| round.nonce == nonce) else {
            return;
        };
        if !self.electorate.includes(acceptor) {
            return;
        }
        // A repeated question may get two answers. Both were measured after the round began.
        let bound = round.bounds.entry(acceptor).or_insert(Slot::MAX);
        *bound = tail.bound().min(*bound);
        let Some(bound) = round.bound(self.electorate.quorums().phase1()) else {
            return;
        };
        if bound < round.applied_to {
            if !round.is_short {
                round.is_short = true;
                let applied_to = round.applied_to;
                if applied_to > self.proves_from {
                    self.missed(bound, applied_to);
                }
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
            // The earlier slots are covered now, and other slots are not.
            *missing = Missing {
                applied_to,
                rounds: 0,
            };
        }
        missing.rounds += 1;
        if missing.rounds == SHORT_ROUNDS_MAX {
            self.has_ended = true;
            self.effects.push(ReadEffect::LostVotes {
                bound,
                applied_to: missing.applied_to,
            });
        }
    }

    /// Asks again for reads that have waited for L, and has the leader fill the slots below their bounds.
    fn fired(&mut self, generation: u64) {
        let Some(timer) = self.timer.take_if(|timer| timer.generation == generation) else {
            return;
        };
        let overdue = self.waiting.range(..timer.set_before);
        if self.is_short() {
            // A short round is kept until now, so that the next round begins no earlier.
            self.round = None;
        } else if overdue.clone().next().is_none() {
            return;
        }
        if let Some(bound) = overdue.filter_map(|(_, bound)| *bound).next_back() {
            self.effects.push(ReadEffect::Fill(bound));
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

    /// Answers every read whose bound is applied.
    fn answer(&mut self) {
        while let Some(first) = self.waiting.first_entry() {
            if first.get().is_none_or(|bound| bound > self.applied_to) {
                break;
            }
            self.effects.push(ReadEffect::Answer(*first.key()));
            first.remove();
        }
    }

    /// Begins the next round and sets the timer, as far as waiting reads need either.
    fn go_on(&mut self) {
        let Some((&last, _)) = self.waiting.last_key_value() else {
            if !self.is_short() {
                self.round = None;
                self.timer = None;
            }
            return;
        };
        let is_served = |round: &QuestionRound| last < round.serves_to;
        // A read arriving during a round waits for the end of the round, so that the next round serves many reads.
        if self.is_bounded() && !self.is_short() && !self.round.as_ref().is_some_and(is_served) {
            self.begin_round();
        }
        if self.timer.is_none() {
            let generation = self.next_generation;
            self.next_generation += 1;
            self.timer = Some(RoundTimer {
                generation,
                set_before: self.next_read,
            });
            self.effects.push(ReadEffect::SetTimer(generation));
        }
    }

    /// Whether the latest round is short.
    fn is_short(&self) -> bool {
        self.round.as_ref().is_some_and(|round| round.is_short)
    }

    /// Whether a quorum has answered the latest round. True if there is no round.
    pub fn is_bounded(&self) -> bool {
        let phase1 = self.electorate.quorums().phase1();
        self.round
            .as_ref()
            .is_none_or(|round| round.bounds.len() >= phase1)
    }

    fn begin_round(&mut self) {
        let nonce = self.next_nonce;
        self.next_nonce = nonce.wrapping_add(1);
        self.round = Some(QuestionRound {
            nonce,
            serves_to: self.next_read,
            applied_to: self.applied_to,
            bounds: BTreeMap::new(),
            is_short: false,
        });
        self.effects.push(ReadEffect::Ask {
            nonce,
            acceptors: self.electorate.members().to_vec(),
        });
    }

    /// Repeats the question of the latest round to the acceptors without an answer. A fresh round in its place would
    /// never end where answers take longer than L.
    fn ask_again(&mut self) {
        let Some(round) = &self.round else { return };
        let members = self.electorate.members().iter();
        self.effects.push(ReadEffect::Ask {
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
