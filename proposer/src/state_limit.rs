//! The limit on the size of the registers: commands that would let the registers grow are refused before the order.
//!
//! Learners hold all registers in memory. So a proposer refuses a `Put` once the learners report registers and recorded
//! outcomes of `--state-bytes-max`. Deletes, appends and new sessions go on, and so does a small `Put` on the condition of
//! a version: this `Put` can only replace a register, as elections do. The reports are some slots old, so the registers may
//! outgrow the limit by the commands under way.

use paxos_common::wire::status;
use paxos_proto::v1 as pb;
use tonic::Status;

/// Most bytes of key and value of a `Put` on the condition of a version that passes at the limit.
const REPLACEMENT_BYTES_MAX: usize = 4 * 1024;

/// Admits a command, or refuses a `Put` at the limit. `state_bytes`: the size of the registers and recorded outcomes.
pub(crate) fn admit(command: &pb::Command, state_bytes: u64, state_bytes_max: u64) -> Result<(), Status> {
    let Some(pb::command::Operation::Put(put)) = &command.operation else {
        return Ok(());
    };
    let replaces = matches!(
        put.condition.and_then(|condition| condition.condition),
        Some(pb::condition::Condition::Version(_))
    );
    if state_bytes < state_bytes_max || replaces && put.key.len() + put.value.len() <= REPLACEMENT_BYTES_MAX {
        return Ok(());
    }
    Err(status::state_full(state_bytes, state_bytes_max))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use paxos_common::wire::status::{Fate, fate_of, retry_delay_of};
    use pb::{command::Operation, condition::Condition};
    use tonic::Code;

    use super::*;

    fn put(value_bytes: usize, condition: Option<Condition>) -> pb::Command {
        let condition = condition.map(|condition| pb::Condition {
            condition: Some(condition),
        });
        let put = pb::Put {
            key: Bytes::from_static(b"key"),
            value: vec![7; value_bytes].into(),
            condition,
        };
        pb::Command {
            operation: Some(Operation::Put(put)),
            ..Default::default()
        }
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
        let room = REPLACEMENT_BYTES_MAX - "key".len();
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
}
