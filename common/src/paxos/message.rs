//! Messages between proposers, acceptors and learners, in the terms of the cores.

use std::{sync::Arc, time::Duration};

use super::{
    ballot::Ballot,
    slot::{Slot, SlotRange},
    value::{Fingerprint, Value},
};

/// Limit of the distance between a leader's `chosen_to` and a proposed slot, in slots (exclusive). Bounds the slots
/// left behind by a dead leader, and so the slots to read in a campaign. Also bounds how far no-ops are filled in up to
/// a vote: no leader of this protocol leaves a vote further on.
pub const SLOTS_AHEAD_MAX: u64 = 65_536;

/// Limit of a leader's unanswered numbered messages on one `Accept` stream (inclusive): proposals, repairs and the
/// resignation. Heartbeats have no number and are not counted. An acceptor has room for more on each stream, and ends a
/// stream that exceeds the room.
pub const UNANSWERED_MAX: u64 = 32;

/// Phase 1a, from a candidate to an acceptor: promise this ballot, and report the accepted rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prepare {
    /// The candidate's ballot.
    pub ballot: Ballot,
    /// First slot to report.
    pub from: Slot,
    /// Where other proposers reach the candidate.
    pub address: Arc<str>,
}

/// An acceptor's answer to a [`Prepare`], sent once durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PrepareAnswer {
    /// Promised: pages follow.
    Promised,
    /// A higher ballot is promised.
    Rejected(Rejection),
    /// The sender broke a bound.
    Refused(Refused),
}

/// Phase 1b, from an acceptor to a candidate: one page of a promise, read in one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PromisePage {
    /// First covered slot.
    pub from: Slot,
    /// Exclusive end of the covered slots. A covered slot without a row was not voted on.
    pub next: Slot,
    /// The page covers everything from `next` on too: nothing was voted on there.
    pub last: bool,
    /// Every slot below was chosen, and the acceptor's own rows hold the chosen values.
    pub chosen_to: Slot,
    /// Every slot below was chosen, whatever the state of the acceptor's rows; at least `chosen_to`. A readable row of
    /// the acceptor below this watermark holds the chosen value.
    pub known_to: Slot,
    /// Slots below are trimmed: the acceptor holds no row there.
    pub trimmed_to: Slot,
    /// One past the highest slot accepted; at least `trimmed_to`.
    pub voted_to: Slot,
    /// Ascending by slot.
    pub rows: Vec<Row>,
}

/// An acceptor's row for a slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// The slot.
    pub slot: Slot,
    /// `None`: a row exists and cannot be read. Never treat such a slot as empty.
    pub accepted: Option<(Ballot, Value)>,
}

/// Votes of an acceptor for neighbouring slots at one ballot, from the acceptor to a learner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VoteRange {
    /// The ballot of every vote of the range.
    pub ballot: Ballot,
    /// The slots; never empty.
    pub slots: SlotRange,
    /// The voted values: one fingerprint for each slot, in order. Empty from acceptors of earlier releases.
    pub values: Vec<Fingerprint>,
}

impl VoteRange {
    /// The votes shown by rows. Neighbouring rows at the same ballot form one range. An unknown row is no vote.
    pub fn collect<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        for row in rows {
            let Some((ballot, value)) = &row.accepted else {
                continue;
            };
            match ranges.last_mut() {
                Some(last) if last.ballot == *ballot && last.slots.to == row.slot => {
                    last.slots.to = row.slot.next();
                    last.values.push(value.fingerprint());
                }
                Some(_) | None => ranges.push(Self {
                    ballot: *ballot,
                    slots: SlotRange {
                        from: row.slot,
                        to: row.slot.next(),
                    },
                    values: vec![value.fingerprint()],
                }),
            }
        }
        ranges
    }

    /// The value voted for in a slot of the range; `None` from an acceptor of an earlier release.
    pub fn value(&self, slot: Slot) -> Option<Fingerprint> {
        let position = usize::try_from(slot.since(self.slots.from)).ok()?;
        self.values.get(position).copied()
    }

    /// The votes from `slot` on; `slot` is below the end of the range.
    #[must_use]
    pub fn rest(mut self, slot: Slot) -> Self {
        let from = slot.max(self.slots.from);
        let before = usize::try_from(from.since(self.slots.from)).unwrap_or(usize::MAX);
        self.values.drain(..before.min(self.values.len()));
        self.slots.from = from;
        self
    }
}

