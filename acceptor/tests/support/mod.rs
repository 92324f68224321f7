//! Messages shared by the tests.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "only for tests")]

pub mod leader;
pub mod learner;
pub mod process;
pub mod run;
pub mod seed;
pub mod snapshots;
pub mod status;
pub mod story;

use bytes::Bytes;
use paxos_common::paxos::{message::Accept, value::Value};

pub use paxos_test_values::{ballot, cluster_of_one as configuration, slot};

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
