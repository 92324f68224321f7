//! A model of forming: the real cores of proposers and acceptors, while proposers die and a disk is lost.
//!
//! Like its driver, a proposer calls several acceptors at once, waits for the answers that come in time, and then
//! continues. Calls may be lost, or carried out long after the caller gave up. All lists of a scenario share an
//! acceptor that keeps its disk. So of any two lists, at most one can become a cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use paxos_common::paxos::{
    acceptor::{Acceptor, Membership, Recovered},
    ballot::Ballot,
    forming::{FormAction, FormConflict, FormReport, Forming},
    identity::{AcceptorUuid, ClusterId, CommitCounter, RunNumber},
    quorum::Configuration,
    slot::Slot,
};
use stateright::{Model, Property};

use super::sights::{Sight, Sights};
use crate::bug::Bug;

#[derive(Clone)]
pub struct Scenario {
    pub(crate) name: &'static str,
    /// The list of acceptors given to each proposer.
    pub(crate) lists: &'static [&'static [usize]],
    /// Limit of proposers that die.
    pub(crate) deaths: u8,
    /// Limit of lost disks, all among the acceptors in `wiped`.
    pub(crate) wipes: u8,
    pub(crate) wiped: &'static [usize],
    pub(crate) expected: &'static [Sight],
    pub(crate) bug: Option<Bug>,
}

impl Scenario {
    /// Two proposers with the same list of three acceptors. A single proposer may die.
    pub(crate) fn agreeing(name: &'static str) -> Self {
        Self {
            name,
            lists: &[&[0, 1, 2], &[0, 1, 2]],
            deaths: 1,
            wipes: 0,
            wiped: &[2],
            expected: &[],
            bug: None,
        }
    }

    /// Two proposers with differing lists of three acceptors. The lists share two acceptors.
    pub(crate) fn differing(name: &'static str) -> Self {
        Self {
            lists: &[&[0, 1, 2], &[0, 1, 3]],
            deaths: 0,
            ..Self::agreeing(name)
        }
    }
}

impl Scenario {
    /// The same scenario with lists of two acceptors. Differing lists share one acceptor.
    pub(crate) fn of_two(self) -> Self {
        let differ = self.lists[0] != self.lists[1];
        Self {
            lists: if differ {
                &[&[0, 1], &[0, 2]]
            } else {
                &[&[0, 1], &[0, 1]]
            },
            wiped: &[1],
            ..self
        }
    }
}

pub(crate) struct Formation {
    pub(crate) scenario: Scenario,
    pub(crate) sights: Arc<Sights>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// Acceptors by address.
    acceptors: Vec<Acceptor>,
    /// `None`: dead or done.
    proposers: Vec<Option<Forming>>,
    calls: BTreeSet<Call>,
    /// Answers to each proposer since its latest calls.
    reports: BTreeSet<(usize, AcceptorReport)>,
    deaths_left: u8,
    wipes_left: u8,
    /// A proposer died after an acceptor had stored a list, and before any acceptor was formed.
    died_midway: bool,
    /// Every list ever stored, with the storing acceptor.
    stored: BTreeSet<(AcceptorUuid, ClusterId)>,
    /// Every cluster that ever had a formed member, with its list. A formed member may have voted.
    formed: BTreeMap<ClusterId, Vec<AcceptorUuid>>,
    /// A proposer took a cluster for formed, although no acceptor had ever been a formed member of this cluster.
    is_deceived: bool,
}

/// A pending call to an acceptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Call {
    /// `None`: the caller no longer waits for the answer.
    proposer: Option<usize>,
    address: usize,
    step: Step,
}

/// The request of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    Report,
    Store(List),
    Complete(List),
}

/// The uuids of a configuration, a bit for each uuid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct List(u64);

impl List {
    fn uuids(self) -> impl Iterator<Item = u128> {
        (0..64).filter(move |uuid| self.0 & (1 << uuid) != 0)
    }
}

/// An acceptor's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct AcceptorReport {
    address: usize,
    uuid: u128,
    membership: Far,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Far {
    Blank,
    Forming(List),
    Formed(List),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A proposer takes in the received answers, and carries out the next action of its core.
    Next(usize),
    /// An acceptor carries out a call durably, and answers.
    Answer(Call),
    Die(usize),
    Wipe(usize),
}

/// Difference between the uuid of a lost disk and the uuid of the replacement disk.
const WIPED: u128 = 16;

fn address(place: usize) -> Arc<str> {
    Arc::from(place.to_string())
}

fn place_of(address: &str) -> usize {
    address.parse().expect("an address is a number here")
}

