//! Snapshot files: what is written is read again, and every flawed file is refused.

use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message as _;

use super::{
    decoder::{SnapshotDecoder, SnapshotPart},
    encoder::SnapshotEncoder,
    *,
};
use crate::paxos::{
    command::Opener,
    identity::AcceptorUuid,
    machine::{
        Outcome, Register,
        sessions::{Recorded, SessionState},
    },
    quorum::Configuration,
};

type Registers = BTreeMap<Bytes, Register>;
type Sessions = BTreeMap<Version, SessionState>;

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
const TO: u64 = 100;

fn at(slot: u64, offset: u16) -> Version {
    Version {
        slot: Slot::new(slot).unwrap(),
        offset,
    }
}

fn header() -> SnapshotHeader {
    let members = [(AcceptorUuid::from_u128(1), "http://a:1".into())];
    SnapshotHeader {
        cluster: CLUSTER,
        to: Slot::new(TO).unwrap(),
        log_digest: [5; 32],
        configuration: Configuration::new(members, 1, 1).unwrap(),
    }
}

fn register(value: &str, version: Version) -> Register {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Register { value, version }
}

fn session(last_used: Version, recorded: &[(u64, Recorded)]) -> SessionState {
    SessionState {
        opener: Some(Opener::from_bytes([3; 16])),
        last_used,
        acked_below: 2,
        recorded: recorded.iter().copied().collect(),
    }
}

fn recorded(version: Version, outcome: Outcome) -> Recorded {
    Recorded { version, outcome }
}

/// Two registers, and two sessions, the first with two outcomes.
fn varied() -> (Registers, Sessions) {
    let failed = Outcome::ConditionFailed {
        current: Some(at(1, 2)),
    };
    let outcomes = [
        (2, recorded(at(5, 0), Outcome::Applied)),
        (9, recorded(at(6, 0), failed)),
    ];
    let registers = [
        (Bytes::from_static(b"a"), register("", at(0, 0))),
        (Bytes::from_static(b"b"), register("value", at(TO - 1, 65_535))),
    ];
    let sessions = [
        (at(0, 1), session(at(6, 0), &outcomes)),
        (at(3, 0), session(at(3, 0), &[])),
    ];
    (registers.into(), sessions.into())
}

fn encode(registers: &Registers, sessions: &Sessions) -> Result<(Vec<u8>, SnapshotSummary), SnapshotError> {
    let mut encoder = SnapshotEncoder::new(header());
    let mut file = Vec::new();
    for (key, register) in registers {
        encoder.register(key, register)?;
        file.extend(encoder.take());
    }
    for (name, session) in sessions {
        encoder.session(*name, session)?;
    }
    assert!(sessions.is_empty() || encoder.waiting_bytes() > 0);
    let (last, summary) = encoder.finish()?;
    file.extend(last);
    Ok((file, summary))
}

fn small() -> Vec<u8> {
    let (registers, sessions) = varied();
    encode(&registers, &sessions).unwrap().0
}

/// Reads a file given in pieces of this size.
fn decode_for(
    expected: Option<ClusterId>,
    file: &[u8],
    piece: usize,
) -> Result<(Vec<SnapshotPart>, SnapshotSummary), SnapshotError> {
    let mut decoder = SnapshotDecoder::new(expected);
    let mut parts = Vec::new();
    for piece in file.chunks(piece) {
        decoder.push(piece);
        while let Some(part) = decoder.next_part()? {
            parts.push(part);
        }
    }
    Ok((parts, decoder.finish()?))
}

fn decode(file: &[u8]) -> Result<(Vec<SnapshotPart>, SnapshotSummary), SnapshotError> {
    decode_for(Some(CLUSTER), file, 64)
}

/// The expected parts of a whole file.
fn parts(registers: &Registers, sessions: &Sessions) -> Vec<SnapshotPart> {
    let registers = registers.clone().into_iter();
    let sessions = sessions.clone().into_iter();
    std::iter::once(SnapshotPart::Header(header()))
        .chain(registers.map(|(key, register)| SnapshotPart::Register(key, register)))
        .chain(sessions.map(|(name, session)| SnapshotPart::Session(name, session)))
        .collect()
}

/// A file of these records, with a right SHA-256.
fn file_of(records: &[Vec<u8>]) -> Vec<u8> {
    use sha2::{Digest as _, Sha256};

    let mut file = MAGIC.to_vec();
    for record in records {
        prost::encoding::encode_varint(record.len() as u64, &mut file);
        file.extend_from_slice(record);
    }
    let hash = Sha256::digest(&file);
    file.extend_from_slice(&hash);
    file
}

/// The records of a file.
fn records_of(file: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &file[MAGIC.len()..file.len() - HASH_BYTES];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let len = usize::try_from(prost::encoding::decode_varint(&mut rest).unwrap()).unwrap();
        let (record, after) = rest.split_at(len);
        records.push(record.to_vec());
        rest = after;
    }
    records
}

fn problem(file: &[u8]) -> String {
    let error = decode(file).unwrap_err();
    assert!(!error.is_misplaced(), "{error}");
    error.to_string()
}

