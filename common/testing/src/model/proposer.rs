//! A modelled proposer: the real core, the armed timers, and the driver's handling of effects.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use paxos_common::paxos::{
    ballot::{Ballot, ProposerId},
    era::Era,
    identity::AcceptorUuid,
    message::{Accept, HeardProposer, Leadership, ReportAnswer},
    proposer::{
        Effect, Event, Limits, Pending, Phase, ProposalOutcome, Proposer, RequestId, Settings, Timer,
    },
    quorum::Configuration,
    slot::Slot,
    value::{EncodedCommand, Value},
};

use super::{
    acceptor::{place_of, uuid},
    cluster::Cluster,
    ledger::Broken,
    marks::Marks,
    network::{Envelope, Message, Node},
    outputs::{Claim, Outputs},
    scenario::Scenario,
    shared::Shared,
    sights::Sight,
    tamper::ProposerScratch,
};

const LEADER_TIMEOUT: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProposerNode {
    pub(crate) core: Proposer,
    /// The proposer's clock. Advances when no answer arrives for a long time.
    now: Duration,
    /// Number of this process among the processes of its place.
    pub(crate) run: usize,
    /// Latest generation of each armed timer, until the timer fires.
    pub(crate) timers: BTreeMap<Timer, u64>,
    marks: Marks,
    /// Whether the proposer led after the last step.
    led: bool,
    /// Highest watermark in any report.
    known_to: Slot,
    pub(crate) scratch: ProposerScratch,
}

impl ProposerNode {
    /// A new process. Every acceptor is connected, and reports that no proposer leads.
    pub(crate) fn started(
        place: usize,
        run: usize,
        id: ProposerId,
        configuration: &Arc<Configuration>,
        scenario: &Scenario,
    ) -> Self {
        let limits = Limits {
            batch_commands_max: 1,
            batches_in_flight_max: scenario.batches_in_flight,
            // A message has a single slot, so that each slot can be lost alone.
            message_bytes_max: 0,
            ..Limits::default()
        };
        let settings = Settings {
            leader_timeout: LEADER_TIMEOUT,
            limits,
        };
        let address = Arc::from(format!("p{place}"));
        let mut core = Proposer::new(id, address, Arc::clone(configuration), settings);
        for &acceptor in configuration.members().keys() {
            core.handle(Event::Opened(acceptor));
            core.handle(Event::Reported {
                acceptor,
                sent: Duration::ZERO,
                answer: word(no_leader(), Slot::ZERO, Slot::ZERO),
            });
        }
        for number in 0..scenario.commands[place] {
            let command = command(place, run, number);
            core.handle(Event::Proposed(Pending::new(
                RequestId(u64::from(command)),
                EncodedCommand::from_batch_of_one(Bytes::copy_from_slice(&[command])),
            )));
        }
        let mut node = Self {
            core,
            now: Duration::ZERO,
            run,
            timers: BTreeMap::new(),
            marks: Marks::default(),
            led: false,
            known_to: Slot::ZERO,
            scratch: ProposerScratch::default(),
        };
        for effect in node.core.take_effects() {
            if let Effect::SetTimer {
                timer, generation, ..
            } = effect
            {
                node.timers.insert(timer, generation);
            }
        }
        node
    }

    /// Whether a timer may fire: the timer is armed, and the phase waits for the timer.
    pub(crate) fn awaits(&self, timer: Timer) -> bool {
        let of_phase = match (timer, self.core.phase()) {
            (Timer::Election, Phase::Standby)
            | (Timer::Heartbeat, Phase::Campaigning(_) | Phase::Leading(_))
            | (Timer::Check, Phase::Leading(_)) => true,
            (
                Timer::Election
                | Timer::Challenge
                | Timer::Leaderless
                | Timer::Heartbeat
                | Timer::GiveUp
                | Timer::Check,
                Phase::Standby | Phase::Campaigning(_) | Phase::Leading(_),
            ) => false,
        };
        of_phase && self.timers.contains_key(&timer)
    }

