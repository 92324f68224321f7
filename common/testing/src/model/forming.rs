//! Forming, modelled: the real cores of proposers and acceptors, while proposers die and a disk is lost.
//!
//! A proposer calls several acceptors at once, waits for what answers come in time, and then goes on, as its driver does.
//! Calls may be lost, and may be carried out long after their caller gave up. All lists of a scenario share an acceptor
//! that keeps its disk: of any two lists at most one can become a cluster.

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

#[derive(Clone)]
pub struct Scenario {
    pub(crate) name: &'static str,
    /// The acceptors that each proposer was given.
    pub(crate) lists: &'static [&'static [usize]],
    /// How many proposers may die.
    pub(crate) deaths: u8,
    /// How many disks may be lost, of those acceptors that may lose theirs.
    pub(crate) wipes: u8,
    pub(crate) wiped: &'static [usize],
    pub(crate) expected: &'static [Sight],
    pub(crate) bug: Option<Bug>,
}

impl Scenario {
    /// Two proposers with the same list of three, one of whom may die.
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

    /// Two proposers whose lists of three share two acceptors.
    pub(crate) fn differing(name: &'static str) -> Self {
        Self {
            lists: &[&[0, 1, 2], &[0, 1, 3]],
            deaths: 0,
            ..Self::agreeing(name)
        }
    }
}

impl Scenario {
    /// The same with lists of two, which share one acceptor if they differ.
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

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A proposer that finds one acceptor forming takes all for forming.
    CompletesBeforeAllStored,
    /// An acceptor that is forming takes another list.
    TakesAnotherList,
}

pub(crate) struct Formation {
    pub(crate) scenario: Scenario,
    pub(crate) sights: Arc<Sights>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// By address.
    acceptors: Vec<Acceptor>,
    /// `None`: dead, or done.
    proposers: Vec<Option<Forming>>,
    calls: BTreeSet<Call>,
    /// What proposers were answered since they called last.
    reports: BTreeSet<(usize, Told)>,
    deaths_left: u8,
    wipes_left: u8,
    /// A proposer died when some had stored its list, and none was formed.
    died_midway: bool,
    /// Who ever stored which list.
    stored: BTreeSet<(AcceptorUuid, ClusterId)>,
    /// The clusters that ever had a formed member: whoever is formed may have voted.
    formed: BTreeMap<ClusterId, Vec<AcceptorUuid>>,
    /// A proposer took for formed what no acceptor was.
    is_deceived: bool,
}

/// A call under way to an acceptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Call {
    /// `None`: nobody waits for its answer any more.
    proposer: Option<usize>,
    address: usize,
    step: Step,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    Tell,
    Store(List),
    Complete(List),
}

/// The uuids of a configuration, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct List(u64);

impl List {
    fn uuids(self) -> impl Iterator<Item = u128> {
        (0..64).filter(move |uuid| self.0 & (1 << uuid) != 0)
    }
}

/// An acceptor's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Told {
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
    /// A proposer takes in what it was answered, and does what its core says next.
    Next(usize),
    /// An acceptor carries a call out, durably, and answers.
    Answer(Call),
    Die(usize),
    Wipe(usize),
}

/// A disk that was lost is followed by one with another uuid.
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
        chosen_to: Slot::ZERO,
        trimmed_to: Slot::ZERO,
        voted_to: Slot::ZERO,
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

/// Where the acceptor of a uuid is.
fn place(uuid: u128) -> usize {
    usize::try_from(uuid % WIPED).expect("few acceptors") - 1
}

fn told(address: usize, acceptor: &Acceptor) -> Told {
    Told {
        address,
        uuid: number(uuid(acceptor)),
        membership: match acceptor.membership() {
            Membership::Blank => Far::Blank,
            Membership::Forming(configuration) => Far::Forming(list(configuration)),
            Membership::Formed(configuration) => Far::Formed(list(configuration)),
        },
    }
}

fn report(told: Told) -> FormReport {
    FormReport {
        acceptor: AcceptorUuid::from_u128(told.uuid),
        address: address(told.address),
        membership: match told.membership {
            Far::Blank => Membership::Blank,
            Far::Forming(list) => Membership::Forming(configuration(list)),
            Far::Formed(list) => Membership::Formed(configuration(list)),
        },
    }
}

impl State {
    /// Carries out a call; a refusal is answered by what the acceptor holds, for which a driver asks.
    fn carry_out(&mut self, call: Call, formation: &Formation) {
        self.calls.remove(&call);
        let acceptor = &mut self.acceptors[call.address];
        let mut group = acceptor.group();
        match call.step {
            Step::Tell => {}
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
        let answer = told(call.address, acceptor);
        if let Some(proposer) = call.proposer {
            self.reports.insert((proposer, answer));
        }
    }

    /// Nobody waits for the answers to a proposer's calls any more: those that change nothing are as good as lost.
    fn give_up(&mut self, proposer: usize) {
        let late = |call: Call| {
            let is_its = call.proposer == Some(proposer);
            (!is_its || call.step != Step::Tell).then_some(Call {
                proposer: call.proposer.filter(|_| !is_its),
                ..call
            })
        };
        self.calls = self.calls.iter().copied().filter_map(late).collect();
        self.reports.retain(|(to, _)| *to != proposer);
    }

    /// Lets a proposer take in what it was answered, and do what its core says.
    fn go_on(&mut self, proposer: usize, formation: &Formation) {
        for (to, told) in self.reports.clone() {
            if to == proposer {
                self.take_report(proposer, told, formation);
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
            Err(FormConflict::Invalid(_) | FormConflict::Count { .. }) => {
                self.proposers[proposer] = None;
                return;
            }
            Ok(FormAction::Ask(to)) => (Step::Tell, to),
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

    fn take_report(&mut self, proposer: usize, told: Told, formation: &Formation) {
        let Some(forming) = &mut self.proposers[proposer] else {
            return;
        };
        if formation.scenario.bug == Some(Bug::CompletesBeforeAllStored)
            && let Far::Forming(list) = told.membership
        {
            for uuid in list.uuids() {
                let address = place(uuid);
                forming.report(report(Told {
                    address,
                    uuid,
                    ..told
                }));
            }
        }
        forming.report(report(told));
    }

    /// Whoever is formed had all members of its list store it.
    fn all_had_stored(&self) -> bool {
        let mut formed = self.formed.iter();
        formed.all(|(cluster, members)| {
            members
                .iter()
                .all(|member| self.stored.contains(&(*member, *cluster)))
        })
    }

    /// No acceptor is a member under a uuid that its cluster's list does not have.
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
