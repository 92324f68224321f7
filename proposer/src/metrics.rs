//! What a proposer counts and measures, and when it is ready.

use paxos_common::{
    metrics::{Counter, Metrics, Reason, Sizes},
    paxos::{
        ballot::Ballot,
        message::{Accept, AcceptAnswer},
        proposer::{Event, Outcome, Phase, Proposer, Reason as Why},
        slot::Slot,
    },
};
use paxos_proto::v1::ProposerPhase;
use tokio::sync::watch;

use crate::view::View;

/// What became of commands, in the order of [`Instruments::proposals`].
const OUTCOMES: [&str; 6] = [
    "chosen",
    "unknown",
    "overloaded",
    "not_leading",
    "cancelled",
    "stopping",
];

/// What the driver counts.
#[derive(Debug)]
pub(crate) struct Instruments {
    proposals: [Counter; OUTCOMES.len()],
    batch_commands: Sizes,
    batch_bytes: Sizes,
    campaigns: Counter,
    step_downs: Counter,
    prepare_rejections: Counter,
    accept_rejections: Counter,
    /// Batches of this ballot below this slot are counted.
    batches_to: (Ballot, Slot),
}

impl Instruments {
    /// Shows what the view shows, too.
    pub(crate) fn new(metrics: &Metrics, view: &watch::Receiver<View>) -> Self {
        show(metrics, view);
        let [prepare_rejections, accept_rejections] = metrics.counters(
            "paxos.proposer.rejections",
            "Answers of acceptors that had promised a higher ballot",
            "phase",
            ["prepare", "accept"],
        );
        Self {
            proposals: metrics.counters(
                "paxos.proposer.proposals",
                "Commands answered, those that the leader was asked to order included",
                "outcome",
                OUTCOMES,
            ),
            batch_commands: metrics.counts(
                "paxos.proposer.batch.commands",
                "Commands of a batch, proposed as a leader",
            ),
            batch_bytes: metrics.sizes(
                "paxos.proposer.batch.size",
                "Bytes of a batch, proposed as a leader",
            ),
            campaigns: metrics.counter("paxos.proposer.campaigns", "Ballots that it campaigned with"),
            step_downs: metrics.counter(
                "paxos.proposer.step_downs",
                "Times that it led, and then did not: preempted, without a quorum, or stopping",
            ),
            prepare_rejections,
            accept_rejections,
            batches_to: (Ballot::ZERO, Slot::ZERO),
        }
    }

    /// A command was answered.
    pub(crate) fn answered(&self, outcome: Outcome) {
        let [chosen, unknown, overloaded, not_leading, cancelled, stopping] = &self.proposals;
        let counter = match outcome {
            Outcome::Chosen(_) => chosen,
            Outcome::Unknown => unknown,
            Outcome::NotProposed(Why::Overloaded) => overloaded,
            Outcome::NotProposed(Why::NotLeading) => not_leading,
            Outcome::NotProposed(Why::Cancelled) => cancelled,
            Outcome::NotProposed(Why::Stopping) => stopping,
        };
        counter.increment();
    }

    /// An acceptor told something.
    pub(crate) fn heard(&self, event: &Event) {
        if matches!(event, Event::PrepareRejected { .. }) {
            self.prepare_rejections.increment();
        }
        let rejected = matches!(
            event,
            Event::Answered {
                answer: AcceptAnswer::Rejected(_),
                ..
            }
        );
        if rejected {
            self.accept_rejections.increment();
        }
    }

    /// A message goes to an acceptor. Each batch in it is counted once, however many acceptors it goes to.
    pub(crate) fn sending(&mut self, accept: &Accept, core: &Proposer) {
        let Phase::Leading(lead) = core.phase() else {
            return;
        };
        if self.batches_to.0 != accept.ballot {
            self.batches_to = (accept.ballot, Slot::ZERO);
        }
        for (slot, value) in &accept.proposals {
            if *slot < self.batches_to.1 {
                continue;
            }
            self.batches_to.1 = slot.next();
            let commands = lead.requests(*slot).len();
            // What others proposed before, and no-ops, are no batches of ours.
            if commands > 0 {
                self.batch_commands.record(commands);
                self.batch_bytes.record(value.as_bytes().len());
            }
        }
    }

    /// It stands so now, and stood so when it was last looked at.
    pub(crate) fn turned(
        &self,
        before: (ProposerPhase, Option<Ballot>),
        now: (ProposerPhase, Option<Ballot>),
    ) {
        if now.0 == ProposerPhase::Campaigning && before != now {
            self.campaigns.increment();
        }
        if before.0 == ProposerPhase::Leading && before != now {
            self.step_downs.increment();
        }
    }
}

fn show(metrics: &Metrics, view: &watch::Receiver<View>) {
    let gauge = |name, unit, help, look: fn(&View) -> u64| {
        let view = view.clone();
        metrics.gauge(name, unit, help, move || look(&view.borrow()));
    };
    gauge("paxos.proposer.leading", "", "1 while it leads", |view| {
        u64::from(view.phase == ProposerPhase::Leading)
    });
    gauge(
        "paxos.proposer.chosen_to",
        "",
        "Watermark: every slot below it is known to be chosen",
        |view| view.chosen_to.get(),
    );
    gauge(
        "paxos.proposer.slots_in_flight",
        "",
        "Slots that are proposed and not known to be chosen",
        |view| view.proposed_to.get().saturating_sub(view.chosen_to.get()),
    );
    gauge(
        "paxos.proposer.queue.commands",
        "",
        "Commands that wait for a slot",
        |view| view.queued as u64,
    );
    gauge(
        "paxos.proposer.queue.size",
        "By",
        "Bytes of the commands that wait for a slot",
        |view| view.queued_bytes as u64,
    );
    gauge(
        "paxos.proposer.acceptors_linked",
        "",
        "Acceptors to which the way is open",
        |view| view.links.len() as u64,
    );
}

/// Whether it can have commands ordered: as the leader, or by the one that it hears of.
pub(crate) fn readiness(view: watch::Receiver<View>) -> impl Fn() -> Result<(), Reason> + Send + 'static {
    move || {
        let view = view.borrow();
        let (linked, quorum) = (view.links.len(), view.quorum);
        if view.cluster.is_none() {
            return Err("the cluster is not formed yet, or its acceptors do not answer".into());
        }
        // Without them it cannot lead; and what the few say of a leader, a candidate that lacks the others says too.
        if linked < quorum {
            return Err(format!("it reaches {linked} of the acceptors; a quorum is {quorum}").into());
        }
        if view.phase == ProposerPhase::Leading || view.leader.is_some() {
            return Ok(());
        }
        Err("nobody is heard of who leads".into())
    }
}
