//! Code shared by all roles of paxos.
//!
//! [`paxos`] holds the protocol itself: pure state machines that only decide. Around the protocol stand adapters for
//! several roles: the wire format, calls to peers, and, behind the features `sqlite` and `service`, opening files and
//! running as a process.

#[cfg(feature = "service")]
pub mod command_line;
#[cfg(feature = "service")]
pub mod config;
pub mod escape;
#[cfg(feature = "service")]
pub mod exit;
#[cfg(feature = "service")]
pub mod metrics;
pub mod paxos;
pub mod peer;
#[cfg(feature = "service")]
pub mod server;
#[cfg(feature = "service")]
pub mod shutdown;
#[cfg(feature = "service")]
pub mod signals;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod status;
#[cfg(feature = "service")]
pub mod stderr;
#[cfg(feature = "service")]
pub mod telemetry;
pub mod trace;
pub mod wire;