fn blank(uuid: AcceptorUuid, membership: Membership) -> Acceptor {
    let recovered = Recovered {
        uuid,
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

fn uuid(of: &Acceptor) -> AcceptorUuid {
    of.stamp().acceptor
}

fn number(uuid: AcceptorUuid) -> u128 {
    u128::from_be_bytes(uuid.to_bytes())
}

fn list(configuration: &Configuration) -> List {
    let uuids = configuration.members().keys().copied().map(number);
    List(uuids.fold(0, |bits, uuid| bits | 1 << uuid))
}

fn configuration(list: List) -> Configuration {
    let members: Vec<_> = list
        .uuids()
        .map(|uuid| (AcceptorUuid::from_u128(uuid), address(place(uuid))))
        .collect();
    let quorum = members.len() / 2 + 1;
    Configuration::new(members, quorum, quorum).expect("majorities intersect")
}

/// The place of the acceptor with this uuid.
fn place(uuid: u128) -> usize {
    usize::try_from(uuid % WIPED).expect("few acceptors") - 1
}

fn report_of(address: usize, acceptor: &Acceptor) -> AcceptorReport {
    AcceptorReport {
        address,
        uuid: number(uuid(acceptor)),
        membership: match acceptor.membership() {
            Membership::Blank | Membership::Seeded(_) => Far::Blank,
            Membership::Forming(configuration) => Far::Forming(list(configuration)),
            Membership::Formed(configuration) => Far::Formed(list(configuration)),
        },
    }
}

fn report(reported: AcceptorReport) -> FormReport {
    FormReport {
        acceptor: AcceptorUuid::from_u128(reported.uuid),
        address: address(reported.address),
        membership: match reported.membership {
            Far::Blank => Membership::Blank,
            Far::Forming(list) => Membership::Forming(configuration(list)),
            Far::Formed(list) => Membership::Formed(configuration(list)),
        },
    }
}

impl State {
    /// Carries out a call. The answer is always the acceptor's membership: a driver asks for the membership after a
    /// refusal.
    fn carry_out(&mut self, call: Call, formation: &Formation) {
        self.calls.remove(&call);
        let acceptor = &mut self.acceptors[call.address];
        let mut group = acceptor.group();
        match call.step {
            Step::Report => {}
            Step::Store(list) => {
                let asked = configuration(list);
                if formation.scenario.bug == Some(Bug::TakesAnotherList)
                    && matches!(acceptor.membership(), Membership::Forming(_))
                {
                    *acceptor = blank(uuid(acceptor), Membership::Blank);
                    group = acceptor.group();
                }
                if acceptor.store_configuration(&mut group, &asked).is_ok() {
                    self.stored.insert((uuid(acceptor), asked.cluster_id()));
                }
            }
            Step::Complete(list) => {
                let asked = configuration(list);
                if acceptor.complete_configuration(&mut group, &asked).is_ok() {
                    let members = asked.members().keys().copied().collect();
                    self.formed.insert(asked.cluster_id(), members);
                    if self.died_midway {
                        formation.sights.saw(Sight::FormedByAnother);
                    }
                }
            }
        }
        acceptor.committed(group);
        let answer = report_of(call.address, acceptor);
        if let Some(proposer) = call.proposer {
            self.reports.insert((proposer, answer));
        }
    }

    /// Ends a proposer's wait for answers. Calls without an effect on acceptors are dropped: without a waiting caller,
    /// such calls count as lost.
    fn give_up(&mut self, proposer: usize) {
        let late = |call: Call| {
            let is_its = call.proposer == Some(proposer);
            (!is_its || call.step != Step::Report).then_some(Call {
                proposer: call.proposer.filter(|_| !is_its),
                ..call
            })
        };
        self.calls = self.calls.iter().copied().filter_map(late).collect();
        self.reports.retain(|(to, _)| *to != proposer);
    }

    /// Lets a proposer take in the received answers, and carries out the next action of its core.
    fn go_on(&mut self, proposer: usize, formation: &Formation) {
        for (to, reported) in self.reports.clone() {
            if to == proposer {
                self.take_report(proposer, reported, formation);
            }
        }
        self.give_up(proposer);
        let Some(forming) = &self.proposers[proposer] else {
            return;
        };
        let mut is_done = false;
        let (step, to) = match forming.next() {
            Err(FormConflict::ListsDiffer { .. } | FormConflict::Stranger { .. }) => {
                formation.sights.saw(Sight::ConflictTold);
                self.proposers[proposer] = None;
                return;
            }
            Err(
                FormConflict::Invalid(_)
                | FormConflict::Count { .. }
                | FormConflict::HoldsBackup { .. }
                | FormConflict::NoBackup { .. },
            ) => {
                self.proposers[proposer] = None;
                return;
            }
            Ok(FormAction::Ask(to) | FormAction::Wait(to)) => (Step::Report, to),
            Ok(FormAction::Store(configuration, to)) => (Step::Store(list(&configuration)), to),
            Ok(FormAction::Complete(configuration, to)) => (Step::Complete(list(&configuration)), to),
            Ok(FormAction::Formed {
                configuration,
                complete,
                lost,
            }) => {
                self.is_deceived |= !self.formed.contains_key(&configuration.cluster_id());
                if !lost.is_empty() {
                    formation.sights.saw(Sight::LostDiskTold);
                }
                is_done = true;
                (Step::Complete(list(&configuration)), complete)
            }
        };
        self.calls.extend(to.iter().map(|address| Call {
            proposer: Some(proposer),
            address: place_of(address),
            step,
        }));
        if is_done {
            self.proposers[proposer] = None;
            self.give_up(proposer);
        }
    }

    fn take_report(&mut self, proposer: usize, reported: AcceptorReport, formation: &Formation) {
        let Some(forming) = &mut self.proposers[proposer] else {
            return;
        };
        if formation.scenario.bug == Some(Bug::CompletesBeforeAllStored)
            && let Far::Forming(list) = reported.membership
        {
            for uuid in list.uuids() {
                let address = place(uuid);
                forming.report(report(AcceptorReport {
                    address,
                    uuid,
                    ..reported
                }));
            }
        }
        forming.report(report(reported));
    }

    /// Whether every member of every formed cluster had stored the cluster's list.
    fn all_had_stored(&self) -> bool {
        let mut formed = self.formed.iter();
        formed.all(|(cluster, members)| {
            members
                .iter()
                .all(|member| self.stored.contains(&(*member, *cluster)))
        })
    }

    /// Whether every acceptor with a stored list has a uuid from this list.
    fn members_are_listed(&self) -> bool {
        self.acceptors.iter().all(|acceptor| {
            let configuration = acceptor.membership().configuration();
            configuration.is_none_or(|configuration| configuration.members().contains_key(&uuid(acceptor)))
        })
    }
}

impl Model for Formation {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let lists = self.scenario.lists;
        // The first acceptor keeps its disk.
        let places = lists.iter().copied().flatten().max().map_or(0, |last| last + 1);
        let acceptor = |place: usize| blank(AcceptorUuid::from_u128(place as u128 + 1), Membership::Blank);
        let proposer = |list: &&[usize]| Some(Forming::new(list.iter().copied().map(address).collect()));
        vec![State {
            acceptors: (0..places).map(acceptor).collect(),
            proposers: lists.iter().map(proposer).collect(),
            calls: BTreeSet::new(),
            reports: BTreeSet::new(),
            deaths_left: self.scenario.deaths,
            wipes_left: self.scenario.wipes,
            died_midway: false,
            stored: BTreeSet::new(),
            formed: BTreeMap::new(),
            is_deceived: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (place, proposer) in state.proposers.iter().enumerate() {
            if proposer.is_some() {
                actions.push(Action::Next(place));
                if state.deaths_left > 0 {
                    actions.push(Action::Die(place));
                }
            }
        }
        actions.extend(state.calls.iter().copied().map(Action::Answer));
        if state.wipes_left > 0 {
            actions.extend(self.scenario.wiped.iter().copied().map(Action::Wipe));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Next(proposer) => state.go_on(proposer, self),
            Action::Answer(call) => state.carry_out(call, self),
            Action::Die(proposer) => {
                state.deaths_left -= 1;
                state.proposers[proposer] = None;
                state.give_up(proposer);
                state.died_midway |= !state.stored.is_empty() && state.formed.is_empty();
            }
            Action::Wipe(place) => {
                state.wipes_left -= 1;
                let fresh = AcceptorUuid::from_u128(number(uuid(&state.acceptors[place])) + WIPED);
                state.acceptors[place] = blank(fresh, Membership::Blank);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most one cluster is ever formed", |_, state: &State| {
                state.formed.len() <= 1
            }),
            Property::always(
                "when one is formed, all had stored its list",
                |_, state: &State| state.all_had_stored(),
            ),
            Property::always("a blank disk is no member", |_, state: &State| {
                state.members_are_listed()
            }),
            Property::always(
                "nobody works with a cluster that is not formed",
                |_, state: &State| !state.is_deceived,
            ),
        ]
    }
}
