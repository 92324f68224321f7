//! The state digest: kept up to date, equal for equal states, and different for different states.

use super::*;
use crate::paxos::machine::digest::{DigestRecord, StateDigest};

/// The records of the whole state.
fn records(machine: &Machine) -> Vec<DigestRecord<'_>> {
    let registers = machine.registers(&[], None);
    let registers = registers.map(KeyedRegister::record);
    let sessions = machine.sessions.open.iter();
    let sessions = sessions.flat_map(|(&name, session)| session.records(name));
    registers.chain(sessions).collect()
}

fn sum<'a>(records: impl IntoIterator<Item = &'a DigestRecord<'a>>) -> StateDigest {
    let mut digest = StateDigest::default();
    records.into_iter().for_each(|record| digest.add(record));
    digest
}

/// Two registers, and two sessions with three outcomes.
fn varied() -> Machine {
    let mut machine = Machine::default();
    let put = |key| put(key, "v", Condition::Absent);
    let commands = [
        open(),
        open_as(1),
        stamped(put("a"), at(0, 0), 1, 0),
        stamped(put("a"), at(0, 0), 2, 0),
        stated(stamped(put("b"), at(0, 1), 1, 1), 1),
    ];
    apply(&mut machine, &commands);
    machine
}

#[test]
fn records_are_encoded_as_the_stored_format_says() {
    let encoded = |record: DigestRecord<'_>| {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        bytes
    };
    let register = DigestRecord::Register {
        key: b"k",
        value: b"v",
        version: at(300, 2),
    };
    let expected = [
        0x12, 0x0d, 0x0a, 1, b'k', 0x12, 1, b'v', 0x1a, 5, 0x08, 0xac, 0x02, 0x10, 2,
    ];
    assert_eq!(encoded(register), expected);
    let outcome = DigestRecord::Outcome {
        session: at(0, 0),
        sequence: 7,
        version: at(1, 0),
        outcome: Outcome::ConditionFailed {
            current: Some(at(0, 1)),
        },
    };
    let expected = [
        0x22, 0x10, 0x0a, 0, 0x10, 7, 0x1a, 2, 0x08, 1, 0x22, 6, 0x08, 1, 0x12, 2, 0x10, 1,
    ];
    assert_eq!(encoded(outcome), expected);
    let session = DigestRecord::Session {
        name: at(1, 0),
        last_used: at(2, 0),
        acked_below: 5,
        opener: opener(9),
    };
    let mut expected = vec![0x1a, 0x1c, 0x0a, 2, 0x08, 1, 0x12, 2, 0x08, 2, 0x18, 5, 0x22, 16];
    expected.extend([9; 16]);
    assert_eq!(encoded(session), expected);
}

#[test]
fn digest_of_known_records_never_changes() {
    // A part of the stored format, so the number must stay.
    assert_eq!(varied().digest().to_string(), "9a859858afca6deed6b1a4d0f0246cdc");
    assert_eq!(Machine::default().digest(), StateDigest::default());
}

#[test]
fn every_left_out_or_changed_record_changes_the_digest() {
    let machine = varied();
    let records = records(&machine);
    assert_eq!(records.len(), 2 + 2 + 3);
    assert_eq!(sum(&records), machine.digest());
    for left_out in 0..records.len() {
        let others = records.iter().enumerate().filter(|(index, _)| *index != left_out);
        let digest = sum(others.map(|(_, record)| record));
        assert_ne!(digest, machine.digest(), "{:?}", records[left_out]);
    }
    let mut other = machine.clone();
    other.registers.put(b"a", b"v", at(0, 3));
    let recovered = recovered(
        other.applied_to,
        other.registers(&[], None).cloned(),
        other.sessions.open.clone(),
    );
    assert_ne!(recovered.digest(), machine.digest());
}

#[test]
fn stored_record_is_restored_once() {
    let mut machine = varied();
    let before = machine.clone();
    assert!(!machine.restore_register(b"a", b"other", at(9, 9)));
    let session = machine.sessions().get(at(0, 1)).unwrap().clone();
    assert!(
        !machine.restore_session(at(0, 1), session.clone()),
        "the same name"
    );
    assert!(!machine.restore_session(at(9, 9), session), "the same last use");
    assert_eq!(machine, before);
}

#[test]
fn digest_reads_what_it_writes() {
    let digest = varied().digest();
    assert_eq!(StateDigest::from_slice(&digest.to_bytes()), Some(digest));
    assert_eq!(StateDigest::from_slice(&[0; 15]), None);
}

proptest! {
    #[test]
    fn digest_after_any_commands_is_the_sum_of_the_records_in_any_order(
        slots in prop::collection::vec(prop::collection::vec(command(), 0..4), 0..30),
        turn in any::<prop::sample::Index>(),
    ) {
        let mut machine = Machine::default();
        for commands in &slots {
            apply(&mut machine, commands);
            let mut records = records(&machine);
            if !records.is_empty() {
                let turn = turn.index(records.len());
                records.rotate_left(turn);
                records[turn..].reverse();
            }
            prop_assert_eq!(sum(&records), machine.digest());
        }
    }
}
