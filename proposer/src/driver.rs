//! Drives the core: feeds it what comes in, and carries out what it decides. One task owns it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use paxos_common::{
    exit::Failure,
    paxos::{
        identity::{AcceptorUuid, Stamp},
        proposer::{Effect, Event, Outcome, Pending, Phase, Proposer, RequestId},
        slot::Slot,
    },
    peer::Address,
    shutdown::Shutdown,
    trace::Tracer,
    wire,
};
use paxos_proto::v1::ProposerPhase;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    ask,
    formation::Cluster,
    forward::{Forwarded, Forwarder},
    link::{self, Open},
    metrics::Instruments,
    requests::{Request, Waiting},
    timers::Timers,
    trace::Traces,
    witnessing::Witnessing,
};

mod forwarding;

pub(crate) use crate::view::View;

/// Inputs taken before the core's effects are carried out: a batch forms of what came in together, and timers are
/// looked at in between.
const INPUTS_PER_TURN: usize = 1_024;

/// How long a leader that stops may take to see through what is in flight.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// Bytes of commands on their way to another proposer; more are refused as overload.
const FORWARDING_BYTES_MAX: usize = 64 << 20;

/// How often others are shown how this proposer stands, unless its phase changes.
const VIEW_INTERVAL: Duration = Duration::from_millis(20);

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// Straight to the core.
    Core(Event),
    /// What an acceptor told, and as of which of its commits.
    Told(Stamp, Event),
    /// The way to an acceptor is open.
    Opened(AcceptorUuid, Open),
    /// It broke.
    Closed(AcceptorUuid),
    /// A command came in.
    Request(Request),
    /// What became of a forwarded command.
    Forwarded(Pending, Forwarded),
}

/// An open way to an acceptor.
#[derive(Debug)]
struct Link {
    open: Open,
    /// Its watermark, as it last told.
    chosen_to: Slot,
    /// What it was told of what is remembered of the acceptors.
    witnessing: Witnessing,
}

/// Owner of the core.
#[derive(Debug)]
pub(crate) struct Driver {
    core: Proposer,
    cluster: Cluster,
    address: Address,
    leader_timeout: Duration,
    views: watch::Sender<View>,
    viewed_at: Instant,
    timers: Timers,
    traces: Traces,
    metrics: Instruments,
    links: BTreeMap<AcceptorUuid, Link>,
    /// Promises being collected.
    prepares: BTreeMap<(AcceptorUuid, Option<u64>), AbortHandle>,
    waiting: Waiting,
    forwarders: HashMap<Address, Forwarder>,
    forwarding_bytes: usize,
    /// Commands that found no leader at the other end: they are handed in again a little later.
    returned: Vec<Pending>,
    hand_in_at: Option<Instant>,
    /// Set once the stop has begun: when to stop waiting for the hand-over.
    stop_at: Option<Instant>,
    handed_over: bool,
    halted: Option<String>,
}

impl Driver {
    pub(crate) fn new(
        core: Proposer,
        cluster: Cluster,
        address: Address,
        leader_timeout: Duration,
        views: watch::Sender<View>,
        tracer: Tracer,
        metrics: Instruments,
    ) -> Self {
        Self {
            core,
            cluster,
            address,
            leader_timeout,
            views,
            viewed_at: Instant::now(),
            timers: Timers::default(),
            traces: Traces::new(tracer),
            metrics,
            links: BTreeMap::new(),
            prepares: BTreeMap::new(),
            waiting: Waiting::default(),
            forwarders: HashMap::new(),
            forwarding_bytes: 0,
            returned: Vec::new(),
            hand_in_at: None,
            stop_at: None,
            handed_over: false,
            halted: None,
        }
    }

