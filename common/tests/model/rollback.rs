//! A disk that goes back, modelled: an acceptor's process runs on an older copy of its disk, and the real guards of
//! those who had heard of it decide whether it counts.

use std::{collections::BTreeSet, fmt};

use paxos_common::paxos::{
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    witness::{Guard, Run},
};
use stateright::{Model, Property};

use super::sights::{Sight, Sights};

/// How a disk goes back, and how far all goes.
#[derive(Clone)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Those who count the acceptor's answers.
    pub(crate) observers: usize,
    /// How often the process may start again.
    pub(crate) starts: u64,
    /// How many commits it may make beside those of its starts.
    pub(crate) commits: u64,
    pub(crate) expected: &'static [Sight],
    /// Runs are not told apart: the commit counter alone is held against what was heard.
    pub(crate) counter_alone: bool,
}

impl Scenario {
    /// One who counts.
    pub(crate) fn small(name: &'static str) -> Self {
        Self {
            name,
            observers: 1,
            starts: 4,
            commits: 2,
            expected: &[],
            counter_alone: false,
        }
    }
}

pub(crate) struct Rollback {
    pub(crate) scenario: Scenario,
    pub(crate) sights: std::sync::Arc<Sights>,
}

/// What a disk holds: its runs, the present one last, and every commit ever made on it, each with its run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Disk {
    runs: Vec<Run>,
    commits: BTreeSet<(RunNumber, CommitCounter)>,
}

impl Disk {
    fn counter(&self) -> CommitCounter {
        self.runs
            .last()
            .map_or_else(CommitCounter::default, |run| run.commit_counter)
    }

    /// A start makes its run durable.
    fn start(&mut self, number: u64) {
        let run = Run {
            run: RunNumber::from_random(number),
            commit_counter: self.counter(),
        };
        self.runs.push(run);
        self.commit();
    }

    fn commit(&mut self) {
        let present = self.runs.last_mut().expect("a process has a run");
        present.commit_counter = present.commit_counter.next();
        self.commits.insert((present.run, present.commit_counter));
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Observer {
    guard: Guard,
    /// The way to the present process is open.
    is_open: bool,
    /// Every commit that it was told of, kept apart from the guard.
    heard: BTreeSet<(RunNumber, CommitCounter)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    disk: Disk,
    copy: Option<Disk>,
    observers: Vec<Observer>,
    starts: u64,
    commits: u64,
    /// An answer was counted though its disk lacks a commit that the counting side had heard of.
    lost_disk_counted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Commit,
    Restart,
    /// A copy of the disk is taken.
    Copy,
    /// The process ends, the disk is replaced by the copy, and the process starts again.
    GoBack,
    /// The acceptor shows its runs to an observer.
    Open(usize),
    /// It answers one, who counts the answer if its guard lets it.
    Answer(usize),
    /// One observer hears by way of another acceptor what another one remembers.
    Tell(usize, usize),
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit => write!(f, "the acceptor commits"),
            Self::Restart => write!(f, "the acceptor restarts"),
            Self::Copy => write!(f, "its disk is copied"),
            Self::GoBack => write!(f, "its disk goes back to the copy"),
            Self::Open(observer) => write!(f, "it shows its runs to observer {observer}"),
            Self::Answer(observer) => write!(f, "it answers observer {observer}"),
            Self::Tell(from, to) => write!(f, "observer {to} hears what observer {from} remembers"),
        }
    }
}

const ACCEPTOR: AcceptorUuid = AcceptorUuid::from_u128(1);
const ANOTHER: AcceptorUuid = AcceptorUuid::from_u128(2);

impl Rollback {
    /// The runs as they are shown.
    fn shown(&self, disk: &Disk) -> Vec<Run> {
        if !self.scenario.counter_alone {
            return disk.runs.clone();
        }
        let run = |number| Run {
            run: RunNumber::from_random(number),
            commit_counter: disk.counter(),
        };
        vec![run(0), run(1)]
    }

    fn start(&self, state: &mut State) {
        state.starts += 1;
        state.disk.start(state.starts + 1);
        for observer in &mut state.observers {
            observer.is_open = false;
        }
    }

    fn answer(&self, state: &mut State, place: usize) {
        let observer = &mut state.observers[place];
        if !observer.guard.trusts(ACCEPTOR) {
            self.sights.saw(Sight::LostDiskRefused);
            return;
        }
        state.lost_disk_counted |= !observer.heard.is_subset(&state.disk.commits);
        let present = *state.disk.runs.last().expect("a process has a run");
        let run = if self.scenario.counter_alone {
            RunNumber::from_random(0)
        } else {
            present.run
        };
        observer.guard.hear(ACCEPTOR, run, present.commit_counter);
        observer.heard.insert((present.run, present.commit_counter));
    }
}

impl Model for Rollback {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut disk = Disk::default();
        disk.start(1);
        let observer = Observer {
            guard: Guard::default(),
            is_open: false,
            heard: BTreeSet::new(),
        };
        vec![State {
            disk,
            copy: None,
            observers: vec![observer; self.scenario.observers],
            starts: 0,
            commits: 0,
            lost_disk_counted: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.commits < self.scenario.commits {
            actions.push(Action::Commit);
        }
        if state.copy.is_none() {
            actions.push(Action::Copy);
        }
        if state.starts < self.scenario.starts {
            actions.push(Action::Restart);
            if state.copy.is_some() {
                actions.push(Action::GoBack);
            }
        }
        for (place, observer) in state.observers.iter().enumerate() {
            // Who does not trust it asks for its runs again.
            if !observer.is_open || !observer.guard.trusts(ACCEPTOR) {
                actions.push(Action::Open(place));
            }
            if observer.is_open {
                actions.push(Action::Answer(place));
            }
            let others = (0..state.observers.len()).filter(|&other| other != place);
            actions.extend(others.map(|other| Action::Tell(other, place)));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Commit => {
                state.commits += 1;
                state.disk.commit();
            }
            Action::Restart => self.start(&mut state),
            Action::Copy => state.copy = Some(state.disk.clone()),
            Action::GoBack => {
                state.disk = state.copy.clone().unwrap_or_default();
                self.start(&mut state);
            }
            Action::Open(place) => {
                let runs = self.shown(&state.disk);
                let observer = &mut state.observers[place];
                observer.is_open = true;
                let _ = observer.guard.introduce(ACCEPTOR, runs, []);
            }
            Action::Answer(place) => self.answer(&mut state, place),
            Action::Tell(from, to) => {
                let teller = state.observers[from].clone();
                let hearer = &mut state.observers[to];
                let _ = hearer
                    .guard
                    .introduce(ANOTHER, Vec::new(), teller.guard.witnesses().iter());
                hearer.heard.extend(teller.heard);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(
            "a disk that went back is not counted",
            |_, state: &State| !state.lost_disk_counted,
        )]
    }
}
