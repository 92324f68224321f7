//! Inquiries: once its streams have ended, a standby asks the heard proposer itself.
//!
//! A stream ends when its proposer dies, and also when only the connection breaks. A live proposer opens a new stream
//! at once, but a busy machine may need longer than L / 8 for this. So the standby connects to the address of the
//! heard proposer:
//!
//! | Answer | Meaning | Consequence |
//! | --- | --- | --- |
//! | no process listens there | the process is dead | the end counts at once |
//! | connected | the process may live | the end does not count; L of silence does |
//! | connected, and the process says that it neither leads nor campaigns | the ballot is given up | the end counts at once |
//! | none | unknown | the end counts after L / 8 |
//!
//! No question is needed once any acceptor has heard the proposer resign: then each end counts at once.
//!
//! A proxy in place of the proposer connects for a dead process as well: then a standby campaigns after L of silence.
//! A wrong answer costs time and nothing else, because ballots protect the log from any campaign.

use std::{sync::Arc, time::Duration};

use super::{Effect, Proposer, standby::TimedAnswer};
use crate::paxos::ballot::Ballot;

/// Divisor of the leader timeout: without an answer of its proposer, an end counts after this part of the timeout. A
/// broken connection is opened again at once.
const ENDED_PART: u32 = 8;

/// Answer of a heard proposer to an inquiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InquiryAnswer {
    /// A process accepts connections at the proposer's address.
    Connected,
    /// No process listens at the proposer's address, or the process there says that it neither leads nor campaigns.
    Gone,
}

/// The latest inquiry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Inquiry {
    /// Number of the inquiry: an answer to an earlier inquiry does not count.
    number: u64,
    /// The ballot of the asked proposer; `None` while no phase-1 quorum reports the end of its streams.
    ballot: Option<Ballot>,
    answer: Option<InquiryAnswer>,
}

/// Time since the end of a stream after which its proposer is gone, if the proposer does not answer.
pub(super) fn ended_min(leader_timeout: Duration) -> Duration {
    leader_timeout / ENDED_PART
}

impl Inquiry {
    /// Drops what is asked: an answer still under way does not count.
    pub(super) fn forget(&mut self) {
        *self = Self {
            number: self.number + 1,
            ballot: None,
            answer: None,
        };
    }
}

impl Proposer {
    /// Time since the end of a stream after which the proposer of a ballot is gone. `None`: the end does not count.
    pub(super) fn ended_counts_after(&self, ballot: Ballot) -> Option<Duration> {
        if self.has_resigned(ballot) {
            return Some(Duration::ZERO);
        }
        let answer = self
            .inquiry
            .answer
            .filter(|_| self.inquiry.ballot == Some(ballot));
        match answer {
            None => Some(ended_min(self.settings.leader_timeout)),
            Some(InquiryAnswer::Gone) => Some(Duration::ZERO),
            Some(InquiryAnswer::Connected) => None,
        }
    }

    /// Whether any acceptor heard the proposer of a ballot resign. The proposer itself said so, and will not lead at this
    /// ballot again.
    fn has_resigned(&self, ballot: Ballot) -> bool {
        self.reports.values().any(|report| {
            let heard = &report.answer.heard;
            heard.ballot == ballot && heard.resigned
        })
    }

    /// Asks the heard proposer when the latest answers of a phase-1 quorum report the end of its streams, once each time
    /// this begins. Old answers count as well: on a busy machine answers come late, and the proposer's answer still
    /// counts.
    pub(super) fn consider_inquiry(&mut self) {
        let ballot = self.heard_ballot();
        let has_ended = |report: &&TimedAnswer| {
            let heard = &report.answer.heard;
            heard.ballot == ballot && heard.ended.is_some() && !heard.resigned
        };
        let ended: Vec<&TimedAnswer> = self.reports.values().filter(has_ended).collect();
        let is_quorum = ended.len() >= self.electorate.quorums().phase1();
        let Some(report) = ended.first().filter(|_| is_quorum) else {
            self.inquiry.ballot = None;
            return;
        };
        let address = Arc::clone(&report.answer.heard.address);
        if self.inquiry.ballot == Some(ballot) {
            return;
        }
        let number = self.inquiry.number + 1;
        self.inquiry = Inquiry {
            number,
            ballot: Some(ballot),
            answer: None,
        };
        self.effects.push(Effect::Inquire {
            number,
            ballot,
            address,
        });
    }

    pub(super) fn inquiry_answered(&mut self, number: u64, answer: InquiryAnswer) {
        if number == self.inquiry.number {
            self.inquiry.answer = Some(answer);
            if answer == InquiryAnswer::Gone {
                // The end counts sooner than the running wait assumes.
                self.restart_wait();
            }
            self.consider();
        }
    }
}
