//! A model of a rolled-back disk: an acceptor's process runs on an older copy of the disk, and the real guards of the
//! observers decide whether the acceptor counts. Observers pass runs on to other acceptors. These acceptors store the
//! runs in bounded tables.

use std::{collections::BTreeSet, fmt};

use paxos_common::paxos::{
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    quorum::Quorums,
    witness::{Guard, Run, RunJudgement, RunList, WITNESSED_RUNS_MAX, Witnesses},
};
use stateright::{Model, Property};

use super::sights::{Sight, Sights};
use crate::bug::Bug;

/// The course of a rollback, and the bounds of the model.
#[derive(Clone)]
pub struct Scenario {
    pub(crate) name: &'static str,
    /// Number of observers: processes that count the acceptor's answers.
    pub(crate) observers: usize,
    /// Number of other acceptors, each with a table of the runs passed on by observers.
    pub(crate) tables: usize,
    /// Number of other acceptors that must report their tables before an observer counts a new run. At most 1 here.
    pub(crate) others_needed: usize,
    /// The same once the members have changed, if the members change. Each observer adopts the change at a time of its own.
    pub(crate) others_needed_later: Option<usize>,
    /// Limit of runs kept and shown by the acceptor.
    pub(crate) runs_max: usize,
    /// Limit of restarts of the acceptor's process.
    pub(crate) starts: u64,
    /// Limit of the acceptor's commits, apart from the commit of each start.
    pub(crate) commits: u64,
    /// Limit of observer restarts. A restarted observer remembers nothing.
    pub(crate) forgets: u64,
    /// Whether the right disk may be put back.
    pub(crate) put_back: bool,
    pub(crate) expected: &'static [Sight],
    pub(crate) bug: Option<Bug>,
}

impl Scenario {
    /// A scenario with a single observer.
    pub(crate) fn small(name: &'static str) -> Self {
        Self {
            name,
            observers: 1,
            tables: 0,
            others_needed: 0,
            others_needed_later: None,
            runs_max: 100,
            starts: 4,
            commits: 2,
            forgets: 0,
            put_back: false,
            expected: &[],
            bug: None,
        }
    }
}

pub(crate) struct Rollback {
    pub(crate) scenario: Scenario,
    pub(crate) sights: std::sync::Arc<Sights>,
}

type Commits = BTreeSet<(RunNumber, CommitCounter)>;

/// The contents of a disk: its runs, the present run last, and every commit ever made on the disk, each with its run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Disk {
    runs: Vec<Run>,
    commits: Commits,
}

impl Disk {
    fn counter(&self) -> CommitCounter {
        self.runs
            .last()
            .map_or_else(CommitCounter::default, |run| run.commit_counter)
    }

    fn present(&self) -> Run {
        *self.runs.last().expect("a process has a run")
    }

