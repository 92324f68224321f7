//! The proposer's metrics and readiness.

use paxos_common::{
    paxos::{
        ballot::Ballot,
        message::{Accept, AcceptAnswer},
        proposer::{ChangeStage, Event, Notice, Phase, ProposalOutcome, Proposer, Reason as Why},
        slot::Slot,
    },
    service::metrics::{Counter, Metrics, Sizes, UnreadyReason},
};
use paxos_proto::v1::ProposerPhase;
use tokio::sync::watch;

use crate::view::View;

/// Outcomes of commands, in the order of [`Instruments::proposals`].
const OUTCOMES: [&str; 7] = [
    "chosen",
    "unknown",
    "overloaded",
    "no_quorum",
    "not_leading",
    "cancelled",
    "stopping",
];

/// Why a campaign began: the labels of [`Notice`].
const CAMPAIGN_REASONS: [&str; 6] = [
    "silent",
    "ended",
    "resigned",
    "none_known",
    "no_progress",
    "changed",
];

/// Why a reign ended: the labels of [`Notice`], and the stop of the process.
const STEP_DOWN_REASONS: [&str; 5] = ["rejected", "alone", "distrusted", "later_era", STOPPING];

const STOPPING: &str = "stopping";

/// The driver's counters.
#[derive(Debug)]
pub(crate) struct Instruments {
    proposals: [Counter; OUTCOMES.len()],
    batch_commands: Sizes,
    batch_bytes: Sizes,
    campaigns: [Counter; CAMPAIGN_REASONS.len()],
    step_downs: [Counter; STEP_DOWN_REASONS.len()],
    changes: [Counter; 3],
    /// The ballot of the last reign with a counted end.
    ended: Ballot,
    prepare_rejections: Counter,
    accept_rejections: Counter,
    /// Batches of this ballot below this slot are counted.
    batches_to: (Ballot, Slot),
}

impl Instruments {
    /// Registers the counters, and gauges of the view.
    pub(crate) fn new(metrics: &Metrics, view: &watch::Receiver<View>) -> Self {
        show(metrics, view);
        show_change(metrics, view);
        let [prepare_rejections, accept_rejections] = metrics.counters(
            "paxos.proposer.rejections",
            "Rejections by acceptors because of a promise to a higher ballot",
            "phase",
            ["prepare", "accept"],
        );
        Self {
            proposals: metrics.counters(
                "paxos.proposer.proposals",
                "Commands answered, including commands forwarded to the leader",
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
            campaigns: metrics.counters(
                "paxos.proposer.campaigns",
                "Campaigns, by a quorum's report on the former leader: silent, ended (its streams), resigned, none_known (a new cluster, or a new era), no_progress; or changed (this proposer has changed the members)",
                "reason",
                CAMPAIGN_REASONS,
            ),
            step_downs: metrics.counters(
                "paxos.proposer.step_downs",
                "Reigns that ended: rejected by a higher ballot, alone without a quorum, distrusted acceptor, later_era (the members have changed), stopping",
                "reason",
                STEP_DOWN_REASONS,
            ),
            changes: metrics.counters(
                "paxos.proposer.changes",
                "Changes of members ended at this proposer: done, refused (nothing has changed), unknown (another proposer leads)",
                "outcome",
                ["done", "refused", "unknown"],
            ),
            ended: Ballot::ZERO,
            prepare_rejections,
            accept_rejections,
            batches_to: (Ballot::ZERO, Slot::ZERO),
        }
    }

    /// A command was answered.
    pub(crate) fn answered(&self, outcome: ProposalOutcome) {
        let [
            chosen,
            unknown,
            overloaded,
            no_quorum,
            not_leading,
            cancelled,
            stopping,
        ] = &self.proposals;
        let counter = match outcome {
            ProposalOutcome::Chosen(_) => chosen,
            ProposalOutcome::Unknown => unknown,
            ProposalOutcome::NotProposed(Why::Overloaded) => overloaded,
            ProposalOutcome::NotProposed(Why::NoQuorum) => no_quorum,
            ProposalOutcome::NotProposed(Why::NotLeading) => not_leading,
            ProposalOutcome::NotProposed(Why::Cancelled) => cancelled,
            ProposalOutcome::NotProposed(Why::Stopping) => stopping,
        };
        counter.increment();
    }

    /// An acceptor's report arrived.
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

    /// A message goes to an acceptor. Each batch in the message is counted once, for any number of receivers.
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
            // No-ops, and values of earlier leaders, are no batches of ours.
            if commands > 0 {
                self.batch_commands.record(commands);
                self.batch_bytes.record(value.as_bytes().len());
            }
        }
    }

    /// A change of members has reached a stage.
    pub(crate) fn changed(&self, stage: &ChangeStage) {
        let [done, refused, unknown] = &self.changes;
        match stage {
            ChangeStage::Copying { .. } | ChangeStage::Deciding { .. } | ChangeStage::Switching(_) => {}
            ChangeStage::Done { .. } => done.increment(),
            ChangeStage::Refused(_) => refused.increment(),
            ChangeStage::Unknown => unknown.increment(),
        }
    }

    /// The core gives the reason for a campaign or for stepping down.
    pub(crate) fn noticed(&mut self, notice: &Notice) {
        match notice {
            Notice::Campaign { .. } => count(&self.campaigns, CAMPAIGN_REASONS, notice.label()),
            Notice::SteppedDown {
                ballot, led: true, ..
            } => {
                self.ended = *ballot;
                count(&self.step_downs, STEP_DOWN_REASONS, notice.label());
            }
            Notice::SteppedDown { led: false, .. } | Notice::StoodStill(_) => {}
        }
    }

    /// Counts the end of a reign from the previous and the present phase and ballot.
    pub(crate) fn turned(
        &mut self,
        before: (ProposerPhase, Option<Ballot>),
        now: (ProposerPhase, Option<Ballot>),
    ) {
        // The core gives no notice of the hand-over of a reign.
        if let (ProposerPhase::Leading, Some(ballot)) = before
            && before != now
            && self.ended != ballot
        {
            self.ended = ballot;
            count(&self.step_downs, STEP_DOWN_REASONS, STOPPING);
        }
    }
}