#[test]
fn whole_file_is_read_in_pieces_of_any_size() {
    let (registers, sessions) = varied();
    let (file, written) = encode(&registers, &sessions).unwrap();
    assert_eq!((written.bytes, written.footer.outcomes), (file.len() as u64, 2));
    for piece in [1, 2, 7, 4_096] {
        let read = decode_for(Some(CLUSTER), &file, piece).unwrap();
        assert_eq!(read, (parts(&registers, &sessions), written.clone()));
    }
    assert_eq!(file_of(&records_of(&file)), file);
    let nothing = encode(&BTreeMap::new(), &BTreeMap::new()).unwrap();
    assert_eq!(decode(&nothing.0).unwrap().1.footer, SnapshotFooter::default());
}

#[test]
fn largest_register_fits_and_a_larger_one_is_refused() {
    let value = |bytes| Register {
        value: vec![b'v'; bytes].into(),
        version: at(1, 1),
    };
    let key = Bytes::from(vec![b'k'; KEY_BYTES_MAX]);
    let largest = [(key.clone(), value(VALUE_BYTES_MAX))].into();
    let (file, _) = encode(&largest, &BTreeMap::new()).unwrap();
    assert_eq!(decode(&file).unwrap().0, parts(&largest, &BTreeMap::new()));
    let beyond = [(key, value(VALUE_BYTES_MAX + 1))].into();
    let error = encode(&beyond, &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().contains("beyond the limits"), "{error}");
}

#[test]
fn file_cut_off_at_any_byte_is_refused() {
    let file = small();
    for len in 0..file.len() {
        let error = decode(&file[..len]).unwrap_err();
        assert_eq!(error, SnapshotError::Truncated { bytes: len as u64 });
    }
    let longer = [&file[..], &b"x"[..]].concat();
    let end = file.len() as u64;
    assert_eq!(decode(&longer).unwrap_err(), SnapshotError::Trailing { end });
}

