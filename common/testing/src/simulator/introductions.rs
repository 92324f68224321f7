//! Introductions of simulated acceptors to proposers and learners. A proposer's driver then asks the other acceptors
//! for tables of remembered runs.

use std::collections::{BTreeMap, BTreeSet};

use paxos_common::paxos::{
    identity::{CommitCounter, RunNumber},
    proposer::Event,
    witness::{Guard, GuardFinding, Run, Witnesses},
};

use super::{
    knobs::MILLISECOND,
    network::{Message, Node},
    statistics::Counted,
    world::{Happening, Time, World, uuid},
};

/// Limit of a driver's wait for the tables of other acceptors, in simulated microseconds.
const OTHERS_MAX: Time = 100 * MILLISECOND;

/// A driver's state of the introductions of acceptors.
#[derive(Default)]
pub(crate) struct Introductions {
    /// Acceptors about to show runs.
    opening: BTreeSet<usize>,
    /// Number of the `Form` call under way to each acceptor, and number of such calls so far.
    forms: BTreeMap<usize, u64>,
    calls: u64,
    /// Acceptors with shown runs, while the other acceptors are asked for tables. By question.
    asked: BTreeMap<u64, Asked>,
    questions: u64,
    /// Latest run of each acceptor after the other acceptors were asked.
    witnessed: BTreeMap<usize, RunNumber>,
}

/// An acceptor has shown its runs, and the other acceptors are asked for tables.
struct Asked {
    acceptor: usize,
    runs: Vec<Run>,
    remembers: Witnesses,
    /// Number of asked other acceptors.
    awaited: usize,
    others: BTreeMap<usize, Witnesses>,
}

impl Introductions {
    /// An attempt to open a link begins, unless one is under way.
    pub(crate) fn opens(&mut self, acceptor: usize) -> bool {
        self.opening.insert(acceptor)
    }

    /// An attempt to open a link ends.
    pub(crate) fn gives_up(&mut self, acceptor: usize) {
        self.opening.remove(&acceptor);
    }

    /// A `Form` call begins. Returns its number.
    pub(crate) fn form_called(&mut self, acceptor: usize) -> u64 {
        self.calls += 1;
        self.forms.insert(acceptor, self.calls);
        self.calls
    }

    /// Ends a `Form` call, if it is the present one.
    pub(crate) fn form_answered(&mut self, acceptor: usize, number: u64) -> bool {
        let is_present = self.forms.get(&acceptor) == Some(&number);
        if is_present {
            self.forms.remove(&acceptor);
        }
        is_present
    }

    /// All links break. Numbers are not used again.
    pub(crate) fn all_broke(&mut self) {
        *self = Self {
            questions: self.questions,
            calls: self.calls,
            ..Self::default()
        };
    }

    /// Links are given up.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(usize) -> bool) {
        self.opening.retain(|&acceptor| is_kept(acceptor));
        self.forms.retain(|&acceptor, _| is_kept(acceptor));
        self.asked.retain(|_, asked| is_kept(asked.acceptor));
        self.witnessed.retain(|&acceptor, _| is_kept(acceptor));
    }

    /// The core distrusts the shown runs: the other acceptors are asked again.
    pub(crate) fn distrusted(&mut self, acceptor: usize) {
        self.witnessed.remove(&acceptor);
    }
}

