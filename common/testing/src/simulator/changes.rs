//! The simulated operator: asks for changes of members, brings blank acceptors, and empties lost disks.
//!
//! All draws come from a source of their own, so clusters without changes run as if changes did not exist. There are five
//! machines. An acceptor is a disk: when a machine gets a blank disk, another acceptor answers at the same address.
//!
//! A leader of the cores proposes a change only after the copy, so in most schedules the conditions of a change hold as soon as the
//! change is proposed. A *hasty* operator therefore asks for the next change at once, has half of the changes proposed without
//! the copy and the pause, and starts acceptors that have joined already. Safety rests on none of these steps.
//!
//! Progress rests on one step: a new member joins before the change takes force. A blank member has lost its disk, as far as
//! any process knows.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use paxos_common::{
    paxos::{
        acceptor::Membership,
        ballot::Ballot,
        proposer::{ChangeRefusal, ChangeRequest, ChangeStage, Event},
        quorum::{Configuration, MemberEntry, Quorums},
    },
    wire::stored,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    acceptors::{AcceptorProcess, Lost},
    forms::describe,
    invariants::eras_are_kept,
    knobs::{Knobs, MILLISECOND},
    log::Happened,
    network::Node,
    statistics::Counted,
    world::{Happening, Time, World, uuid},
};
use crate::bug::Bug;

/// Separates the draws about changes from all other draws of a seed.
const CHANGES: u64 = 0x6368_616e;

/// Number of machines for acceptors.
const MACHINES: usize = 5;

/// Limit of acceptors in a run, disks lost or emptied included.
pub(crate) const ACCEPTORS_EVER: usize = 8;

/// Additional time for faults: a change takes most of a second.
const MORE_TIME: Time = 2_000 * MILLISECOND;

/// The leader timeout of hasty operators, in half of their runs: so more leaders find a change of the leader before.
const SHORT_LEADER_TIMEOUT: Duration = Duration::from_millis(60);

pub(crate) struct Operator {
    pub(super) rng: StdRng,
    /// Number of changes to make.
    pub(super) wanted: u64,
    /// See the head of this file.
    pub(super) hasty: bool,
    /// The proposer of the request under way, and its run.
    asked: Option<(usize, u64)>,
    /// All configurations ever asked for: a leader may carry on a change whose fate is unknown.
    requested: Vec<Arc<Configuration>>,
}

/// The operator of a run, if the members change: in a third of the runs.
pub(crate) fn draw(seed: u64, bug: Option<Bug>, knobs: &mut Knobs) -> Option<Operator> {
    let mut rng = StdRng::seed_from_u64(seed ^ CHANGES);
    let wanted = match bug {
        None => rng.random_bool(0.33),
        Some(bug) => Bug::OF_CHANGES.contains(&bug),
    };
    if !wanted {
        return None;
    }
    knobs.faults_until += MORE_TIME;
    let hasty = rng.random_bool(0.5);
    if hasty && rng.random_bool(0.5) {
        knobs.leader_timeout = SHORT_LEADER_TIMEOUT;
    }
    Some(Operator {
        wanted: rng.random_range(2..=3),
        hasty,
        rng,
        asked: None,
        requested: Vec::new(),
    })
}

/// The configuration of the next era, with the acceptors at these places.
fn changed(
    present: &Configuration,
    members: &BTreeSet<usize>,
    phase1: usize,
    phase2: usize,
) -> Option<Configuration> {
    let entry = |place: usize| MemberEntry::from(Arc::from(format!("acceptor {place}")));
    let entries = members.iter().map(|&place| (uuid(place), entry(place)));
    present.changed_to(entries, phase1, phase2).ok()
}

/// Number of members that no quorum needs.
fn spare(quorums: Quorums) -> usize {
    quorums.acceptors() - quorums.phase1().max(quorums.phase2())
}

impl Operator {
    /// An operator who asks for nothing of its own accord.
    pub(crate) fn idle() -> Self {
        Self {
            rng: StdRng::seed_from_u64(CHANGES),
            wanted: 0,
            hasty: false,
            asked: None,
            requested: Vec::new(),
        }
    }
}

