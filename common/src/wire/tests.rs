//! Reading returns the sent message.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::paxos::{
    acceptor::{Acceptor, HeldRow, Membership, Recovered},
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    message::{Accept, AcceptAnswer, Prepare, PrepareAnswer, PromisePage, Row},
    quorum::Configuration,
};

mod eras;

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

fn ballots() -> impl Strategy<Value = Ballot> {
    (0..1u64 << 63, 0..1u64 << 63)
        .prop_map(|(round, proposer)| Ballot::new(round, ProposerId::new(proposer).unwrap()).unwrap())
}

fn slots() -> impl Strategy<Value = Slot> {
    (0..1u64 << 63).prop_map(|slot| Slot::new(slot).unwrap())
}

fn values() -> impl Strategy<Value = Value> {
    (prop::collection::vec(any::<u8>(), 0..64), "[0-9a-f-]{0,55}")
        .prop_map(|(bytes, traceparent)| Value::from_stored(bytes.into(), traceparent.into()))
}

/// Values that an acceptor takes when they were found.
fn votable() -> impl Strategy<Value = Value> {
    values().prop_filter("a value of a newer release", |value| {
        !stored::is_newer(value.as_bytes())
    })
}

fn row() -> impl Strategy<Value = Row> {
    (slots(), prop::option::of((ballots(), values()))).prop_map(|(slot, accepted)| Row { slot, accepted })
}

fn same_trace(a: &Value, b: &Value) -> bool {
    a.traceparent() == b.traceparent()
}

proptest! {
    #[test]
    fn rows_survive_the_wire(row in row()) {
        let back = Row::try_from(pb::Row::from(row.clone())).unwrap();
        if let (Some((_, sent)), Some((_, read))) = (&row.accepted, &back.accepted) {
            prop_assert!(same_trace(sent, read));
        }
        prop_assert_eq!(back, row);
    }

    #[test]
    fn pages_survive_the_wire(
        rows in prop::collection::vec(row(), 0..8),
        marks in (slots(), slots(), slots(), slots(), slots()), last in any::<bool>(),
    ) {
        let (from, next, chosen_to, trimmed_to, voted_to) = marks;
        let known_to = chosen_to.max(trimmed_to);
        let page = PromisePage { from, next, last, chosen_to, known_to, trimmed_to, voted_to, rows };
        let mut encoded = pb::Promise::from(page.clone());
        prop_assert_eq!(PromisePage::try_from(encoded.clone()).unwrap(), page);
        // As from a sender without this field.
        encoded.known_chosen_to = 0;
        prop_assert_eq!(PromisePage::try_from(encoded).unwrap().known_to, chosen_to);
    }

    #[test]
    fn accepts_survive_the_wire(
        ballot in ballots(), sequence in any::<u64>(), chosen_to in slots(), resign in any::<bool>(),
        proposals in prop::collection::btree_map(slots(), votable(), 0..8),
    ) {
        let proposals = proposals.into_iter().collect();
        let accept = Accept { ballot, sequence, chosen_to, proposals, address: "http://a:1".into(), resign };
        let back = Accept::try_from(accept_request(&accept, CLUSTER)).unwrap();
        prop_assert!(accept.proposals.iter().zip(&back.proposals).all(|(a, b)| same_trace(&a.1, &b.1)));
        prop_assert_eq!(back, accept);
    }

    #[test]
    fn configurations_survive_the_wire(uuids in prop::collection::btree_set(any::<u128>(), 1..8)) {
        let quorum = uuids.len() / 2 + 1;
        let members = uuids.iter().map(|&uuid| (AcceptorUuid::from_u128(uuid), Arc::from(format!("http://{uuid}"))));
        let configuration = Configuration::new(members, quorum, quorum).unwrap();
        let back = Configuration::try_from(pb::Configuration::from(&configuration)).unwrap();
        prop_assert_eq!(back.cluster_id(), configuration.cluster_id());
        prop_assert_eq!(back, configuration);
    }

    #[test]
    fn numbers_too_large_are_refused_and_never_panic(round in any::<u64>(), proposer in any::<u64>()) {
        let read = Ballot::try_from(pb::Ballot { round, proposer, era: 0 });
        prop_assert_eq!(read.is_ok(), round < 1 << 63 && proposer < 1 << 63);
        prop_assert_eq!(slot_range(round, proposer).is_ok(), round < proposer && proposer < 1 << 63);
    }
}

#[test]
fn what_is_missing_is_named() {
    let error = Prepare::try_from(pb::PrepareRequest::default()).unwrap_err();
    assert_eq!(error.to_string(), "ballot is missing");
    assert!(acceptor_uuid(&[1, 2]).unwrap_err().to_string().contains("16"));
}

