//! The contract's limits, checked before anything is sent.

use paxos_common::wire::command::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use paxos_proto::v1::{Command, Delete, Put, command::Operation};

/// A broken limit; the text names the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LimitExceeded(pub(crate) String);

/// Refuses a command refused by every proposer.
///
/// # Errors
/// The broken limit.
pub(crate) fn check(command: &Command) -> Result<(), LimitExceeded> {
    let invalid = |text: String| Err(LimitExceeded(text));
    let (key, value) = match &command.operation {
        None => return invalid("the command is empty: give an operation".to_owned()),
        Some(Operation::OpenSession(_)) => return Ok(()),
        Some(Operation::Append(append)) if append.record.is_empty() => {
            return invalid(format!(
                "the value is empty: 1 to {VALUE_BYTES_MAX} bytes are allowed"
            ));
        }
        Some(Operation::Append(append)) => (None, append.record.len()),
        Some(Operation::Put(Put { key, value, .. })) => (Some(key), value.len()),
        Some(Operation::Delete(Delete { key, .. })) => (Some(key), 0),
    };
    if let Some(key) = key {
        check_key(key)?;
    }
    if value > VALUE_BYTES_MAX {
        return invalid(format!(
            "the value has {value} bytes: at most {VALUE_BYTES_MAX} (1 MiB) are allowed"
        ));
    }
    Ok(())
}

/// Refuses a key impossible for a register.
///
/// # Errors
/// The broken limit.
pub(crate) fn check_key(key: &[u8]) -> Result<(), LimitExceeded> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(LimitExceeded(format!(
            "the key has {} bytes: it must have 1 to {KEY_BYTES_MAX}",
            key.len()
        )));
    }
    Ok(())
}

/// Refuses a prefix too long for any key; the empty prefix is the prefix of all keys.
///
/// # Errors
/// The broken limit.
pub(crate) fn check_prefix(prefix: &[u8]) -> Result<(), LimitExceeded> {
    if prefix.len() > KEY_BYTES_MAX {
        return Err(LimitExceeded(format!(
            "the prefix has {} bytes: it must have at most {KEY_BYTES_MAX}",
            prefix.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use paxos_proto::v1::{Append, OpenSession};

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
