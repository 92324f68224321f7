//! What the driver shows of its core: to callers, in reports, in the log and in metrics.

use std::time::Duration;

use paxos_common::paxos::{
    identity::AcceptorUuid,
    proposer::{Notice, Phase},
    slot::Slot,
};
use paxos_proto::v1::ProposerPhase;
use tokio::time::Instant;

use super::{Driver, View};

/// How often others are shown how this proposer stands, unless its phase changes.
const VIEW_INTERVAL: Duration = Duration::from_millis(20);

/// How often the log says at most that this process stood still: on a starved machine it does so all the time.
const STOOD_STILL_INTERVAL: Duration = Duration::from_secs(60);

/// Longest reason that is reported to an acceptor which is refused. The acceptor takes 1,024 bytes.
const REFUSED_CHARACTERS_MAX: usize = 250;

impl Driver {
    /// Shows the watermark before callers are answered: whoever asks after an answer is told at least as much.
    pub(super) fn show_watermark(&self) {
        let chosen_to = self.core.chosen_to();
        self.views.send_if_modified(|view| {
            view.chosen_to = chosen_to;
            // Nobody waits for it alone.
            false
        });
    }

    /// Shows which acceptors keep commands waiting, for callers whose deadline has passed.
    pub(super) fn show_who_is_late(&mut self) {
        let late = self.core.late();
        let late: Vec<String> = late.iter().map(|late| self.by_address(late)).collect();
        let late = late.join(", ");
        self.views.send_if_modified(|view| {
            view.late = late;
            // Nobody waits for it alone.
            false
        });
    }

    /// Shows that an acceptor is refused because of this, or is counted again: its link reports it to the acceptor.
    pub(super) fn show_refused(&self, acceptor: AcceptorUuid, reason: Option<String>) {
        self.views.send_if_modified(|view| {
            match reason {
                Some(reason) => {
                    let reason = reason.chars().take(REFUSED_CHARACTERS_MAX).collect();
                    view.refused.insert(acceptor, reason);
                }
                None => {
                    view.refused.remove(&acceptor);
                }
            }
            // No receiver waits for this alone.
            false
        });
    }

    /// Says why this proposer campaigns, or why it gives way, and counts the reason.
    pub(super) fn announce(&mut self, notice: &Notice) {
        self.metrics.noticed(notice);
        let text = self.by_address(notice);
        match notice {
            Notice::Campaign { .. } | Notice::SteppedDown { .. } => tracing::info!("{text}"),
            Notice::StoodStill(_) => {
                let now = Instant::now();
                let is_due = |at: Instant| now - at >= STOOD_STILL_INTERVAL;
                if self.stood_still_at.is_none_or(is_due) {
                    self.stood_still_at = Some(now);
                    tracing::warn!("{text}");
                }
            }
        }
    }

    /// The text, with addresses in place of the numbers of acceptors.
    fn by_address(&self, text: &impl ToString) -> String {
        let mut text = text.to_string();
        for (acceptor, place) in &self.places {
            if let Some((address, _)) = &*place.borrow() {
                text = text.replace(&acceptor.to_string(), address.as_str());
            }
        }
        text
    }

    /// Shows others how this proposer stands, and logs when its phase changes.
    pub(super) fn publish(&mut self, at_once: bool) {
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
                // The reason is told when the campaign begins.
                (ProposerPhase::Campaigning, _) => {}
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
        let view = View {
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
            late: self.views.borrow().late.clone(),
            refused: self.views.borrow().refused.clone(),
        };
        // Who waits for a change is not woken without one.
        self.views.send_if_modified(|shown| {
            let is_news = *shown != view;
            *shown = view;
            is_news
        });
        if changed {
            // Acceptors, and so clients, hear at once who leads.
            self.report_now();
        }
    }
}