    /// Runs until everything is handed over after the stop has begun.
    ///
    /// # Errors
    /// When a part that it cannot do without has ended.
    pub(crate) async fn run(
        mut self,
        inputs: mpsc::Sender<Input>,
        mut inbox: mpsc::Receiver<Input>,
        shutdown: &Shutdown,
    ) -> Result<(), Failure> {
        let stop_links = CancellationToken::new();
        let _stop_links = stop_links.clone().drop_guard();
        self.open_links(&inputs, shutdown, &stop_links);
        self.publish(true);
        while !self.is_done() {
            let wake_at = [self.timers.next(), self.hand_in_at, self.stop_at]
                .into_iter()
                .flatten()
                .min();
            let input = tokio::select! {
                // Receiving is cancel safe, and the others only wait.
                input = inbox.recv() => input,
                () = sleep_until(wake_at) => None,
                () = shutdown.begun(), if self.stop_at.is_none() => None,
            };
            if shutdown.has_begun() && self.stop_at.is_none() {
                self.stop_at = Some(Instant::now() + HAND_OVER_MAX);
                self.core.handle(Event::Resigned);
            }
            let more = std::iter::from_fn(|| inbox.try_recv().ok()).take(INPUTS_PER_TURN);
            for input in input.into_iter().chain(more) {
                self.take(input);
            }
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
            self.publish(false);
            if let Some(reason) = self.halted {
                return Err(Failure::internal(anyhow::anyhow!(reason)));
            }
            if self.stop_at.is_some_and(|stop_at| stop_at <= Instant::now()) {
                tracing::warn!("stopping before everything in flight is answered: its outcome is unknown");
                break;
            }
        }
        self.refuse_the_rest(&mut inbox);
        Ok(())
    }

    /// Whether everything is handed over, and nobody waits for what the leader makes of a forwarded command.
    fn is_done(&self) -> bool {
        self.handed_over && self.forwarding_bytes == 0 && self.returned.is_empty()
    }

    fn answer(&mut self, request: RequestId, outcome: Outcome) {
        self.traces.answered(request, outcome);
        self.metrics.answered(outcome);
        self.waiting.answer(request, outcome);
    }