impl World<'_> {
    pub(super) fn operator(&mut self) -> &mut Operator {
        self.changes.as_mut().expect("the members of this cluster change")
    }

    /// Whether a hasty operator changes the members.
    pub(super) fn is_hasty(&self) -> bool {
        self.changes.as_ref().is_some_and(|operator| operator.hasty)
    }

    pub(crate) fn start_operator(&mut self) {
        if self.changes.as_ref().is_some_and(|operator| operator.wanted > 0) {
            let at = self.now + self.operator().rng.random_range(200..=1_000) * MILLISECOND;
            self.plan(at, Happening::OperatorDue);
        }
    }

    /// The operator looks at the cluster, and sometimes asks for a change.
    pub(crate) fn operator_due(&mut self) {
        if self.healed_at.is_some() {
            return;
        }
        let waits = if self.is_hasty() { 1..=20 } else { 20..=400 };
        let next = self.now + self.operator().rng.random_range(waits) * MILLISECOND;
        self.plan(next, Happening::OperatorDue);
        self.empty_a_disk();
        let era = self.invariants.eras.latest().era().get();
        let operator = self.operator();
        let asks_anyway = operator.rng.random_bool(if operator.hasty { 0.01 } else { 0.2 });
        if era >= operator.wanted {
            return;
        }
        if let Some((proposer, run)) = operator.asked
            && !asks_anyway
        {
            let process = &self.proposers[proposer];
            if process.run == run && process.is_up() {
                return;
            }
        }
        self.ask_for_change();
    }

    fn ask_for_change(&mut self) {
        let asks_any = self.operator().rng.random_bool(0.1);
        let proposers = 0..self.proposers.len();
        let asked: Vec<usize> = proposers
            .filter(|&proposer| asks_any || self.proposers[proposer].leads())
            .collect();
        if asked.is_empty() {
            return;
        }
        let rng = &mut self.operator().rng;
        let proposer = asked[rng.random_range(0..asked.len())];
        let (is_stale, hurries) = (rng.random_bool(0.05), rng.random_bool(0.5));
        let Some(core) = &self.proposers[proposer].core else {
            return;
        };
        // While a change is under way, every request of a hasty operator would be refused.
        if self.is_hasty() && !core.may_change() {
            return;
        }
        let hurries = hurries && self.is_hasty();
        let mut present = Arc::clone(core.configuration());
        if is_stale
            && !hurries
            && let Some(first) = self.invariants.eras.were_in_force().next()
        {
            present = Arc::clone(first);
        }
        match self.draw_change(&present, hurries) {
            Some(next) if hurries => self.hurry(proposer, next),
            Some(next) => self.ask_leader(proposer, next),
            None => {}
        }
    }

    /// The leader proposes a change at once, without the copy and without the pause.
    fn hurry(&mut self, proposer: usize, next: Configuration) {
        self.note(|| {
            format!(
                "proposer {proposer} proposes era {} at once: {}",
                next.era(),
                describe(&next)
            )
        });
        self.statistics.count(Counted::ChangesHurried);
        let change = stored::change(&next);
        self.operator().requested.push(Arc::new(next));
        self.propose_change(proposer, change);
        self.plan_fault_of_change(proposer, 0.5);
    }

    /// Asks the leader to replace a member by a new acceptor. For scripts.
    pub(crate) fn replace(&mut self, member: usize) {
        let leader = (0..self.proposers.len()).find(|&proposer| self.proposers[proposer].leads());
        let acceptor = self.come(false);
        let present = Arc::clone(self.invariants.eras.latest());
        let members = present
            .members()
            .keys()
            .map(|&member| eras_are_kept::place(member));
        let members: BTreeSet<usize> = members
            .filter(|&other| other != member)
            .chain([acceptor])
            .collect();
        let quorums = present.quorums();
        let next = changed(&present, &members, quorums.phase1(), quorums.phase2());
        self.ask_leader(
            leader.expect("a proposer leads"),
            next.expect("as many members as before"),
        );
    }

    fn ask_leader(&mut self, proposer: usize, next: Configuration) {
        self.note(|| {
            format!(
                "the operator asks proposer {proposer} for era {}: {}",
                next.era(),
                describe(&next)
            )
        });
        self.statistics.count(Counted::ChangesAsked);
        let run = self.proposers[proposer].run;
        let change = stored::change(&next);
        let operator = self.operator();
        operator.asked = Some((proposer, run));
        operator.requested.push(Arc::new(next));
        self.handle(proposer, Event::ChangeMembers(ChangeRequest { change }));
    }

    /// A configuration to follow `present`: a member replaced, members added or removed, other quorums, or any other set.
    /// With `hurries`, every new member has joined: nothing brings a blank member into its own era.
    fn draw_change(&mut self, present: &Configuration, hurries: bool) -> Option<Configuration> {
        let (kind, count) = (
            self.operator().rng.random_range(0..100),
            self.operator().rng.random_range(1..=2),
        );
        let members = present.members().keys();
        let mut members: BTreeSet<usize> = members.map(|&member| eras_are_kept::place(member)).collect();
        match kind {
            0..=34 => {
                self.leaves(&mut members);
                self.joins(&mut members, hurries);
            }
            35..=49 => (0..count).for_each(|_| self.joins(&mut members, hurries)),
            50..=61 => (0..count).for_each(|_| self.leaves(&mut members)),
            62..=71 => {}
            _ => {
                members.clear();
                let size = self.operator().rng.random_range(1..=MACHINES);
                (0..size).for_each(|_| self.joins(&mut members, hurries));
            }
        }
        let all = members.len();
        if all == 0 {
            return None;
        }
        let rng = &mut self.operator().rng;
        let (phase1, phase2) = match rng.random_range(0..10) {
            0..=5 => (all / 2 + 1, all / 2 + 1),
            6 => (all, 1),
            _ => {
                let phase1 = rng.random_range(1..=all);
                (phase1, rng.random_range(all - phase1 + 1..=all))
            }
        };
        let next = changed(present, &members, phase1, phase2)?;
        // With damage, a member may lack a row permanently.
        let is_spared = !self.knobs.damage || spare(next.quorums()) > 0;
        (is_spared && self.lost_of(&next) <= self.lost_max(&next)).then_some(next)
    }

    /// A member leaves, a lost one first.
    fn leaves(&mut self, members: &mut BTreeSet<usize>) {
        if members.is_empty() {
            return;
        }
        let any = self.operator().rng.random_range(0..members.len());
        let lost = members
            .iter()
            .find(|&&member| self.acceptors[member].is_as_good_as_lost());
        let leaver = lost.or_else(|| members.iter().nth(any)).copied();
        members.retain(|&member| Some(member) != leaver);
    }

    /// An acceptor outside joins: a removed one, or a new one on a machine without a disk.
    fn joins(&mut self, members: &mut BTreeSet<usize>, hurries: bool) {
        let machines = self.acceptors.iter().filter(|process| !process.emptied).count();
        let is_new = self.operator().rng.random_bool(0.5);
        if is_new && machines < MACHINES && self.acceptors.len() < ACCEPTORS_EVER {
            members.insert(self.come(hurries));
            return;
        }
        let acceptors = self.acceptors.iter().enumerate();
        let outside: Vec<usize> = acceptors
            .filter(|(place, process)| !members.contains(place) && !process.is_as_good_as_lost())
            .filter(|(_, process)| !hurries || process.disk.membership != Membership::Blank)
            .map(|(place, _)| place)
            .collect();
        if !outside.is_empty() {
            let any = self.operator().rng.random_range(0..outside.len());
            members.insert(outside[any]);
        }
    }

    /// A blank acceptor starts. For a hasty operator, the acceptor may have joined already, or must have.
    fn come(&mut self, joined: bool) -> usize {
        let acceptor = self.acceptors.len();
        let present = Arc::clone(self.invariants.eras.latest());
        let operator = self.operator();
        let process = if joined || (operator.hasty && operator.rng.random_bool(0.5)) {
            self.statistics.count(Counted::AcceptorsJoined);
            AcceptorProcess::formed(uuid(acceptor), &present, Ballot::before(present.era()))
        } else {
            AcceptorProcess::blank(uuid(acceptor))
        };
        self.acceptors.push(process);
        self.invariants.came();
        self.statistics.count(Counted::AcceptorsCame);
        self.start_acceptor(acceptor);
        self.start_trims_of(acceptor);
        acceptor
    }

    /// Empties the disk of a lost acceptor, or of a removed one, sometimes.
    fn empty_a_disk(&mut self) {
        let needed = self.needed();
        let acceptors = 0..self.acceptors.len();
        let may_empty: Vec<usize> = acceptors
            .filter(|&acceptor| {
                let process = &self.acceptors[acceptor];
                let is_needed = needed
                    .iter()
                    .any(|configuration| configuration.members().contains_key(&uuid(acceptor)));
                let is_outside = !is_needed && !process.is_blank();
                !process.emptied && (process.lost.is_some() || is_outside)
            })
            .collect();
        let often = if self.is_hasty() { 0.02 } else { 0.2 };
        let rng = &mut self.operator().rng;
        if may_empty.is_empty() || !rng.random_bool(often) {
            return;
        }
        let acceptor = may_empty[rng.random_range(0..may_empty.len())];
        self.note(|| format!("the operator empties the disk of acceptor {acceptor}"));
        self.crash(Node::Acceptor(acceptor));
        self.statistics.count(Counted::DisksEmptied);
        let process = &mut self.acceptors[acceptor];
        // The statements of the lost disk stay facts.
        (process.lost, process.emptied) = (Some(Lost::Wiped), true);
    }

    /// The configurations whose members the cluster may need: from the latest era with a leader on, requested ones included.
    pub(crate) fn needed(&self) -> Vec<Arc<Configuration>> {
        let era = self.invariants.eras.latest().era();
        let requested = self.changes.as_ref().map(|operator| &operator.requested);
        let requested = requested.into_iter().flatten();
        let requested = requested.filter(|configuration| configuration.era() > era);
        self.invariants.eras.needed().chain(requested).cloned().collect()
    }

    /// Number of members of a configuration whose disks may be lost.
    pub(crate) fn lost_max(&self, configuration: &Configuration) -> usize {
        spare(configuration.quorums()).saturating_sub(usize::from(self.knobs.damage))
    }

    /// Number of members with a lost disk.
    pub(crate) fn lost_of(&self, configuration: &Configuration) -> usize {
        let members = configuration.members().keys();
        let lost = members.filter(|&&member| self.acceptors[self.place(member)].is_as_good_as_lost());
        lost.count()
    }

    /// Whether every needed configuration can decide without the disk of an acceptor.
    pub(crate) fn may_lose(&self, acceptor: usize) -> bool {
        self.needed().iter().all(|configuration| {
            !configuration.members().contains_key(&uuid(acceptor))
                || self.lost_of(configuration) < self.lost_max(configuration)
        })
    }

    /// News of a change of members.
    pub(crate) fn operator_hears(&mut self, proposer: usize, stage: ChangeStage) {
        self.note(|| format!("proposer {proposer} about the change: {stage:?}"));
        match stage {
            ChangeStage::Copying { .. } => return,
            ChangeStage::Deciding { .. } | ChangeStage::Switching(_) => {
                self.plan_fault_of_change(proposer, 0.2);
                return;
            }
            ChangeStage::Refused(ChangeRefusal::UnderWay) => {
                self.statistics.count(Counted::ChangesRefused);
                return;
            }
            ChangeStage::Refused(_) | ChangeStage::Unknown | ChangeStage::Done { .. } => {}
        }
        let operator = self.operator();
        operator.asked = operator.asked.filter(|(asked, _)| *asked != proposer);
        match stage {
            ChangeStage::Done { configuration, .. } => {
                self.statistics.count(Counted::ChangesDone);
                self.invariants.eras.done(configuration.era());
                self.happened(Happened::Changed);
            }
            ChangeStage::Unknown => self.statistics.count(Counted::ChangesUnknown),
            ChangeStage::Copying { .. }
            | ChangeStage::Deciding { .. }
            | ChangeStage::Switching(_)
            | ChangeStage::Refused(_) => {
                self.statistics.count(Counted::ChangesRefused);
                self.happened(Happened::ChangeRefused);
            }
        }
    }
}