/// Phase 2a, from a leader to an acceptor. Without proposals and without a number: a heartbeat. Without proposals and
/// with a number: a question for the acceptor's watermarks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Accept {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// Number of the message, repeated in the answer; from 1 in each reign. 0: a heartbeat, without an answer.
    pub sequence: u64,
    /// Every slot below is chosen. While collecting pages, a candidate sends 0, which claims nothing.
    pub chosen_to: Slot,
    /// Ascending by slot; accepted all together or not at all.
    pub proposals: Vec<(Slot, Value)>,
    /// Where other proposers reach the leader.
    pub address: Arc<str>,
    /// The leader is about to stop.
    pub resign: bool,
}

/// Phase 2b, from an acceptor to a leader, sent once durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AcceptAnswer {
    /// All proposals of the message are on disk.
    Accepted {
        /// The slots of the message.
        slots: Vec<SlotRange>,
        /// One past the highest slot accepted by the acceptor, at any ballot.
        voted_to: Slot,
        /// The acceptor's own sound watermark: the rows below are sound.
        chosen_to: Slot,
        /// Every slot below is chosen, whatever the state of the acceptor's rows; at least `chosen_to`.
        known_to: Slot,
    },
    /// A higher ballot is promised.
    Rejected(Rejection),
    /// The sender broke a bound. The sender's ballot remains valid.
    Refused(Refused),
    /// A proposal's slot is below the slots still held by the acceptor, and nothing was done. Stands for the acceptor's
    /// vote at the message's ballot for every slot below: the acceptor's own snapshot covers these slots, and the
    /// acceptor has promised no higher ballot.
    Trimmed {
        /// Slots below are trimmed: the acceptor holds no row there.
        trimmed_to: Slot,
    },
    /// Too little space is left on the acceptor's disk, and nothing was done. The sender sends the proposals again once
    /// the acceptor reports space.
    NoSpace,
}

impl AcceptAnswer {
    /// The answer in one word, for traces.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Rejected(_) => "rejected",
            Self::Refused(_) => "refused",
            Self::Trimmed { .. } => "trimmed",
            Self::NoSpace => "no_space",
        }
    }

    /// Whether all proposals of the message are on disk.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }
}

/// Answer with the higher promised ballot, which the loser needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rejection {
    /// Above the requested ballot.
    pub promised: Ballot,
    /// Where the proposer of `promised` is reached.
    pub leader_address: Arc<str>,
}

/// The message breaks a bound that its sender could have kept. The sender's ballot remains valid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// The broken bound, for people.
    pub reason: String,
    /// The acceptor's promise.
    pub promised: Ballot,
}

/// The leader as far as an acceptor's disk shows, for attaching proposers and learners.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leadership {
    /// The highest ballot promised; [`Ballot::ZERO`] without a promise.
    pub promised: Ballot,
    /// Where the proposer of `promised` is reached.
    pub address: Arc<str>,
    /// The proposer of `promised` has announced its stop.
    pub resigned: bool,
}

/// The *heard proposer* according to an acceptor. The heard proposer is the sender of the highest ballot in an Accept
/// or Prepare that the acceptor has granted, or will grant as far as the acceptor can say now. Volatile, and evidence
/// for failure detection alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeardProposer {
    /// The highest ballot heard; [`Ballot::ZERO`] when none was.
    pub ballot: Ballot,
    /// Where the heard proposer is reached.
    pub address: Arc<str>,
    /// Time since bytes of the proposer's `Accept` stream or Prepare arrived, by the acceptor's clock.
    pub silent: Duration,
    /// Time since the proposer's last `Accept` stream ended without the acceptor's doing, while no stream is open.
    pub ended: Option<Duration>,
    /// The proposer has announced its stop.
    pub resigned: bool,
    /// Grows with the proposer's work at this acceptor: arriving value bytes, committed votes, sent page bytes.
    pub work: u64,
}

