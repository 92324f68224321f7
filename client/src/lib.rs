//! Client library of paxos: have values ordered, follow the log, ask how the cluster is.
//!
//! ```no_run
//! use std::time::Duration;
//! use paxos_client::{Client, ClientConfig, Slot};
//!
//! # async fn example() -> anyhow::Result<()> {
//! let client = Client::new(ClientConfig {
//!     acceptors: vec!["http://127.0.0.1:7001".parse()?, "http://127.0.0.1:7002".parse()?],
//!     ..ClientConfig::default()
//! })?;
//! let version = client.append("hello", Duration::from_secs(5)).await?;
//! println!("ordered at {version}");
//! let mut log = client.subscribe(Slot::ZERO, Duration::from_secs(5));
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
//! is too. Knowledge comes from learners.
//!
//! # When a call fails
//! [`ProposeError`] tells what became of the command. Calls are repeated by themselves, within the caller's deadline,
//! as long as it is certain that nothing was ordered. When it is not, the call ends in
//! [`ProposeError::OutcomeUnknown`] and nothing is sent again: a second attempt could take effect twice.

mod address;
mod client;
mod courier;
mod error;
mod limits;
mod status;
mod stream;
mod subscription;
mod unary;

pub use client::{Client, ClientConfig};
pub use error::{Cause, ConfigError, ProposeError, SubscribeError};
pub use limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
pub use paxos_common::{
    paxos::slot::{Slot, Version},
    peer::Address,
};
/// The messages of the contract, as they are on the wire.
pub use paxos_proto::v1 as proto;
pub use status::{AcceptorReport, ClusterStatus};
pub use subscription::{News, Subscription};
