//! Messages shared by the tests.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "only for tests")]

pub mod leader;
pub mod learner;
pub mod process;
pub mod run;
pub mod snapshots;
pub mod story;

use bytes::Bytes;
use paxos_common::paxos::{
    ballot::{Ballot, ProposerId},
    identity::AcceptorUuid,
    message::Accept,
    quorum::Configuration,
    slot::Slot,
    value::Value,
};

/// A slot.
pub fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

/// A ballot of the single proposer of the tests.
pub fn ballot(round: u64) -> Ballot {
    Ballot::new(round, ProposerId::from_random(7)).unwrap()
}

/// A value with a trace context.
pub fn value(text: &str) -> Value {
    let traceparent = Bytes::from_static(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    Value::from_stored(Bytes::from(text.to_owned()), traceparent)
}

/// A leader’s message.
pub fn accept(round: u64, chosen_to: u64, proposals: impl IntoIterator<Item = (u64, Value)>) -> Accept {
    Accept {
        ballot: ballot(round),
        sequence: 1,
        chosen_to: slot(chosen_to),
        proposals: proposals
            .into_iter()
            .map(|(at, value)| (slot(at), value))
            .collect(),
        address: "http://p:1".into(),
        resign: false,
    }
}

/// A cluster of a single acceptor.
pub fn configuration(uuid: AcceptorUuid) -> Configuration {
    Configuration::new([(uuid, "http://a:1".into())], 1, 1).unwrap()
}
