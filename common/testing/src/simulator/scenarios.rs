//! Directed scenarios of failure detection: each kind of fault alone, with its bound.
//!
//! Random faults seldom test two rules: a leader that is alive and slow must stay, and a dead leader must be replaced
//! in time. In each scenario proposer 0 leads when the fault begins, two seconds after the start.

use paxos_common::paxos::{era::Era, proposer::Limits, quorum::Quorums};
use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    Transcript,
    changes::Operator,
    knobs::{Knobs, MILLISECOND, NetworkKnobs},
    log::{Happened, Log},
    network::Node,
    world::{Happening, Time, World},
};
use crate::bug::Bug;

mod members;
mod table;

#[allow(unused_imports, reason = "the example names only one of them")]
pub use table::{FLEXIBLE, SCENARIOS};

/// Start of the fault.
pub const BEGIN: Time = 2_000 * MILLISECOND;

const SECOND: Time = 1_000 * MILLISECOND;

/// A step of a script: the time after the start of the fault, and the action.
#[derive(Clone, Copy)]
pub struct Step(Time, for<'a> fn(&mut World<'a>));

/// A kind of fault, with its bound.
pub struct Scenario {
    pub name: &'static str,
    quorums: (usize, usize, usize),
    proposers: usize,
    /// Differences from the usual knobs.
    change: fn(&mut Knobs),
    script: &'static [Step],
    /// The script changes the members.
    changes: bool,
    /// Planted bugs found by this scenario.
    pub finds: &'static [Bug],
    /// The scenario names no particular acceptor.
    for_all_quorums: bool,
    /// Duration of the scenario after the start of the fault.
    lasts: Time,
    check: fn(&Log) -> Result<(), String>,
}

impl Scenario {
    /// Runs the scenario, with a planted bug or without.
    ///
    /// # Errors
    /// The missed bound, with the log of leadership events.
    pub fn run(
        &self,
        quorums: (usize, usize, usize),
        seed: u64,
        bug: Option<Bug>,
        transcript: &mut Transcript,
    ) -> Result<(), String> {
        let mut knobs = calm(quorums, self.proposers);
        (self.change)(&mut knobs);
        let mut world = World::with(StdRng::seed_from_u64(seed), knobs, bug, transcript);
        world.script = self.script.to_vec();
        world.changes = self.changes.then(Operator::idle);
        world.start();
        for proposer in 1..self.proposers {
            world.stand_still(Node::Proposer(proposer), SECOND);
        }
        for (step, &Step(at, _)) in self.script.iter().enumerate() {
            world.plan(BEGIN + at, Happening::Scripted(step));
        }
        world.run_until(BEGIN + self.lasts);
        let leads = |happened: &Happened| *happened == Happened::Leads(0);
        let log = &world.log;
        let outcome = if log.count(0, BEGIN, leads) == 1 && log.count(0, BEGIN, answered) > 0 {
            (self.check)(log)
        } else {
            Err("proposer 0 does not lead when the fault begins".to_owned())
        };
        outcome.map_err(|reason| {
            let report = log
                .0
                .iter()
                .filter(|(_, happened)| *happened != Happened::Answered);
            let lines: Vec<String> = report
                .map(|(at, happened)| format!("{:>9} ms {happened:?}", at / MILLISECOND))
                .collect();
            format!(
                "{} {quorums:?} seed {seed}: {reason}\n{}",
                self.name,
                lines.join("\n")
            )
        })
    }

    /// Whether the scenario names no particular acceptor, and its leader is gone or stays whatever the quorums are.
    pub fn is_for_all_quorums(&self) -> bool {
        self.for_all_quorums
    }

    /// The intended quorums of the scenario.
    pub fn quorums(&self) -> (usize, usize, usize) {
        self.quorums
    }
}

/// A cluster without faults, under some load.
fn calm((acceptors, phase1, phase2): (usize, usize, usize), proposers: usize) -> Knobs {
    let mut knobs = Knobs::draw(&mut StdRng::seed_from_u64(0));
    knobs.quorums = Quorums::new(acceptors, phase1, phase2).expect("each of them is safe");
    knobs.proposers = proposers;
    knobs.learners = 1;
    knobs.clients = 2;
    knobs.think_max = 80 * MILLISECOND;
    knobs.client_patience = SECOND;
    knobs.read_every = 10 * SECOND;
    knobs.network = NetworkKnobs::CALM;
    (knobs.disk_min, knobs.disk_max) = (50, 300);
    (knobs.disk_stuck, knobs.released_late, knobs.commit_fails) = (0.0, 0.0, 0.0);
    (knobs.disks_lost_max, knobs.damage) = (0, false);
    (knobs.group_max, knobs.page_rows_max) = (100, 5);
    knobs.driven_up_to = Default::default();
    knobs.limits = Limits::default();
    knobs
}

fn answered(happened: &Happened) -> bool {
    *happened == Happened::Answered
}

fn campaigns(happened: &Happened) -> bool {
    happened.campaigner().is_some()
}

fn leads(happened: &Happened) -> bool {
    matches!(happened, Happened::Leads(_))
}

fn steps_down(happened: &Happened) -> bool {
    matches!(happened, Happened::StepsDown(..))
}

