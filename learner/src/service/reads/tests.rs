//! Refused reads, and the answers to valid reads.

use paxos_common::paxos::{
    command::{Command, Condition, Operation},
    slot::Slot,
};
use tonic::Code;

use super::*;

fn machine(registers: &[(&str, usize)]) -> Machine {
    let put = |(key, bytes): &(&str, usize)| Command {
        session: None,
        operation: Operation::Put {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: vec![b'x'; *bytes].into(),
            condition: Condition::Always,
        },
    };
    let commands: Vec<_> = registers.iter().map(put).collect();
    let mut machine = Machine::default();
    machine.apply(Slot::ZERO, &commands);
    machine
}

fn prefix(prefix: &str, limit: u32, after: &[u8]) -> pb::ReadRequest {
    pb::ReadRequest {
        target: Some(read_request::Target::Prefix(Bytes::copy_from_slice(
            prefix.as_bytes(),
        ))),
        limit,
        after: Bytes::copy_from_slice(after),
        ..pb::ReadRequest::default()
    }
}

fn key(key: Vec<u8>) -> pb::ReadRequest {
    pb::ReadRequest {
        target: Some(read_request::Target::Key(key.into())),
        ..pb::ReadRequest::default()
    }
}

#[test]
fn unsound_reads_are_refused_and_the_limit_is_named() {
    let with_limit = pb::ReadRequest {
        limit: 1,
        ..key(b"k".to_vec())
    };
    let far = pb::Version {
        slot: u64::MAX,
        offset: 0,
    };
    let beyond = pb::ReadRequest {
        consistency: Some(read_request::Consistency::AtLeast(far)),
        ..key(b"k".to_vec())
    };
    for (request, named) in [
        (pb::ReadRequest::default(), "give a key or a prefix"),
        (key(Vec::new()), "1 to 4096 bytes"),
        (key(vec![0; 4_097]), "4096"),
        (with_limit, "limit"),
        (prefix("k", 1_001, b""), "1000"),
        (prefix("k", 1, b"a"), "next_after"),
        (prefix(&"k".repeat(4_097), 1, b""), "4096"),
        (beyond, "slot"),
    ] {
        let error = ReadQuery::new(request).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains(named), "{error}");
    }
}

/// The keys of each page, in page order.
fn pages(machine: &Machine, of: &str, limit: u32) -> Vec<Vec<String>> {
    let mut after = Bytes::new();
    let mut pages = Vec::new();
    loop {
        let answer = ReadQuery::new(prefix(of, limit, &after)).unwrap().answer(machine);
        let text = |register: &pb::Register| String::from_utf8(register.key.to_vec()).unwrap();
        pages.push(answer.registers.iter().map(text).collect());
        after = answer.next_after;
        if after.is_empty() {
            return pages;
        }
    }
}

#[test]
fn pages_follow_each_other_without_loss_or_repeats() {
    let machine = machine(&[("a", 1), ("b1", 1), ("b2", 1), ("b3", 1), ("c", 1)]);
    assert_eq!(pages(&machine, "b", 2), [vec!["b1", "b2"], vec!["b3"]]);
    // No page is empty, also after a full last page.
    assert_eq!(pages(&machine, "b", 3), [["b1", "b2", "b3"]]);
    assert_eq!(pages(&machine, "", 0), [["a", "b1", "b2", "b3", "c"]]);
    assert_eq!(pages(&machine, "d", 0), [Vec::<String>::new()]);
}

#[test]
fn answers_fit_a_message_however_large_the_values_are() {
    const MEBIBYTE: usize = 1024 * 1024;
    let machine = machine(&[
        ("a", MEBIBYTE),
        ("b", MEBIBYTE - 3),
        ("c", MEBIBYTE),
        ("d", MEBIBYTE),
        ("e", 5),
    ]);
    assert_eq!(pages(&machine, "", 0), [vec!["a", "b", "c"], vec!["d", "e"]]);
}
