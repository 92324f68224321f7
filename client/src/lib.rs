//! Client library of paxos: reads and writes registers, decides names, watches for changes, appends to the log, follows
//! the log, and reports the status of the cluster.
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
//! A client needs only the addresses of acceptors, and finds the proposers and learners through the acceptors. Writes
//! go to any proposer. A write is answered once the command is chosen, on the disks of a quorum, and everything ordered
//! before it is chosen too. Reads go to learners: a learner knows the outcome of a command and the content of a
//! register.
//!
//! # When a call fails
//! Writes of registers, and [`append_once`](Client::append_once), run in a session. Within the caller's deadline, the
//! library repeats such a command until the command is known to be ordered. The command takes effect once. If the
//! deadline passes, [`WriteError`] says what is known.
//!
//! The first write of a client takes two places in the log: the opening of a session, and the write. A single place
//! would not do. A retry is recognised by its session and by its number in the session, and the name of the session is
//! the place of the opening in the log. A first write that opened its own session would need a name made up by the
//! client. A late copy of such a write, chosen after the session has expired, would find no session of that name, open
//! the session again, and take effect a second time. In a session named by the log, a late copy is recognised: the
//! session is over, and the copy has no effect.
//!
//! [`append`](Client::append) and [`propose`](Client::propose) need no session, and are repeated only while the library
//! is certain that nothing was ordered. Without this certainty, the call ends in [`ProposeError::OutcomeUnknown`] and
//! nothing is sent again: a second attempt could take effect twice.
//!
//! A silent proposer is probed within a quarter of a second. If the probe is not answered either, and the acceptors
//! name another leader, the library continues with the new leader. Commands in flight without a session then end in
//! `OutcomeUnknown` at once. A slow proposer answers the probe, and the library waits for the answers.
//!
//! Reads are spread over the learners. When a learner does not answer, the next learner is asked. Reads contact no
//! proposer.
//!
//! # Traces
//! Every call is a span, and the cluster receives the span's context. Set a global tracer provider of the
//! `opentelemetry` crate before [`Client::new`]: then one trace leads from the application to the disks and back.
//!
//! # Elections
//! [`Election`] lets one of many candidates hold at a time, with a fencing token.

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
/// The messages of the contract, as on the wire.
pub use paxos_proto::v1 as proto;
pub use registers::{Condition, Consistency, Current, Decision, Page, Part, Register, Written};
pub use status::{AcceptorReport, ClusterStatus, RoleReport};
pub use subscription::{News, Subscription};
pub use watch::{Change, Changes, Target, Watch};