/// No proposer campaigns, and no leader steps down.
fn nothing_changes(log: &Log) -> Result<(), String> {
    let changes = log.count(BEGIN, Time::MAX, |happened| {
        campaigns(happened) || steps_down(happened)
    });
    expect(changes == 0, || format!("{changes} campaigns and step-downs"))
}

/// A new leader leads within a time after the fault, and commands are answered.
fn replaced_within(log: &Log, after: Time, within: Time) -> Result<(), String> {
    let led = log.first(BEGIN + after, leads);
    let took = led.map(|at| at - BEGIN - after);
    expect(took.is_some_and(|took| took <= within), || {
        format!("the next leader after {took:?} µs, and not within {within}")
    })?;
    // After a second, a client with a lost command asks a proposer again, perhaps more than once.
    answers_within(log, after, within + 4 * SECOND)
}

/// A command is answered within a time.
fn answers_within(log: &Log, after: Time, within: Time) -> Result<(), String> {
    let first = log.first(BEGIN + after, answered);
    let took = first.map(|at| at - BEGIN - after);
    expect(took.is_some_and(|took| took <= within), || {
        format!("the first command after {took:?} µs, and not within {within}")
    })
}

/// A change of members is done within a time.
fn changed_within(log: &Log, within: Time) -> Result<(), String> {
    let done = log.first(BEGIN, |happened| *happened == Happened::Changed);
    let took = done.map(|at| at - BEGIN);
    expect(took.is_some_and(|took| took <= within), || {
        format!("the change is done after {took:?} µs, and not within {within}")
    })
}

/// The leader changes at most `most` times.
fn leaders_at_most(log: &Log, most: usize) -> Result<(), String> {
    let count = log.count(BEGIN, Time::MAX, leads);
    expect(count <= most, || format!("{count} leaders, and not {most}"))
}

fn expect(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}

// Actions of scripts.
impl World<'_> {
    /// Runs the next step of a script.
    pub(crate) fn scripted(&mut self, step: usize) {
        let Step(_, act) = self.script[step];
        self.note(|| format!("step {step} of the script"));
        act(self);
    }

    fn stall(&mut self, acceptors: impl IntoIterator<Item = usize>, lasts: Time) {
        let until = self.now + lasts;
        for acceptor in acceptors {
            if let Some(process) = self.acceptors.get_mut(acceptor) {
                process.stalled_until = until;
            }
        }
    }

    /// Whether all acceptors have voted equally far, and know all voted slots to be chosen.
    fn is_quiet(&self) -> bool {
        let cores = self.acceptors.iter().filter_map(|process| process.core.as_ref());
        let mut marks = cores.map(|core| (core.known_to(), core.voted_to()));
        let first = marks.next();
        first.is_some_and(|(known_to, voted_to)| {
            known_to == voted_to && marks.all(|other| other == (known_to, voted_to))
        })
    }

    fn all(&self) -> std::ops::Range<usize> {
        0..self.acceptors.len()
    }

    fn fill_disks(&mut self, lasts: Time) {
        let until = self.now + lasts;
        for process in &mut self.acceptors {
            process.full_until = until;
        }
    }

    /// Holds up messages from a proposer to the given acceptors.
    fn cut_out(&mut self, proposer: usize, acceptors: impl IntoIterator<Item = usize>, lasts: Time) {
        for acceptor in acceptors {
            let way = (Node::Proposer(proposer), Node::Acceptor(acceptor));
            self.network.cuts.insert(way, self.now + lasts);
        }
    }

    /// Holds up messages from the given acceptors to a proposer.
    fn cut_in(&mut self, proposer: usize, acceptors: impl IntoIterator<Item = usize>, lasts: Time) {
        for acceptor in acceptors {
            let way = (Node::Acceptor(acceptor), Node::Proposer(proposer));
            self.network.cuts.insert(way, self.now + lasts);
        }
    }

    /// Holds up messages in both directions.
    fn cut_off(&mut self, proposer: usize, acceptors: impl IntoIterator<Item = usize> + Clone, lasts: Time) {
        self.cut_out(proposer, acceptors.clone(), lasts);
        self.cut_in(proposer, acceptors, lasts);
    }

    /// Holds up messages among proposers.
    fn cut_proposers(&mut self, lasts: Time) {
        let until = self.now + lasts;
        for from in 0..self.proposers.len() {
            for to in 0..self.proposers.len() {
                let way = (Node::Proposer(from), Node::Proposer(to));
                self.network.cuts.insert(way, until);
            }
        }
    }

    fn stop(&mut self, node: Node, lasts: Time) {
        self.stand_still(node, self.now + lasts);
    }

    fn reset_all_of(&mut self, proposer: usize) {
        self.reset_streams(|stream| stream.proposer == proposer);
        for acceptor in 0..self.acceptors.len() {
            self.plan_within(MILLISECOND, Happening::LinkClosed { acceptor, proposer });
        }
    }

    /// A proposer's connections to an acceptor carry `bytes_per_ms` bytes per millisecond.
    fn slow_down(&mut self, proposer: usize, acceptor: usize, bytes_per_ms: u64) {
        let way = (Node::Proposer(proposer), Node::Acceptor(acceptor));
        self.network.bandwidth.insert(way, bytes_per_ms);
    }
}
