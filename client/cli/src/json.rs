//! JSON for programs: any message of the contract, and integers without rounding.
//!
//! Fields are named as in the proto, and no field with a value is left out. As in protobuf's JSON mapping, integers of
//! 64 bits are strings: many readers keep numbers as doubles, and doubles change integers above 2^53. Integers of 32
//! bits and fractions are numbers.

use std::sync::LazyLock;

use paxos_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value as Field,
};
use serde_json::{Map, Value};

use crate::output::{bytes_as_json, hex};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build compiled the embedded descriptors")
});

/// Bytes fields with identities or hashes: always hexadecimal, never text by accident.
const HEX_FIELDS: [&str; 6] = [
    "acceptor",
    "cluster_id",
    "digest",
    "sha256",
    "state",
    "value_feed",
];

/// An integer of 64 bits.
pub(crate) fn uint64(number: u64) -> Value {
    Value::from(number.to_string())
}

/// The message as a JSON object. `name` is the message's name in `paxos.v1`.
pub(crate) fn message(name: &str, message: &impl Message) -> Value {
    let descriptor = POOL
        .get_message_by_name(&format!("paxos.v1.{name}"))
        .expect("callers name messages of the contract");
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .expect("the bytes are the message's own encoding");
    object(&message)
}

fn object(message: &DynamicMessage) -> Value {
    let mut object = Map::new();
    for field in message.descriptor().fields() {
        let optional = matches!(field.kind(), Kind::Message(_)) || field.containing_oneof().is_some();
        // The absence of a message or alternative has a meaning. A zero number is a number.
        if optional && field.cardinality() != Cardinality::Repeated && !message.has_field(&field) {
            continue;
        }
        object.insert(field.name().to_owned(), value(&field, &message.get_field(&field)));
    }
    Value::Object(object)
}

fn value(field: &FieldDescriptor, value_: &Field) -> Value {
    match value_ {
        Field::Bool(flag) => Value::from(*flag),
        Field::I32(number) => Value::from(*number),
        Field::I64(number) => Value::from(number.to_string()),
        Field::U32(number) => Value::from(*number),
        Field::U64(number) => uint64(*number),
        Field::F32(number) => Value::from(*number),
        Field::F64(number) => Value::from(*number),
        Field::String(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) if HEX_FIELDS.contains(&field.name()) => Value::from(hex(bytes)),
        Field::Bytes(bytes) => bytes_as_json(bytes),
        Field::EnumNumber(number) => enum_name(field, *number),
        Field::Message(message) => object(message),
        Field::List(list) => list.iter().map(|item| value(field, item)).collect(),
        // The contract has no maps.
        Field::Map(_) => Value::Null,
    }
}

/// The name in the proto, or the number if only a newer contract has a name for the number.
fn enum_name(field: &FieldDescriptor, number: i32) -> Value {
    let kind = field.kind();
    let name = kind.as_enum().and_then(|names| names.get_value(number));
    name.map_or_else(|| Value::from(number), |name| Value::from(name.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::is_exact;
    use paxos_proto::v1::{
        AcceptorStatusResponse, Append, Command, LogRecord, Membership, Stamp, command::Operation,
    };
    use serde_json::json;

    #[test]
    fn log_record_keeps_the_names_of_the_proto_and_leaves_out_what_is_absent() {
        let append = |record: &'static [u8]| Command {
            session: None,
            operation: Some(Operation::Append(Append {
                record: record.into(),
            })),
        };
        let record = LogRecord {
            slot: 7,
            value: Some(paxos_proto::v1::Value {
                commands: vec![append(b"hello"), append(b"\xff")],
                configuration: None,
            }),
            traceparent: String::new(),
        };
        assert_eq!(
            message("LogRecord", &record),
            json!({
                "slot": "7",
                "value": { "commands": [
                    { "append": { "record": "hello" } },
                    { "append": { "record": { "base64": "/w==" } } },
                ] },
                "traceparent": "",
            })
        );
        assert_eq!(
            message(
                "LogRecord",
                &LogRecord {
                    value: Some(Default::default()),
                    ..Default::default()
                }
            ),
            json!({ "slot": "0", "value": { "commands": [] }, "traceparent": "" })
        );
    }

    #[test]
    fn integers_of_64_bits_are_strings_and_lose_no_digit() {
        let record = LogRecord {
            slot: (1 << 53) + 1,
            ..LogRecord::default()
        };
        assert_eq!(message("LogRecord", &record)["slot"], "9007199254740993");
        assert_eq!(uint64(u64::MAX), "18446744073709551615");
    }

    #[test]
    fn number_of_more_than_32_bits_is_found_wherever_it_is() {
        assert!(is_exact(
            &json!({ "a": [u32::MAX, i32::MIN, 0.5, 1e300, null, "9007199254740993"] })
        ));
        for wrong in [json!(1_u64 << 32), json!(i64::MIN)] {
            assert!(!is_exact(&json!({ "a": [{ "b": wrong }] })), "{wrong}");
        }
    }

    #[test]
    fn identities_are_hexadecimal_and_enums_have_names() {
        let status = AcceptorStatusResponse {
            stamp: Some(Stamp {
                acceptor: b"sixteen letters!".as_slice().into(),
                ..Stamp::default()
            }),
            membership: Membership::Formed.into(),
            ..AcceptorStatusResponse::default()
        };
        let json = message("AcceptorStatusResponse", &status);
        assert_eq!(json["stamp"]["acceptor"], "7369787465656e206c65747465727321");
        assert_eq!(
            (&json["membership"], &json["voted_to"]),
            (&json!("MEMBERSHIP_FORMED"), &json!("0"))
        );
    }
}
