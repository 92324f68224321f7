//! The stored form of judgements, and of the sessions in files of schema version 4.

use std::collections::BTreeMap;

use paxos_common::paxos::{
    command::Opener,
    machine::{
        Judgement, Outcome,
        sessions::{Recorded, SessionState},
    },
    slot::Version,
};
use paxos_proto::v1 as pb;
use prost::Message as _;

/// The judgements of one slot.
#[derive(Clone, PartialEq, prost::Message)]
struct Judgements {
    /// Ascending by offset: all judgements except `Executed(Applied)`.
    #[prost(message, repeated, tag = "1")]
    exceptions: Vec<Exception>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Exception {
    #[prost(uint32, tag = "1")]
    offset: u32,
    #[prost(enumeration = "StoredJudgement", tag = "2")]
    fate: i32,
    /// Only for commands executed now or before.
    #[prost(message, optional, tag = "3")]
    outcome: Option<StoredOutcome>,
    /// Only for a duplicate.
    #[prost(message, optional, tag = "4")]
    first: Option<pb::Version>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
enum StoredJudgement {
    Executed = 0,
    Duplicate = 1,
    Expired = 2,
    Acknowledged = 3,
    Foreign = 4,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct StoredOutcome {
    #[prost(bool, tag = "1")]
    condition_failed: bool,
    #[prost(message, optional, tag = "2")]
    current: Option<pb::Version>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredSession {
    #[prost(message, optional, tag = "1")]
    last_used: Option<pb::Version>,
    #[prost(uint64, tag = "2")]
    acked_below: u64,
    #[prost(message, repeated, tag = "3")]
    recorded: Vec<StoredRecorded>,
    /// Empty: no opener.
    #[prost(bytes = "vec", tag = "4")]
    opener: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct StoredRecorded {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(message, optional, tag = "2")]
    version: Option<pb::Version>,
    #[prost(message, optional, tag = "3")]
    outcome: Option<StoredOutcome>,
}

impl From<Outcome> for StoredOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Applied => Self::default(),
            Outcome::ConditionFailed { current } => Self {
                condition_failed: true,
                current: current.map(Into::into),
            },
        }
    }
}

/// The stored form of judgements: empty when every command took effect.
pub(super) fn encode_judgements(judgements: &[Judgement]) -> Vec<u8> {
    let exceptions = (0..)
        .zip(judgements)
        .filter_map(|(offset, &judgement)| exception(offset, judgement));
    Judgements {
        exceptions: exceptions.collect(),
    }
    .encode_to_vec()
}

fn exception(offset: u32, judgement: Judgement) -> Option<Exception> {
    let (fate, outcome, first) = match judgement {
        Judgement::Executed(Outcome::Applied) => return None,
        Judgement::Executed(outcome) => (StoredJudgement::Executed, Some(outcome), None),
        Judgement::Duplicate { first, outcome } => (StoredJudgement::Duplicate, Some(outcome), Some(first)),
        Judgement::Expired => (StoredJudgement::Expired, None, None),
        Judgement::Acknowledged => (StoredJudgement::Acknowledged, None, None),
        Judgement::Foreign => (StoredJudgement::Foreign, None, None),
    };
    Some(Exception {
        offset,
        fate: fate.into(),
        outcome: outcome.map(Into::into),
        first: first.map(Into::into),
    })
}

/// Reads [`encode_judgements`] for this number of commands; `None` when malformed.
pub(super) fn decode_judgements(stored: &[u8], commands: usize) -> Option<Vec<Judgement>> {
    let mut judgements = vec![Judgement::Executed(Outcome::Applied); commands];
    for exception in Judgements::decode(stored).ok()?.exceptions {
        let judgement = judgements.get_mut(usize::try_from(exception.offset).ok()?)?;
        *judgement = match StoredJudgement::try_from(exception.fate).ok()? {
            StoredJudgement::Executed => Judgement::Executed(outcome(exception.outcome)?),
            StoredJudgement::Duplicate => Judgement::Duplicate {
                first: version(exception.first)?,
                outcome: outcome(exception.outcome)?,
            },
            StoredJudgement::Expired => Judgement::Expired,
            StoredJudgement::Acknowledged => Judgement::Acknowledged,
            StoredJudgement::Foreign => Judgement::Foreign,
        };
    }
    Some(judgements)
}

/// Reads a session of schema version 4; `None` when malformed.
pub(super) fn decode_session(stored: &[u8]) -> Option<SessionState> {
    let stored = StoredSession::decode(stored).ok()?;
    let recorded = |stored: &StoredRecorded| {
        let recorded = Recorded {
            version: version(stored.version)?,
            outcome: outcome(stored.outcome)?,
        };
        Some((stored.sequence, recorded))
    };
    Some(SessionState {
        opener: opener(&stored.opener)?,
        last_used: version(stored.last_used)?,
        acked_below: stored.acked_below,
        recorded: stored
            .recorded
            .iter()
            .map(recorded)
            .collect::<Option<BTreeMap<_, _>>>()?,
    })
}

fn opener(stored: &[u8]) -> Option<Option<Opener>> {
    if stored.is_empty() {
        return Some(None);
    }
    let bytes = stored.try_into().ok()?;
    Some(Some(Opener::from_bytes(bytes)))
}

fn outcome(stored: Option<StoredOutcome>) -> Option<Outcome> {
    let stored = stored?;
    if !stored.condition_failed {
        return Some(Outcome::Applied);
    }
    let current = match stored.current {
        Some(current) => Some(version(Some(current))?),
        None => None,
    };
    Some(Outcome::ConditionFailed { current })
}

fn version(stored: Option<pb::Version>) -> Option<Version> {
    stored?.try_into().ok()
}
