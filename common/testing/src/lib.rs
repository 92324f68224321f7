//! Shared by tests of several crates: the simulator, the model checker, the invariants, and the check of histories.
//!
//! | module | checks |
//! | --- | --- |
//! | [`simulator`] | whole clusters of the cores with every kind of fault, drawn from a seed |
//! | [`model`] | small clusters of the cores, every order of steps |
//! | [`bug`] | the bugs that simulator and model must find |
//! | `invariants` | properties checked by the simulator after every step |
//! | [`history`] | whether the answers to clients of real processes are linearizable |
//!
//! A crate for tests alone: no service depends on this crate.
#![expect(clippy::unwrap_used, reason = "in tests, helpers included")]
#![expect(
    missing_docs,
    reason = "fields and variants of a crate for tests, named for what they hold"
)]

pub mod bug;
mod disk;
pub mod history;
mod invariants;
pub mod model;
pub mod simulator;