#[test]
fn file_with_any_flipped_bit_is_refused() {
    let file = small();
    for bit in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn other_files_other_clusters_and_newer_formats_are_distinguished() {
    let file = small();
    assert_eq!(decode(b"SQLite format 3").unwrap_err(), SnapshotError::Foreign);
    let other = ClusterId::from_bytes([8; 16]);
    let error = decode_for(Some(other), &file, 64).unwrap_err();
    assert!(error.is_misplaced() && matches!(error, SnapshotError::OtherCluster { .. }));
    decode_for(None, &file, 64).unwrap();
    let newer = |found| SnapshotError::Newer { found, supported: 1 };
    assert!(newer(2).is_misplaced());
    assert_eq!(decode(b"PXS2....").unwrap_err(), newer(2));
    // The same magic, a newer header, and a field that this release does not know.
    let mut records = records_of(&file);
    let mut message = paxos_proto::v1::SnapshotRecord::decode(&records[0][..]).unwrap();
    let Some(paxos_proto::v1::snapshot_record::Record::Header(header)) = &mut message.record else {
        panic!("{message:?}")
    };
    header.format = 3;
    records[0] = message.encode_to_vec();
    records[0].extend([0x78, 1]);
    assert_eq!(decode(&file_of(&records)).unwrap_err(), newer(3));
}

#[test]
fn records_against_a_rule_are_refused_by_name() {
    // Header, 2 registers, a session, 2 outcomes, a session, footer.
    let whole = records_of(&small());
    assert_eq!(whole.len(), 8);
    let changed = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut records = whole.clone();
        change(&mut records);
        problem(&file_of(&records))
    };
    type Change<'a> = &'a dyn Fn(&mut Vec<Vec<u8>>);
    let cases: [(Change<'_>, &str); 14] = [
        (
            &|records| records.swap(1, 2),
            "record 3 of the file is a register out of order",
        ),
        (
            &|records| records.insert(1, records[1].clone()),
            "register out of order",
        ),
        (&|records| records.swap(2, 3), "register after a session"),
        (&|records| records.swap(4, 5), "outcome out of order"),
        (
            &|records| records.swap(3, 6),
            "outcome that does not follow its session",
        ),
        (
            &|records| records.insert(7, records[3].clone()),
            "session out of order",
        ),
        (&|records| records.insert(1, records[0].clone()), "second header"),
        (
            &|records| drop(records.remove(0)),
            "record 1 of the file is no header",
        ),
        (
            &|records| drop(records.remove(1)),
            "holds 1 registers, and states 2",
        ),
        (
            &|records| drop(records.remove(6)),
            "holds 1 sessions, and states 2",
        ),
        (
            &|records| drop(records.remove(4)),
            "holds 1 outcomes, and states 2",
        ),
        (&|records| records[1].extend([0x78, 1]), "unknown fields"),
        (&|records| records[1].clear(), "is empty"),
        (
            &|records| *records.last_mut().unwrap().last_mut().unwrap() ^= 1,
            "as the digest of the state, and states",
        ),
    ];
    for (change, expected) in cases {
        let found = changed(change);
        assert!(found.contains(expected), "{expected}: {found}");
        assert!(found.contains("another file"), "{found}");
    }
}

#[test]
fn oversized_record_is_refused_before_its_bytes_arrive() {
    let mut file = small();
    file.truncate(MAGIC.len());
    prost::encoding::encode_varint(RECORD_BYTES_MAX as u64 + 1, &mut file);
    assert!(problem(&file).contains("larger than allowed"));
    file.truncate(MAGIC.len());
    file.extend([0xff; 3]);
    assert!(problem(&file).contains("larger than allowed"));
}

#[test]
fn content_that_no_state_machine_can_hold_is_refused() {
    let sessions = |of: &[(Version, SessionState)]| -> Sessions { of.iter().cloned().collect() };
    let outcome = |sequence, slot| [(sequence, recorded(at(slot, 0), Outcome::Applied))];
    let cases = [
        (
            sessions(&[
                (at(1, 0), session(at(9, 0), &[])),
                (at(2, 0), session(at(9, 0), &[])),
            ]),
            "command of another session",
        ),
        (
            sessions(&[(at(2, 0), session(at(1, 0), &[]))]),
            "before the session was opened",
        ),
        (
            sessions(&[(at(2, 0), session(at(TO, 0), &[]))]),
            "at or above the end",
        ),
        (
            sessions(&[(at(2, 0), session(at(3, 0), &outcome(1, 3)))]),
            "outcome out of order",
        ),
        (
            sessions(&[(at(2, 0), session(at(3, 0), &outcome(2, TO)))]),
            "at or above the end",
        ),
    ];
    for (sessions, expected) in cases {
        let error = encode(&BTreeMap::new(), &sessions).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let late = [(Bytes::from_static(b"k"), register("v", at(TO, 0)))].into();
    let error = encode(&late, &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().contains("at or above the end"), "{error}");
}

fn any_version() -> impl Strategy<Value = Version> {
    (0..TO, any::<u16>()).prop_map(|(slot, offset)| at(slot, offset))
}

fn any_recorded() -> impl Strategy<Value = Recorded> {
    let failed = prop::option::of(any_version()).prop_map(|current| Outcome::ConditionFailed { current });
    let outcome = prop_oneof![Just(Outcome::Applied), failed];
    (any_version(), outcome).prop_map(|(version, outcome)| recorded(version, outcome))
}

fn any_registers() -> impl Strategy<Value = Registers> {
    let key = prop::collection::vec(any::<u8>(), 1..20).prop_map(Bytes::from);
    let value = prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let register = (value, any_version()).prop_map(|(value, version)| Register { value, version });
    prop::collection::btree_map(key, register, 0..20)
}

/// Sessions with names and last uses in different slots.
fn any_sessions() -> impl Strategy<Value = Sessions> {
    let opener = prop::option::of(any::<[u8; 16]>().prop_map(Opener::from_bytes));
    let outcomes = prop::collection::btree_map(0..1_000_u64, any_recorded(), 0..5);
    let session = (opener, any::<u16>(), 0..u64::MAX - 1_000, outcomes);
    prop::collection::vec(session, 0..10).prop_map(|sessions| {
        let named = (0..).zip(sessions);
        let sessions = named.map(|(index, (opener, offset, acked_below, outcomes))| {
            let recorded = outcomes.into_iter();
            let state = SessionState {
                opener,
                last_used: at(50 + index, offset),
                acked_below,
                recorded: recorded
                    .map(|(above, recorded)| (acked_below + above, recorded))
                    .collect(),
            };
            (at(index, 0), state)
        });
        sessions.collect()
    })
}

proptest! {
    #[test]
    fn every_state_is_read_as_written(
        registers in any_registers(),
        sessions in any_sessions(),
        piece in 1..2_000_usize,
    ) {
        let (file, written) = encode(&registers, &sessions).unwrap();
        let mut machine = crate::paxos::machine::Machine::restored(header().to);
        let (read, summary) = decode_for(Some(CLUSTER), &file, piece).unwrap();
        for part in read {
            match part {
                SnapshotPart::Header(read) => prop_assert_eq!(read, header()),
                SnapshotPart::Register(key, register) => {
                    prop_assert_eq!(registers.get(&key), Some(&register));
                    prop_assert!(machine.restore_register(&key, &register.value, register.version));
                }
                SnapshotPart::Session(name, session) => {
                    prop_assert_eq!(sessions.get(&name), Some(&session));
                    prop_assert!(machine.restore_session(name, session));
                }
            }
        }
        prop_assert_eq!(summary.footer.digest, machine.digest());
        prop_assert_eq!(&summary, &written);
        // Records in the encoding of the contract: the digest covers exactly these bytes.
        for record in records_of(&file) {
            let message = paxos_proto::v1::SnapshotRecord::decode(&record[..]).unwrap();
            prop_assert_eq!(message.encode_to_vec(), record);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0..400_usize) {
        prop_assert!(decode(&bytes).is_err());
        let file = small();
        let mixed = [&file[..cut.min(file.len())], &bytes[..]].concat();
        if mixed != file {
            prop_assert!(decode(&mixed).is_err());
        }
    }
}