    /// Starts a process: makes the new run durable, and drops the oldest runs beyond the bound.
    fn start(&mut self, number: u64, runs_max: usize) {
        let run = Run {
            run: RunNumber::from_random(number),
            commit_counter: self.counter(),
        };
        self.runs.push(run);
        let surplus = self.runs.len().saturating_sub(runs_max);
        self.runs.drain(..surplus);
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
    /// Whether the connection to the present process is open.
    is_open: bool,
    /// The observer works with the configuration after the change of members.
    has_adopted: bool,
    /// Every commit counted by the observer or reported by a table. Kept separately from the guard.
    heard: Commits,
    /// Runs passed on by mistake. Empty unless a bug is planted.
    untrusted: Witnesses,
}

/// The table of another acceptor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Table {
    stored: Witnesses,
    /// Every commit counted by the observers that passed on runs.
    heard: Commits,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    disk: Disk,
    copy: Option<Disk>,
    /// The right disk, while a copy replaces it.
    right: Option<Disk>,
    /// Runs started on a copy.
    fork: BTreeSet<RunNumber>,
    /// Runs started while every table held a proof against the disk.
    proved: BTreeSet<RunNumber>,
    observers: Vec<Observer>,
    tables: Vec<Table>,
    starts: u64,
    commits: u64,
    forgets: u64,
    /// An observer without a proof counted runs of a copy, and passed the runs on. The guards promise nothing for this
    /// case.
    fork_passed_on: bool,
    /// An answer was counted although the answering disk lacks a commit known to the observer, or although the run was
    /// started while every table held a proof.
    lost_disk_counted: bool,
    /// An acceptor with every counted commit on the disk showed the runs, and was not trusted.
    right_disk_refused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Commit,
    Restart,
    /// A copy of the disk is taken.
    Copy,
    /// The process ends, the disk is replaced by the copy, and the process starts again.
    GoBack,
    /// The process ends, the right disk is put back, and the process starts again.
    PutBack,
    /// The acceptor shows its runs to an observer. Then the observer asks the given table.
    Open(usize, Option<usize>),
    /// The acceptor answers an observer. The observer counts the answer if the guard trusts the acceptor.
    Answer(usize),
    /// An observer reads the table of another acceptor.
    ReportTable(usize, usize),
    /// An observer reads a table, and then passes on its remembered runs to the table.
    PassOn(usize, usize),
    /// An observer restarts.
    Forget(usize),
    /// An observer adopts a change of members.
    Adopt(usize),
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit => write!(f, "the acceptor commits"),
            Self::Restart => write!(f, "the acceptor restarts"),
            Self::Copy => write!(f, "its disk is copied"),
            Self::GoBack => write!(f, "its disk goes back to the copy"),
            Self::PutBack => write!(f, "its right disk is put back"),
            Self::Open(observer, None) => write!(f, "it shows its runs to observer {observer}"),
            Self::Open(observer, Some(table)) => {
                write!(
                    f,
                    "it shows its runs to observer {observer}, which asks table {table}"
                )
            }
            Self::Answer(observer) => write!(f, "it answers observer {observer}"),
            Self::ReportTable(table, observer) => write!(f, "observer {observer} reads table {table}"),
            Self::PassOn(observer, table) => write!(f, "observer {observer} passes on to table {table}"),
            Self::Forget(observer) => write!(f, "observer {observer} starts again"),
            Self::Adopt(observer) => write!(f, "observer {observer} adopts a change of members"),
        }
    }
}

const ACCEPTOR: AcceptorUuid = AcceptorUuid::from_u128(1);

/// The acceptor with this table.
fn holder(table: usize) -> AcceptorUuid {
    AcceptorUuid::from_u128(100 + table as u128)
}

/// Not an acceptor: stands for the observer itself where a bug is planted.
const ITSELF: AcceptorUuid = AcceptorUuid::from_u128(99);

impl Rollback {
    fn has(&self, bug: Bug) -> bool {
        self.scenario.bug == Some(bug)
    }

    fn guard(&self) -> Guard {
        Guard::with(self.scenario.runs_max, self.scenario.others_needed)
    }

    /// The guard of an observer that works with the configuration after the change of members.
    fn adopt(&self, guard: &mut Guard) {
        let needed = self.scenario.others_needed_later.unwrap_or_default();
        let quorums = Quorums::new(2 * needed + 1, needed + 1, needed + 1);
        if !self.has(Bug::NewMembersUnasked) {
            guard.adopt(quorums.expect("majorities intersect"), |_| true);
        }
    }

    /// Number of other acceptors that an observer must ask.
    fn others_needed(&self, observer: &Observer) -> usize {
        let later = self.scenario.others_needed_later;
        let later = later.filter(|_| observer.has_adopted);
        later.unwrap_or(self.scenario.others_needed)
    }

    /// The runs as shown to an observer.
    fn shown(&self, disk: &Disk) -> Vec<Run> {
        let run = |number, commit_counter| Run {
            run: RunNumber::from_random(number),
            commit_counter,
        };
        if self.has(Bug::CounterAlone) {
            return vec![run(0, disk.counter()), run(1, disk.counter())];
        }
        disk.runs.clone()
    }

    fn start(&self, state: &mut State) {
        state.starts += 1;
        state.disk.start(state.starts + 1, self.scenario.runs_max);
        let present = state.disk.present().run;
        if state.right.is_some() {
            state.fork.insert(present);
        }
        let is_ever_needed = self.scenario.others_needed > 0 || self.scenario.others_needed_later > Some(0);
        if is_ever_needed && self.is_proved_everywhere(state) {
            state.proved.insert(present);
        }
        for observer in &mut state.observers {
            observer.is_open = false;
        }
    }

