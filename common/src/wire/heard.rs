//! Acceptors' reports of the heard proposer, to and from the wire.

use std::time::Duration;

use paxos_proto::v1 as pb;

use super::{AcceptReply, Malformed, ballot, known_to, read_stamp, required};
use crate::paxos::{
    ballot::Ballot,
    identity::Stamp,
    message::{HeardProposer, Leadership, ReportAnswer},
    slot::Slot,
};

/// A duration in whole milliseconds, rounded down.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<HeardProposer> for pb::Heard {
    fn from(heard: HeardProposer) -> Self {
        Self {
            ballot: Some(heard.ballot.into()),
            address: heard.address.to_string(),
            silent_ms: millis(heard.silent),
            ended_ms: heard.ended.map(millis),
            resigned: heard.resigned,
            work: heard.work,
        }
    }
}

impl TryFrom<pb::Heard> for HeardProposer {
    type Error = Malformed;

    fn try_from(heard: pb::Heard) -> Result<Self, Malformed> {
        Ok(Self {
            ballot: ballot(heard.ballot)?,
            address: heard.address.into(),
            silent: Duration::from_millis(heard.silent_ms),
            ended: heard.ended_ms.map(Duration::from_millis),
            resigned: heard.resigned,
            work: heard.work,
        })
    }
}

/// For an older acceptor, `heard` is made from the leadership.
impl TryFrom<pb::AttachResponse> for ReportAnswer {
    type Error = Malformed;

    fn try_from(response: pb::AttachResponse) -> Result<Self, Malformed> {
        let leadership = required(response.leadership, "leadership")?;
        let silent = Duration::from_millis(leadership.silent_ms);
        let leadership = Leadership::try_from(leadership)?;
        let promised = leadership.promised;
        let heard = match response.heard {
            Some(heard) => heard.try_into()?,
            None => HeardProposer::from_leadership(leadership, silent),
        };
        Ok(Self {
            heard,
            promised,
            waiting: Duration::from_millis(response.waiting_ms),
            slowest_commit: Duration::from_millis(response.slowest_commit_ms),
            has_space: !response.no_space,
            known_to: known_to(response.known_chosen_to, response.chosen_to)?,
            voted_to: Slot::new(response.voted_to)?,
            trimmed_to: Slot::new(response.trimmed_to)?,
            state_bytes: response.state_bytes,
        })
    }
}

/// A regular report of an acceptor on an `Accept` stream, beside the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// The reporting acceptor.
    pub stamp: Stamp,
    /// The highest ballot received by the acceptor on the stream.
    pub ballot: Ballot,
    /// Time since bytes of the stream last reached the acceptor.
    pub silent: Duration,
    /// How long the oldest request has waited for the acceptor's worker or its commit.
    pub waiting: Duration,
    /// Whether the acceptor's disk has space.
    pub has_space: bool,
}

impl From<Alive> for pb::AcceptResponse {
    fn from(alive: Alive) -> Self {
        Self {
            stamp: Some(super::stamp(&alive.stamp, Vec::new())),
            ballot: Some(alive.ballot.into()),
            sequence: 0,
            answer: Some(pb::accept_response::Answer::Alive(pb::Alive {
                silent_ms: millis(alive.silent),
                waiting_ms: millis(alive.waiting),
                no_space: !alive.has_space,
            })),
        }
    }
}

/// A message that an acceptor sends on an `Accept` stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamAnswer {
    /// The answer to a request.
    Reply(AcceptReply),
    /// A report that the acceptor runs, and how long ago bytes of this stream arrived.
    Alive(Alive),
}

impl TryFrom<pb::AcceptResponse> for StreamAnswer {
    type Error = Malformed;

    fn try_from(response: pb::AcceptResponse) -> Result<Self, Malformed> {
        let Some(pb::accept_response::Answer::Alive(alive)) = response.answer else {
            return Ok(Self::Reply(response.try_into()?));
        };
        Ok(Self::Alive(Alive {
            stamp: read_stamp(response.stamp.as_ref())?,
            ballot: ballot(response.ballot)?,
            silent: Duration::from_millis(alive.silent_ms),
            waiting: Duration::from_millis(alive.waiting_ms),
            has_space: !alive.no_space,
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::paxos::{
        ballot::ProposerId,
        identity::{AcceptorUuid, CommitCounter, RunNumber},
    };

    fn a_ballot(round: u64) -> Ballot {
        Ballot::new(round, ProposerId::from_random(7)).unwrap()
    }

    proptest! {
        #[test]
        fn heard_proposer_survives_the_wire(
            round in 0u64..1 << 63,
            silent in 0u64..1 << 40,
            ended in proptest::option::of(0u64..1 << 40),
            resigned: bool,
            work: u64,
        ) {
            let heard = HeardProposer {
                ballot: a_ballot(round),
                address: "http://p:1".into(),
                silent: Duration::from_millis(silent),
                ended: ended.map(Duration::from_millis),
                resigned,
                work,
            };
            prop_assert_eq!(HeardProposer::try_from(pb::Heard::from(heard.clone())), Ok(heard));
        }
    }

    #[test]
    fn promise_of_a_report_is_the_durable_promise_and_not_the_heard_ballot() {
        let heard = HeardProposer::none();
        let response = pb::AttachResponse {
            leadership: Some(pb::Leadership {
                promised: Some(a_ballot(9).into()),
                ..Default::default()
            }),
            heard: Some(heard.clone().into()),
            ..Default::default()
        };
        let report = ReportAnswer::try_from(response).unwrap();
        assert_eq!((report.heard, report.promised), (heard, a_ballot(9)));
    }

    #[test]
    fn report_of_an_older_acceptor_is_read_from_its_leadership() {
        let response = pb::AttachResponse {
            leadership: Some(pb::Leadership {
                promised: Some(a_ballot(3).into()),
                address: "http://p:1".into(),
                silent_ms: 40,
                resigned: true,
            }),
            chosen_to: 5,
            voted_to: 6,
            ..Default::default()
        };
        let word = ReportAnswer::try_from(response).unwrap();
        let heard = HeardProposer {
            ballot: a_ballot(3),
            address: "http://p:1".into(),
            silent: Duration::from_millis(40),
            resigned: true,
            ..HeardProposer::none()
        };
        assert_eq!((&word.heard, word.promised), (&heard, a_ballot(3)));
        assert_eq!((word.known_to.get(), word.voted_to.get()), (5, 6));
        assert!(word.has_space && word.waiting.is_zero() && word.slowest_commit.is_zero());
        let missing = ReportAnswer::try_from(pb::AttachResponse::default()).unwrap_err();
        assert_eq!(missing.to_string(), "leadership is missing");
    }

    #[test]
    fn alive_survives_the_wire_and_is_no_answer_to_a_request() {
        let alive = Alive {
            stamp: Stamp {
                cluster: None,
                acceptor: AcceptorUuid::from_u128(1),
                run: RunNumber::from_random(2),
                commit_counter: CommitCounter::new(3),
            },
            ballot: a_ballot(4),
            silent: Duration::from_millis(5),
            waiting: Duration::from_millis(6),
            has_space: false,
        };
        let sent = pb::AcceptResponse::from(alive.clone());
        assert!(AcceptReply::try_from(sent.clone()).is_err());
        assert_eq!(StreamAnswer::try_from(sent), Ok(StreamAnswer::Alive(alive)));
    }
}