#[test]
fn proposals_out_of_order_are_refused() {
    let proposal = |slot| pb::Proposal {
        slot,
        ..Default::default()
    };
    let request = pb::AcceptRequest {
        ballot: Some(Ballot::ZERO.into()),
        proposals: vec![proposal(2), proposal(2)],
        ..Default::default()
    };
    assert!(matches!(
        Accept::try_from(request),
        Err(Malformed::NotAscending(_))
    ));
}

#[test]
fn value_that_no_learner_can_apply_is_refused_unless_it_was_found() {
    let request = |found| pb::AcceptRequest {
        ballot: Some(Ballot::ZERO.into()),
        proposals: vec![pb::Proposal {
            slot: 7,
            value: Bytes::from_static(&[0x0a, 0x00]),
            traceparent: String::new(),
            found,
        }],
        ..Default::default()
    };
    let error = Accept::try_from(request(false)).unwrap_err();
    assert!(error.to_string().contains("slot 7"), "{error}");
    assert!(error.to_string().contains("no operation"), "{error}");
    // The value may be chosen already: a leader that finds this value in a promise must propose the value again.
    let found = Accept::try_from(request(true)).unwrap();
    let cluster = ClusterId::from_bytes([1; 16]);
    assert!(accept_request(&found, cluster).proposals[0].found);
    let fresh = Accept {
        proposals: vec![(Slot::ZERO, Value::noop())],
        ..found
    };
    assert!(!accept_request(&fresh, cluster).proposals[0].found);
}

#[test]
fn value_of_a_newer_release_is_refused_even_if_it_was_found() {
    for found in [false, true] {
        let request = pb::AcceptRequest {
            ballot: Some(Ballot::ZERO.into()),
            proposals: vec![pb::Proposal {
                slot: 7,
                // Field 15 of a command.
                value: Bytes::from_static(&[0x0a, 0x02, 0x7a, 0x00]),
                traceparent: String::new(),
                found,
            }],
            ..Default::default()
        };
        let error = Accept::try_from(request).unwrap_err();
        assert_eq!(
            error,
            Malformed::Newer {
                slot: Slot::new(7).unwrap()
            }
        );
        let text = error.to_string();
        assert!(
            text.contains("protocol version 3") && text.contains("Upgrade all acceptors first"),
            "{text}"
        );
    }
}

/// Decodes the bytes as a message, as tonic does, and reads the message: any result is allowed.
fn read<M: Message + Default, T>(bytes: &[u8], read: impl FnOnce(M) -> Result<T, Malformed>) {
    if let Ok(message) = M::decode(bytes) {
        let _ = read(message);
    }
}

/// Reads the bytes as every message that a process may receive.
fn read_as_everything(bytes: &[u8]) {
    read(bytes, |request: pb::FormRequest| {
        if let Some(caller) = &request.caller {
            cluster_id(&caller.cluster_id)?;
        }
        match request.step {
            Some(
                pb::form_request::Step::Store(asked)
                | pb::form_request::Step::Complete(asked)
                | pb::form_request::Step::Install(asked)
                | pb::form_request::Step::Join(asked),
            ) => Configuration::try_from(asked).map(Some),
            None => Ok(None),
        }
    });
    read(bytes, |request: pb::PrepareRequest| Prepare::try_from(request));
    read(bytes, |request: pb::AcceptRequest| {
        read_witnesses(&request.witnesses)?;
        Accept::try_from(request)
    });
    read(bytes, |request: pb::ObserveRequest| Ok(Slot::new(request.from)?));
    read(bytes, |request: pb::AttachRequest| check_report(&request));
    read(bytes, |request: pb::ProposeRequest| {
        Ok(command::encode(request.command.unwrap_or_default()))
    });
    read(bytes, |request: pb::ProposeStreamRequest| {
        Ok(command::encode(request.command.unwrap_or_default()))
    });
    read(bytes, |request: pb::FillRequest| Ok(Slot::new(request.to)?));
    read(bytes, |request: pb::SubscribeRequest| {
        Ok(Slot::new(request.from)?)
    });
    drop(stored::value(bytes.to_vec().into(), Bytes::new()));
    read(bytes, |page: pb::Promise| PromisePage::try_from(page));
    read(bytes, |response: pb::AcceptResponse| {
        AcceptReply::try_from(response)
    });
    read(bytes, |response: pb::FormResponse| {
        read_witnesses(&response.witnesses)?;
        read_stamp(response.stamp.as_ref())?;
        membership(&response)
    });
    read(bytes, |frame: pb::ObserveFrame| {
        rows(frame.rows)?;
        frame
            .votes
            .into_iter()
            .map(VoteRange::try_from)
            .collect::<Result<Vec<_>, _>>()
    });
    read(bytes, |response: pb::AttachResponse| {
        Leadership::try_from(response.leadership.unwrap_or_default())
    });
    read(bytes, |version: pb::Version| Version::try_from(version));
}