    /// Whether every table holds a proof against the disk.
    fn is_proved_everywhere(&self, state: &State) -> bool {
        let history = RunList::new(&state.disk.runs, self.scenario.runs_max);
        let proves = |(run, heard)| matches!(history.judge(run, heard), RunJudgement::WentBack(_));
        let mut tables = state.tables.iter();
        !state.tables.is_empty() && tables.all(|table| table.stored.of(ACCEPTOR).any(proves))
    }

    fn open(&self, state: &mut State, place: usize, table: Option<usize>) {
        let mut runs = self.shown(&state.disk);
        let asked = table.map(|table| {
            let table_of_other = state.tables[table].clone();
            if self.has(Bug::NewRunCountsUnasked) {
                return (holder(table), Witnesses::default());
            }
            state.observers[place].heard.extend(table_of_other.heard);
            (holder(table), table_of_other.stored)
        });
        let others: Vec<_> = asked.into_iter().collect();
        let counted = state.observers.iter().flat_map(|observer| &observer.heard);
        let mut counted = counted.chain(state.tables.iter().flat_map(|table| &table.heard));
        let holds_all = counted.all(|commit| state.disk.commits.contains(commit));
        let observer = &mut state.observers[place];
        observer.is_open = true;
        let _ = observer.guard.introduce(ACCEPTOR, &runs, [], &others);
        if self.has(Bug::TooOldAgrees)
            && !observer.guard.trusts(ACCEPTOR)
            && runs.len() == self.scenario.runs_max
        {
            // As if the list had also shown the runs before the oldest listed run.
            for (run, heard) in state.tables.iter().flat_map(|table| table.stored.of(ACCEPTOR)) {
                if runs.iter().all(|listed| listed.run != run) && heard < runs[0].commit_counter {
                    runs.insert(
                        0,
                        Run {
                            run,
                            commit_counter: heard,
                        },
                    );
                }
            }
            let _ = observer.guard.introduce(ACCEPTOR, &runs, [], &others);
        }
        // For a sound disk with a cut list, too, a remembered run may be too old to prove anything.
        let is_complete =
            self.scenario.runs_max > usize::try_from(self.scenario.starts).unwrap_or(usize::MAX);
        if holds_all && is_complete && !self.has(Bug::CounterAlone) {
            state.right_disk_refused |= !observer.guard.trusts(ACCEPTOR);
            if state.right.is_none() && !state.fork.is_empty() {
                self.sights.saw(Sight::RightDiskTrusted);
            }
        }
    }

    fn answer(&self, state: &mut State, place: usize) {
        let present = state.disk.present();
        let observer = &mut state.observers[place];
        if self.has(Bug::UntrustedIsHeard) {
            observer
                .untrusted
                .hear(ACCEPTOR, present.run, present.commit_counter);
        }
        if !observer.guard.trusts(ACCEPTOR) {
            self.sights.saw(Sight::LostDiskRefused);
            return;
        }
        let counts_lost = !observer.heard.is_subset(&state.disk.commits);
        let counts_proved = self.others_needed(observer) > 0 && state.proved.contains(&present.run);
        state.lost_disk_counted |= (counts_lost || counts_proved) && !state.fork_passed_on;
        if self.has(Bug::CounterAlone) {
            let run = RunNumber::from_random(0);
            let _ = observer
                .guard
                .remember(ITSELF, [(ACCEPTOR, run, present.commit_counter)]);
        } else if self.has(Bug::OwnHearingVouches) {
            let entry = (ACCEPTOR, present.run, present.commit_counter);
            let _ = observer.guard.remember(ITSELF, [entry]);
        } else {
            observer.guard.hear(ACCEPTOR, present.run, present.commit_counter);
        }
        observer.heard.insert((present.run, present.commit_counter));
    }

    fn report_table(state: &mut State, table: usize, place: usize) {
        let table_of_other = state.tables[table].clone();
        let observer = &mut state.observers[place];
        let _ = observer
            .guard
            .remember(holder(table), table_of_other.stored.iter());
        observer.heard.extend(table_of_other.heard);
    }

