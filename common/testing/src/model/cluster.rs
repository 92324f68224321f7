//! The model: the states of a cluster, the possible steps in each state, and the properties checked after each step.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use paxos_common::paxos::{
    ballot::ProposerId,
    proposer::{Phase, Timer},
    quorum::{Configuration, Electorate},
    slot::Slot,
};
use stateright::{Model, Property};

use super::{
    acceptor::{AcceptorNode, Reading},
    changes,
    learner::LearnerNode,
    ledger::{Broken, Ledger},
    memo::Memo,
    network::{Envelope, Message, Network, Node, Sent},
    proposer::ProposerNode,
    scenario::{Allowance, Scenario, Spend},
    shared::Shared,
    sights::Sights,
};
use crate::bug::Bug;

pub(crate) struct Cluster {
    pub(crate) scenario: Scenario,
    /// The configuration of each era.
    pub(crate) eras: Vec<Arc<Configuration>>,
    /// Of the first era.
    pub(crate) electorate: Electorate,
    pub(crate) sights: Arc<Sights>,
    pub(crate) memory: Memory,
}

/// Steps of single processes, each computed once.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) acceptors: Memo<AcceptorNode>,
    pub(crate) proposers: Memo<ProposerNode>,
    pub(crate) learners: Memo<LearnerNode>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) acceptors: Vec<Shared<AcceptorNode>>,
    pub(crate) proposers: Vec<Shared<ProposerNode>>,
    pub(crate) learners: Vec<Shared<LearnerNode>>,
    pub(crate) network: Network,
    pub(crate) ledger: Shared<Ledger>,
    /// Remaining faults and timer firings of the scenario's allowance.
    pub(crate) left: Allowance,
    pub(crate) broken: Option<Broken>,
}

/// A possible next step.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Deliver(Shared<Envelope>),
    /// A process receives an already delivered message again.
    Repeat(Shared<Envelope>),
    /// The open group of an acceptor becomes durable, or memory takes in the durable group.
    Commit(usize),
    /// An acceptor loses power and restarts.
    Crash(usize),
    ReadPage(usize, Reading),
    Damage(usize, Slot),
    Fire(usize, Timer),
    /// A proposer gets no answer for a long time.
    Silence(usize),
    /// A proposer dies, and a new process starts in its place.
    Restart(usize),
    Report {
        acceptor: usize,
        proposer: usize,
    },
    Fill(usize, Slot),
    Show {
        acceptor: usize,
        learner: usize,
    },
    SwitchFeed(usize, usize),
    RestartLearner(usize, Slot),
    /// A client asks a learner for a linearizable read.
    Read(usize),
    /// The reads of a learner have waited up to their limit.
    Limit(usize),
    /// A snapshot of the slots below `to` has arrived at an acceptor.
    Keep {
        acceptor: usize,
        to: Slot,
    },
    /// An acceptor trims to its waiting snapshot.
    Trim(usize),
    /// A learner restarts from the bottom of an acceptor.
    Install {
        learner: usize,
        acceptor: usize,
    },
    /// The next configuration is proposed to a leader.
    Change(usize),
    /// An acceptor shows its configuration to a learner of an earlier era.
    Adopt {
        learner: usize,
        acceptor: usize,
    },
    /// An acceptor loses its disk, and restarts on an empty disk.
    Lose(usize),
    /// The disk of an acceptor runs full.
    FillDisk(usize),
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deliver(envelope) | Self::Repeat(envelope) => {
                let Envelope { from, to, message } = &**envelope;
                write!(f, "{from:?} → {to:?}: {message:?}")
            }
            Self::Commit(acceptor) => write!(f, "acceptor {acceptor} commits"),
            Self::Crash(acceptor) => write!(f, "acceptor {acceptor} crashes"),
            Self::ReadPage(acceptor, reading) => write!(f, "acceptor {acceptor} reads {reading:?}"),
            Self::Damage(acceptor, slot) => write!(f, "acceptor {acceptor} cannot read slot {slot} any more"),
            Self::Fire(proposer, timer) => write!(f, "proposer {proposer}: {timer:?} fires"),
            Self::Silence(proposer) => write!(f, "nobody answers proposer {proposer}"),
            Self::Restart(proposer) => write!(f, "proposer {proposer} restarts"),
            Self::Report { acceptor, proposer } => {
                write!(f, "acceptor {acceptor} reports to proposer {proposer}")
            }
            Self::Fill(proposer, to) => write!(f, "proposer {proposer} is asked to fill up to {to}"),
            Self::Show { acceptor, learner } => {
                write!(f, "acceptor {acceptor} reads a frame for learner {learner}")
            }
            Self::SwitchFeed(learner, feed) => write!(f, "learner {learner} switches to feed {feed}"),
            Self::Read(learner) => write!(f, "learner {learner} is asked for a read"),
            Self::Limit(learner) => write!(f, "reads at learner {learner} have waited too long"),
            Self::RestartLearner(learner, stored) => {
                write!(f, "learner {learner} restarts at {stored}")
            }
            Self::Change(proposer) => {
                write!(f, "proposer {proposer} receives a request to change the members")
            }
            Self::Adopt { learner, acceptor } => {
                write!(
                    f,
                    "acceptor {acceptor} shows its configuration to learner {learner}"
                )
            }
            Self::Lose(acceptor) => write!(f, "acceptor {acceptor} loses its disk"),
            Self::FillDisk(acceptor) => write!(f, "the disk of acceptor {acceptor} runs full"),
            Self::Keep { acceptor, to } => write!(f, "acceptor {acceptor} keeps a snapshot to {to}"),
            Self::Trim(acceptor) => write!(f, "acceptor {acceptor} trims"),
            Self::Install { learner, acceptor } => {
                write!(
                    f,
                    "learner {learner} installs the snapshot of acceptor {acceptor}"
                )
            }
        }
    }
}

