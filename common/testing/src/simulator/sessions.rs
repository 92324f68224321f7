//! Simulated sessions: the commands of clients, the retries of a command, and the state machines of learners.
//!
//! A client gives a command a new number each time the command is sent. The cores see only the number. Learners look up
//! the command of a number in a book. A retry is a new number with the same session and sequence.

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
    /// A client's session, after the answer to the opening command.
    pub(crate) fn opened(name: Version, opener: Option<Opener>) -> Self {
        Self {
            name,
            opener,
            next: 1,
            unresolved: BTreeSet::new(),
        }
    }

    /// Creates a command of the session.
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

    /// Whether only the opener may use the session.
    pub(crate) fn is_bound(&self) -> bool {
        self.opener.is_some()
    }

    /// The command of a foreign client that has guessed the session's name and takes the session's next sequence.
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

    /// The client knows the outcome, or no longer wants to know.
    pub(crate) fn resolved(&mut self, sequence: u64) {
        self.unresolved.remove(&sequence);
    }
}

/// The opener of a client's sessions. Every fourth client is of an older release, and states no opener.
pub(crate) fn opener_of(client: usize) -> Option<Opener> {
    let number = u8::try_from(client % 256).expect("it is small");
    (client % 4 != 3).then(|| Opener::from_bytes([number; Opener::BYTES]))
}

/// A random change of a register.
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

/// The command of every number; the first number is 1.
#[derive(Debug, Default)]
pub(crate) struct Book(Vec<Command>);

impl Book {
    /// Gives a number to a command.
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

/// The state machine of a learner, with its judgements so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    machine: Machine,
    /// With a planted bug: the highest executed sequence of each session.
    highest: BTreeMap<Version, u64>,
}

impl State {
    /// Applies a learned value, and reports the judgements to the invariants.
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
    /// With a planted bug: executes foreign commands, or skips every command at or below the session's highest
    /// sequence.
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