impl World<'_> {
    pub(crate) fn link_opened(&mut self, acceptor: usize, proposer: usize) {
        if self.changes.is_some() {
            self.ask_form(acceptor, proposer);
            return;
        }
        let blank = self.is_blank(acceptor);
        let Some((runs, remembers)) = self.introduction(acceptor).filter(|_| !blank) else {
            return;
        };
        let process = &mut self.proposers[proposer];
        // A single attempt at a time. The shown runs may be old on arrival.
        if process.core.is_some() && process.introductions.opening.insert(acceptor) {
            let shown = Happening::Introduced {
                acceptor,
                proposer,
                run: process.run,
                runs,
                remembers,
            };
            self.plan_within(50 * MILLISECOND, shown);
        }
    }

    /// The runs shown by an acceptor arrive.
    pub(crate) fn introduced(
        &mut self,
        (acceptor, proposer): (usize, usize),
        run: u64,
        runs: Vec<Run>,
        remembers: Witnesses,
    ) {
        let others: Vec<usize> = match &self.changes {
            None => (0..self.acceptors.len()).collect(),
            Some(_) => self.links(proposer).into_iter().collect(),
        };
        let others = others.into_iter().filter(|&other| other != acceptor);
        let others: Vec<usize> = others.collect();
        let process = &mut self.proposers[proposer];
        if process.run != run || process.core.is_none() {
            return;
        }
        let introductions = &mut process.introductions;
        let asked = Asked {
            acceptor,
            runs,
            remembers,
            awaited: others.len(),
            others: BTreeMap::new(),
        };
        let present = asked.runs.last().map(|present| present.run);
        if introductions.witnessed.get(&acceptor).copied() == present {
            self.introduce(proposer, asked);
            return;
        }
        introductions.questions += 1;
        let question = introductions.questions;
        introductions.asked.insert(question, asked);
        let is_alone = others.is_empty();
        for other in others {
            let (from, to) = (Node::Proposer(proposer), Node::Acceptor(other));
            self.send(from, to, Message::Recall(question));
        }
        if is_alone {
            self.others_reported(proposer, question);
            return;
        }
        let awaited = Happening::OthersAwaited {
            proposer,
            run,
            question,
        };
        self.plan(self.now + OTHERS_MAX, awaited);
    }

    /// A driver requests an acceptor's table of other acceptors' runs.
    pub(crate) fn recall(&mut self, acceptor: usize, from: Node, question: u64) {
        let Some((_, remembers)) = self.introduction(acceptor) else {
            return;
        };
        self.send(
            Node::Acceptor(acceptor),
            from,
            Message::Recalled(question, remembers),
        );
    }

    /// An asked acceptor answers with a table.
    pub(crate) fn recalled(&mut self, proposer: usize, other: usize, question: u64, remembers: Witnesses) {
        let asked = &mut self.proposers[proposer].introductions.asked;
        if let Some(shown) = asked.get_mut(&question) {
            shown.others.insert(other, remembers);
            if shown.others.len() == shown.awaited {
                self.others_reported(proposer, question);
            }
        }
    }

    /// The driver no longer waits.
    pub(crate) fn others_awaited(&mut self, proposer: usize, run: u64, question: u64) {
        if self.proposers[proposer].run == run {
            self.others_reported(proposer, question);
        }
    }

    fn others_reported(&mut self, proposer: usize, question: u64) {
        let core = self.proposers[proposer].core.as_ref();
        let electorate = core.map_or_else(
            || self.electorate.clone(),
            |core| core.configuration().electorate(),
        );
        let needed = Guard::new(electorate.quorums()).others_needed();
        let introductions = &mut self.proposers[proposer].introductions;
        let Some(asked) = introductions.asked.remove(&question) else {
            return;
        };
        let members = asked
            .others
            .keys()
            .filter(|&&other| electorate.includes(uuid(other)));
        if members.count() >= needed {
            self.statistics.count(Counted::RunsWitnessed);
            self.introduce(proposer, asked);
        } else {
            self.statistics.count(Counted::RunsUnwitnessed);
            let acceptor = asked.acceptor;
            introductions.opening.remove(&acceptor);
            self.plan_within(100 * MILLISECOND, Happening::LinkOpened { acceptor, proposer });
        }
    }

    /// The link is open: the introduction goes to the core.
    fn introduce(&mut self, proposer: usize, asked: Asked) {
        let Asked {
            acceptor,
            runs,
            remembers,
            others,
            ..
        } = asked;
        let process = &mut self.proposers[proposer];
        process.introductions.opening.remove(&acceptor);
        if process.core.is_none() || !self.acceptors[acceptor].is_up() {
            return;
        }
        process.open.insert(acceptor);
        let shown = runs.last().map(|present| present.run);
        if let Some(present) = runs.last() {
            process.introduced.insert(acceptor, present.run);
            process.introductions.witnessed.insert(acceptor, present.run);
        }
        self.acceptors[acceptor].linked.insert(proposer);
        self.note(|| {
            format!(
                "acceptor {acceptor} shows proposer {proposer} its runs {runs:?}, and remembers {remembers:?}; others \
                 remember {others:?}"
            )
        });
        let others = others.into_iter();
        let others: Vec<_> = others
            .map(|(other, remembers)| (uuid(other), remembers))
            .collect();
        let introduced = Event::Introduced {
            acceptor: uuid(acceptor),
            runs,
            remembers,
            others,
        };
        self.handle(proposer, introduced);
        self.handle(proposer, Event::Opened(uuid(acceptor)));
        self.tamper_with_late_link(proposer, acceptor);
        if self.stamp(Node::Acceptor(acceptor)).map(|(run, _)| run) != shown {
            // The first answer shows that the acceptor has restarted since.
            self.plan_within(20 * MILLISECOND, Happening::LinkClosed { acceptor, proposer });
        }
    }

    pub(crate) fn link_closed(&mut self, acceptor: usize, proposer: usize) {
        self.proposers[proposer].open.remove(&acceptor);
        self.handle(proposer, Event::Closed(uuid(acceptor)));
        // A broken link is opened again, as often as necessary.
        self.plan_within(100 * MILLISECOND, Happening::LinkOpened { acceptor, proposer });
    }

    /// A running acceptor shows its runs to a learner. The learner asks the other running acceptors.
    pub(crate) fn introduce_to_learner(&mut self, learner: usize, acceptor: usize) {
        let Some((runs, remembers)) = self.introduction(acceptor) else {
            return;
        };
        if self.learner_sees(learner, acceptor) {
            return;
        }
        let others = self.members_of(learner).into_iter();
        let others = others.filter(|&other| other != acceptor);
        let others: Vec<_> = others
            .filter_map(|other| Some((uuid(other), self.introduction(other)?.1)))
            .collect();
        let process = &mut self.learners[learner];
        let found = process
            .guard
            .introduce(uuid(acceptor), &runs, remembers.iter(), &others);
        let present = runs.last().map(|present| present.run);
        if let Some(present) = present.filter(|_| process.guard.trusts(uuid(acceptor))) {
            process.shown.insert(acceptor, present);
        }
        // A learner doubts an acceptor, or refuses a rolled-back acceptor.
        for found in found {
            if let GuardFinding::Refused(went_back) = found {
                self.refused("a learner", went_back);
            }
        }
    }

    /// Whether an acceptor's answer counts for a learner: the answer comes from the shown run, and the acceptor is
    /// trusted.
    pub(crate) fn learner_counts(
        &mut self,
        learner: usize,
        acceptor: usize,
        (run, counter): (RunNumber, CommitCounter),
    ) -> bool {
        let process = &mut self.learners[learner];
        let counts = process.shown.get(&acceptor) == Some(&run) && process.guard.trusts(uuid(acceptor));
        if counts {
            process.guard.hear(uuid(acceptor), run, counter);
        }
        counts
    }
}
