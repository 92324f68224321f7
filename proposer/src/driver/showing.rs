//! Shows the state of the core: to callers, in reports, in the log and in metrics.

use std::{sync::Arc, time::Duration};

use paxos_common::paxos::{
    identity::AcceptorUuid,
    message::{AcceptAnswer, Refused},
    proposer::{ChangeStage, Event, Notice, Phase},
    slot::Slot,
};
use paxos_proto::v1::ProposerPhase;
use tokio::time::Instant;

use super::{Driver, View};
use crate::{changes::ShownChange, view::Refusal};

/// Interval of the publication of this proposer's state. A change of phase is published at once.
const VIEW_INTERVAL: Duration = Duration::from_millis(20);

/// Minimum time between two log lines about stalls of this process: on a starved machine stalls are constant.
const STOOD_STILL_INTERVAL: Duration = Duration::from_secs(60);

/// Minimum time between two log lines about refusals of one acceptor: the leader tries again as long as it leads.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum length, in bytes, of the reason reported to a refused acceptor: the limit of the acceptor.
const REFUSED_BYTES_MAX: usize = 1_024;

impl Driver {
    /// Publishes the watermark before callers are answered: a query after an answer returns at least the same
    /// watermark.
    pub(super) fn show_watermark(&self) {
        let chosen_to = self.core.chosen_to();
        self.views.send_if_modified(|view| {
            view.chosen_to = chosen_to;
            // No receiver waits for this change alone.
            false
        });
    }

    /// Publishes the acceptors that delay commands, for callers after a missed deadline.
    pub(super) fn show_who_is_late(&mut self) {
        let late = self.core.late();
        let late: Vec<String> = late.iter().map(|late| self.by_address(late)).collect();
        let late = late.join(", ");
        self.views.send_if_modified(|view| {
            view.late = late;
            // No receiver waits for this change alone.
            false
        });
    }

    /// Publishes the reason for the refusal of an acceptor; `None`: the acceptor is counted again. The acceptor's link
    /// reports the reason to the acceptor.
    pub(super) fn show_refused(&self, acceptor: AcceptorUuid, reason: Option<String>) {
        self.views.send_if_modified(|view| {
            match reason {
                Some(mut reason) => {
                    reason.truncate(reason.floor_char_boundary(REFUSED_BYTES_MAX));
                    let run = self.judged.get(&acceptor).copied();
                    view.refused.insert(acceptor, Refusal { reason, run });
                }
                None => {
                    view.refused.remove(&acceptor);
                }
            }
            // No receiver waits for this change alone.
            false
        });
    }

    /// Publishes the judged runs of refused acceptors: an acceptor refused again in a later run gets the reason too.
    pub(super) fn show_judged(&self) {
        if self.views.borrow().refused.is_empty() {
            return;
        }
        self.views.send_if_modified(|view| {
            for (acceptor, refusal) in &mut view.refused {
                refusal.run = self.judged.get(acceptor).copied();
            }
            // No receiver waits for this change alone.
            false
        });
    }

    /// Logs and counts the reason for a campaign or for stepping down; logs stalls.
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

    /// Logs why an acceptor refuses a message of this leader, at most once a minute for each acceptor: often the acceptor
    /// has to be upgraded. An acceptor with a much lower promise is raised to the ballot, and is not logged.
    pub(super) fn show_refusal(&mut self, event: &Event) {
        let Event::Answered {
            acceptor,
            ballot,
            answer: AcceptAnswer::Refused(Refused { reason, promised }),
            ..
        } = event
        else {
            return;
        };
        let now = Instant::now();
        let last = self.refusals_at.get(acceptor);
        if promised.admits_jump_to(*ballot) && last.is_none_or(|&last| now - last >= REFUSAL_INTERVAL) {
            self.refusals_at.insert(*acceptor, now);
            let acceptor = self.by_address(acceptor);
            tracing::error!(acceptor, reason, "an acceptor refuses values of this leader");
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

    /// The change of an earlier leader that the campaign of this leader found.
    fn found_change(&self) -> Option<ShownChange> {
        let Phase::Leading(lead) = self.core.phase() else {
            return None;
        };
        let ((_, configuration), votes) = (lead.change()?, lead.change_votes()?);
        Some(ShownChange {
            configuration: Arc::clone(configuration),
            stage: ChangeStage::Deciding {
                accepted: votes.accepted,
                of: votes.needed,
            },
            taken: 0,
            begun: None,
        })
    }

    /// Publishes this proposer's state, and logs changes of the phase.
    pub(super) fn publish(&mut self, at_once: bool) {
        let (phase, ballot, proposed_to) = match self.core.phase() {
            Phase::Standby => (ProposerPhase::Standby, None, Slot::ZERO),
            Phase::Campaigning(campaign) => (ProposerPhase::Campaigning, Some(campaign.ballot()), Slot::ZERO),
            Phase::Leading(lead) => (ProposerPhase::Leading, Some(lead.ballot()), lead.proposed_to()),
        };
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
                // The reason is logged at the beginning of the campaign.
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
            cluster: Some(self.cluster),
            phase,
            ballot,
            leader,
            chosen_to: self.core.chosen_to(),
            proposed_to,
            queued,
            queued_bytes,
            configuration: Some(Arc::clone(self.core.configuration())),
            before: self.before.clone(),
            change: self.changes.shown().or_else(|| self.found_change()),
            links: self
                .links
                .iter()
                .map(|(&uuid, link)| (uuid, link.shown()))
                .collect(),
            state_bytes: self
                .links
                .values()
                .map(|link| link.state_bytes)
                .max()
                .unwrap_or_default(),
            quorum: self.core.configuration().quorums().phase2(),
            late: self.views.borrow().late.clone(),
            refused: self.views.borrow().refused.clone(),
        };
        // Receivers waiting for a change are woken by changes alone.
        self.views.send_if_modified(|shown| {
            let is_news = *shown != view;
            *shown = view;
            is_news
        });
        if changed {
            // Acceptors, and through them clients, hear at once of a new leader.
            self.report_now();
        }
    }
}
