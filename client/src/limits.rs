//! The contract's limits, checked before anything is sent. The limits and their texts stand in
//! [`paxos_common::wire::command`].

use paxos_common::wire::command::{self, InvalidCommand};
use paxos_proto::v1::Command;

/// A broken limit; the text names the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LimitExceeded(pub(crate) String);

impl From<InvalidCommand> for LimitExceeded {
    fn from(invalid: InvalidCommand) -> Self {
        Self(invalid.to_string())
    }
}

/// Refuses a command refused by every proposer.
///
/// # Errors
/// The broken limit.
pub(crate) fn check(command: &Command) -> Result<(), LimitExceeded> {
    command::read(command)?;
    Ok(())
}

/// Refuses a key impossible for a register.
///
/// # Errors
/// The broken limit.
pub(crate) fn check_key(key: &[u8]) -> Result<(), LimitExceeded> {
    Ok(command::check_key(key)?)
}

/// Refuses a prefix too long for any key; the empty prefix is the prefix of all keys.
///
/// # Errors
/// The broken limit.
pub(crate) fn check_prefix(prefix: &[u8]) -> Result<(), LimitExceeded> {
    Ok(command::check_prefix(prefix)?)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use paxos_common::wire::command::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
    use paxos_proto::v1::{Append, OpenSession, Put, command::Operation};

    use super::*;

    fn verdict(operation: Operation) -> Result<(), LimitExceeded> {
        check(&Command {
            session: None,
            operation: Some(operation),
        })
    }

    #[test]
    fn values_at_the_limit_pass_and_beyond_it_the_text_names_it() {
        let append = |bytes: usize| {
            Operation::Append(Append {
                record: Bytes::from(vec![0; bytes]),
            })
        };
        assert_eq!(verdict(append(VALUE_BYTES_MAX)), Ok(()));
        assert_eq!(verdict(append(1)), Ok(()));
        for bytes in [0, VALUE_BYTES_MAX + 1] {
            let error = verdict(append(bytes)).unwrap_err().0;
            assert!(error.contains("1048576"), "{error}");
        }
    }

    #[test]
    fn keys_have_limits_of_their_own_and_an_empty_put_is_allowed() {
        let put = |key: usize| {
            Operation::Put(Put {
                key: Bytes::from(vec![0; key]),
                value: Bytes::new(),
                condition: None,
            })
        };
        assert_eq!(verdict(put(KEY_BYTES_MAX)), Ok(()));
        assert_eq!(verdict(Operation::OpenSession(OpenSession::default())), Ok(()));
        for bytes in [0, KEY_BYTES_MAX + 1] {
            let error = verdict(put(bytes)).unwrap_err().0;
            assert!(error.contains("4096"), "{error}");
        }
    }
}