/// Adds one to a reason's counter. Reasons without a counter are not counted.
fn count<const N: usize>(counters: &[Counter; N], reasons: [&str; N], reason: &str) {
    if let Some((_, counter)) = reasons.iter().zip(counters).find(|(known, _)| **known == reason) {
        counter.increment();
    }
}

fn show(metrics: &Metrics, view: &watch::Receiver<View>) {
    let gauge = |name, unit, help, look: fn(&View) -> u64| {
        let view = view.clone();
        metrics.gauge(name, unit, help, move || look(&view.borrow()));
    };
    gauge(
        "paxos.proposer.leading",
        "",
        "1 while this proposer leads",
        |view| u64::from(view.phase == ProposerPhase::Leading),
    );
    gauge(
        "paxos.proposer.chosen_to",
        "",
        "Watermark: every lower slot is known to be chosen",
        |view| view.chosen_to.get(),
    );
    gauge(
        "paxos.proposer.slots_in_flight",
        "",
        "Slots proposed and not known to be chosen",
        |view| view.proposed_to.get().saturating_sub(view.chosen_to.get()),
    );
    gauge(
        "paxos.proposer.queue.commands",
        "",
        "Commands waiting for a slot",
        |view| view.queued as u64,
    );
    gauge(
        "paxos.proposer.queue.size",
        "By",
        "Bytes of the commands waiting for a slot",
        |view| view.queued_bytes as u64,
    );
    gauge(
        "paxos.proposer.acceptors_linked",
        "",
        "Members with an open connection",
        |view| view.linked_members() as u64,
    );
}

fn show_change(metrics: &Metrics, view: &watch::Receiver<View>) {
    let gauge = |name, help, look: fn(&View) -> u64| {
        let view = view.clone();
        metrics.gauge(name, "", help, move || look(&view.borrow()));
    };
    gauge(
        "paxos.proposer.era",
        "The era of the configuration: each change of members begins the next era",
        View::era,
    );
    gauge(
        "paxos.proposer.change_stage",
        "The change of members that this proposer drives: 0 none, 1 copying, 2 deciding, 3 switching",
        View::change_step,
    );
    gauge(
        "paxos.proposer.joiner_lag",
        "Slots that the new member furthest behind lacks, during the copy of a change of members",
        View::joiner_lag,
    );
}

/// Whether this proposer can have commands ordered: as the leader, or through a known leader.
pub(crate) fn readiness(view: &View) -> Result<(), UnreadyReason> {
    let (linked, quorum) = (view.linked_members(), view.quorum);
    if view.cluster.is_none() {
        return Err("the cluster is not formed yet, or its acceptors do not answer".into());
    }
    // Without a quorum of links this proposer cannot lead. A leader known to the few linked acceptors proves nothing: a
    // candidate cut off from a quorum gets the same report.
    if linked < quorum {
        return Err(format!("this proposer reaches {linked} of the acceptors; a quorum is {quorum}").into());
    }
    if view.phase == ProposerPhase::Leading || view.leader.is_some() {
        return Ok(());
    }
    Err("no leader is known".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use paxos_common::paxos::{
        era::Era,
        identity::AcceptorUuid,
        proposer::{End, Gone, Why as Cause},
    };

    #[test]
    fn every_reason_has_a_counter() {
        let (ballot, acceptor) = (Ballot::ZERO, AcceptorUuid::from_u128(1));
        let lasted = Duration::from_secs(5);
        let gone = [
            Gone::Silent(lasted),
            Gone::Ended(lasted),
            Gone::Resigned,
            Gone::NoneKnown,
        ];
        let causes = gone.map(|gone| Cause::Gone(vec![(acceptor, gone)]));
        let heard = Ballot::ZERO;
        let others = [Cause::NoProgress { heard, lasted }, Cause::Changed];
        for why in causes.into_iter().chain(others) {
            let label = Notice::Campaign { ballot, why }.label();
            assert!(CAMPAIGN_REASONS.contains(&label), "{label}");
        }
        let ends = [
            End::Rejected { promised: ballot },
            End::Alone {
                needed: 2,
                absent: Vec::new(),
            },
            End::Distrusted(acceptor),
            End::LaterEra(Era::FIRST.next()),
        ];
        for why in ends {
            let led = true;
            let label = Notice::SteppedDown { ballot, led, why }.label();
            assert!(STEP_DOWN_REASONS.contains(&label), "{label}");
        }
    }
}
