//! Messages of later eras: written, and not served.

use super::*;

#[test]
fn ballot_of_a_later_era_is_written_and_not_served() {
    let era = Era::new(2).unwrap();
    let first = Ballot::new(5, ProposerId::new(6).unwrap()).unwrap();
    assert_eq!(pb::Ballot::from(first).encode_to_vec(), [8, 5, 16, 6]);
    let later = pb::Ballot::from(first.in_era(era));
    assert_eq!(later.encode_to_vec(), [8, 5, 16, 6, 24, 2]);
    let what = "ballot";
    assert_eq!(Ballot::try_from(later), Err(Malformed::LaterEra { what, era }));
    let beyond = pb::Ballot {
        era: 1 << 63,
        ..later
    };
    assert!(matches!(Ballot::try_from(beyond), Err(Malformed::OutOfRange(_))));
}

#[test]
fn change_of_members_is_refused_as_a_value_of_a_newer_release() {
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
        proposals: vec![(Slot::ZERO, change)],
        address: "".into(),
        resign: false,
    };
    let mut request = accept_request(&accept, CLUSTER);
    for found in [false, true] {
        request.proposals[0].found = found;
        let refused = Accept::try_from(request.clone());
        assert_eq!(refused, Err(Malformed::Newer { slot: Slot::ZERO }));
    }
}
