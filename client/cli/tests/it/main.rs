//! Tests of real processes: clusters of `paxos serve`, commands of users, and injected faults.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "in tests, helpers included, which print what they measured"
)]

mod at_leader;
mod backup;
mod cluster;
mod commands;
mod cuts;
mod damaged_rows;
mod disk;
mod elections;
mod environment;
mod failover;
mod forming;
mod habits;
mod harness;
mod help;
mod hostile;
mod installs;
mod learner_kills;
mod limits;
mod linearizability;
mod lost_commits;
mod members;
mod metrics;
mod names;
mod outcomes;
mod paused;
mod reads_in_turn;
mod reflection;
mod registers;
mod repair;
mod restore;
mod retries;
mod right_disk;
mod scaling;
mod slow;
mod state_limit;
mod tls;
mod traces;
mod unwritable;
