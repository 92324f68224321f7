//! Generated from `paxos/v1/*.proto`: the messages, clients and servers of the package `paxos.v1`.
//!
//! The `.proto` files are the reference, for this crate and for clients in other languages. Read `types.proto` first:
//! the head of that file is the message-flow chart.

pub mod codec;

/// Package `paxos.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code; its documentation is in the proto files"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/paxos.v1.rs"));
}

/// Every file of `paxos.v1` with its imports, encoded for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/paxos.v1.bin"));
