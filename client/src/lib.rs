//! Client library of paxos: reads and writes registers, decides names, watches for changes, appends to the log, follows
//! the log, and reports the status of the cluster.
//!
//! ```no_run
//! use std::time::Duration;
//! use paxos_client::{Client, Condition, Consistency};
//!
//! # async fn example() -> anyhow::Result<()> {
//! let client = Client::connect(["http://127.0.0.1:7001", "http://127.0.0.1:7002", "http://127.0.0.1:7003"])?;
//! client.put("colour", "blue").await?; // exactly once; ClientConfig::timeout, 10 s by default
//! client.put_if("colour", "red", Condition::Absent).await?; // changes nothing: there is a value
//! let colour = client.get("colour").await?.expect("it was written above"); // linearizable
//! assert_eq!(colour.value, "blue");
//! client.get_with("colour", Consistency::Local).await?; // faster, and possibly an old state
//! client.with_timeout(Duration::from_secs(1)).append("hello").await?; // a cheap clone with another timeout
//! # Ok(())
//! # }
//! ```
//!
//! A client needs only the addresses of acceptors, and finds the proposers and learners through the acceptors. Writes
//! go to any proposer. A proposer acknowledges a command once the command, and everything ordered before it, are chosen
//! and on the disks of a quorum. The library then asks a learner for the outcome, so a write needs a proposer and a
//! learner. Reads go to learners. Every call ends within [`ClientConfig::timeout`], 10 seconds by default.
//!
//! | to | use |
//! |---|---|
//! | write and read registers | [`put`](Client::put), [`put_if`](Client::put_if), [`delete`](Client::delete), [`get`](Client::get), [`get_prefix`](Client::get_prefix) |
//! | have one value win for a name | [`decide`](Client::decide) |
//! | order records | [`append`](Client::append), [`log`](Client::log) |
//! | see changes of registers | [`watch`](Client::watch), [`watch_with`](Client::watch_with) |
//! | lead, or hold a lock with a fencing token | [`Election`], [`Tenure`] |
//! | look at the cluster | [`cluster_status`](Client::cluster_status) |
//!
//! The directory `client/examples` has short programs: decide, counter, lock, election, log, watch, errors,
//! status, and secure for TLS.
//!
//! # TLS
//! With [`ClientConfig::tls`] all connections use mutual TLS 1.3. The files are read again while the client lives, so a
//! renewed certificate needs no restart. A refusal of one of the sides is an error with the code UNAVAILABLE, and
//! nothing was proposed.
//!
//! # When a call fails
//! Writes of registers, and [`append`](Client::append), run in a session. Within the client's timeout, the library
//! repeats such a command until the command is known to be ordered. The command takes effect once. If the timeout
//! passes, [`WriteError`] says what is known.
//!
//! The first write of a client takes two places in the log: the opening of a session, and the write. A single place
//! would not do. A retry is recognised by its session and by its number in the session, and the name of the session is
//! the place of the opening in the log. A first write that opened its own session would need a name made up by the
//! client. A late copy of such a write, chosen after the session has expired, would find no session of that name, open
//! the session again, and take effect a second time. In a session named by the log, a late copy is recognised: the
//! session is over, and the copy has no effect.
//!
//! [`append_at_most_once`](Client::append_at_most_once) needs no session, and is repeated only while the library is
//! certain that nothing was ordered. Without this certainty, the call ends in [`ProposeError::OutcomeUnknown`] and
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
//! `opentelemetry` crate before [`Client::connect`]: then one trace leads from the application to the disks and back.
//!
//! # Elections
//! [`Election`] lets one of many candidates lead, or hold a lock, at a time, with a fencing token.

mod address;
mod backup;
mod client;
mod cluster;
mod code;
mod config;
mod courier;
mod election;
mod error;
mod follow;
mod give_up;
mod leader;
mod learners;
mod limits;
mod log;
mod members;
mod outcomes;
mod propose;
mod read;
mod record;
mod registers;
mod session;
mod stall;
mod standing;
mod status;
mod stream;
mod trace;
mod transport;
mod trimmed;
mod unary;
mod updates;
mod watch;
mod write;

pub use backup::Backup;
pub use client::Client;
pub use cluster::{AcceptorStatus, ClusterStatus, LearnerStatus, ProcessStatus, ProposerStatus};
pub use code::ErrorCode;
pub use config::{ClientConfig, DEV_ACCEPTORS};
pub use election::{Election, ElectionError, Holder, Tenure};
pub use error::{Cause, ConfigError, ProposeError, ReadError, SubscribeError, WriteError};
pub use log::LogPage;
pub use paxos_common::{
    paxos::slot::{Slot, Version},
    peer::Address,
    tls::{DOMAIN_DEFAULT, Domain, TlsFiles, TlsSettings},
    wire::{
        command::{KEY_BYTES_MAX, VALUE_BYTES_MAX},
        status::KeptSlots,
    },
};
pub use record::{ChangeOfMembers, ChangedMember, Command, CommandId, LogRecord, Operation};
pub use registers::{
    Condition, Consistency, Current, Decision, PageRequest, Register, RegisterPage, Written,
};
pub use updates::Updates;
pub use watch::{Change, ChangePage, Target};

/// What the command `paxos` needs beyond the API: messages as on the wire. May change at any time.
#[doc(hidden)]
pub mod raw {
    pub use crate::{
        members::{ChangeError, ChangeStream},
        status::{AcceptorReport, ClusterReport, RoleReport},
    };
}
