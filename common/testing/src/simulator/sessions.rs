//! Simulated sessions: what clients ask for, which of it belongs to one retry, and the state machines of learners.
//!
//! Each time that a client sends a command it gives it a new number, which is all that the cores see. What the number
//! stands for is written in a book that learners read: a retry is another number with the same session and sequence.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use paxos_common::paxos::{
    command::{Command, Condition, Opener, Operation, SessionStamp},
    machine::{Judgement, Machine, Outcome},
    slot::{Slot, Version},
    value::Value,
};
use rand::{RngExt as _, rngs::StdRng};

use super::{
    invariants::{Invariants, commands},
    tamper::Tampering,
};

/// Keys are few, so that conditions fail now and then.
const KEYS: [&str; 3] = ["a", "b", "c"];

/// A client's session, as the client sees it.
#[derive(Debug)]
pub(crate) struct ClientSession {
    name: Version,
    opener: Option<Opener>,
    next: u64,
    unresolved: BTreeSet<u64>,
}

impl ClientSession {
    /// A client was answered for its opening.
    pub(crate) fn opened(name: Version, opener: Option<Opener>) -> Self {
        Self {
            name,
            opener,
            next: 1,
            unresolved: BTreeSet::new(),
        }
    }

    /// Makes up a command of the session.
    pub(crate) fn command(&mut self, rng: &mut StdRng) -> (u64, Command) {
        let sequence = self.next;
        self.next += 1;
        self.unresolved.insert(sequence);
        let stamp = SessionStamp {
            session: self.name,
            sequence,
            acked_below: self.unresolved.first().copied().unwrap_or(sequence),
            opener: self.opener,
        };
        let command = Command {
            session: Some(stamp),
            operation: operation(rng),
        };
        (sequence, command)
    }

    /// Whether only its opener may use it.
    pub(crate) fn is_bound(&self) -> bool {
        self.opener.is_some()
    }

    /// What another client sends that has guessed the session's name: to take its next sequence.
    pub(crate) fn hijacked(&self, by: Option<Opener>, rng: &mut StdRng) -> Command {
        let stamp = SessionStamp {
            session: self.name,
            sequence: self.next,
            acked_below: self.next,
            opener: by,
        };
        Command {
            session: Some(stamp),
            operation: operation(rng),
        }
    }

    /// The client knows the outcome, or does not want to any more.
    pub(crate) fn resolved(&mut self, sequence: u64) {
        self.unresolved.remove(&sequence);
    }
}

/// The opener of a client's sessions. Each fourth client is of an older release, and states none.
pub(crate) fn opener_of(client: usize) -> Option<Opener> {
    let number = u8::try_from(client % 256).expect("it is small");
    (client % 4 != 3).then(|| Opener::from_bytes([number; Opener::BYTES]))
}

/// Something that changes a register.
pub(crate) fn operation(rng: &mut StdRng) -> Operation {
    let key = Bytes::from_static(KEYS[rng.random_range(0..KEYS.len())].as_bytes());
    let condition = match rng.random_range(0..4) {
        0 => Condition::Always,
        1 => Condition::Absent,
        _ => Condition::Version(Version {
            slot: Slot::ZERO.plus(rng.random_range(0..40)),
            offset: 0,
        }),
    };
    if rng.random_bool(0.3) {
        return Operation::Delete { key, condition };
    }
    Operation::Put {
        key,
        value: Bytes::new(),
        condition,
    }
}

/// What every number stands for; the first is 1.
#[derive(Debug, Default)]
pub(crate) struct Book(Vec<Command>);

impl Book {
    /// Gives a command its number.
    pub(crate) fn enter(&mut self, command: Command) -> u64 {
        self.0.push(command);
        self.0.len() as u64
    }

    fn read(&self, value: &Value) -> Vec<Command> {
        commands(value)
            .map(|number| self.0[usize::try_from(number).expect("few commands") - 1].clone())
            .collect()
    }
}

/// The state machine of a learner, and what it has judged so far.
#[derive(Debug, Default)]
pub(crate) struct State {
    machine: Machine,
    /// With a planted bug: the highest sequence that was carried out for each session.
    highest: BTreeMap<Version, u64>,
}

impl State {
    /// Applies what a learner has learned, and tells the invariants what became of it.
    pub(crate) fn apply(
        &mut self,
        slot: Slot,
        value: &Value,
        book: &Book,
        tampering: &Tampering,
        invariants: &mut Invariants,
    ) {
        let commands = book.read(value);
        let mut judgements = self.machine.apply(slot, &commands);
        tampering.tamper_with_judgements(&commands, &mut judgements, &mut self.highest);
        let versions = (0..=u16::MAX).map(|offset| Version { slot, offset });
        for ((version, command), judgement) in versions.zip(&commands).zip(judgements) {
            invariants.retries.judged(version, command, judgement);
        }
    }
}

impl Tampering {
    /// Skips what is at or below the highest sequence of its session.
    fn tamper_with_judgements(
        &self,
        commands: &[Command],
        judgements: &mut [Judgement],
        highest: &mut BTreeMap<Version, u64>,
    ) {
        if self.admits_foreign_commands() {
            let foreign = judgements
                .iter_mut()
                .filter(|judgement| **judgement == Judgement::Foreign);
            foreign.for_each(|judgement| *judgement = Judgement::Executed(Outcome::Applied));
        }
        if !self.dedupes_by_highest() {
            return;
        }
        for (command, judgement) in commands.iter().zip(judgements) {
            let (Some(stamp), Judgement::Executed(outcome)) = (command.session, *judgement) else {
                continue;
            };
            let highest = highest.entry(stamp.session).or_default();
            if stamp.sequence <= *highest {
                *judgement = Judgement::Duplicate {
                    first: stamp.session,
                    outcome,
                };
            }
            *highest = stamp.sequence.max(*highest);
        }
    }
}
