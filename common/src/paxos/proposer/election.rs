//! Elections: whom a standby takes for the leader, and when it campaigns itself.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use super::{Effect, Outcome, Phase, Proposer, Reason, Timer};
use crate::paxos::{ballot::Ballot, identity::AcceptorUuid, message::Leadership};

/// Leader timeouts that commands wait for somebody to lead: several elections, and less than callers like to wait.
const LEADERLESS_TIMEOUTS: u32 = 10;

impl Proposer {
    /// Where another proposer leads, as far as the acceptors know; `None` when nobody is heard of lately.
    pub fn leader(&self) -> Option<Arc<str>> {
        let latest = self
            .reports
            .values()
            .max_by_key(|report| (report.leadership.promised, Reverse(report.silent)))?;
        let Leadership {
            promised,
            address,
            resigned,
        } = &latest.leadership;
        let lives = *promised > Ballot::ZERO && !resigned && latest.silent < self.settings.leader_timeout;
        // At its own address an earlier run of this very process led.
        let is_another = promised.proposer() != self.id && *address != self.address && !address.is_empty();
        (lives && is_another).then(|| Arc::clone(address))
    }

    /// Counts an acceptor's last report no more. A proposer that hears no answers would else keep on finding the leader
    /// silent, and keep on unseating those whom it does not hear of.
    pub(super) fn forget_report(&mut self, acceptor: AcceptorUuid) {
        self.reports.remove(&acceptor);
        self.consider_election();
    }

    /// Arms the election timer while a phase-1 quorum finds the leader silent, and disarms it when not.
    ///
    /// A proposer that is cut off from the leader, but not from the acceptors, so never disturbs it.
    pub(super) fn consider_election(&mut self) {
        if !matches!(self.phase, Phase::Standby) || self.stopping {
            return;
        }
        let silent = self.leader_is_silent();
        if silent && !self.election_armed {
            self.election_armed = true;
            let (at_least, at_most) = self.election_delay();
            self.arm(Timer::Election, at_least, at_most);
        } else if !silent && self.election_armed {
            self.election_armed = false;
            self.disarm(Timer::Election);
        }
        if !silent && self.leader().is_some() {
            self.failures = 0;
        }
    }

    pub(super) fn leader_is_silent(&self) -> bool {
        let silent = self
            .reports
            .values()
            .filter(|report| report.leadership.resigned || report.silent >= self.settings.leader_timeout)
            .count();
        silent >= self.electorate.quorums().phase1()
    }

    /// After L of silence, a random time up to L more; short when the leader said goodbye; growing with failures.
    fn election_delay(&self) -> (Duration, Duration) {
        let timeout = self.settings.leader_timeout;
        if self.failures > 0 {
            let grown = timeout * (1 << self.failures.min(5));
            return (timeout / 4, grown);
        }
        let goodbye = self.reports.values().any(|report| report.leadership.resigned);
        if goodbye {
            // Several times what it takes until the others hear of the first campaign: a second one would unseat a
            // leader that already has commands in flight.
            (Duration::ZERO, timeout / 4)
        } else {
            (Duration::ZERO, timeout)
        }
    }

    /// Has what waits given back, unless somebody leads before long.
    pub(super) fn await_leader(&mut self) {
        if !self.leaderless && !self.queue.is_empty() {
            self.leaderless = true;
            let patience = self.settings.leader_timeout * LEADERLESS_TIMEOUTS;
            self.arm(Timer::Leaderless, patience, patience);
        }
    }

    /// Nobody leads, as far as is known here. Another proposer may know better, so callers need not wait for this one.
    pub(super) fn give_back(&mut self) {
        self.leaderless = false;
        let refused = self.queue.remove_where(|_| true).into_iter();
        let outcome = Outcome::NotProposed(Reason::NotLeading);
        self.effects
            .extend(refused.map(|request| Effect::Answer(request, outcome)));
    }

    /// A command found no leader at the leader's address, although the acceptors hear from one: perhaps it is cut off
    /// from us and from our clients. When that lasts, we challenge it; later each time that it comes to nothing.
    pub(super) fn forward_failed(&mut self) {
        let Some(leader) = self.leader().filter(|_| matches!(self.phase, Phase::Standby)) else {
            return;
        };
        match &mut self.unreachable {
            Some((address, again)) if *address == leader => *again = true,
            Some(_) | None => {
                self.unreachable = Some((leader, false));
                let patience = self.settings.leader_timeout * (2 << self.vain_challenges.min(5));
                self.arm(Timer::Unreachable, patience, patience * 2);
            }
        }
    }

    /// The leader answers.
    pub(super) fn forward_answered(&mut self) {
        self.vain_challenges = 0;
        self.reach();
    }

    /// Whether the same leader still leads, and failed again since it was first found out.
    pub(super) fn is_still_unreachable(&mut self) -> bool {
        let leader = self.leader();
        self.unreachable
            .take()
            .is_some_and(|(address, again)| again && leader == Some(address))
    }

    /// Forgets that the leader could not be reached.
    pub(super) fn reach(&mut self) {
        if self.unreachable.take().is_some() {
            self.disarm(Timer::Unreachable);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paxos::{
        ballot::ProposerId,
        proposer::{Event, Limits, Settings},
        quorum::Configuration,
        slot::Slot,
    };

    const TIMEOUT: Duration = Duration::from_millis(200);

    fn silent(acceptor: u128) -> Event {
        Event::Reported {
            acceptor: AcceptorUuid::from_u128(acceptor),
            leadership: Leadership {
                promised: Ballot::new(3, ProposerId::from_random(9)).unwrap(),
                address: Arc::from("http://leader"),
                resigned: false,
            },
            silent: TIMEOUT,
            chosen_to: Slot::ZERO,
        }
    }

    /// Tells the core; returns the generation of the election timer, when it was set.
    fn tell(core: &mut Proposer, event: Event) -> Option<u64> {
        core.handle(event);
        core.take_effects().into_iter().find_map(|effect| {
            let Effect::SetTimer {
                timer, generation, ..
            } = effect
            else {
                return None;
            };
            (timer == Timer::Election).then_some(generation)
        })
    }

    #[test]
    fn proposer_that_hears_no_answers_campaigns_no_more() {
        let members = (1..=3).map(|number| (AcceptorUuid::from_u128(number), Arc::from("http://a")));
        let electorate = Configuration::new(members, 2, 2).unwrap().electorate();
        let settings = Settings {
            leader_timeout: TIMEOUT,
            limits: Limits::default(),
        };
        let id = ProposerId::from_random(7);
        let mut core = Proposer::new(id, Arc::from("http://me"), electorate, settings);
        for number in 1..=3 {
            tell(&mut core, Event::Opened(AcceptorUuid::from_u128(number)));
        }
        tell(&mut core, silent(1));
        let generation = tell(&mut core, silent(2)).expect("a quorum misses the leader");
        // Before the timer fires, one of the quorum is heard no more: its word has grown old.
        tell(&mut core, Event::Unheard(AcceptorUuid::from_u128(2)));
        tell(&mut core, Event::Fired(Timer::Election, generation));
        assert_eq!(*core.phase(), Phase::Standby);
        assert_eq!(tell(&mut core, silent(1)), None);
        let generation = tell(&mut core, silent(2)).expect("it is heard again");
        tell(&mut core, Event::Fired(Timer::Election, generation));
        assert!(matches!(core.phase(), Phase::Campaigning(_)));
    }
}
