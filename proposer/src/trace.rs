//! Spans of the driver's work: the wait of a request, the batch, each message to an acceptor, campaigns and repairs.
//!
//! The core knows nothing of spans. Each traced command carries a context through the core: the context of the future
//! span of the command's batch, *if* the command is the first traced command in the batch. The context is drawn at the
//! command's arrival and becomes the value's context. The span starts when the batch is sent, and gets the drawn id.

use std::collections::{BTreeMap, HashMap};

use paxos_common::{
    paxos::{
        ballot::Ballot,
        identity::AcceptorUuid,
        message::Accept,
        proposer::{
            ChangeRefusal, ChangeStage, Event, Pending, Phase, ProposalOutcome, Proposer, Reason, RequestId,
        },
        slot::{Slot, Version},
        value::Value,
    },
    peer::Address,
    trace::{
        Beginning, Incoming, Parent, Span, SpanContext, SpanId, Tracer,
        names::{self, method},
        travelling,
    },
};

/// Error of the spans left open at the end of a reign.
const PREEMPTED: &str = "preempted";

/// The open spans. Bounded by the core's work in flight.
#[derive(Debug)]
pub(crate) struct Traces {
    tracer: Tracer,
    /// Traced requests without an answer.
    requests: HashMap<RequestId, RequestSpans>,
    /// The requests whose batch's span would have this id.
    firsts: HashMap<SpanId, RequestId>,
    /// Sent and not chosen.
    batches: BTreeMap<Slot, Span>,
    /// Sent and not answered, by acceptor and sequence.
    messages: BTreeMap<(AcceptorUuid, u64), MessageSpan>,
    campaign: Option<(Ballot, Span)>,
    repair: Option<Span>,
    /// The change of members, and its present step.
    change: Option<(Span, Option<(&'static str, Span)>)>,
    /// Ballot of the present reign.
    reign: Option<Ballot>,
}

#[derive(Debug)]
struct RequestSpans {
    /// The span in which the request arrived.
    received: SpanContext,
    /// See the head of this file.
    batch: SpanContext,
    /// Span of the present stage: in the queue, or at another proposer. None in a batch.
    at: Option<Span>,
}

/// A leader's message to one acceptor.
#[derive(Debug)]
struct MessageSpan {
    span: Span,
    /// The slot after the message's last traced slot.
    to: Slot,
}

impl Traces {
    pub(crate) fn new(tracer: Tracer) -> Self {
        Self {
            tracer,
            requests: HashMap::new(),
            firsts: HashMap::new(),
            batches: BTreeMap::new(),
            messages: BTreeMap::new(),
            campaign: None,
            repair: None,
            change: None,
            reign: None,
        }
    }

    /// Draws the context of a command received inside the span `received`.
    pub(crate) fn draw(tracer: &Tracer, received: &SpanContext) -> SpanContext {
        tracer.draw(received).unwrap_or_else(|| received.clone())
    }

    /// A command arrived; `received` is its span if the command is traced.
    pub(crate) fn queued(&mut self, pending: &Pending, received: Option<SpanContext>) {
        let Some(received) = received.filter(|_| self.tracer.is_on()) else {
            return;
        };
        if let Some(batch) = Incoming::read(&pending.traceparent).sampled() {
            self.firsts.insert(batch.span_id(), pending.request);
            let at = self.tracer.below(Some(&received), "proposer.queue");
            self.requests
                .insert(pending.request, RequestSpans { received, batch, at });
        }
    }

    /// A command is forwarded to the leader.
    pub(crate) fn forwarding(&mut self, pending: &mut Pending, leader: &Address) {
        if let Some(request) = self.requests.get_mut(&pending.request) {
            // The wait here is over.
            request.at = None;
            let mut span = self.tracer.call(Some(&request.received), method::PROPOSE_STREAM);
            if let Some(span) = &mut span {
                span.peer(leader);
                pending.traceparent = travelling(span.context());
            }
            request.at = span;
        }
    }

    /// A forwarded command comes back, not proposed, and waits here again.
    pub(crate) fn returned(&mut self, pending: &mut Pending) {
        if let Some(request) = self.requests.get_mut(&pending.request) {
            if let Some(span) = &mut request.at {
                span.fail("not_leading", "the called proposer knew no leader");
            }
            request.at = self.tracer.below(Some(&request.received), "proposer.queue");
            pending.traceparent = travelling(&request.batch);
        }
    }

    /// A request is answered.
    pub(crate) fn answered(&mut self, request: RequestId, outcome: ProposalOutcome) {
        let Some(request) = self.requests.remove(&request) else {
            return;
        };
        self.firsts.remove(&request.batch.span_id());
        if let Some(mut span) = request.at {
            match outcome {
                ProposalOutcome::Chosen(_) => {}
                ProposalOutcome::Unknown => span.fail("unknown", "unknown whether the command was ordered"),
                ProposalOutcome::NotProposed(reason) => span.fail(word(reason), "not proposed"),
            }
            span.end();
        }
    }

    /// A message goes to an acceptor with the address and name `callee`. Returns the message's trace context, empty for
    /// none.
    pub(crate) fn sending(
        &mut self,
        acceptor: AcceptorUuid,
        callee: Option<(&Address, &str)>,
        accept: &Accept,
        core: &Proposer,
    ) -> String {
        let is_traced = |(_, value): &&(Slot, Value)| !value.traceparent().is_empty();
        if !self.tracer.is_on() || !accept.proposals.iter().any(|proposal| is_traced(&proposal)) {
            return String::new();
        }
        // Slots below the watermark are chosen and go to lagging acceptors. No caller waits for them.
        let chosen_to = core.chosen_to();
        let mut contexts = Vec::new();
        let mut to = Slot::ZERO;
        for (slot, value) in accept.proposals.iter().filter(is_traced) {
            if *slot >= chosen_to
                && let Some(context) = self.batch(*slot, value, accept.ballot, core)
            {
                contexts.push(context);
                to = slot.next();
            }
        }
        let mut contexts = contexts.into_iter();
        let Some(first) = contexts.next() else {
            return String::new();
        };
        let beginning = Beginning::new(method::ACCEPT, Parent::Span(&first))
            .calling(method::ACCEPT)
            .linked_to(contexts);
        let Some(mut span) = self.tracer.begin(beginning) else {
            return String::new();
        };
        span.set(names::PEER, acceptor.to_string());
        if let Some((address, id)) = callee {
            span.peer(address);
            span.set(names::ACCEPTOR, id.to_owned());
        }
        span.set(names::BALLOT, accept.ballot.to_string());
        span.count(names::SLOTS, accept.proposals.len());
        let traceparent = span.traceparent();
        self.messages
            .insert((acceptor, accept.sequence), MessageSpan { span, to });
        traceparent
    }

    /// The span of the value proposed for a slot.
    fn batch(&mut self, slot: Slot, value: &Value, ballot: Ballot, core: &Proposer) -> Option<SpanContext> {
        if let Some(span) = self.batches.get(&slot) {
            return Some(span.context().clone());
        }
        let known = Incoming::read(value.traceparent()).sampled()?;
        let requests = match core.phase() {
            Phase::Leading(lead) => lead.requests(slot),
            Phase::Standby | Phase::Campaigning(_) => &[],
        };
        let first = self.firsts.get(&known.span_id());
        let mut span = match first.and_then(|first| self.requests.get(first)) {
            Some(first) => {
                let traced = requests.iter().filter_map(|request| self.requests.get(request));
                let beginning = Beginning::new("proposer.batch", Parent::Span(&first.received))
                    .known_as(known.span_id())
                    .linked_to(traced.map(|request| request.received.clone()));
                self.tracer.begin(beginning)?
            }
            // An earlier leader proposed the value, and this leader finishes the proposal.
            None => self.tracer.below(Some(&known), "proposer.takeover")?,
        };
        span.set(names::BALLOT, ballot.to_string());
        span.count(names::SLOT, slot.get());
        span.count(names::COMMANDS, requests.len());
        span.count(names::BYTES, value.as_bytes().len());
        for (offset, request) in (0..).zip(requests) {
            if let Some(request) = self.requests.get_mut(request)
                && let Some(mut waited) = request.at.take()
            {
                // Links each request's own trace to the batch, the parent of the spans of the disks. A search for the
                // slot finds all the traces.
                waited.link(span.context().clone());
                waited.count(names::SLOT, slot.get());
                waited.set(names::VERSION, Version { slot, offset }.to_string());
                waited.end();
            }
        }
        let context = span.context().clone();
        self.batches.insert(slot, span);
        Some(context)
    }

    /// An acceptor's report arrived, and the core has not counted the report yet.
    pub(crate) fn heard(&mut self, event: &Event, core: &Proposer) {
        if self.messages.is_empty() {
            return;
        }
        let chosen_to = counted_to(core);
        if let Event::Answered {
            acceptor,
            sequence,
            answer,
            ..
        } = event
        {
            if let Some(MessageSpan { mut span, to }) = self.messages.remove(&(*acceptor, *sequence)) {
                let (word, granted) = (answer.word(), answer.is_accepted());
                span.set(names::ANSWER, word);
                span.set(names::IN_QUORUM, granted && to > chosen_to);
                span.answered(tonic::Code::Ok, "");
                if !granted {
                    span.fail(word, "");
                }
                span.end();
            }
            // Answers come in the order of the messages.
            self.lose((*acceptor, 0)..(*acceptor, *sequence));
        }
    }

    /// The connection to an acceptor broke.
    pub(crate) fn closed(&mut self, acceptor: AcceptorUuid) {
        self.lose((acceptor, 0)..(acceptor, u64::MAX));
    }

    fn lose(&mut self, keys: std::ops::Range<(AcceptorUuid, u64)>) {
        let lost: Vec<_> = self.messages.range(keys).map(|(&key, _)| key).collect();
        for key in lost {
            if let Some(MessageSpan { mut span, .. }) = self.messages.remove(&key) {
                span.fail("lost", "the message got no answer");
            }
        }
    }

    /// Ends the spans of completed work. Called after each report and before callers are answered.
    pub(crate) fn settle(&mut self, core: &Proposer) {
        if !self.tracer.is_on() {
            return;
        }
        let chosen_to = counted_to(core);
        let (campaigning, reign, repairing) = match core.phase() {
            Phase::Standby => (None, None, false),
            Phase::Campaigning(campaign) => (Some(campaign.ballot()), None, false),
            Phase::Leading(lead) => (None, Some(lead.ballot()), lead.is_repairing()),
        };
        self.campaigned(campaigning, reign);
        if self.reign != reign {
            if let Some(ballot) = self.reign {
                let mut span = self
                    .tracer
                    .begin(Beginning::new("proposer.step_down", Parent::None));
                if let Some(span) = &mut span {
                    span.set(names::BALLOT, ballot.to_string());
                    span.count(names::WATERMARK, core.chosen_to().get());
                }
                let batches = std::mem::take(&mut self.batches).into_values();
                let messages = std::mem::take(&mut self.messages).into_values();
                for mut span in batches.chain(messages.map(|message| message.span)) {
                    span.fail(
                        PREEMPTED,
                        "the proposer leads no longer; another proposer may finish the work",
                    );
                }
            }
            self.reign = reign;
        }
        while let Some(entry) = self
            .batches
            .first_entry()
            .filter(|entry| *entry.key() < chosen_to)
        {
            entry.remove().end();
        }
        if self.repair.is_some() && !repairing {
            self.repair = None;
        }
    }

    fn campaigned(&mut self, campaigning: Option<Ballot>, reign: Option<Ballot>) {
        if let Some((ballot, mut span)) = self.campaign.take_if(|(ballot, _)| Some(*ballot) != campaigning) {
            if reign == Some(ballot) {
                span.event("leading");
            } else {
                span.fail(PREEMPTED, "another ballot preempted this ballot");
            }
            span.end();
        }
        if let (None, Some(ballot)) = (&self.campaign, campaigning)
            && let Some(mut span) = self
                .tracer
                .begin(Beginning::new("proposer.campaign", Parent::None))
        {
            span.set(names::BALLOT, ballot.to_string());
            self.campaign = Some((ballot, span));
        }
    }

    /// The span of phase 1, or of a repair that requests a promise again.
    pub(crate) fn preparing(&mut self, is_repair: bool) -> TaskTracer {
        let context = if is_repair {
            self.repairing().context
        } else {
            self.campaign.as_ref().map(|(_, span)| span.context().clone())
        };
        self.traced(context)
    }

    /// The span of the running repair.
    pub(crate) fn repairing(&mut self) -> TaskTracer {
        if self.repair.is_none() {
            self.repair = self.tracer.begin(Beginning::new("proposer.repair", Parent::None));
        }
        let context = self.repair.as_ref().map(|span| span.context().clone());
        self.traced(context)
    }

    /// A change of members has reached a stage. `words`: the words of a refusal.
    pub(crate) fn change_reached(
        &mut self,
        stage: &ChangeStage,
        words: impl FnOnce(&ChangeRefusal) -> String,
    ) {
        let step = match stage {
            ChangeStage::Copying { .. } => "proposer.change.copy",
            ChangeStage::Deciding { .. } => "proposer.change.decide",
            ChangeStage::Switching(_) => "proposer.change.switch",
            ChangeStage::Done { .. } => {
                self.change = None;
                return;
            }
            ChangeStage::Refused(refusal) => return self.change_failed("refused", words(refusal)),
            ChangeStage::Unknown => {
                return self.change_failed(PREEMPTED, "another proposer leads".to_owned());
            }
        };
        if self.change.is_none() {
            let change = self.tracer.begin(Beginning::new("proposer.change", Parent::None));
            self.change = change.map(|change| (change, None));
        }
        if let Some((change, present)) = &mut self.change
            && present.as_ref().is_none_or(|(name, _)| *name != step)
        {
            // The span of the step before ends first.
            *present = None;
            let begun = self.tracer.below(Some(change.context()), step);
            *present = begun.map(|span| (step, span));
        }
    }

    fn change_failed(&mut self, word: &'static str, reason: String) {
        if let Some((mut change, _)) = self.change.take() {
            change.fail(word, reason);
        }
    }

    /// The span of the change of members under way.
    pub(crate) fn changing(&self) -> TaskTracer {
        let change = self.change.as_ref();
        self.traced(change.map(|(change, _)| change.context().clone()))
    }

    fn traced(&self, context: Option<SpanContext>) -> TaskTracer {
        let tracer = self.tracer.clone();
        TaskTracer { tracer, context }
    }
}

/// Tracer and parent context for a task with its own spans.
#[derive(Clone, Debug)]
pub(crate) struct TaskTracer {
    pub(crate) tracer: Tracer,
    pub(crate) context: Option<SpanContext>,
}

/// Every slot below the result was counted as chosen in this reign, or reported as chosen by the promises. Watermarks
/// of other proposers show nothing about this leader's batches: another proposer may have had the batches chosen.
fn counted_to(core: &Proposer) -> Slot {
    match core.phase() {
        Phase::Leading(lead) => lead.chosen_to(),
        Phase::Standby | Phase::Campaigning(_) => Slot::ZERO,
    }
}

fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Overloaded => "overloaded",
        Reason::NoQuorum => "no_quorum",
        Reason::NotLeading => "not_leading",
        Reason::Cancelled => "cancelled",
        Reason::Stopping => "stopping",
    }
}