/// Numbers at the limits of arithmetic.
fn numbers() -> impl Strategy<Value = u64> {
    let edges = [0, 1, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX];
    prop_oneof![3 => 0..8u64, 3 => prop::sample::select(edges.to_vec()), 1 => any::<u64>()]
}

/// Fields of any number and kind: these bytes decode more often than random bytes.
fn fields() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        numbers().prop_map(Field::Number),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Field::Bytes)
    ];
    let message = leaf.prop_recursive(3, 32, 6, |inner| {
        prop::collection::vec((1..18u32, inner), 0..6).prop_map(Field::Message)
    });
    prop::collection::vec((1..18u32, message), 0..8).prop_map(|fields| Field::Message(fields).encoded())
}

#[derive(Clone, Debug)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
    Message(Vec<(u32, Field)>),
}

impl Field {
    fn encoded(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Number(number) => prost::encoding::encode_varint(*number, &mut bytes),
            Self::Bytes(content) => bytes.clone_from(content),
            Self::Message(fields) => {
                for (tag, field) in fields {
                    let content = field.encoded();
                    let kind = if matches!(field, Self::Number(_)) { 0 } else { 2 };
                    prost::encoding::encode_varint(u64::from(tag << 3 | kind), &mut bytes);
                    if kind == 2 {
                        prost::encoding::encode_varint(content.len() as u64, &mut bytes);
                    }
                    bytes.extend(content);
                }
            }
        }
        bytes
    }
}

fn ballot_of_numbers() -> impl Strategy<Value = Option<pb::Ballot>> {
    prop::option::weighted(
        0.95,
        (numbers(), 0..3u64).prop_map(|(round, proposer)| pb::Ballot {
            round,
            proposer,
            era: 0,
        }),
    )
}

fn prepare_requests() -> impl Strategy<Value = pb::PrepareRequest> {
    (ballot_of_numbers(), numbers()).prop_map(|(ballot, from)| pb::PrepareRequest {
        ballot,
        from,
        ..Default::default()
    })
}

fn accept_requests() -> impl Strategy<Value = pb::AcceptRequest> {
    let proposal = (numbers(), 0..2u8).prop_map(|(slot, value)| pb::Proposal {
        slot,
        value: vec![value].into(),
        traceparent: String::new(),
        found: true,
    });
    let proposals = prop::collection::vec(proposal, 0..4).prop_map(|mut proposals| {
        proposals.sort_by_key(|proposal| proposal.slot);
        proposals.dedup_by_key(|proposal| proposal.slot);
        proposals
    });
    let witness = (0..4u128, numbers(), numbers()).prop_map(|(acceptor, run, commit_counter)| pb::Witness {
        acceptor: Bytes::copy_from_slice(&AcceptorUuid::from_u128(acceptor).to_bytes()),
        run,
        commit_counter,
    });
    let witnesses = prop::collection::vec(witness, 0..3);
    (
        ballot_of_numbers(),
        numbers(),
        numbers(),
        proposals,
        witnesses,
        any::<bool>(),
    )
        .prop_map(
            |(ballot, sequence, chosen_to, proposals, witnesses, resign)| pb::AcceptRequest {
                ballot,
                sequence,
                chosen_to,
                proposals,
                witnesses,
                resign,
                ..Default::default()
            },
        )
}