    /// Whether the proposer leads, and all its proposals within the modelled part of the log are chosen.
    pub(crate) fn has_nothing_in_flight(&self, slots: u64) -> bool {
        match self.core.phase() {
            Phase::Leading(lead) => lead.chosen_to() >= lead.proposed_to().min(Slot::ZERO.plus(slots)),
            Phase::Standby | Phase::Campaigning(_) => false,
        }
    }

    pub(crate) fn leads(&self) -> bool {
        matches!(self.core.phase(), Phase::Leading(_))
    }
}

/// A command with a number. No two processes propose the same command.
pub(crate) fn command(place: usize, run: usize, number: usize) -> u8 {
    u8::try_from(0x10 * (place + 1) + 4 * run + number).expect("few processes")
}

fn belongs_to(command: u8, place: usize) -> bool {
    usize::from(command >> 4) == place + 1
}

fn no_leader() -> Leadership {
    Leadership {
        promised: Ballot::ZERO,
        address: Arc::from(""),
        resigned: false,
    }
}

/// The report of an acceptor that has not heard from a leader for a leader timeout.
fn word(leadership: Leadership, known_to: Slot, trimmed_to: Slot) -> ReportAnswer {
    ReportAnswer {
        promised: leadership.promised,
        heard: HeardProposer::from_leadership(leadership, LEADER_TIMEOUT),
        waiting: Duration::ZERO,
        slowest_commit: Duration::ZERO,
        has_space: true,
        known_to,
        voted_to: Slot::ZERO,
        trimmed_to,
        state_bytes: 0,
    }
}

/// Time without any answer after which a proposer gives way.
const SILENCE: Duration = Duration::from_secs(2);

/// An event at a proposer.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Input<'a> {
    Receive(&'a Shared<Envelope>),
    Fire(Timer),
    /// An acceptor reports its knowledge.
    Report {
        acceptor: usize,
        leadership: Leadership,
        known_to: Slot,
        sound_to: Slot,
        trimmed_to: Slot,
    },
    Fill(Slot),
    /// The leader proposes a change, without copying and without a pause: safety rests on neither.
    Change(&'a Value),
    /// No answer arrives for so long that the proposer gives way. Then all acceptors report again.
    Silence,
}

/// A step of a proposer.
pub(crate) struct ProposerStep<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) place: usize,
    pub(crate) node: ProposerNode,
    pub(crate) outputs: Outputs,
}

