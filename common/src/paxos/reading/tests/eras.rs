//! Reads across a change of members.

use super::*;

/// The members of the next era: acceptors 3 to 5.
fn next() -> Electorate {
    let members = (1..=3).map(|number| (uuid(number), Arc::from("http://a")));
    let first = Configuration::new(members, 2, 2).unwrap();
    let members = (3..=5).map(|number| (uuid(number), Arc::<str>::from("http://a").into()));
    first.changed_to(members, 2, 2).unwrap().electorate()
}

fn adopt(reading: &mut Reading) -> Vec<ReadEffect> {
    reading.adopt(&next());
    reading.take_effects()
}

#[test]
fn waiting_read_loses_its_bound_and_a_round_of_the_new_members_begins() {
    let mut reading = reading();
    asked(&mut reading, 0);
    tailed(&mut reading, 1, 0, 4);
    tailed(&mut reading, 2, 0, 4);
    // The bound is slot 4. The change is in slot 3.
    assert_eq!(adopt(&mut reading), [ask(1, &[3, 4, 5])]);
    assert_eq!(
        applied(&mut reading, 4),
        [],
        "a bound of the earlier era answers nothing"
    );
    assert_eq!(
        tailed(&mut reading, 3, 0, 4),
        [],
        "nor does an answer to the earlier round"
    );
    tailed(&mut reading, 3, 1, 6);
    tailed(&mut reading, 1, 1, 4);
    assert_eq!(tailed(&mut reading, 2, 1, 4), [], "removed members do not count");
    tailed(&mut reading, 4, 1, 5);
    assert_eq!(applied(&mut reading, 5), []);
    assert_eq!(applied(&mut reading, 6), [answer(0)]);
}

#[test]
fn open_round_ends_with_its_era() {
    let mut reading = reading();
    asked(&mut reading, 0);
    tailed(&mut reading, 3, 0, 1);
    assert_eq!(adopt(&mut reading), [ask(1, &[3, 4, 5])]);
    applied(&mut reading, 9);
    assert_eq!(
        tailed(&mut reading, 4, 0, 1),
        [],
        "an answer to the earlier round"
    );
    tailed(&mut reading, 4, 1, 9);
    assert_eq!(tailed(&mut reading, 5, 1, 9), [answer(0)]);
}

#[test]
fn without_a_waiting_read_nothing_is_asked_and_lost_votes_are_still_found() {
    let mut reading = reading();
    assert_eq!(adopt(&mut reading), []);
    assert_eq!(adopt(&mut reading), [], "the present era changes nothing");
    applied(&mut reading, 5);
    assert!(asked(&mut reading, 0).contains(&ask(0, &[3, 4, 5])));
    for round in 0..u64::from(SHORT_ROUNDS_MAX) {
        tailed(&mut reading, 3, round, 2);
        let effects = tailed(&mut reading, 4, round, 2);
        let lost = effects
            .iter()
            .any(|effect| matches!(effect, ReadEffect::LostVotes { .. }));
        assert_eq!(lost, round + 1 == u64::from(SHORT_ROUNDS_MAX));
        fired(&mut reading, round);
    }
}