    /// Passes on an observer's runs to a table. A leader reads a table before passing anything on to the table.
    fn pass_on(state: &mut State, place: usize, table: usize) {
        Self::report_table(state, table, place);
        let observer = state.observers[place].clone();
        let passed = observer.guard.to_pass_on();
        let of_fork = |run: RunNumber| state.fork.contains(&run);
        state.fork_passed_on |= passed.iter().any(|(_, run, _)| of_fork(run));
        let table = &mut state.tables[table];
        table.stored.merge(passed.iter());
        table.stored.merge(observer.untrusted.iter());
        table.stored.bound(WITNESSED_RUNS_MAX);
        if passed.of(ACCEPTOR).next().is_some() {
            table.heard.extend(observer.heard);
        }
    }
}

impl Model for Rollback {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut disk = Disk::default();
        disk.start(1, self.scenario.runs_max);
        let observer = Observer {
            guard: self.guard(),
            is_open: false,
            has_adopted: false,
            heard: BTreeSet::new(),
            untrusted: Witnesses::default(),
        };
        vec![State {
            disk,
            copy: None,
            right: None,
            fork: BTreeSet::new(),
            proved: BTreeSet::new(),
            observers: vec![observer; self.scenario.observers],
            tables: vec![Table::default(); self.scenario.tables],
            starts: 0,
            commits: 0,
            forgets: 0,
            fork_passed_on: false,
            lost_disk_counted: false,
            right_disk_refused: false,
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
            if state.copy.is_some() && (state.right.is_none() || !self.scenario.put_back) {
                actions.push(Action::GoBack);
            }
            if self.scenario.put_back && state.right.is_some() {
                actions.push(Action::PutBack);
            }
        }
        for (place, observer) in state.observers.iter().enumerate() {
            // An observer without trust in the acceptor asks for the runs again.
            if !observer.is_open || !observer.guard.trusts(ACCEPTOR) {
                match self.others_needed(observer) {
                    _ if self.has(Bug::NewMembersUnasked) => actions.push(Action::Open(place, None)),
                    0 => actions.push(Action::Open(place, None)),
                    _ => {
                        actions.extend((0..state.tables.len()).map(|table| Action::Open(place, Some(table))));
                    }
                }
            }
            if observer.is_open {
                actions.push(Action::Answer(place));
            }
            if self.scenario.others_needed_later.is_some() && !observer.has_adopted {
                actions.push(Action::Adopt(place));
            }
            for table in 0..state.tables.len() {
                actions.push(Action::ReportTable(table, place));
                actions.push(Action::PassOn(place, table));
            }
            if state.forgets < self.scenario.forgets {
                actions.push(Action::Forget(place));
            }
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
                let copy = state.copy.clone().unwrap_or_default();
                state.right = Some(std::mem::replace(&mut state.disk, copy));
                self.start(&mut state);
            }
            Action::PutBack => {
                state.disk = state.right.take().unwrap_or_default();
                self.start(&mut state);
            }
            Action::Open(place, table) => self.open(&mut state, place, table),
            Action::Answer(place) => self.answer(&mut state, place),
            Action::ReportTable(table, place) => Self::report_table(&mut state, table, place),
            Action::PassOn(place, table) => Self::pass_on(&mut state, place, table),
            Action::Forget(place) => {
                state.forgets += 1;
                let observer = &mut state.observers[place];
                observer.guard = self.guard();
                observer.is_open = false;
                observer.heard.clear();
                if observer.has_adopted {
                    self.adopt(&mut observer.guard);
                }
            }
            Action::Adopt(place) => {
                let observer = &mut state.observers[place];
                // All links are opened again.
                (observer.has_adopted, observer.is_open) = (true, false);
                self.adopt(&mut observer.guard);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a disk that went back is not counted", |_, state: &State| {
                !state.lost_disk_counted
            }),
            Property::always(
                "a disk that holds all that was counted is trusted when it shows its runs",
                |_, state: &State| !state.right_disk_refused,
            ),
        ]
    }
}
