//! Whether clients of registers ever see anything that one register, touched by one client at a time, would not show.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "in tests, helpers included, which tell what they measured"
)]

#[path = "linearizability/drawn.rs"]
mod drawn;
#[expect(unreachable_pub, reason = "a module of every test binary")]
mod harness;
#[expect(unreachable_pub, reason = "a module of several test binaries")]
mod history;
#[path = "linearizability/live.rs"]
mod live;
#[path = "linearizability/planted.rs"]
mod planted;
