//! Drives the core: passes inputs in and carries out effects. One task owns the core.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use paxos_common::{
    paxos::{
        identity::{AcceptorUuid, ClusterId, RunNumber, Stamp},
        message::ReportAnswer,
        proposer::{Effect, Event, Phase, ProposalOutcome, Proposer, Reason, RequestId},
        quorum::Configuration,
        slot::Slot,
    },
    peer::{Address, Dialer},
    service::{alarm::Alarm, failure::Failure, shutdown::Shutdown},
    trace::Tracer,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    addresses::LinkBook,
    ask,
    changes::Changes,
    clock::{Clock, stood_still},
    forming::FormedCluster,
    forward::Forwarder,
    input::{Forwarded, Input, OpenLink},
    metrics::Instruments,
    requests::{ClientRequest, WaitingRequests},
    returned::Returned,
    stream::{StreamTarget, StreamsByAcceptor},
    timers::Timers,
    trace::Traces,
    view::{AcceptorLink, View},
};

mod asking;
mod changes;
mod forwarding;
mod inquire;
mod links;
mod showing;
mod streams;

use asking::PromiseRequests;
use links::LinkTasks;

/// Maximum inputs taken between two rounds of effects. Inputs that arrive together form a batch, and timers are checked
/// between rounds.
const INPUTS_PER_TURN: usize = 1_024;

/// Maximum time for a stopping leader to complete the commands in flight.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// Maximum bytes of commands in flight to another proposer. Beyond the limit commands are refused as overload.
const FORWARDING_BYTES_MAX: usize = 64 << 20;

/// An open link to an acceptor.
#[derive(Debug)]
struct Link {
    open: OpenLink,
    /// The acceptor's watermark in the last report.
    known_to: Slot,
    /// The size of the state in the last report; zero: unknown.
    state_bytes: u64,
    /// By the acceptor's last report, a leader is present, and nothing waits to be chosen.
    is_calm: bool,
}

impl Link {
    fn shown(&self) -> AcceptorLink {
        AcceptorLink {
            address: self.open.address.clone(),
            name: Arc::clone(&self.open.id),
            chosen_to: self.known_to,
        }
    }
}

/// Owner of the core.
#[derive(Debug)]
pub(crate) struct Driver {
    core: Proposer,
    cluster: ClusterId,
    book: Arc<LinkBook>,
    dialer: Dialer,
    address: Address,
    leader_timeout: Duration,
    clock: Clock,
    views: watch::Sender<View>,
    viewed_at: Instant,
    /// Time of the last log line about a stall of this process.
    stood_still_at: Option<Instant>,
    /// Time of the last log line about a refusal, by acceptor.
    refusals_at: BTreeMap<AcceptorUuid, Instant>,
    timers: Timers,
    traces: Traces,
    metrics: Instruments,
    /// The tasks that keep the links.
    link_tasks: LinkTasks,
    changes: Changes,
    /// The configuration of the core.
    configuration: Arc<Configuration>,
    /// The configuration of the era before, once the members have changed.
    before: Option<Arc<Configuration>>,
    /// The open links.
    links: BTreeMap<AcceptorUuid, Link>,
    /// Last known places of the acceptors, for the streams.
    places: BTreeMap<AcceptorUuid, watch::Sender<StreamTarget>>,
    /// The run of each acceptor's last introduction.
    judged: BTreeMap<AcceptorUuid, RunNumber>,
    streams: StreamsByAcceptor,
    /// See [`LinkContext`](crate::link::LinkContext).
    watchful: watch::Sender<bool>,
    prepares: PromiseRequests,
    waiting: WaitingRequests,
    forwarders: HashMap<Address, Forwarder>,
    forwarding_bytes: usize,
    returned: Returned,
    /// Deadline of the hand-over; set once the stop has begun.
    stop_at: Option<Instant>,
    handed_over: bool,
    halted: Option<String>,
}