    fn open_links(&self, inputs: &mpsc::Sender<Input>, shutdown: &Shutdown, stop: &CancellationToken) {
        let context = link::Context {
            cluster: self.cluster.configuration.cluster_id(),
            configuration: Arc::new(self.cluster.configuration.clone()),
            proposer: self.core.id(),
            address: self.address.clone(),
            report_interval: self.leader_timeout / 4,
            inputs: inputs.clone(),
            views: self.views.subscribe(),
        };
        for address in &self.cluster.addresses {
            shutdown.spawn(link::keep(address.clone(), context.clone(), stop.clone()));
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Core(event) => self.core.handle(event),
            Input::Told(stamp, event) => {
                if let Event::Reported {
                    acceptor, chosen_to, ..
                } = &event
                    && let Some(link) = self.links.get_mut(acceptor)
                {
                    link.chosen_to = *chosen_to;
                }
                let Stamp {
                    acceptor,
                    run,
                    commit_counter,
                    ..
                } = stamp;
                self.core.handle(Event::Heard {
                    acceptor,
                    run,
                    commit_counter,
                });
                self.traces.heard(&event, &self.core);
                self.metrics.heard(&event);
                self.core.handle(event);
                self.traces.settle(&self.core);
            }
            Input::Opened(acceptor, open) => {
                self.links.insert(
                    acceptor,
                    Link {
                        open,
                        chosen_to: Slot::ZERO,
                        witnessing: Witnessing::default(),
                    },
                );
                self.core.handle(Event::Opened(acceptor));
            }
            Input::Closed(acceptor) => {
                self.links.remove(&acceptor);
                self.traces.closed(acceptor);
                self.core.handle(Event::Closed(acceptor));
            }
            Input::Request(Request {
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
                    Forwarded::Told(outcome) => {
                        if matches!(outcome, Outcome::Chosen(_)) {
                            self.core.handle(Event::ForwardAnswered);
                        }
                        self.answer(pending.request, outcome);
                    }
                    Forwarded::Returned => {
                        self.core.handle(Event::ForwardFailed);
                        self.traces.returned(&mut pending);
                        self.give_back(pending);
                    }
                }
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, inputs: &mpsc::Sender<Input>, shutdown: &Shutdown) {
        match effect {
            Effect::Prepare(acceptor, prepare, scan) => {
                let Some(Link { open, .. }) = self.links.get(&acceptor) else {
                    return;
                };
                let cluster = self.cluster.configuration.cluster_id();
                let task = shutdown.spawn(ask::prepare(
                    open.clone(),
                    prepare,
                    scan,
                    cluster,
                    inputs.clone(),
                    self.traces.preparing(scan.is_some()),
                ));
                // Several repairs may ask one acceptor at a time; a campaign asks once.
                self.prepares.retain(|_, asking| !asking.is_finished());
                let asked = (acceptor, scan.map(|scan| scan.number));
                if let Some(older) = self.prepares.insert(asked, task.abort_handle()) {
                    older.abort();
                }
            }
            Effect::Accept(acceptor, accept) => {
                self.metrics.sending(&accept, &self.core);
                let Some(link) = self.links.get_mut(&acceptor) else {
                    return;
                };
                let core = &self.core;
                let witnesses = link
                    .witnessing
                    .due(Instant::now(), accept.ballot, || core.witnesses());
                let outgoing = link::Outgoing {
                    traceparent: self.traces.sending(acceptor, &accept, &self.core),
                    accept,
                    witnesses: wire::witnesses(&witnesses),
                };
                // A full channel is a stuck acceptor: what it does not answer is sent again.
                if link.open.accepts.try_send(outgoing).is_err() {
                    link.witnessing.lost();
                }
            }
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
                let cluster = self.cluster.configuration.cluster_id();
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
                if let Some(link) = self.links.remove(&acceptor) {
                    link.open.reopen.cancel();
                }
            }
            Effect::Refused(went_back) => tracing::error!("{went_back}"),
            Effect::Readmitted(acceptor) => {
                tracing::info!(%acceptor, "its right disk is back: the acceptor is counted again");
            }
            Effect::HandedOver => self.handed_over = true,
            Effect::Halt(reason) => self.halted = Some(reason),
        }
    }

    /// Shows the watermark before callers are answered: whoever asks after an answer is told at least as much.
    fn show_watermark(&self) {
        let chosen_to = self.core.chosen_to();
        self.views.send_if_modified(|view| {
            view.chosen_to = chosen_to;
            // Nobody waits for it alone.
            false
        });
    }

    /// Shows others how this proposer stands, and logs when its phase changes.
    fn publish(&mut self, at_once: bool) {
        let (phase, ballot, proposed_to) = match self.core.phase() {
            Phase::Standby => (ProposerPhase::Standby, None, Slot::ZERO),
            Phase::Campaigning(campaign) => (ProposerPhase::Campaigning, Some(campaign.ballot()), Slot::ZERO),
            Phase::Leading(lead) => (ProposerPhase::Leading, Some(lead.ballot()), lead.proposed_to()),
        };
        // A leader may be asking a quorum for what it repairs.
        if phase == ProposerPhase::Standby {
            std::mem::take(&mut self.prepares)
                .into_values()
                .for_each(|task| task.abort());
        }
        let changed = {
            let view = self.views.borrow();
            self.metrics.turned((view.phase, view.ballot), (phase, ballot));
            (view.phase, view.ballot) != (phase, ballot)
        };
        if !changed && !at_once && self.viewed_at.elapsed() < VIEW_INTERVAL {
            return;
        }
        self.viewed_at = Instant::now();
        if changed {
            let chosen_to = self.core.chosen_to();
            match (phase, ballot) {
                (ProposerPhase::Leading, Some(ballot)) => tracing::info!(%ballot, %chosen_to, "leading"),
                (ProposerPhase::Campaigning, Some(ballot)) => tracing::info!(%ballot, "campaigning"),
                _ => tracing::info!("standing by"),
            }
        }
        let leader = if phase == ProposerPhase::Leading {
            Some(self.address.to_string())
        } else {
            self.core.leader().map(|address| address.to_string())
        };
        if let Some(leader) = &leader {
            self.leave_former_leaders(leader);
        }
        let (queued, queued_bytes) = self.core.queued();
        self.views.send_replace(View {
            proposer: self.core.id(),
            cluster: Some(self.cluster.configuration.cluster_id()),
            phase,
            ballot,
            leader,
            chosen_to: self.core.chosen_to(),
            proposed_to,
            queued,
            queued_bytes,
            links: self
                .links
                .iter()
                .map(|(&uuid, link)| (uuid, (link.open.address.clone(), link.chosen_to)))
                .collect(),
            quorum: self.cluster.configuration.quorums().phase2(),
        });
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
