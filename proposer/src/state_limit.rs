//! The limit on the size of the registers: commands that would let the registers grow are refused before the order.
//!
//! Learners hold all registers in memory. So a proposer refuses a `Put` once the learners report registers and recorded
//! outcomes of `--state-bytes-max`. Deletes, appends and new sessions go on, and so does a small `Put` on the condition of
//! a version: this `Put` can only replace a register. The reports are some slots old, so the registers may outgrow the
//! limit by the commands under way.
//!
//! Elections go on at the limit. A holder renews by a small `Put` on the condition of a version. A candidate without a
//! holder makes a new register: a small record of an election on the condition that the register is absent. A reserve above
//! the limit has room for such records, and for nothing else. The reserve is bounded, because any client can write such
//! records.

use paxos_common::wire::{election, status};
use paxos_proto::v1::{self as pb, condition::Condition};
use tonic::Status;

/// Most bytes of key and value of a `Put` that passes at the limit.
const SMALL_PUT_BYTES_MAX: usize = 4 * 1024;
/// The reserve for new elections, as a part of the limit: at 512 MiB, 32 MiB or some 100,000 elections.
const RESERVE_PART: u64 = 16;

/// Admits a command, or refuses a `Put` at the limit. `state_bytes`: the size of the registers and recorded outcomes.
pub(crate) fn admit(command: &pb::Command, state_bytes: u64, state_bytes_max: u64) -> Result<(), Status> {
    let Some(pb::command::Operation::Put(put)) = &command.operation else {
        return Ok(());
    };
    let is_small = put.key.len() + put.value.len() <= SMALL_PUT_BYTES_MAX;
    let passes_to = match put.condition.and_then(|condition| condition.condition) {
        Some(Condition::Version(_)) if is_small => u64::MAX,
        Some(Condition::Absent(true)) if is_small && election::is_record(&put.value) => {
            state_bytes_max.saturating_add(state_bytes_max / RESERVE_PART)
        }
        Some(Condition::Version(_) | Condition::Absent(_)) | None => state_bytes_max,
    };
    if state_bytes < passes_to {
        return Ok(());
    }
    Err(status::state_full(state_bytes, state_bytes_max))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use paxos_common::wire::status::{Fate, fate_of, retry_delay_of};
    use pb::command::Operation;
    use prost::Message as _;
    use tonic::Code;

    use super::*;

    fn put(value_bytes: usize, condition: Option<Condition>) -> pb::Command {
        let condition = condition.map(|condition| pb::Condition {
            condition: Some(condition),
        });
        put_value(vec![7; value_bytes], condition)
    }

    fn put_value(value: Vec<u8>, condition: Option<pb::Condition>) -> pb::Command {
        let put = pb::Put {
            key: Bytes::from_static(b"key"),
            value: value.into(),
            condition,
        };
        pb::Command {
            operation: Some(Operation::Put(put)),
            ..Default::default()
        }
    }

    /// The value that a candidate writes to win.
    fn record(candidate_bytes: usize) -> Vec<u8> {
        let holder = pb::Holder {
            candidate: vec![b'c'; candidate_bytes].into(),
            token: None,
            ttl_ms: 5_000,
        };
        holder.encode_to_vec()
    }

    fn version() -> Option<Condition> {
        Some(Condition::Version(pb::Version { slot: 1, offset: 0 }))
    }

    #[test]
    fn put_is_refused_at_the_limit_and_no_retry_is_offered() {
        let put = put(1, None);
        assert!(admit(&put, 99, 100).is_ok());
        let refused = admit(&put, 100, 100).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(
            (fate_of(&refused), retry_delay_of(&refused)),
            (Some(Fate::NotProposed), None)
        );
    }

    #[test]
    fn at_the_limit_only_puts_that_cannot_add_much_pass() {
        let admitted = |command: &pb::Command| admit(command, 100, 100).is_ok();
        let room = SMALL_PUT_BYTES_MAX - "key".len();
        assert!(admitted(&put(room, version())));
        assert!(!admitted(&put(room + 1, version())));
        assert!(!admitted(&put(1, Some(Condition::Absent(true)))));
        let delete = pb::Delete {
            key: Bytes::from_static(b"key"),
            condition: None,
        };
        let append = pb::Append {
            record: vec![7; 9_000].into(),
        };
        for operation in [
            Operation::Delete(delete),
            Operation::Append(append),
            Operation::OpenSession(pb::OpenSession::default()),
        ] {
            let command = pb::Command {
                operation: Some(operation),
                ..Default::default()
            };
            assert!(admitted(&command));
        }
    }

    #[test]
    fn election_without_a_holder_goes_on_within_a_bounded_reserve() {
        const LIMIT: u64 = 1_600;
        let absent = || {
            Some(pb::Condition {
                condition: Some(Condition::Absent(true)),
            })
        };
        let admitted = |command: &pb::Command, state_bytes| admit(command, state_bytes, LIMIT).is_ok();
        let win = put_value(record(20), absent());
        assert!(admitted(&win, LIMIT));
        assert!(admitted(&win, LIMIT + LIMIT / RESERVE_PART - 1));
        assert!(!admitted(&win, LIMIT + LIMIT / RESERVE_PART));
        assert!(admit(&win, u64::MAX - 1, u64::MAX).is_ok());
        // No other new register uses the reserve.
        assert!(!admitted(
            &put_value(record(SMALL_PUT_BYTES_MAX), absent()),
            LIMIT
        ));
        assert!(!admitted(&put_value(record(20), None), LIMIT));
        assert!(!admitted(&put_value(b"other".to_vec(), absent()), LIMIT));
    }
}