impl HeardProposer {
    /// No proposer was heard.
    pub fn none() -> Self {
        Self {
            ballot: Ballot::ZERO,
            address: Arc::from(""),
            silent: Duration::ZERO,
            ended: None,
            resigned: false,
            work: 0,
        }
    }

    /// The report of an acceptor of an earlier release, where ends of streams and work done are unknown.
    pub fn from_leadership(leadership: Leadership, silent: Duration) -> Self {
        let Leadership {
            promised,
            address,
            resigned,
        } = leadership;
        Self {
            ballot: promised,
            address,
            silent,
            resigned,
            ..Self::none()
        }
    }
}

/// Content of an acceptor's answer to a report over `Attach`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReportAnswer {
    /// The heard proposer.
    pub heard: HeardProposer,
    /// The acceptor's promise, at the moment of the watermarks: on disk, and of the acceptor's own era. The heard ballot is
    /// neither: after a restart, the acceptor has heard of no proposer.
    pub promised: Ballot,
    /// Age of the oldest request that the acceptor has not decided and made durable; zero from earlier releases.
    pub waiting: Duration,
    /// The longest commit of the last minute; zero from earlier releases.
    pub slowest_commit: Duration,
    /// The acceptor's disk has space; true from earlier releases.
    pub has_space: bool,
    /// Every slot below is chosen, whatever the state of the acceptor's rows.
    pub known_to: Slot,
    /// One past the highest slot accepted by the acceptor, at any ballot.
    pub voted_to: Slot,
    /// Slots below are trimmed: the acceptor holds no row there. Never counts as a vote, because the acceptor may have
    /// promised a higher ballot.
    pub trimmed_to: Slot,
    /// Size of the registers and recorded outcomes in bytes, as learners report; zero: unknown. For the limit of the
    /// state alone: no rule of the protocol uses the size.
    pub state_bytes: u64,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::paxos::ballot::ProposerId;

    fn slot(number: u64) -> Slot {
        Slot::new(number).unwrap()
    }

    fn row(at: u64, round: u64) -> Row {
        let ballot = Ballot::new(round, ProposerId::from_random(1)).unwrap();
        let value = Value::from_stored(Bytes::from(at.to_string()), Bytes::new());
        Row {
            slot: slot(at),
            accepted: Some((ballot, value)),
        }
    }

    fn value(at: u64) -> Option<Fingerprint> {
        let (_, value) = row(at, 1).accepted.unwrap();
        Some(value.fingerprint())
    }

    #[test]
    fn votes_of_neighbouring_slots_at_one_ballot_form_one_range() {
        let mut rows = vec![row(1, 1), row(2, 1), row(3, 2), row(4, 2), row(5, 2), row(7, 2)];
        rows[3].accepted = None;
        let ranges: Vec<_> = VoteRange::collect(&rows)
            .iter()
            .map(|votes| (votes.ballot.round(), votes.slots.from.get(), votes.slots.to.get()))
            .collect();
        assert_eq!(ranges, [(1, 1, 3), (2, 3, 4), (2, 5, 6), (2, 7, 8)]);
    }

    #[test]
    fn each_vote_names_its_value() {
        let rows: Vec<Row> = (3..6).map(|at| row(at, 1)).collect();
        let votes = VoteRange::collect(&rows).remove(0);
        let rest = votes.clone().rest(slot(4));
        for at in 4..6 {
            assert_eq!(
                (votes.value(slot(at)), rest.value(slot(at))),
                (value(at), value(at))
            );
        }
        assert_eq!((rest.slots.from, rest.values.len()), (slot(4), 2));
        let unnamed = VoteRange {
            values: Vec::new(),
            ..votes
        };
        assert_eq!(unnamed.rest(slot(4)).value(slot(4)), None);
    }
}
