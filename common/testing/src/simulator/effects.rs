//! A simulated driver's handling of the effects of a proposer's core.

use paxos_common::paxos::{
    proposer::{Effect, Notice, Proposer},
    slot::Slot,
};
use rand::RngExt as _;

use super::{
    invariants::{commands, watermarks_are_true::Watermarks},
    knobs::MILLISECOND,
    log::Happened,
    network::{Message, Node},
    statistics::Counted,
    world::{Happening, World, micros},
};

impl World<'_> {
    pub(crate) fn perform(&mut self, proposer: usize, effects: Vec<Effect>) {
        let this = Node::Proposer(proposer);
        for mut effect in effects {
            if !self.tamper_with_effect(proposer, &mut effect) {
                continue;
            }
            match effect {
                Effect::Prepare(acceptor, prepare, scan) => {
                    if prepare.from == Slot::MAX {
                        // A step on the way to a higher ballot: the answer does not count.
                        self.statistics.count(Counted::ClimbingSteps);
                    } else {
                        if scan.is_none() {
                            let takeovers = &mut self.invariants.takeovers;
                            takeovers.campaign(proposer, prepare.ballot, prepare.from);
                        } else {
                            self.statistics.count(Counted::RepairScans);
                        }
                        Watermarks::claimed(&self.invariants.chosen, "a candidate", prepare.from);
                        let era = prepare.ballot.era();
                        self.invariants.eras.claimed("a candidate", era, prepare.from);
                    }
                    let place = self.place(acceptor);
                    let call = (place, scan.map(|scan| scan.number));
                    self.proposers[proposer]
                        .asking
                        .insert(call, (prepare.clone(), scan));
                    self.send(this, Node::Acceptor(place), Message::Prepare(prepare, scan));
                }
                Effect::FetchChosen {
                    source,
                    number,
                    from,
                    to,
                } => {
                    self.statistics.count(Counted::RepairFetches);
                    let source = Node::Acceptor(self.place(source));
                    self.send(this, source, Message::FetchChosen(number, from, to));
                }
                Effect::Halt(reason) => panic!("proposer {proposer} halts: {reason}"),
                Effect::Reopen(acceptor) => {
                    self.statistics.count(Counted::LinksReopened);
                    let acceptor = self.place(acceptor);
                    self.proposers[proposer].introductions.distrusted(acceptor);
                    self.plan(self.now, Happening::LinkClosed { acceptor, proposer });
                    self.reset_streams(|stream| (stream.proposer, stream.acceptor) == (proposer, acceptor));
                }
                Effect::OpenStream(acceptor, first) => {
                    let acceptor = self.place(acceptor);
                    self.keep_stream(proposer, acceptor, first);
                }
                Effect::ShutStreams(ballot) => self.shut_streams(proposer, ballot),
                Effect::ReportNow => {
                    self.statistics.count(Counted::ReportsAtOnce);
                    self.report_now(proposer);
                }
                Effect::Inquire {
                    number,
                    ballot,
                    address,
                } => self.inquire(proposer, number, ballot, &address),
                Effect::Notify(notice) => {
                    self.note(|| format!("proposer {proposer}: {notice}"));
                    match notice {
                        Notice::Campaign { .. } => {
                            self.judge_campaign(proposer, &notice);
                            self.happened(Happened::Campaigns(proposer, notice));
                        }
                        Notice::SteppedDown { .. } => self.happened(Happened::StepsDown(proposer, notice)),
                        Notice::StoodStill(_) => {}
                    }
                }
                Effect::Adopted(configuration) => self.adopted(proposer, &configuration),
                Effect::LinksChanged => self.links_changed(proposer),
                Effect::BringSnapshot { joiner, source } => {
                    let (joiner, source) = (self.place(joiner), self.place(source));
                    self.bring_snapshot(proposer, joiner, source);
                }
                Effect::Change(stage) => self.operator_hears(proposer, stage),
                Effect::Refused(went_back) => self.refused("a proposer", went_back),
                Effect::Readmitted(_) => {}
                Effect::Accept(acceptor, mut accept) => {
                    self.tamper_with_sent_change(proposer, &mut accept);
                    Watermarks::claimed(&self.invariants.chosen, "a leader", accept.chosen_to);
                    let era = accept.ballot.era();
                    self.invariants.eras.claimed("a leader", era, accept.chosen_to);
                    for (slot, value) in &accept.proposals {
                        self.invariants.proposed(accept.ballot, *slot, value);
                        if self.invariants.takeovers.is_repair(accept.ballot, *slot) {
                            self.statistics.count(Counted::SlotsRepaired);
                        }
                        if commands(value).nth(1).is_some() {
                            self.statistics.count(Counted::BatchesOfMany);
                        }
                    }
                    let place = self.place(acceptor);
                    let core = self.proposers[proposer].core.as_ref();
                    let mut witnesses = core.map(Proposer::witnesses).unwrap_or_default();
                    self.tampering.tamper_with_witnesses(proposer, &mut witnesses);
                    let keeper = self.proposers[proposer].keepers.get(&(accept.ballot, place));
                    if let Some(stream) = keeper.and_then(|keeper| keeper.stream) {
                        self.stream_send(stream, true, Message::Accept(accept, witnesses));
                    }
                }
                Effect::SetTimer {
                    timer,
                    generation,
                    at_least,
                    at_most,
                } => {
                    let process = &self.proposers[proposer];
                    let delay = self.rng.random_range(micros(at_least)..=micros(at_most));
                    let at = self.now + process.clock.takes(delay);
                    let run = process.run;
                    let fired = Happening::Fired {
                        proposer,
                        run,
                        timer,
                        generation,
                    };
                    self.plan(at, fired);
                }
                Effect::Answer(request, outcome) => self.answer_caller(proposer, request, outcome),
                Effect::Forward(pending, address) => self.forward(proposer, pending, &address),
                Effect::HandedOver => {
                    self.statistics.count(Counted::HandedOver);
                    self.stop_proposer(proposer);
                    let back = self.now + self.rng.random_range(0..=500) * MILLISECOND;
                    self.plan(back, Happening::Restart(this));
                    return;
                }
            }
        }
    }
}
