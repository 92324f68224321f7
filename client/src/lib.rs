//! Client library of paxos: write and read registers, decide, watch; have values ordered, follow the log, ask how the
//! cluster is.
//!
//! ```no_run
//! use std::time::Duration;
//! use paxos_client::{Client, ClientConfig, Condition, Consistency, Slot};
//!
//! # async fn example() -> anyhow::Result<()> {
//! let client = Client::new(ClientConfig {
//!     acceptors: vec!["http://127.0.0.1:7001".parse()?, "http://127.0.0.1:7002".parse()?],
//!     ..ClientConfig::default()
//! })?;
//! let timeout = Duration::from_secs(5);
//! let decision = client.decide("leader-2026", "alice", timeout).await?;
//! println!("{:?} wins, ours: {}", decision.winner, decision.ours);
//! client.put("colour", "blue", Condition::Always, timeout).await?;
//! let colour = client.get("colour", Consistency::Linearizable, timeout).await?;
//! println!("{colour:?}");
//! let version = client.append("hello", timeout).await?;
//! println!("ordered at {version}");
//! let mut log = client.subscribe(Slot::ZERO, timeout);
//! while let Some(news) = log.next().await {
//!     for record in news?.records {
//!         println!("slot {}: {} commands", record.slot, record.value.unwrap_or_default().commands.len());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The acceptors' addresses are all that a client needs: proposers and learners are found through them. Writes go to
//! any proposer and are answered once they are chosen, on the disks of a quorum, and everything ordered before them
//! is too. Knowledge comes from learners: what a command did, what a register holds.
//!
//! # When a call fails
//! Writes of registers, and [`append_once`](Client::append_once), run in a session: the library repeats them, within
//! the caller's deadline, until they are known to be ordered, and they take effect once. [`WriteError`] tells what is
//! known when the deadline passes.
//!
//! The first write of a client takes two places in the log: the opening of its session, and the write. One place would not
//! do. A command is known as a retry by its session and its number in that session, and the session's name is the place of
//! its opening in the log. A first write that opened its own session would need a name that the client makes up. A late
//! copy of that write, chosen after the session has expired, would find no such session, open it again, and take effect a
//! second time. A copy of a write in a session that the log has named is recognised instead: its session is over, and the
//! copy has no effect.
//!
//! [`append`](Client::append) and [`propose`](Client::propose) need no session, and are repeated only as long as it is
//! certain that nothing was ordered. When it is not, the call ends in [`ProposeError::OutcomeUnknown`] and nothing is
//! sent again: a second attempt could take effect twice.
//!
//! A proposer that falls silent is probed within a quarter of a second. When the probe is not answered either, and the
//! acceptors name another leader, the library goes on there; commands without a session that were in flight end in
//! `OutcomeUnknown` at once. A proposer that is slow answers the probe and is waited for.
//!
//! Reads are spread over the learners, and go on with another when one does not answer. They contact no proposer.
//!
//! # Traces
//! Every call is a span, and tells the cluster so: set a global tracer provider of the `opentelemetry` crate before
//! [`Client::new`], and one trace leads from the application to the disks and back.
//!
//! # Elections
//! [`Election`] has one of many candidates hold at a time, with a fencing token.

mod address;
mod client;
mod courier;
mod election;
mod error;
mod follow;
mod learners;
mod limits;
mod registers;
mod session;
mod stall;
mod status;
mod stream;
mod subscription;
mod trace;
mod transport;
mod unary;
mod watch;
mod write;

pub use client::{Client, ClientConfig};
pub use election::{Election, ElectionError, Holding, Lost, Mandate, Observation, Tenure, Token};
pub use error::{Cause, ConfigError, ProposeError, ReadError, SubscribeError, WriteError};
pub use limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use paxos_common::{
    paxos::slot::{Slot, Version},
    peer::Address,
};
/// The messages of the contract, as they are on the wire.
pub use paxos_proto::v1 as proto;
pub use registers::{Condition, Consistency, Current, Decision, Page, Part, Register, Written};
pub use status::{AcceptorReport, ClusterStatus, RoleReport};
pub use subscription::{News, Subscription};
pub use watch::{Change, Changes, Target, Watch};
