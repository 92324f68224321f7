//! Messages of later eras: ballots, and changes of members.

use super::*;

#[test]
fn era_of_a_ballot_survives_the_wire_and_the_first_is_left_out() {
    let era = Era::new(2).unwrap();
    let first = Ballot::new(5, ProposerId::new(6).unwrap()).unwrap();
    assert_eq!(pb::Ballot::from(first).encode_to_vec(), [8, 5, 16, 6]);
    let later = pb::Ballot::from(first.in_era(era));
    assert_eq!(later.encode_to_vec(), [8, 5, 16, 6, 24, 2]);
    assert_eq!(Ballot::try_from(later), Ok(first.in_era(era)));
    let beyond = pb::Ballot {
        era: 1 << 63,
        ..later
    };
    assert!(matches!(Ballot::try_from(beyond), Err(Malformed::OutOfRange(_))));
}

#[test]
fn change_of_members_is_accepted_alone_and_not_beside_commands() {
    let member = |uuid| {
        (
            AcceptorUuid::from_u128(uuid),
            Arc::<str>::from("http://a:1").into(),
        )
    };
    let first = Configuration::of_members([member(1)], 1, 1).unwrap();
    let change = stored::change(&first.changed_to([member(2)], 1, 1).unwrap());
    let accept = Accept {
        ballot: Ballot::ZERO,
        sequence: 1,
        chosen_to: Slot::ZERO,
        proposals: vec![(Slot::ZERO, change.clone())],
        address: "".into(),
        resign: false,
    };
    let request = accept_request(&accept, CLUSTER);
    for found in [false, true] {
        let mut request = request.clone();
        request.proposals[0].found = found;
        let read = Accept::try_from(request.clone()).unwrap();
        assert_eq!(read.proposals[0].1.change(), change.change());
        // A field unknown to this release, beside the change.
        let beside = [&change.as_bytes()[..], &[0x7a, 0x00]].concat();
        request.proposals[0].value = beside.into();
        let refused = Accept::try_from(request);
        assert_eq!(refused, Err(Malformed::Newer { slot: Slot::ZERO }));
    }
}
