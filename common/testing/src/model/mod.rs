//! A small cluster of the real cores, checked exhaustively.
//!
//! `stateright` has an actor model of its own, in which a process saves and sends in one step. Here the commit is a
//! step apart, so that an answer that leaves too early shows.

pub(crate) mod acceptor;
pub mod bugs;
pub mod climb;
pub(crate) mod cluster;
pub(crate) mod disk;
pub(crate) mod forming;
pub mod ladder;
pub(crate) mod learner;
pub(crate) mod ledger;
pub(crate) mod memo;
pub(crate) mod network;
pub(crate) mod outputs;
pub(crate) mod prefix;
pub(crate) mod proposer;
pub(crate) mod rollback;
pub(crate) mod scenario;
pub(crate) mod shared;
pub(crate) mod sights;
pub(crate) mod step;
pub(crate) mod tamper;