fn formed_acceptor() -> Acceptor {
    let members = [1u128, 2, 3].map(|uuid| (AcceptorUuid::from_u128(uuid), Arc::from("http://a:1")));
    let recovered = Recovered {
        uuid: AcceptorUuid::from_u128(1),
        commit_counter: CommitCounter::new(0),
        membership: Membership::Formed(Configuration::new(members, 2, 2).unwrap()),
        promised: Ballot::ZERO,
        leader_address: Arc::from(""),
        known_to: Slot::ZERO,
        trimmed_to: Slot::ZERO,
        voted_to: Slot::ZERO,
        least_version: 1,
        rows: BTreeMap::new(),
    };
    Acceptor::recover(recovered, RunNumber::from_random(1))
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn any_fields_are_read_or_refused_and_never_panic(bytes in fields()) {
        read_as_everything(&bytes);
    }

    /// With any messages in any order: the acceptor answers or proves a violation, the promise never decreases,
    /// accepted values stay, and stored numbers fit the disk.
    #[test]
    fn acceptor_never_panics_whatever_it_is_sent(
        requests in prop::collection::vec(
            prop_oneof![
                1 => prepare_requests().prop_map(Ok),
                3 => accept_requests().prop_map(Err),
            ],
            1..40,
        ),
    ) {
        let mut core = formed_acceptor();
        let mut disk: BTreeMap<Slot, (Ballot, Value)> = BTreeMap::new();
        for request in requests {
            let mut group = core.group();
            let promised = core.promised();
            match request {
                Ok(request) => {
                    let Ok(prepare) = Prepare::try_from(request) else { continue };
                    if core.prepare(&mut group, &prepare) == PrepareAnswer::Promised {
                        prop_assert_eq!(group.promised(), prepare.ballot);
                    }
                }
                Err(request) => {
                    let witnesses = read_witnesses(&request.witnesses);
                    let (Ok(accept), Ok(witnesses)) = (Accept::try_from(request), witnesses) else { continue };
                    core.witness(&mut group, witnesses.iter());
                    let below = core.slots_to_read(&accept).filter_map(|slot| {
                        let (ballot, value) = disk.get(&slot)?;
                        Some((slot, HeldRow::Accepted(*ballot, value.fingerprint())))
                    });
                    let below = below.collect();
                    match core.accept(&mut group, &accept, &below) {
                        Ok(AcceptAnswer::Accepted { .. }) => {
                            prop_assert!(accept.ballot >= promised);
                            for (slot, value) in &accept.proposals {
                                let held = group.rows().get(slot).or_else(|| disk.get(slot));
                                prop_assert_eq!(held, Some(&(accept.ballot, value.clone())));
                            }
                        }
                        Ok(_) => prop_assert!(group.rows().is_empty()),
                        // The process ends here.
                        Err(_) => break,
                    }
                }
            }
            if let Some(write) = core.write(&group) {
                prop_assert!(write.known_to <= Slot::MAX && write.rows.keys().all(|&slot| slot < Slot::MAX));
                for (acceptor, run, counter) in write.witnesses.iter() {
                    prop_assert!(acceptor != AcceptorUuid::from_u128(1), "never of itself");
                    prop_assert!(run.get() < 1 << 63 && counter.get() < 1 << 63);
                }
            }
            disk.extend(group.rows().clone());
            core.committed(group);
            prop_assert!(core.promised() >= promised);
            prop_assert!(core.voted_to() >= core.chosen_to());
            prop_assert_eq!(core.voted_to(), disk.keys().next_back().map_or(Slot::ZERO, |slot| slot.next()));
        }
    }
}

#[test]
fn what_cannot_be_stored_is_refused_before_it_is_kept() {
    let witness = |run, commit_counter| pb::Witness {
        acceptor: vec![1; 16].into(),
        run,
        commit_counter,
    };
    assert!(read_witnesses(&[witness((1 << 63) - 1, (1 << 63) - 1)]).is_ok());
    for (run, counter, name) in [(1 << 63, 1, "run"), (1, u64::MAX, "commit_counter")] {
        let error = read_witnesses(&[witness(run, counter)]).unwrap_err().to_string();
        assert!(error.starts_with(name), "{error}");
    }
    let request = pb::AcceptRequest {
        ballot: Some(Ballot::ZERO.into()),
        trimmed_to: 1,
        ..Default::default()
    };
    assert_eq!(Accept::try_from(request), Err(Malformed::Reserved("trimmed_to")));
    let report = pb::AttachRequest {
        progress: Some(pb::attach_request::Progress::Proposer(pb::ProposerProgress {
            ballot: Some(pb::Ballot {
                round: 1 << 63,
                ..Default::default()
            }),
            ..Default::default()
        })),
        ..Default::default()
    };
    assert!(check_report(&report).is_err());
}

#[test]
fn votes_name_one_value_for_each_slot_or_none() {
    let range = |values: &[u64]| pb::VoteRange {
        ballot: Some(pb::Ballot {
            round: 1,
            ..Default::default()
        }),
        from: 3,
        to: 5,
        values: values.to_vec(),
    };
    for values in [&[][..], &[7, u64::MAX]] {
        let votes = VoteRange::try_from(range(values)).unwrap();
        assert_eq!(pb::VoteRange::from(votes), range(values));
    }
    for values in [&[7][..], &[7, 8, 9]] {
        let error = VoteRange::try_from(range(values)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "a range of 2 votes names {} values: one value for each slot, or no value, must be named",
                values.len()
            )
        );
    }
}
