//! The size of a state in bytes, as counted against the limit of the registers.
//!
//! The size counts keys, values, and a fixed number of bytes for each register and each recorded outcome: about the
//! memory that a learner needs, and at least the bytes of a snapshot.

/// Counted for each register, beside key and value.
const REGISTER_BYTES: u64 = 256;

/// Counted for each recorded outcome of a session.
const OUTCOME_BYTES: u64 = 128;

/// The size of a register.
pub(super) fn register_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + REGISTER_BYTES
}

/// The size of this number of recorded outcomes.
pub(super) fn outcome_bytes(outcomes: usize) -> u64 {
    outcomes as u64 * OUTCOME_BYTES
}