impl Action {
    /// The part of the scenario's allowance used by this action; `None` if the action is unlimited.
    pub(crate) fn spends(&self) -> Option<Spend> {
        match self {
            Self::Repeat(_) => Some(Spend::Repeat),
            Self::Deliver(_) | Self::Commit(_) | Self::ReadPage(..) | Self::Show { .. } => None,
            Self::Crash(_) => Some(Spend::Crash),
            Self::Damage(..) => Some(Spend::Damage),
            Self::Fire(_, Timer::Election | Timer::Challenge | Timer::Leaderless) => Some(Spend::Campaign),
            Self::Fire(_, Timer::Heartbeat) => Some(Spend::Heartbeat),
            Self::Fire(_, Timer::Check) => Some(Spend::Check),
            Self::Silence(_) | Self::Fire(_, Timer::GiveUp) => Some(Spend::Silence),
            Self::Restart(_) => Some(Spend::Restart),
            Self::Report { .. } => Some(Spend::Report),
            Self::Fill(..) => Some(Spend::Fill),
            Self::SwitchFeed(..) => Some(Spend::SwitchFeed),
            Self::RestartLearner(..) => Some(Spend::RestartLearner),
            Self::Read(_) => Some(Spend::Read),
            Self::Limit(_) => Some(Spend::Limit),
            Self::Keep { .. } => Some(Spend::Keep),
            Self::Trim(_) => Some(Spend::Trim),
            Self::Install { .. } => Some(Spend::Install),
            Self::Change(_) => Some(Spend::Change),
            Self::Adopt { .. } => Some(Spend::Adopt),
            Self::Lose(_) => Some(Spend::Lose),
            Self::FillDisk(_) => Some(Spend::FillDisk),
        }
    }
}

impl Cluster {
    pub(crate) fn new(scenario: Scenario) -> Self {
        let eras = changes::configurations(&scenario);
        Self {
            electorate: eras[0].electorate(),
            eras,
            sights: Arc::default(),
            memory: Memory::default(),
            scenario,
        }
    }

    pub(crate) fn proposer(&self, place: usize, run: usize) -> ProposerNode {
        self.proposer_of(place, run, 0)
    }

    /// A process that knows the configuration of an era from the start.
    pub(crate) fn proposer_of(&self, place: usize, run: usize, era: usize) -> ProposerNode {
        let id = ProposerId::from_random(self.id_of(place, run));
        ProposerNode::started(place, run, id, &self.eras[era], &self.scenario)
    }

