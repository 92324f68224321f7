//! Shared by the commands for registers: versions as flags, values from standard input, results and failures as text.

use std::ffi::OsString;

use bytes::Bytes;
use paxos_client::{
    Change, Current, ReadError, Register, SubscribeError, VALUE_BYTES_MAX, Version, WriteError, Written,
};
use paxos_common::service::failure::Failure;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::{
    connection::no,
    json::uint64,
    output::{OutputArgs, bytes_as_json, bytes_as_text, judged},
};

/// The bytes of an argument.
pub(crate) fn bytes(argument: OsString) -> Bytes {
    use std::os::unix::ffi::OsStringExt as _;
    argument.into_vec().into()
}

/// The bytes of an argument; for `-`, the bytes of standard input up to its end.
pub(crate) async fn value(argument: OsString) -> Result<Bytes, Failure> {
    if argument == "-" {
        read_stdin().await
    } else {
        Ok(bytes(argument))
    }
}

/// Standard input up to the end, or up to one byte past the limit: enough to detect an oversized value.
async fn read_stdin() -> Result<Bytes, Failure> {
    let mut value = Vec::new();
    let limit = u64::try_from(VALUE_BYTES_MAX + 1).expect("1 MiB fits");
    tokio::io::stdin()
        .take(limit)
        .read_to_end(&mut value)
        .await
        .map_err(|error| Failure::usage(format!("read standard input: {error}")))?;
    Ok(value.into())
}

/// Prints the result of a write: the version. A failed condition is the answer no.
pub(crate) async fn print_written(output: OutputArgs, key: &Bytes, written: &Written) -> Result<(), Failure> {
    let text = || match written {
        Written::Applied { version } => format!("{version}\n"),
        Written::ConditionFailed { .. } => String::new(),
        _ => String::new(),
    };
    let printed = output.print(text, || written_as_json(key, written)).await;
    let outcome = match written {
        Written::Applied { .. } => Ok(()),
        Written::ConditionFailed { current, .. } => Err(no(format!(
            "the condition does not hold, and nothing was changed: {}",
            current_as_text(current)
        ))),
        unknown => Err(unknown_outcome(unknown)),
    };
    judged(printed, outcome)
}

/// The library is newer than this program.
fn unknown_outcome(written: &Written) -> Failure {
    Failure::internal(anyhow::anyhow!("the outcome is not known here: {written:?}"))
}

fn current_as_text(current: &Current) -> String {
    match current {
        Current::Absent => "the key holds nothing".to_owned(),
        Current::Register(Register { value, version, .. }) => {
            format!("the key holds {} since version {version}", bytes_as_text(value))
        }
        Current::ValueGone(version) => {
            format!("the key was written by version {version}, and this value is not kept any more")
        }
        unknown => format!("{unknown:?}"),
    }
}

/// As `ResultResponse` in the proto.
fn written_as_json(key: &Bytes, written: &Written) -> Value {
    match written {
        Written::Applied { version } => json!({ "version": version_as_json(*version), "applied": {} }),
        Written::ConditionFailed { version, current } => {
            let failed = match current {
                Current::Absent => json!({ "value_gone": false }),
                Current::Register(register) => {
                    json!({ "current": register_as_json(register), "value_gone": false })
                }
                Current::ValueGone(wrote) => json!({
                    "current": { "key": bytes_as_json(key), "version": version_as_json(*wrote) },
                    "value_gone": true,
                }),
                _ => json!({}),
            };
            json!({ "version": version_as_json(*version), "condition_failed": failed })
        }
        unknown => json!({ "version": version_as_json(unknown.version()) }),
    }
}

pub(crate) fn register_as_json(register: &Register) -> Value {
    json!({
        "key": bytes_as_json(&register.key),
        "value": bytes_as_json(&register.value),
        "version": version_as_json(register.version),
    })
}

pub(crate) fn change_as_json(change: &Change) -> Value {
    let mut json = json!({ "key": bytes_as_json(&change.key), "version": version_as_json(change.version) });
    match &change.value {
        Some(value) => json["value"] = bytes_as_json(value),
        None => json["deleted"] = json!({}),
    }
    json
}

pub(crate) fn version_as_json(version: Version) -> Value {
    json!({ "slot": uint64(version.slot.get()), "offset": version.offset })
}

