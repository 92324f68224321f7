//! A small cluster of the real cores, checked exhaustively.
//!
//! In the actor model of `stateright`, a process saves and sends in a single step. In this model the commit is a
//! separate step, so that a premature answer is visible.

pub(crate) mod acceptor;
pub(crate) mod blank;
pub mod bugs;
pub(crate) mod changes;
pub mod climb;
pub(crate) mod cluster;
pub(crate) mod decide;
pub(crate) mod disk;
pub(crate) mod forming;
pub mod ladder;
pub(crate) mod learner;
pub(crate) mod ledger;
pub(crate) mod marks;
pub(crate) mod memo;
pub(crate) mod network;
pub(crate) mod outputs;
pub(crate) mod prefix;
pub(crate) mod proposer;
pub(crate) mod restoring;
pub(crate) mod rollback;
pub(crate) mod scenario;
pub(crate) mod shared;
pub(crate) mod sights;
pub(crate) mod step;
pub(crate) mod tamper;
pub(crate) mod trims;
