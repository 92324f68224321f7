//! Elections: when a standby campaigns because the leader is gone.
//!
//! A phase-1 quorum of fresh answers must find the leader gone. The standby then waits for a random time, reports once
//! more, and campaigns only on answers to that report. So a faster candidate is noticed. The answers must be fresh too:
//! a process frozen meanwhile finds old answers when it resumes. While a phase-2 quorum hears the leader, fewer than a
//! phase-1 quorum can miss the leader, because the two quorums intersect.

use std::time::Duration;

use super::{Effect, Proposer, Timer, inquiry::ended_min, notice::Gone, notice::Why, standby::TimedAnswer};
use crate::paxos::identity::AcceptorUuid;

/// The longest random wait, unless the leader timeout is longer.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Most doublings of the wait.
const DOUBLINGS_MAX: u32 = 8;

/// Progress of a standby in finding the leader gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum ElectionStage {
    /// The leader is not gone.
    #[default]
    Idle,
    /// The leader seems to be gone: the random wait runs.
    Waiting,
    /// The wait ended at this time, and a last report was sent: only answers to this report count.
    Asking(Duration),
}

impl Proposer {
    pub(super) fn consider_election(&mut self) {
        match self.election {
            ElectionStage::Idle => {
                if let Some((at_least, at_most)) = self.wait() {
                    self.election = ElectionStage::Waiting;
                    self.arm(Timer::Election, at_least, at_most);
                }
            }
            ElectionStage::Waiting => {
                if self.wait().is_none() {
                    self.election = ElectionStage::Idle;
                    self.disarm(Timer::Election);
                }
            }
            ElectionStage::Asking(since) => {
                if let Some(why) = self.is_gone_since(since) {
                    self.campaign(why);
                }
            }
        }
    }

    /// The random wait, or the wait for answers, is over.
    pub(super) fn election_due(&mut self) {
        match self.election {
            ElectionStage::Idle => {}
            ElectionStage::Waiting => {
                self.election = ElectionStage::Asking(self.now);
                self.effects.push(Effect::ReportNow);
                let patience = self.settings.leader_timeout;
                self.arm(Timer::Election, patience, patience);
            }
            ElectionStage::Asking(_) => self.election = ElectionStage::Idle,
        }
        self.consider();
    }

    /// Draws a running wait again.
    pub(super) fn restart_wait(&mut self) {
        if self.election == ElectionStage::Waiting {
            self.election = ElectionStage::Idle;
            self.disarm(Timer::Election);
        }
    }

    /// Range of the random wait; `None` while the leader is not gone.
    fn wait(&self) -> Option<(Duration, Duration)> {
        let timeout = self.settings.leader_timeout;
        let phase1 = self.electorate.quorums().phase1();
        let fresh = || self.reports.values().filter(|report| self.is_fresh(report));
        let quick: Vec<Duration> = fresh().filter_map(|report| self.quick(report)).collect();
        let is_slow = |report: &&TimedAnswer| {
            self.quick(report).is_none()
                && self
                    .gone(report)
                    .is_some_and(|gone| matches!(gone, Gone::Silent(_) | Gone::NoneKnown))
        };
        let slow = fresh().filter(is_slow).count();
        if quick.len() + slow < phase1 {
            return None;
        }
        let is_quick = quick.len() >= phase1;
        let base = if is_quick { ended_min(timeout) } else { timeout };
        let at_least = quick.into_iter().max().filter(|_| is_quick).unwrap_or_default();
        let grown = base * (1 << self.failures.min(DOUBLINGS_MAX));
        Some((at_least, at_least + grown.min(WAIT_MAX.max(base))))
    }

    /// How long an ended or resigned proposer still counts as alive. `None` if this acceptor reports neither a resignation
    /// nor an end that counts.
    fn quick(&self, report: &TimedAnswer) -> Option<Duration> {
        let heard = &report.answer.heard;
        if heard.resigned {
            return Some(Duration::ZERO);
        }
        let since = heard.ended? + self.now.saturating_sub(report.came);
        Some(self.ended_counts_after(heard.ballot)?.saturating_sub(since))
    }

    /// Whether a phase-1 quorum finds the leader gone, and a phase-2 quorum answers at all. Only fresh answers to
    /// reports sent at `since` or later count.
    fn is_gone_since(&self, since: Duration) -> Option<Why> {
        let quorums = self.electorate.quorums();
        let counts = |report: &TimedAnswer| report.sent >= since && self.is_fresh(report);
        let answers = || self.reports.iter().filter(|(_, report)| counts(report));
        let gone: Vec<(AcceptorUuid, Gone)> = answers()
            .filter_map(|(&acceptor, report)| Some((acceptor, self.gone(report)?)))
            .collect();
        (gone.len() >= quorums.phase1() && answers().count() >= quorums.phase2()).then_some(Why::Gone(gone))
    }
}