    pub(crate) fn genesis(&self) -> State {
        State {
            acceptors: (0..self.scenario.acceptors)
                .map(|place| Shared::new(AcceptorNode::new(place, self.membership(place))))
                .collect(),
            proposers: (0..self.scenario.proposers)
                .map(|place| Shared::new(self.proposer(place, 0)))
                .collect(),
            learners: (0..self.scenario.learners)
                .map(|place| Shared::new(LearnerNode::new(place, &self.electorate)))
                .collect(),
            network: Network::empty(),
            ledger: Shared::new(Ledger::new(
                changes::voters(&self.eras),
                self.scenario.allowance.of(Spend::Read) > 0,
                self.scenario.copies,
            )),
            left: self.scenario.allowance,
            broken: None,
        }
    }

    /// Takes the steps of a script in order, ignoring the scenario's allowance. Produces the past of a cluster before a
    /// check begins.
    ///
    /// # Panics
    /// If no step fits the next entry of the script, or a step breaks a property.
    pub(crate) fn play<F>(&self, mut state: State, script: impl IntoIterator<Item = F>) -> State
    where
        F: Fn(&Action) -> bool,
    {
        state.left = Allowance::unlimited();
        for (number, fits) in script.into_iter().enumerate() {
            let mut actions = Vec::new();
            self.actions(&state, &mut actions);
            let action = actions.into_iter().find(&fits);
            let next = action.and_then(|action| self.next_state(&state, action));
            state = next.unwrap_or_else(|| panic!("step {number} of the script is not possible: {state:?}"));
            assert_eq!(state.broken, None, "the script breaks something");
        }
        state.left = self.scenario.allowance;
        state
    }

    /// Whether delivery can change anything now.
    fn is_deliverable(&self, state: &State, envelope: &Envelope) -> bool {
        match envelope.to {
            Node::Acceptor(place) => {
                let open = &state.acceptors[place].open;
                let from_memory = || matches!(envelope.message, Message::Tail(_));
                self.scenario.groups || open.as_ref().is_none_or(|open| open.readable && from_memory())
            }
            Node::Proposer { place, run } => {
                let node = &state.proposers[place];
                let is_late = || {
                    matches!(&envelope.message, Message::Answer(..))
                        && node.has_nothing_in_flight(self.scenario.slots)
                };
                node.run == run && (self.scenario.late_answers || !is_late())
            }
            Node::Learner(_) => true,
        }
    }

    /// Whether data read from this acceptor's disk may leave: memory must show the same commit.
    fn shows_pages(&self, node: &AcceptorNode) -> bool {
        self.has(Bug::PageShownBeforeMemory) || node.core.stamp().covers(node.disk.commit_counter)
    }

    fn proposer_actions(&self, state: &State, place: usize, actions: &mut Vec<Action>) {
        let node = &state.proposers[place];
        for timer in [Timer::Election, Timer::Heartbeat, Timer::Check] {
            if node.awaits(timer) {
                actions.push(Action::Fire(place, timer));
            }
        }
        if !matches!(node.core.phase(), Phase::Standby) {
            actions.push(Action::Restart(place));
            actions.push(Action::Silence(place));
        }
        for (acceptor, reporter) in state.acceptors.iter().enumerate() {
            let listens = matches!(node.core.phase(), Phase::Standby) || self.listens_while_leading();
            let is_news = reporter.core.known_to() > node.core.chosen_to()
                || reporter.core.era() > node.core.configuration().era();
            if listens && is_news {
                actions.push(Action::Report {
                    acceptor,
                    proposer: place,
                });
            }
        }
        if node.leads() && self.next_change(node).is_some() {
            actions.push(Action::Change(place));
        }
        if node.leads() {
            let to = if self.scenario.learners == 0 {
                Slot::ZERO.plus(self.scenario.slots)
            } else {
                let wanted = state.learners.iter().map(|learner| learner.fill_to);
                wanted.max().unwrap_or_default()
            };
            if to > Slot::ZERO {
                actions.push(Action::Fill(place, to));
            }
        }
    }

