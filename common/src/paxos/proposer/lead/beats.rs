//! The regular work of a leader: heartbeats, questions for watermarks, and the search for lagging acceptors.

use std::{collections::BTreeSet, sync::Arc};

use super::{Effect, Lead};
use crate::paxos::{identity::AcceptorUuid, message::Accept};

/// Checks from one question for an up-to-date acceptor's watermark to the next: a question costs both processes more
/// than a heartbeat.
const CHECKS_PER_QUESTION: u8 = 5;

impl Lead {
    /// Reports the leader and the chosen slots to acceptors without a recent message, however much is unanswered. A
    /// heartbeat gets no answer. So an acceptor without unanswered messages gets a question for its watermark instead,
    /// once in [`CHECKS_PER_QUESTION`] checks. The question is repeated as long as the watermark is not known to be up to
    /// ours, or the disk has no space.
    pub(in crate::paxos::proposer) fn heartbeat(
        &mut self,
        reachable: &BTreeSet<AcceptorUuid>,
        effects: &mut Vec<Effect>,
    ) {
        let chosen_to = self.chosen_to;
        for &acceptor in reachable {
            let Some(view) = self.views.get_mut(&acceptor) else {
                continue;
            };
            let is_behind = view.chosen_to.is_none_or(|own| own < chosen_to);
            let is_asked = is_behind || view.no_space || view.unasked;
            if view.idle && is_asked && view.unanswered.is_empty() {
                view.unasked = false;
                effects.push(self.accept(acceptor, Vec::new(), false));
            } else if view.idle {
                let beat = Accept {
                    ballot: self.ballot,
                    sequence: 0,
                    chosen_to,
                    proposals: Vec::new(),
                    address: Arc::clone(&self.address),
                    resign: false,
                };
                effects.push(Effect::Accept(acceptor, beat));
            }
            if let Some(view) = self.views.get_mut(&acceptor) {
                view.idle = true;
            }
        }
    }

    /// Once every leader timeout: gives up repairs without progress, and finds lagging acceptors.
    pub(in crate::paxos::proposer) fn check(&mut self) {
        let are_asked = self.checks == 0;
        self.checks = (self.checks + 1) % CHECKS_PER_QUESTION;
        for view in self.views.values_mut() {
            view.refusals.check();
            view.repair_refusals.check();
            view.unasked |= are_asked;
            let behind = view.chosen_to.filter(|&own| own < self.chosen_to);
            view.stuck = view.marked && behind.is_some() && behind == view.behind;
            view.marked = false;
            view.behind = behind;
        }
        self.check_repair();
    }

    pub(in crate::paxos::proposer) fn say_resigned(
        &mut self,
        reachable: &BTreeSet<AcceptorUuid>,
        effects: &mut Vec<Effect>,
    ) {
        for &acceptor in reachable {
            effects.push(self.accept(acceptor, Vec::new(), true));
        }
    }

    /// Asks the acceptors whose watermark is not known to be up to the leader's, now, and not with the next heartbeat.
    pub(in crate::paxos::proposer) fn ask_watermarks(
        &mut self,
        reachable: &BTreeSet<AcceptorUuid>,
        effects: &mut Vec<Effect>,
    ) {
        for &acceptor in reachable {
            let is_asked = self.views.get(&acceptor).is_some_and(|view| {
                view.unanswered.is_empty() && view.chosen_to.is_none_or(|own| own < self.chosen_to)
            });
            if is_asked {
                effects.push(self.accept(acceptor, Vec::new(), false));
            }
        }
    }
}