impl Driver {
    pub(crate) fn new(
        core: Proposer,
        formed: &FormedCluster,
        address: Address,
        leader_timeout: Duration,
        views: watch::Sender<View>,
        tracer: Tracer,
        metrics: Instruments,
    ) -> Self {
        Self {
            cluster: core.configuration().cluster_id(),
            configuration: Arc::clone(core.configuration()),
            core,
            book: Arc::clone(&formed.book),
            dialer: formed.dialer.clone(),
            address,
            leader_timeout,
            clock: Clock::start(),
            views,
            viewed_at: Instant::now(),
            stood_still_at: None,
            refusals_at: BTreeMap::new(),
            timers: Timers::default(),
            traces: Traces::new(tracer),
            metrics,
            link_tasks: LinkTasks::default(),
            changes: Changes::default(),
            before: None,
            links: BTreeMap::new(),
            places: BTreeMap::new(),
            judged: BTreeMap::new(),
            streams: StreamsByAcceptor::new(),
            watchful: watch::Sender::new(true),
            prepares: PromiseRequests::default(),
            waiting: WaitingRequests::default(),
            forwarders: HashMap::new(),
            forwarding_bytes: 0,
            returned: Returned::new(leader_timeout / 8),
            stop_at: None,
            handed_over: false,
            halted: None,
        }
    }

    /// Runs until everything is handed over after the stop has begun.
    ///
    /// # Errors
    /// When an indispensable part has ended.
    pub(crate) async fn run(
        mut self,
        inputs: mpsc::Sender<Input>,
        mut inbox: mpsc::Receiver<Input>,
        shutdown: &Shutdown,
    ) -> Result<(), Failure> {
        let _stop_links = self.link_tasks.stop_with_guard();
        self.keep_links(&inputs, shutdown);
        self.publish(true);
        let mut alarm = Alarm::new();
        while !self.is_done() {
            let wake_at = [self.timers.next(), self.returned.hand_in_at(), self.stop_at]
                .into_iter()
                .flatten()
                .min();
            let input = tokio::select! {
                // Receiving is cancel safe, and the other arms only wait.
                input = inbox.recv() => input,
                () = alarm.wait_until(wake_at) => None,
                () = shutdown.begun(), if self.stop_at.is_none() => None,
            };
            let woken_at = Instant::now();
            self.core.at(self.clock.now());
            if let Some(lasted) = stood_still(wake_at, woken_at, self.leader_timeout) {
                self.core.stood_still(lasted);
            }
            if shutdown.has_begun() && self.stop_at.is_none() {
                self.stop_at = Some(woken_at + HAND_OVER_MAX);
                self.core.handle(Event::Resigned);
            }
            // All pending inputs come before a due timer: the core may draw conclusions from missing inputs.
            let is_due = self.timers.next().is_some_and(|at| at <= woken_at);
            let budget = if is_due { inbox.len() } else { INPUTS_PER_TURN };
            let more = std::iter::from_fn(|| inbox.try_recv().ok()).take(budget);
            for input in input.into_iter().chain(more) {
                self.take(input);
            }
            self.notice_bytes();
            for event in self.timers.due() {
                self.core.handle(event);
            }
            self.hand_in_returned();
            self.core.flush();
            self.show_watermark();
            self.traces.settle(&self.core);
            for effect in self.core.take_effects() {
                self.carry_out(effect, &inputs, shutdown);
            }
            self.ask_changes(&inputs, shutdown);
            self.prepares.keep(|scan| self.core.awaits_pages(scan));
            self.show_judged();
            self.watch();
            self.publish(false);
            if let Some(reason) = self.halted {
                return Err(Failure::internal(anyhow::anyhow!(reason)));
            }
            if self.stop_at.is_some_and(|stop_at| stop_at <= Instant::now()) {
                tracing::warn!("stopping with unanswered commands in flight: their outcomes are unknown");
                break;
            }
        }
        self.end_streams();
        self.refuse_the_rest(&mut inbox);
        Ok(())
    }

    /// Whether everything is handed over, and no caller waits for the result of a forwarded command.
    fn is_done(&self) -> bool {
        self.handed_over && self.forwarding_bytes == 0 && self.returned.is_empty()
    }

