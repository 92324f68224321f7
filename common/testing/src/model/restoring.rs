//! A model of restoring: the real cores of restores, proposers and acceptors, while commands die at any point.
//!
//! Each process calls several acceptors at once, waits for the answers that come in time, and then continues. Calls may be
//! lost, or carried out long after the caller gave up. Once a quorum is formed, a leader proposes in the first slot that
//! its promises allow.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use paxos_common::paxos::{
    acceptor::{Acceptor, Membership, Recovered, Seed, SeedUse},
    ballot::{Ballot, ProposerId},
    forming::{
        FormAction, FormReport, Forming,
        restoring::{RestoreAction, Restoring},
    },
    identity::{AcceptorUuid, ClusterId, CommitCounter, RunNumber},
    message::{Accept, Prepare},
    quorum::{Configuration, majority},
    slot::Slot,
    value::Value,
};
use stateright::{Model, Property};

use super::sights::{Sight, Sights};
use crate::bug::Bug;

mod scenario;

pub(crate) use scenario::Scenario;
use scenario::origin;

pub(crate) struct Restoration {
    pub(crate) scenario: Scenario,
    pub(crate) sights: Arc<Sights>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Process {
    Restore(Restoring),
    Proposer(Forming),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// Acceptors by address.
    acceptors: Vec<Acceptor>,
    /// The seed whose whole file is on the disk of each acceptor.
    files: Vec<Option<Seed>>,
    /// `None`: dead or done.
    processes: Vec<Option<Process>>,
    calls: BTreeSet<Call>,
    /// Answers to each process since its latest calls.
    answers: BTreeSet<(usize, Answer)>,
    deaths_left: u8,
    returns_left: u8,
    /// A restore died after an acceptor had taken the seed, and before any acceptor was formed.
    died_midway: bool,
    /// Every cluster that ever had a formed member.
    formed: BTreeSet<ClusterId>,
    /// A leader has voted; `Some(false)`: below the first slot of its cluster.
    led: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Call {
    /// `None`: the caller no longer waits for the answer.
    caller: Option<usize>,
    address: usize,
    step: Step,
}

/// The request of a call. Configurations by the number of the backup; 0: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    Report,
    Keep(u8),
    Store(u8),
    Complete(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Answer {
    address: usize,
    progress: Progress,
    /// The answer to a seed: durable.
    is_kept: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Progress {
    Blank,
    Seeded(Seed),
    Forming(u8),
    Formed(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A process takes in the received answers, and carries out the next action of its core.
    Next(usize),
    /// An acceptor carries out a call durably, and answers.
    Carry(Call),
    Die(usize),
    /// The disk of an acceptor goes back to the blank state, before any acceptor is formed.
    Return(usize),
    /// A proposer campaigns with the first quorum of formed acceptors, and proposes a value.
    Lead,
}

fn address(place: usize) -> Arc<str> {
    Arc::from(place.to_string())
}

fn place_of(address: &str) -> usize {
    address.parse().expect("an address is a number here")
}

fn uuid(place: usize) -> AcceptorUuid {
    AcceptorUuid::from_u128(place as u128 + 1)
}

fn acceptor_with(place: usize, membership: Membership) -> Acceptor {
    let recovered = Recovered {
        uuid: uuid(place),
        commit_counter: CommitCounter::default(),
        membership,
        promised: Ballot::ZERO,
        leader_address: Arc::from(""),
        known_to: Slot::ZERO,
        trimmed_to: Slot::ZERO,
        voted_to: Slot::ZERO,
        least_version: 1,
        rows: BTreeMap::new(),
    };
    Acceptor::recover(recovered, RunNumber::default())
}

fn backup_of(configuration: &Configuration) -> u8 {
    configuration.origin().map_or(0, |origin| origin.sha256()[0])
}

impl Restoration {
    fn configuration(&self, backup: u8) -> Configuration {
        let members = (0..self.scenario.acceptors).map(|place| (uuid(place), address(place)));
        let quorum = majority(self.scenario.acceptors);
        let plain = Configuration::new(members, quorum, quorum).expect("majorities intersect");
        match backup {
            0 => plain,
            backup => plain.restored_from(origin(backup)),
        }
    }

    fn report(&self, answer: Answer) -> FormReport {
        FormReport {
            acceptor: uuid(answer.address),
            address: address(answer.address),
            membership: match answer.progress {
                Progress::Blank => Membership::Blank,
                Progress::Seeded(seed) => Membership::Seeded(seed),
                Progress::Forming(backup) => Membership::Forming(self.configuration(backup)),
                Progress::Formed(backup) => Membership::Formed(self.configuration(backup)),
            },
        }
    }

    fn has(&self, bug: Bug) -> bool {
        self.scenario.bug == Some(bug)
    }
}

impl State {
    /// Carries out a call. The answer is always the acceptor's membership: a driver asks for the membership after a
    /// refusal.
    fn carry_out(&mut self, call: Call, restoration: &Restoration) {
        self.calls.remove(&call);
        let place = call.address;
        let mut is_kept = false;
        match call.step {
            Step::Report => {}
            Step::Keep(backup) => {
                let seed = Seed::of(&restoration.configuration(backup)).expect("a restore has a backup");
                let acceptor = &mut self.acceptors[place];
                let taken = acceptor.membership().take_seed(seed);
                is_kept = taken.is_ok();
                if taken == Ok(SeedUse::Keep) {
                    self.files[place] = Some(seed);
                    acceptor.seeded(seed);
                }
            }
            Step::Store(backup) => self.store(place, &restoration.configuration(backup), restoration),
            Step::Complete(backup) => self.complete(place, &restoration.configuration(backup), restoration),
        }
        if let Some(caller) = call.caller {
            let progress = match self.acceptors[place].membership() {
                Membership::Blank => Progress::Blank,
                Membership::Seeded(seed) => Progress::Seeded(*seed),
                Membership::Forming(configuration) => Progress::Forming(backup_of(configuration)),
                Membership::Formed(configuration) => Progress::Formed(backup_of(configuration)),
            };
            let answer = Answer {
                address: place,
                progress,
                is_kept,
            };
            self.answers.insert((caller, answer));
        }
    }

    fn store(&mut self, place: usize, asked: &Configuration, restoration: &Restoration) {
        let acceptor = &mut self.acceptors[place];
        match (acceptor.membership(), Seed::of(asked)) {
            (Membership::Blank, Some(seed)) if restoration.has(Bug::TakesOriginWithoutSeed) => {
                acceptor.seeded(seed);
            }
            (Membership::Seeded(held), seed)
                if seed != Some(*held) && restoration.has(Bug::SeededTakesAnotherList) =>
            {
                *acceptor = acceptor_with(place, Membership::Blank);
                if let Some(seed) = seed {
                    acceptor.seeded(seed);
                }
            }
            _ => {}
        }
        let mut group = acceptor.group();
        // A refusal shows in the answer.
        let _ = acceptor.store_configuration(&mut group, asked);
        acceptor.committed(group);
    }

    fn complete(&mut self, place: usize, asked: &Configuration, restoration: &Restoration) {
        let acceptor = &mut self.acceptors[place];
        let mut group = acceptor.group();
        if acceptor.complete_configuration(&mut group, asked).is_err() {
            return;
        }
        if restoration.has(Bug::RestoreWithoutTheJump) {
            *acceptor = acceptor_with(place, Membership::Formed(asked.clone()));
        } else {
            acceptor.committed(group);
        }
        self.formed.insert(asked.cluster_id());
        if self.died_midway {
            restoration.sights.saw(Sight::RestoredByAnother);
        }
        if asked.origin().is_some() {
            restoration.sights.saw(Sight::Restored);
        }
    }

    /// Ends a process's wait for answers. Calls without an effect on acceptors are dropped.
    fn give_up(&mut self, process: usize) {
        let late = |call: Call| {
            let is_its = call.caller == Some(process);
            (!is_its || call.step != Step::Report).then_some(Call {
                caller: call.caller.filter(|_| !is_its),
                ..call
            })
        };
        self.calls = self.calls.iter().copied().filter_map(late).collect();
        self.answers.retain(|(to, _)| *to != process);
    }

    /// Lets a process take in the received answers, and carries out the next action of its core.
    fn go_on(&mut self, process: usize, restoration: &Restoration) {
        let answers = self.answers.clone();
        for (_, answer) in answers.into_iter().filter(|(to, _)| *to == process) {
            match &mut self.processes[process] {
                Some(Process::Restore(restore)) => {
                    if answer.is_kept {
                        restore.kept(&address(answer.address));
                    }
                    restore.report(restoration.report(answer));
                }
                Some(Process::Proposer(forming)) => forming.report(restoration.report(answer)),
                None => {}
            }
        }
        self.give_up(process);
        let next = match &self.processes[process] {
            None => return,
            Some(Process::Restore(restore)) => match restore.next() {
                Err(_) => None,
                Ok(RestoreAction::Ask(to)) => Some((Step::Report, to)),
                Ok(RestoreAction::Keep(list, _)) if restoration.has(Bug::SeedsSentToAllAtOnce) => {
                    let all = (0..self.acceptors.len()).map(address).collect();
                    Some((Step::Keep(backup_of(&list)), all))
                }
                Ok(RestoreAction::Keep(list, to)) => Some((Step::Keep(backup_of(&list)), to)),
                Ok(RestoreAction::Store(list, to)) => Some((Step::Store(backup_of(&list)), to)),
                Ok(RestoreAction::Complete(list, to)) => Some((Step::Complete(backup_of(&list)), to)),
                Ok(RestoreAction::Formed(_)) => None,
            },
            Some(Process::Proposer(forming)) => match forming.next() {
                Err(_) => {
                    restoration.sights.saw(Sight::BackupTold);
                    None
                }
                Ok(FormAction::Ask(to) | FormAction::Wait(to)) => Some((Step::Report, to)),
                Ok(FormAction::Store(list, to)) => Some((Step::Store(backup_of(&list)), to)),
                Ok(FormAction::Complete(list, to)) => Some((Step::Complete(backup_of(&list)), to)),
                Ok(FormAction::Formed { .. }) => None,
            },
        };
        match next {
            None => self.processes[process] = None,
            Some((step, to)) => self.calls.extend(to.iter().map(|address| Call {
                caller: Some(process),
                address: place_of(address),
                step,
            })),
        }
    }

    /// The formed acceptors of one cluster, if they are a quorum.
    fn quorum(&self) -> Option<Vec<usize>> {
        let mut clusters: BTreeMap<ClusterId, Vec<usize>> = BTreeMap::new();
        for (place, acceptor) in self.acceptors.iter().enumerate() {
            if let Some(cluster) = acceptor.formed_cluster() {
                clusters.entry(cluster).or_default().push(place);
            }
        }
        let needed = majority(self.acceptors.len());
        clusters.into_values().find(|places| places.len() >= needed)
    }

    /// A campaign and a vote. A new slot is at or above every mark of the promises: invariant 7.
    fn lead(&mut self, restoration: &Restoration) {
        let Some(quorum) = self.quorum() else { return };
        let proposer = ProposerId::new(1).expect("a small number");
        let ballot = Ballot::new(1, proposer).expect("a small round");
        let mut slot = Slot::ZERO;
        for &place in &quorum {
            let acceptor = &mut self.acceptors[place];
            let mut group = acceptor.group();
            let prepare = Prepare {
                ballot,
                address: Arc::from(""),
                from: Slot::ZERO,
            };
            acceptor.prepare(&mut group, &prepare);
            acceptor.committed(group);
            slot = slot
                .max(acceptor.trimmed_to())
                .max(acceptor.known_to())
                .max(acceptor.voted_to());
        }
        if restoration.has(Bug::RestoredLeaderStartsAtZero) {
            slot = Slot::ZERO;
        }
        let mut is_above = true;
        for &place in &quorum {
            let acceptor = &mut self.acceptors[place];
            let mut group = acceptor.group();
            let accept = Accept {
                ballot,
                address: Arc::from(""),
                sequence: 1,
                chosen_to: slot,
                proposals: vec![(slot, Value::noop())],
                resign: false,
            };
            acceptor
                .accept(&mut group, &accept, &BTreeMap::new())
                .expect("no slot is proposed twice");
            acceptor.committed(group);
            let configuration = acceptor.membership().configuration();
            let origin = configuration.and_then(Configuration::origin);
            is_above &= origin.is_none_or(|origin| slot >= origin.base());
        }
        self.led = Some(is_above);
    }

    /// Whether every acceptor with a configuration holds the seed of this very cluster, or no seed if there is none.
    fn seeds_fit(&self) -> bool {
        let mut disks = self.acceptors.iter().zip(&self.files);
        disks.all(|(acceptor, file)| match acceptor.membership().configuration() {
            None => true,
            Some(configuration) => Seed::of(configuration) == *file,
        })
    }

    /// Whether the log of every formed acceptor begins where its cluster begins.
    fn logs_begin_at_base(&self) -> bool {
        self.acceptors.iter().all(|acceptor| {
            let Membership::Formed(configuration) = acceptor.membership() else {
                return acceptor.trimmed_to() == Slot::ZERO;
            };
            let base = configuration.origin().map_or(Slot::ZERO, |origin| origin.base());
            acceptor.trimmed_to() == base
        })
    }
}

impl Model for Restoration {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let Scenario {
            acceptors,
            restores,
            proposers,
            deaths,
            ..
        } = self.scenario;
        let addresses = || (0..acceptors).map(address).collect();
        let blank = (0..acceptors).map(|place| acceptor_with(place, Membership::Blank));
        let restores = restores.iter().map(|&backup| {
            let restore = Restoring::new(addresses(), origin(backup));
            Process::Restore(restore.expect("no address twice"))
        });
        let proposers = (0..proposers).map(|_| Process::Proposer(Forming::new(addresses())));
        vec![State {
            acceptors: blank.collect(),
            files: vec![None; acceptors],
            processes: restores.chain(proposers).map(Some).collect(),
            calls: BTreeSet::new(),
            answers: BTreeSet::new(),
            deaths_left: deaths,
            returns_left: self.scenario.returns,
            died_midway: false,
            formed: BTreeSet::new(),
            led: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (place, process) in state.processes.iter().enumerate() {
            if process.is_some() {
                actions.push(Action::Next(place));
                if state.deaths_left > 0 {
                    actions.push(Action::Die(place));
                }
            }
        }
        actions.extend(state.calls.iter().copied().map(Action::Carry));
        if state.returns_left > 0 && state.formed.is_empty() {
            actions.extend((0..self.scenario.acceptors).map(Action::Return));
        }
        if state.led.is_none() && state.quorum().is_some() {
            actions.push(Action::Lead);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Next(process) => state.go_on(process, self),
            Action::Carry(call) => state.carry_out(call, self),
            Action::Die(process) => {
                state.deaths_left -= 1;
                let died = state.processes[process].take();
                state.give_up(process);
                state.died_midway |= matches!(died, Some(Process::Restore(_)))
                    && state.files.iter().any(Option::is_some)
                    && state.formed.is_empty();
            }
            Action::Return(place) => {
                state.returns_left -= 1;
                state.acceptors[place] = acceptor_with(place, Membership::Blank);
                state.files[place] = None;
            }
            Action::Lead => state.lead(self),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "one of several restores at once is finished",
                |model, state: &State| {
                    let is_over = state.processes.iter().all(Option::is_none);
                    !(model.scenario.is_undisturbed() && is_over) || state.formed.len() == 1
                },
            ),
            Property::always("at most one cluster is ever formed", |_, state: &State| {
                state.formed.len() <= 1
            }),
            Property::always(
                "a stored configuration and the seed on the disk belong together",
                |_, state: &State| state.seeds_fit(),
            ),
            Property::always("each log begins where its cluster begins", |_, state: &State| {
                state.logs_begin_at_base()
            }),
            Property::always(
                "17: every version of a restored cluster is at or above the base",
                |_, state: &State| state.led != Some(false),
            ),
        ]
    }
}
