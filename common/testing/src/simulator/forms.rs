//! `Form` calls of simulated links, in clusters whose members change: before a link opens, the driver asks for the acceptor's
//! configuration.
//!
//! A later configuration is handed to the core. At an earlier one, the driver installs the configuration of the core first. A
//! blank acceptor joins if it is a joiner of the present change, and is left alone otherwise.

use std::{collections::BTreeSet, sync::Arc};

use paxos_common::paxos::{
    acceptor::Membership,
    proposer::{Event, Proposer},
    quorum::Configuration,
    witness::{Run, Witnesses},
};

use super::{
    invariants::eras_are_kept,
    knobs::MILLISECOND,
    network::{Message, Node},
    statistics::Counted,
    world::{Happening, Time, World, uuid},
};

/// Limit of a driver's wait for the answer to a `Form` call.
const FORM_MAX: Time = 300 * MILLISECOND;

/// A question to an acceptor, or a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FormStep {
    Look,
    Install(Arc<Configuration>),
    Join(Arc<Configuration>),
}

/// An acceptor's answer: the stored configuration, the runs, and the table of other acceptors' runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Formed {
    number: u64,
    configuration: Option<Arc<Configuration>>,
    runs: Vec<Run>,
    remembers: Witnesses,
}

impl World<'_> {
    /// Places of the acceptors that a proposer keeps a link with.
    pub(crate) fn links(&self, proposer: usize) -> BTreeSet<usize> {
        let core = self.proposers[proposer].core.as_ref();
        let links = core.map(Proposer::links).unwrap_or_default();
        links.into_keys().map(eras_are_kept::place).collect()
    }

    /// A driver begins to open a link.
    pub(crate) fn ask_form(&mut self, acceptor: usize, proposer: usize) {
        if self.links(proposer).contains(&acceptor) && self.proposers[proposer].introductions.opens(acceptor)
        {
            self.form(acceptor, proposer, FormStep::Look);
        }
    }

    fn form(&mut self, acceptor: usize, proposer: usize, step: FormStep) {
        let process = &mut self.proposers[proposer];
        let (run, number) = (process.run, process.introductions.form_called(acceptor));
        let (from, to) = (Node::Proposer(proposer), Node::Acceptor(acceptor));
        self.send(from, to, Message::Form(number, step));
        let overdue = Happening::FormOverdue {
            acceptor,
            proposer,
            run,
            number,
        };
        self.plan(self.now + FORM_MAX, overdue);
    }

    pub(crate) fn form_overdue(&mut self, (acceptor, proposer): (usize, usize), run: u64, number: u64) {
        let process = &mut self.proposers[proposer];
        if process.run == run && process.introductions.form_answered(acceptor, number) {
            self.give_link_up(acceptor, proposer);
        }
    }

    /// The driver tries again a little later.
    fn give_link_up(&mut self, acceptor: usize, proposer: usize) {
        self.proposers[proposer].introductions.gives_up(acceptor);
        self.plan_within(100 * MILLISECOND, Happening::LinkOpened { acceptor, proposer });
    }

    /// An acceptor answers a `Form` call, from memory.
    pub(crate) fn answer_form(&mut self, acceptor: usize, to: Node, number: u64) {
        let Some((runs, remembers)) = self.introduction(acceptor) else {
            return;
        };
        let core = self.acceptors[acceptor].core.as_ref();
        let configuration = match core.map(|core| core.membership()) {
            Some(Membership::Formed(configuration)) => Some(Arc::new(configuration.clone())),
            Some(Membership::Blank | Membership::Seeded(_) | Membership::Forming(_)) | None => None,
        };
        let formed = Formed {
            number,
            configuration,
            runs,
            remembers,
        };
        self.send(Node::Acceptor(acceptor), to, Message::Formed(formed));
    }

    /// The answer to a `Form` call arrives.
    pub(crate) fn formed(&mut self, acceptor: usize, proposer: usize, formed: Formed) {
        let Formed {
            number,
            configuration,
            runs,
            remembers,
        } = formed;
        let is_linked = self.links(proposer).contains(&acceptor);
        let process = &mut self.proposers[proposer];
        let run = process.run;
        let Some(core) = &process.core else { return };
        if !process.introductions.form_answered(acceptor, number) {
            return;
        }
        let own = Arc::clone(core.configuration());
        if !is_linked {
            process.introductions.gives_up(acceptor);
            return;
        }
        match configuration {
            Some(found) if found.era() > own.era() => {
                self.give_link_up(acceptor, proposer);
                self.handle(proposer, Event::LaterConfiguration(found));
            }
            Some(found) if found.era() < own.era() => {
                self.form(acceptor, proposer, FormStep::Install(own));
            }
            Some(_) => self.introduced((acceptor, proposer), run, runs, remembers),
            // Of the next era's members, only a blank joiner is asked to join, and joins the present era.
            None if !own.members().contains_key(&uuid(acceptor)) => {
                self.form(acceptor, proposer, FormStep::Join(own));
            }
            None => {
                self.statistics.count(Counted::BlankAcceptorsMet);
                self.give_link_up(acceptor, proposer);
            }
        }
    }

    /// A proposer works with another configuration: every link is broken, and the links of this configuration are opened.
    pub(crate) fn adopted(&mut self, proposer: usize, configuration: &Arc<Configuration>) {
        self.note(|| format!("proposer {proposer} adopts era {}", configuration.era()));
        self.statistics.count(Counted::ProposersAdopted);
        self.takes_force(configuration);
        let process = &mut self.proposers[proposer];
        process.open.clear();
        process.introductions.all_broke();
        process.introduced.clear();
        process.sent.clear();
        process.asking.clear();
        self.links_changed(proposer);
    }

    /// A driver opens the links missing, and ends the links given up, with their streams.
    pub(crate) fn links_changed(&mut self, proposer: usize) {
        let links = self.links(proposer);
        let process = &mut self.proposers[proposer];
        process.open.retain(|acceptor| links.contains(acceptor));
        process.introductions.retain(|acceptor| links.contains(&acceptor));
        let ended = process
            .keepers
            .extract_if(.., |(_, acceptor), _| !links.contains(acceptor));
        let ended: Vec<u64> = ended.filter_map(|(_, keeper)| keeper.stream).collect();
        for stream in ended {
            self.close_here(stream);
        }
        let within = if self.is_hasty() { 1 } else { 10 };
        for acceptor in links {
            if !self.proposers[proposer].open.contains(&acceptor) {
                self.plan_within(within * MILLISECOND, Happening::LinkOpened { acceptor, proposer });
            }
        }
    }

    /// Whether a message belongs to a link of an earlier era, broken since.
    pub(crate) fn is_of_earlier_link(&self, proposer: usize, message: &Message) -> bool {
        let (Message::Page(ballot, ..) | Message::PrepareRejected(ballot, _)) = message else {
            return false;
        };
        let core = self.proposers[proposer].core.as_ref();
        core.is_some_and(|core| ballot.era() < core.configuration().era())
    }

    /// A configuration is stored, or a process works with it.
    pub(crate) fn takes_force(&mut self, configuration: &Configuration) {
        let acceptors = &self.acceptors;
        let invariants = &mut self.invariants;
        let is_new =
            invariants
                .eras
                .takes_force(&invariants.chosen, configuration, |member, slot, chosen_at| {
                    acceptors[member].covers(slot, chosen_at)
                });
        if is_new {
            self.statistics.count(Counted::ErasBegun);
            let era = configuration.era();
            self.note(|| format!("era {era} takes force: {}", describe(configuration)));
        }
    }
}

/// The members and the quorums, for the transcript.
pub(crate) fn describe(configuration: &Configuration) -> String {
    let members = configuration.members().keys();
    let members: Vec<usize> = members.map(|&member| eras_are_kept::place(member)).collect();
    let quorums = configuration.quorums();
    format!(
        "acceptors {members:?} with quorums {} and {}",
        quorums.phase1(),
        quorums.phase2()
    )
}