    fn answer(&mut self, request: RequestId, outcome: ProposalOutcome) {
        if outcome == ProposalOutcome::NotProposed(Reason::NoQuorum) {
            self.show_who_is_late();
        }
        self.traces.answered(request, outcome);
        self.metrics.answered(outcome);
        self.waiting.answer(request, outcome);
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Core(event) => {
                if let Event::Cancelled(request) = event {
                    self.show_who_is_late();
                    if self.returned.remove(request) {
                        let outcome = ProposalOutcome::NotProposed(Reason::Cancelled);
                        return self.answer_forwarded(request, outcome);
                    }
                }
                self.core.handle(event);
            }
            Input::Stream(acceptor, ballot, report) => self.stream_reported(acceptor, ballot, report),
            Input::Link(link, report) => self.link_reported(link, report),
            Input::ChangeMembers(asked) => self.changes.ask(asked),
            Input::Request(ClientRequest {
                pending,
                reply,
                deadline,
                trace,
            }) => {
                self.waiting.add(pending.request, reply, deadline);
                self.traces.queued(&pending, trace);
                self.core.handle(Event::Proposed(pending));
            }
            Input::Forwarded(mut pending, forwarded) => {
                self.forwarding_bytes -= pending.command.as_bytes().len();
                match forwarded {
                    Forwarded::Decided(outcome) => self.answer_forwarded(pending.request, outcome),
                    Forwarded::Returned => {
                        self.traces.returned(&mut pending);
                        self.give_back(pending);
                    }
                }
            }
        }
    }

    /// Takes a report of an acceptor, with the acceptor's commit at that time.
    fn reported(&mut self, stamp: Stamp, event: Event) {
        if self.run_of(stamp.acceptor) != Some(stamp.run) {
            // The acceptor has introduced itself again since then, or must do so.
            return;
        }
        if let Event::Reported {
            acceptor,
            answer: word,
            ..
        } = &event
            && let Some(link) = self.links.get_mut(acceptor)
        {
            link.known_to = word.known_to;
            link.state_bytes = word.state_bytes;
            link.is_calm = is_calm(word, self.leader_timeout);
        }
        self.core.handle(Event::Heard {
            acceptor: stamp.acceptor,
            run: stamp.run,
            commit_counter: stamp.commit_counter,
        });
        self.show_refusal(&event);
        self.traces.heard(&event, &self.core);
        self.metrics.heard(&event);
        self.core.handle(event);
        self.traces.settle(&self.core);
    }

    /// Makes the links ask acceptors more often while this proposer may have to campaign, and at once when this begins.
    fn watch(&self) {
        let is_watchful = match self.core.phase() {
            Phase::Standby => {
                let waits =
                    self.forwarding_bytes > 0 || !self.returned.is_empty() || self.core.queued().0 > 0;
                waits || self.links.values().any(|link| !link.is_calm)
            }
            Phase::Campaigning(_) => true,
            Phase::Leading(_) => false,
        };
        self.watchful.send_if_modified(|shown| {
            let begins = is_watchful && !*shown;
            *shown = is_watchful;
            begins
        });
    }

    fn report_now(&self) {
        self.watchful.send_modify(|_| {});
    }

    /// Notes arriving bytes of incomplete answers: such bytes prove an acceptor alive.
    fn notice_bytes(&mut self) {
        for (&acceptor, link) in &self.links {
            if link.open.arrivals.take() {
                self.core.handle(Event::Bytes(acceptor));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, inputs: &mpsc::Sender<Input>, shutdown: &Shutdown) {
        match effect {
            Effect::Prepare(acceptor, prepare, scan) => {
                let Some(Link { open, .. }) = self.links.get(&acceptor) else {
                    return;
                };
                let cluster = self.cluster;
                let task = shutdown.spawn(ask::prepare(
                    open.clone(),
                    prepare,
                    scan,
                    cluster,
                    inputs.clone(),
                    self.traces.preparing(scan.is_some()),
                ));
                self.prepares.insert(acceptor, scan, task.abort_handle());
            }
            Effect::OpenStream(acceptor, first) => self.open_stream(acceptor, first, inputs, shutdown),
            Effect::ShutStreams(ballot) => self.shut_streams(ballot),
            Effect::Accept(acceptor, accept) => self.send(acceptor, accept),
            Effect::ReportNow => self.report_now(),
            Effect::Inquire {
                number,
                ballot,
                address,
            } => self.inquire((number, ballot), &address, inputs, shutdown),
            Effect::SetTimer {
                timer,
                generation,
                at_least,
                at_most,
            } => {
                self.timers.set(timer, generation, at_least, at_most);
            }
            Effect::Answer(request, outcome) => self.answer(request, outcome),
            Effect::Forward(pending, address) => match address.parse() {
                Ok(address) => self.forward(pending, &address, inputs),
                Err(_) => self.give_back(pending),
            },
            Effect::FetchChosen {
                source,
                number,
                from,
                to,
            } => {
                let Some(Link { open, .. }) = self.links.get(&source) else {
                    return;
                };
                let cluster = self.cluster;
                let traced = self.traces.repairing();
                shutdown.spawn(ask::fetch_chosen(
                    open.clone(),
                    number,
                    (from, to),
                    cluster,
                    inputs.clone(),
                    traced,
                ));
            }
            Effect::Reopen(acceptor) => {
                self.place(acceptor, None);
                if let Some(link) = self.links.remove(&acceptor) {
                    link.open.reopen.cancel();
                }
            }
            Effect::Refused(went_back) => {
                tracing::error!("{went_back}");
                self.show_refused(went_back.acceptor, Some(went_back.to_string()));
            }
            Effect::Readmitted(acceptor) => {
                self.show_refused(acceptor, None);
                tracing::info!(%acceptor, "the acceptor runs on its right disk again, and is counted again");
            }
            Effect::Notify(notice) => self.announce(&notice),
            Effect::Adopted(configuration) => self.adopted(&configuration, inputs, shutdown),
            Effect::LinksChanged => self.keep_links(inputs, shutdown),
            Effect::BringSnapshot { joiner, source } => self.bring_snapshot(joiner, source, inputs, shutdown),
            Effect::Change(stage) => self.change_reached(stage),
            Effect::HandedOver => self.handed_over = true,
            Effect::Halt(reason) => self.halted = Some(reason),
        }
    }
}

/// Whether, by an acceptor's report, a leader is present, and nothing waits to be chosen.
fn is_calm(word: &ReportAnswer, leader_timeout: Duration) -> bool {
    let heard = &word.heard;
    let is_there = !heard.resigned && heard.ended.is_none() && heard.silent < leader_timeout;
    is_there && word.voted_to <= word.known_to
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos_common::paxos::{ballot::Ballot, message::HeardProposer};

    #[test]
    fn acceptor_is_calm_while_it_hears_a_leader_and_nothing_waits() {
        let timeout = Duration::from_millis(200);
        let word = |change: fn(&mut ReportAnswer)| {
            let mut word = ReportAnswer {
                heard: HeardProposer {
                    address: "http://p:1".into(),
                    silent: Duration::from_millis(199),
                    ..HeardProposer::none()
                },
                promised: Ballot::ZERO,
                waiting: Duration::ZERO,
                slowest_commit: Duration::ZERO,
                has_space: true,
                known_to: Slot::ZERO.next(),
                voted_to: Slot::ZERO.next(),
                trimmed_to: Slot::ZERO,
                state_bytes: 0,
            };
            change(&mut word);
            is_calm(&word, timeout)
        };
        assert!(word(|_| {}));
        assert!(!word(|word| word.heard.silent = Duration::from_millis(200)));
        assert!(!word(|word| word.heard.ended = Some(Duration::ZERO)));
        assert!(!word(|word| word.heard.resigned = true));
        assert!(!word(|word| word.voted_to = word.voted_to.next()));
    }
}
