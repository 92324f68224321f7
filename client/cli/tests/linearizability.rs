//! Whether clients of registers ever see anything that one register, touched by one client at a time, would not show.
#![expect(clippy::unwrap_used, reason = "in tests, helpers included")]

#[path = "linearizability/drawn.rs"]
mod drawn;
#[expect(unreachable_pub, reason = "a module of several test binaries")]
mod history;
#[path = "linearizability/planted.rs"]
mod planted;