/// Adds advice to the error of a write without an outcome.
pub(crate) fn write_failure(error: WriteError) -> Failure {
    match error {
        WriteError::Invalid(text) => Failure::usage(text),
        WriteError::Refused(_) => Failure::unavailable(error),
        WriteError::NotProposed(_) => Failure::unavailable(anyhow::anyhow!(
            "{error}; a retry is safe; `paxos status` shows what is wrong"
        )),
        WriteError::Expired => Failure::unavailable(error),
        WriteError::OutcomeUnknown(_) | WriteError::OutcomeNotRead { .. } => Failure::unavailable(
            anyhow::anyhow!("{error}; read the key with `paxos get` before trying again"),
        ),
        _ => Failure::unavailable(error),
    }
}

/// Adds advice to the error of an unanswered read.
pub(crate) fn read_failure(error: ReadError) -> Failure {
    match error {
        ReadError::Invalid(text) => Failure::usage(text),
        ReadError::OutOfRange(cause) => no(format!("there is no such version: {cause}")),
        ReadError::Trimmed { cause, .. } => no(cause.to_string()),
        ReadError::Refused(_) | ReadError::Expired(_) => Failure::unavailable(error),
        ReadError::Unavailable(_) => {
            Failure::unavailable(anyhow::anyhow!("{error}; `paxos status` shows what is wrong"))
        }
        _ => Failure::unavailable(error),
    }
}

/// Adds advice to the error of an ended watch.
pub(crate) fn watch_failure(error: SubscribeError) -> Failure {
    match error {
        SubscribeError::Invalid(text) => Failure::usage(text),
        SubscribeError::OutOfRange(cause) => {
            no(format!("changes from that version on cannot be shown: {cause}"))
        }
        SubscribeError::Trimmed { cause, .. } => no(format!("changes are not kept: {cause}")),
        SubscribeError::Unavailable(_) => {
            Failure::unavailable(anyhow::anyhow!("{error}; `paxos status` shows what is wrong"))
        }
        SubscribeError::Refused(_) | _ => Failure::unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos_client::Slot;

    fn version(slot: u64) -> Version {
        Version {
            slot: Slot::new(slot).unwrap(),
            offset: 2,
        }
    }

    #[test]
    fn outcomes_have_the_names_of_the_proto() {
        let key = Bytes::from("key");
        let applied = Written::Applied { version: version(4) };
        assert_eq!(
            written_as_json(&key, &applied),
            json!({ "version": { "slot": "4", "offset": 2 }, "applied": {} })
        );
        let failed = |current| {
            written_as_json(
                &key,
                &Written::ConditionFailed {
                    version: version(4),
                    current,
                },
            )["condition_failed"]
                .clone()
        };
        assert_eq!(failed(Current::Absent), json!({ "value_gone": false }));
        assert_eq!(
            failed(Current::ValueGone(version(3))),
            json!({ "current": { "key": "key", "version": { "slot": "3", "offset": 2 } }, "value_gone": true })
        );
        let register = Register {
            key: key.clone(),
            value: Bytes::from_static(&[0xff]),
            version: version(3),
        };
        assert_eq!(
            failed(Current::Register(register)),
            json!({
                "current": { "key": "key", "value": { "base64": "/w==" }, "version": { "slot": "3", "offset": 2 } },
                "value_gone": false,
            })
        );
    }

    #[test]
    fn trimmed_slots_are_the_answer_no_with_the_kept_range() {
        use paxos_client::{Cause, ErrorCode, KeptSlots};
        use paxos_common::{service::failure::Exit, wire::status};

        let [from, to] = [51_200, 98_304].map(|slot| Slot::new(slot).unwrap());
        let kept = KeptSlots { from, to };
        let text = status::trimmed(kept).message().to_owned();
        let cause = || Cause::new(ErrorCode::OutOfRange, text.clone());
        let trimmed = || SubscribeError::Trimmed { kept, cause: cause() };
        for failure in [
            watch_failure(trimmed()),
            crate::connection::subscribe_failure(trimmed()),
            read_failure(ReadError::Trimmed { kept, cause: cause() }),
        ] {
            assert_eq!(failure.code, Exit::No);
            assert!(failure.to_string().ends_with(&text), "{failure}");
        }
    }

    #[test]
    fn deletion_differs_from_an_empty_value_in_json() {
        let change = |value| {
            change_as_json(&Change {
                key: Bytes::from("key"),
                version: version(1),
                value,
            })
        };
        assert_eq!(change(Some(Bytes::new()))["value"], "");
        assert_eq!(change(None)["deleted"], json!({}));
        assert!(change(None).get("value").is_none());
    }
}