impl ProposerStep<'_> {
    pub(crate) fn take(&mut self, input: &Input<'_>) {
        match input {
            Input::Receive(envelope) => {
                let Node::Acceptor(acceptor) = envelope.from else {
                    unreachable!("only acceptors answer proposers")
                };
                let mut message = envelope.message.clone();
                self.tamper_with_received(acceptor, &mut message);
                if let Message::Formed(held) = &message {
                    self.shown(uuid(acceptor), held);
                } else {
                    let answered = self.tamper_with_votes_of_change(acceptor, &message);
                    self.handle(received(uuid(acceptor), message));
                    self.put_in_force_early(answered);
                }
            }
            Input::Fire(timer) => {
                if let Some(generation) = self.node.timers.remove(timer) {
                    self.handle(Event::Fired(*timer, generation));
                }
            }
            Input::Report {
                acceptor,
                leadership,
                known_to,
                sound_to,
                trimmed_to,
            } => {
                self.node.known_to = self.node.known_to.max(*known_to);
                let known_to = self.tamper_with_report(*known_to, *sound_to);
                let leadership = self.tamper_with_leadership(leadership);
                self.handle(Event::Reported {
                    acceptor: uuid(*acceptor),
                    sent: self.node.now,
                    answer: word(leadership, known_to, *trimmed_to),
                });
                self.tamper_with_trim_report(uuid(*acceptor), *trimmed_to);
            }
            Input::Silence => {
                self.node.now += SILENCE;
                self.node.core.at(self.node.now);
                if let Some(generation) = self.node.timers.remove(&Timer::Heartbeat) {
                    self.handle(Event::Fired(Timer::Heartbeat, generation));
                }
                for &acceptor in self.cluster.electorate.members() {
                    self.handle(Event::Reported {
                        acceptor,
                        sent: self.node.now,
                        answer: word(no_leader(), Slot::ZERO, Slot::ZERO),
                    });
                }
            }
            Input::Fill(to) => self.handle(Event::FillWanted(*to)),
            Input::Change(change) => {
                self.node.core.propose_change((*change).clone());
                self.go_on();
            }
        }
    }

    /// Hands an event to the core, and carries out the effects.
    pub(crate) fn handle(&mut self, event: Event) {
        if let (
            Phase::Campaigning(_),
            Event::Promised {
                acceptor,
                ballot,
                page,
                ..
            },
        ) = (self.node.core.phase(), &event)
        {
            self.node.marks.answered(*acceptor, *ballot, page);
        }
        if let Event::Promised {
            ballot,
            scan: Some(_),
            ..
        } = &event
            && ballot.era() < self.node.core.configuration().era()
        {
            self.outputs.saw(Sight::ScanAcrossEras);
        }
        self.node.core.handle(event);
        self.go_on();
    }

    /// Carries out the effects of the core.
    pub(crate) fn go_on(&mut self) {
        let led = self.node.led;
        self.node.core.flush();
        let mut effects = self.node.core.take_effects();
        // Streams open at once, and the first message on each stream is lost: no message has to arrive in this model.
        let asked = effects.iter().filter_map(|effect| {
            let Effect::OpenStream(acceptor, first) = effect else {
                return None;
            };
            Some((*acceptor, first.ballot))
        });
        for (acceptor, ballot) in asked.collect::<Vec<_>>() {
            self.node.core.handle(Event::StreamOpened { acceptor, ballot });
            self.node.core.flush();
            effects.append(&mut self.node.core.take_effects());
        }
        self.node.led = self.node.leads();
        if led && !self.node.led {
            self.outputs.saw(Sight::SteppedDown);
        }
        if !led && self.node.led && self.node.core.configuration().era() > Era::FIRST {
            self.outputs.saw(Sight::LedLater);
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Prepare(acceptor, prepare, scan) => {
                if scan.is_none() {
                    // A campaign does not request slots reported as chosen. A campaign under way keeps its first slot.
                    let begins = prepare.ballot > self.node.marks.ballot;
                    if begins && prepare.from < self.node.known_to {
                        self.outputs.broken(Broken::NewSlotsStartAbove);
                    }
                    self.node.marks.asked(&prepare);
                }
                if scan.is_none() || self.cluster.scenario.repair {
                    self.send(acceptor, Message::Prepare(prepare, scan));
                }
            }
            Effect::FetchChosen {
                source,
                number,
                from,
                to,
            } => {
                if self.cluster.scenario.repair {
                    self.send(source, Message::Fetch(number, from, to));
                }
            }
            Effect::Accept(acceptor, accept) => self.propose(acceptor, accept),
            Effect::SetTimer {
                timer, generation, ..
            } => {
                self.node.timers.insert(timer, generation);
            }
            Effect::Answer(request, ProposalOutcome::Chosen(version)) => {
                self.outputs.saw(Sight::Answered);
                let command = u8::try_from(request.0).expect("commands are bytes");
                self.outputs.claim(Claim::Answers(version, command));
            }
            Effect::Answer(_, ProposalOutcome::Unknown | ProposalOutcome::NotProposed(_))
            | Effect::OpenStream(..)
            | Effect::ShutStreams(_)
            | Effect::ReportNow
            // No proposer answers: the end of its streams counts after some time.
            | Effect::Inquire { .. }
            | Effect::Notify(_) => {}
            Effect::Adopted(_) => {
                let links: Vec<AcceptorUuid> = self.node.core.links().into_keys().collect();
                for acceptor in links {
                    self.form(acceptor);
                }
            }
            // Joiners are linked from the beginning.
            Effect::LinksChanged => {
                let links: Vec<AcceptorUuid> = self.node.core.links().into_keys().collect();
                for acceptor in links {
                    if !self.node.core.counts(acceptor) {
                        self.form(acceptor);
                    }
                }
            }
            Effect::Reopen(acceptor) if self.cluster.eras.len() > 1 => self.form(acceptor),
            Effect::BringSnapshot { .. } | Effect::Change(_) => {}
            // In this model no live leader is heard of, no disk goes back, and no process is asked to stop.
            Effect::Forward(..)
            | Effect::Reopen(_)
            | Effect::Refused(_)
            | Effect::Readmitted(_)
            | Effect::HandedOver
            | Effect::Halt(_) => self.outputs.broken(Broken::NoProcessHalts),
        }
    }

    fn propose(&mut self, to: AcceptorUuid, accept: Accept) {
        let slots = self.cluster.scenario.slots;
        if accept.proposals.iter().any(|(slot, _)| slot.get() >= slots) {
            // Beyond the modelled part of the log: the message is lost.
            return;
        }
        self.outputs.claim(Claim::Watermark(accept.chosen_to));
        let marks = &self.node.marks;
        for (slot, value) in &accept.proposals {
            self.outputs.claim(Claim::Proposes {
                ballot: accept.ballot,
                slot: *slot,
                value: value.clone(),
                is_own: value.change().is_none()
                    && value
                        .as_bytes()
                        .first()
                        .is_some_and(|byte| belongs_to(*byte, self.place)),
                may_be_new: marks.ballot == accept.ballot && *slot >= marks.highest,
                is_repair: *slot < accept.chosen_to,
            });
        }
        self.send(to, Message::Accept(accept));
    }

    /// Asks an acceptor for its configuration, and installs the proposer's own.
    fn form(&mut self, acceptor: AcceptorUuid) {
        let configuration = Arc::clone(self.node.core.configuration());
        self.send(acceptor, Message::Form(configuration));
    }

    /// The answer to `Form`: the link is open once both hold the same configuration.
    fn shown(&mut self, acceptor: AcceptorUuid, held: &Arc<Configuration>) {
        let own = self.node.core.configuration().era();
        if held.era() > own {
            self.handle(Event::LaterConfiguration(Arc::clone(held)));
        } else if held.era() == own && !self.node.core.counts(acceptor) {
            self.handle(Event::Opened(acceptor));
            let no_leader = Leadership {
                promised: Ballot::before(own),
                ..no_leader()
            };
            self.handle(Event::Reported {
                acceptor,
                sent: self.node.now,
                answer: word(no_leader, Slot::ZERO, Slot::ZERO),
            });
        }
    }

    fn send(&mut self, to: AcceptorUuid, mut message: Message) {
        self.tamper_with_sent(&mut message);
        let place = place_of(to);
        if !self.cluster.scenario.reach[self.place].contains(&place) {
            return;
        }
        let from = Node::Proposer {
            place: self.place,
            run: self.node.run,
        };
        self.outputs.send(Envelope {
            from,
            to: Node::Acceptor(place),
            message,
        });
    }
}

/// The core's event for a message from an acceptor.
fn received(acceptor: AcceptorUuid, message: Message) -> Event {
    match message {
        Message::Page(ballot, scan, page) => Event::Promised {
            acceptor,
            ballot,
            scan,
            page,
        },
        Message::PrepareRejected(ballot, promised) => Event::PrepareRejected {
            acceptor,
            ballot,
            promised,
        },
        Message::PrepareRefused(promised) => Event::PrepareRefused { acceptor, promised },
        Message::Answer(ballot, sequence, answer) => Event::Answered {
            acceptor,
            ballot,
            sequence,
            answer,
        },
        Message::Fetched(number, from, values) => Event::Fetched { number, from, values },
        Message::Prepare(..)
        | Message::Accept(_)
        | Message::Fetch(..)
        | Message::Form(_)
        | Message::Formed(_)
        | Message::Tail(_)
        | Message::Tailed(..)
        | Message::Votes(..)
        | Message::Rows(..) => unreachable!("not for a proposer: {message:?}"),
    }
}
