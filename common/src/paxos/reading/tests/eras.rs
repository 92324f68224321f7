//! Reads across a change of members.

use super::*;

/// The members of the next era: acceptors 3 to 5.
fn next() -> Electorate {
    let members = (1..=3).map(|number| (uuid(number), Arc::from("http://a")));
    let first = Configuration::new(members, 2, 2).unwrap();
    let members = (3..=5).map(|number| (uuid(number), Arc::<str>::from("http://a").into()));
    first.changed_to(members, 2, 2).unwrap().electorate()
}

/// Adopts a configuration in force.
fn adopt(reading: &mut Reading) -> Vec<ReadEffect> {
    reading.adopt(&next(), Slot::ZERO);
    reading.take_effects()
}

/// Two members of the next era report fewer votes than were applied, in many rounds, until a loss is found. Returns the number
/// of the last round, if a loss was found.
fn finds_loss(reading: &mut Reading, from: u64) -> Option<u64> {
    let rounds = from..from + 2 * u64::from(SHORT_ROUNDS_MAX);
    rounds.into_iter().find(|&round| {
        tailed(reading, 3, round, 2);
        let effects = tailed(reading, 4, round, 2);
        fired(reading, round);
        let is_lost = |effect: &ReadEffect| matches!(effect, ReadEffect::LostVotes { .. });
        effects.iter().any(is_lost)
    })
}

#[test]
fn short_rounds_prove_no_loss_before_a_slot_of_the_new_era_is_applied() {
    // The change is in slot 4, and the new members do not have it yet.
    let mut adopted = reading();
    adopted.adopt(&next(), slot(5));
    applied(&mut adopted, 5);
    let restarted = Reading::new(next(), slot(5), FIRST_NONCE).proving_from(slot(5));
    for mut reading in [adopted, restarted] {
        asked(&mut reading, 0);
        assert_eq!(finds_loss(&mut reading, 0), None);
        // The present round began before.
        applied(&mut reading, 6);
        let found = finds_loss(&mut reading, 2 * u64::from(SHORT_ROUNDS_MAX));
        assert_eq!(found, Some(3 * u64::from(SHORT_ROUNDS_MAX)));
    }
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
