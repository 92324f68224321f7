//! The names in our traces. Dashboards and people search for these names, so all change together or none does.

use opentelemetry::{KeyValue, Value};

use crate::peer::Address;

/// An attribute.
pub fn attribute(key: &'static str, value: impl Into<Value>) -> KeyValue {
    KeyValue::new(key, value)
}

/// The attributes of a call to the process at `address`.
pub fn peer(address: &Address) -> impl Iterator<Item = KeyValue> {
    let uri = address.as_str().parse::<tonic::transport::Uri>().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).map(str::to_owned);
    let port = uri.as_ref().and_then(tonic::transport::Uri::port_u16);
    let host = host.map(|host| attribute(SERVER_ADDRESS, host));
    host.into_iter()
        .chain(port.map(|port| attribute(SERVER_PORT, i64::from(port))))
}

/// The metadata key and field that carry a W3C trace context.
pub const TRACEPARENT: &str = "traceparent";

/// `grpc`; OpenTelemetry's conventions for RPC, as of 1.45.
pub const RPC_SYSTEM: &str = "rpc.system.name";
/// `SERVICE/METHOD`.
pub const RPC_METHOD: &str = "rpc.method";
/// The status of a call, as gRPC writes it: `OK`, `UNAVAILABLE`, …
pub const RPC_STATUS_CODE: &str = "rpc.response.status_code";
/// Host of the other side of a call.
pub const SERVER_ADDRESS: &str = "server.address";
/// Port of the other side of a call.
pub const SERVER_PORT: &str = "server.port";
/// Reason of a failed span: one of few words.
pub const ERROR_TYPE: &str = "error.type";

/// The ballot of a message: `ROUND.PROPOSER`.
pub const BALLOT: &str = "paxos.ballot";
/// The first slot of the span's work.
pub const SLOT: &str = "paxos.slot";
/// Number of slots, or of rows (one for each slot).
pub const SLOTS: &str = "paxos.slots";
/// Total size of the values, in bytes.
pub const BYTES: &str = "paxos.bytes";
/// Number of commands.
pub const COMMANDS: &str = "paxos.commands";
/// The position of a command in the log: `SLOT.OFFSET`.
pub const VERSION: &str = "paxos.version";
/// The acceptor, proposer or learner on the other side.
pub const PEER: &str = "paxos.peer";
/// The operator's name for the acceptor on the other side of a call: its `--id`.
pub const ACCEPTOR: &str = "paxos.acceptor";
/// This process's own name in the cluster; an attribute of the resource.
pub const NODE: &str = "paxos.node_id";
/// Whether this answer counted for the quorum: `false` for a later answer.
pub const IN_QUORUM: &str = "paxos.in_quorum";
/// Kind of an acceptor's answer: `accepted`, `rejected`, …
pub const ANSWER: &str = "paxos.answer";
/// Waiting time in the queue, in milliseconds.
pub const QUEUED_MS: &str = "paxos.queued_ms";
/// Number of requests that shared a commit, and so its sync.
pub const REQUESTS: &str = "paxos.requests";
/// Number of reads served by a round of tails.
pub const READS: &str = "paxos.reads";
/// A watermark, exclusive: a property of every slot below.
pub const WATERMARK: &str = "paxos.watermark";

/// Methods, as used in span names.
pub mod method {
    /// A leader's phase 2.
    pub const ACCEPT: &str = "paxos.v1.Acceptor/Accept";
    /// A candidate's phase 1.
    pub const PREPARE: &str = "paxos.v1.Acceptor/Prepare";
    /// How far an acceptor has voted.
    pub const TAIL: &str = "paxos.v1.Acceptor/Tail";
    /// A command in a unary call.
    pub const PROPOSE: &str = "paxos.v1.Proposer/Propose";
    /// A command on a stream of many commands.
    pub const PROPOSE_STREAM: &str = "paxos.v1.Proposer/ProposeStream";
    /// A learner's request to fill slots.
    pub const FILL: &str = "paxos.v1.Proposer/Fill";
    /// Registers.
    pub const READ: &str = "paxos.v1.Learner/Read";
    /// The effect of a command.
    pub const RESULT: &str = "paxos.v1.Learner/Result";
}
