//! Code shared by all roles of paxos.
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`paxos`] | the protocol itself: pure state machines that only decide |
//! | [`wire`] | conversions between messages and the protocol's types; errors of calls |
//! | [`peer`] | calls to other processes |
//! | `service` | what runs a process: flags, exit codes, the gRPC server, metrics, telemetry (feature `service`) |
//! | `sqlite` | opening, locking and checking of SQLite files (feature `sqlite`) |
//! | [`snapshot`] | snapshot files: the whole state in one file |
//! | [`tls`] | mutual TLS: the identity of this process, and of its callers |
//! | [`trace`] | spans across processes |
//! | [`durable`] | names of files that survive power loss |
//! | [`escape`] | text from peers, made safe for a terminal |

pub mod durable;
pub mod escape;
pub mod paxos;
pub mod peer;
#[cfg(feature = "service")]
pub mod service;
pub mod snapshot;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod tls;
pub mod trace;
pub mod wire;