    fn learner_actions(&self, state: &State, learner: usize, actions: &mut Vec<Action>) {
        let node = &state.learners[learner];
        let next = node.core.next();
        actions.push(Action::Read(learner));
        if node.timer.is_some() {
            actions.push(Action::Limit(learner));
        }
        for acceptor in 0..self.scenario.acceptors {
            let has_votes = self.scenario.readable_first || acceptor == node.feed;
            if has_votes && self.shows_pages(&state.acceptors[acceptor]) {
                actions.push(Action::Show { acceptor, learner });
            }
            let era = state.acceptors[acceptor].core.era();
            if era > node.core.electorate().era() {
                actions.push(Action::Adopt { learner, acceptor });
            }
            if acceptor != node.feed {
                actions.push(Action::SwitchFeed(learner, acceptor));
            }
        }
        for stored in Slot::ZERO.to(next.next()) {
            actions.push(Action::RestartLearner(learner, stored));
        }
        self.install_actions(state, learner, actions);
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![(self.scenario.prefix)(self, self.genesis())]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        // Without crashes and without groups of many, no step can prevent or join an unwritten commit. The commit goes
        // first, as the only action: the commit and all other steps leave each other unchanged.
        if state.left.of(Spend::Crash) == 0 && !self.scenario.groups {
            let is_unwritten = |node: &Shared<AcceptorNode>| {
                let open = node.open.as_ref();
                open.is_some_and(|open| !open.readable)
            };
            if let Some(acceptor) = state.acceptors.iter().position(is_unwritten) {
                actions.push(Action::Commit(acceptor));
                return;
            }
        }
        for Sent { envelope, delivered } in state.network.iter() {
            if self.is_deliverable(state, envelope) {
                let envelope = envelope.clone();
                actions.push(if *delivered {
                    Action::Repeat(envelope)
                } else {
                    Action::Deliver(envelope)
                });
            }
        }
        for (place, node) in state.acceptors.iter().enumerate() {
            if node.open.is_some() {
                actions.push(Action::Commit(place));
            }
            for &reading in node.reading.iter().filter(|_| self.shows_pages(node)) {
                actions.push(Action::ReadPage(place, reading));
            }
            if node.open.is_some() || node.core.known_to() > node.disk.known_to {
                actions.push(Action::Crash(place));
            }
            if state.left.of(Spend::Keep) > 0 || state.left.of(Spend::Trim) > 0 {
                self.trim_actions(state, place, actions);
            }
            if node.lost.is_none() && state.left.of(Spend::Lose) > 0 {
                actions.push(Action::Lose(place));
            }
            if node.open.is_none() && !node.is_full && state.left.of(Spend::FillDisk) > 0 {
                actions.push(Action::FillDisk(place));
            }
            if node.open.is_none() {
                for &slot in node.disk.rows.keys() {
                    if !node.disk.damaged.contains(&slot) {
                        actions.push(Action::Damage(place, slot));
                    }
                }
            }
        }
        for place in 0..state.proposers.len() {
            self.proposer_actions(state, place, actions);
        }
        for learner in 0..state.learners.len() {
            self.learner_actions(state, learner, actions);
        }
        actions.retain(|action| action.spends().is_none_or(|spend| state.left.of(spend) > 0));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        // A panicking core has found its own invariants broken. The panic is a finding, not the end of the search.
        catch_unwind(AssertUnwindSafe(|| self.step(last, &action))).unwrap_or_else(|_| {
            Some(State {
                broken: Some(Broken::NoProcessHalts),
                ..last.clone()
            })
        })
    }

    fn properties(&self) -> Vec<Property<Self>> {
        macro_rules! always {
            ($($broken:ident),*) => {
                vec![$(Property::always(Broken::$broken.name(), |_, state: &State| {
                    state.broken != Some(Broken::$broken)
                })),*]
            };
        }
        always![
            Agreement,
            OneValuePerBallot,
            ChosenIsFinal,
            PromisesAreKept,
            WatermarksAreTrue,
            LearnersAgree,
            AnswersLeaveNoGap,
            NewSlotsStartAbove,
            ReadsAreLinearizable,
            LostDisksAreRefused,
            ChosenIsCovered,
            TrimsRestOnSnapshots,
            SnapshotsAreTrue,
            OneConfigurationPerEra,
            NothingAboveAChange,
            ForceRestsOnTheLog,
            LearnersKeepTheirEra,
            NoProcessHalts
        ]
    }
}
