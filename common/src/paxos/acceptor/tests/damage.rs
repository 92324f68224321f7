//! Rows that the disk no longer returns.

use super::{super::damage::DAMAGED_MAX, *};

/// Slots 0 to 4 chosen, 5 accepted.
fn with_six_rows() -> Fixture {
    let mut fixture = Fixture::blank();
    let proposals: Vec<_> = (0..6).map(|number| (number, "x")).collect();
    fixture.accept(&accept(1, 0, &proposals)).unwrap();
    fixture.accept(&accept(1, 5, &[])).unwrap();
    assert_eq!(fixture.core.chosen_to(), slot(5));
    fixture
}

#[test]
fn damaged_row_holds_the_watermark_back_until_it_is_repaired() {
    let mut fixture = with_six_rows();
    assert_eq!(fixture.core.found_damaged([slot(3), slot(1)]), 2);
    assert_eq!(fixture.core.found_damaged([slot(1)]), 0, "it is known already");
    assert_eq!(
        (fixture.core.chosen_to(), fixture.core.damaged_rows()),
        (slot(1), 2)
    );
    assert_eq!(fixture.core.known_to(), slot(5), "what is chosen stays known");
    // The rest goes on meanwhile.
    let answer = fixture.accept(&accept(1, 6, &[(6, "y")])).unwrap();
    assert_eq!(answer, accepted_knowing(&[(6, 7)], 7, 1, 6));
    let answer = fixture.accept(&accept(1, 6, &[(1, "x")])).unwrap();
    assert_eq!(answer, accepted_knowing(&[(1, 2)], 7, 3, 6));
    let answer = fixture.accept(&accept(1, 6, &[(3, "x")])).unwrap();
    assert_eq!(answer, accepted(&[(3, 4)], 7, 6));
    assert_eq!(fixture.core.damaged_rows(), 0);
}

#[test]
fn a_damaged_row_is_written_again_even_if_it_reads_well_by_now() {
    let mut fixture = with_six_rows();
    fixture.core.found_damaged([slot(2)]);
    let message = accept(1, 5, &[(2, "x")]);
    let mut group = fixture.core.group();
    fixture
        .core
        .accept(&mut group, &message, &fixture.below(&message))
        .unwrap();
    assert!(group.rows().contains_key(&slot(2)));
}

#[test]
fn a_row_accepted_again_below_the_known_watermark_is_sound_at_any_ballot() {
    // Any proposal there, above the ballot of the claim, is for the chosen value.
    let mut fixture = with_six_rows();
    fixture.core.found_damaged([slot(2)]);
    let answer = fixture.accept(&accept(2, 2, &[(2, "x")])).unwrap();
    assert_eq!(answer, accepted(&[(2, 3)], 6, 5));
}

#[test]
fn a_row_damaged_again_after_its_repair_has_to_be_repaired_again() {
    let mut fixture = with_six_rows();
    fixture.core.found_damaged([slot(2)]);
    fixture.accept(&accept(2, 2, &[(2, "x")])).unwrap();
    assert_eq!(fixture.core.found_damaged([slot(2)]), 1);
    let answer = fixture.accept(&accept(2, 5, &[])).unwrap();
    assert_eq!(answer, accepted_knowing(&[], 6, 2, 5));
    let answer = fixture.accept(&accept(2, 5, &[(2, "x")])).unwrap();
    assert_eq!(answer, accepted(&[(2, 3)], 6, 5));
}

#[test]
fn a_repair_that_is_not_committed_makes_nothing_sound() {
    let mut fixture = with_six_rows();
    fixture.core.found_damaged([slot(2)]);
    let message = accept(2, 5, &[(2, "x")]);
    let below = fixture.below(&message);
    let mut group = fixture.core.group();
    let answer = fixture.core.accept(&mut group, &message, &below).unwrap();
    assert_eq!(answer, accepted(&[(2, 3)], 6, 5), "it leaves with the commit");
    drop(group);
    assert_eq!(fixture.core.chosen_to(), slot(2));
}

#[test]
fn damaged_row_above_the_watermark_is_no_vote() {
    let mut fixture = with_six_rows();
    assert_eq!(fixture.core.found_damaged([slot(5)]), 1);
    let answer = fixture.accept(&accept(1, 6, &[])).unwrap();
    assert_eq!(answer, accepted(&[], 6, 5));
    assert!(fixture.core.is_damaged(slot(5)));
    let answer = fixture.accept(&accept(1, 6, &[(5, "x")])).unwrap();
    assert_eq!(answer, accepted(&[(5, 6)], 6, 6));
    assert!(!fixture.core.is_damaged(slot(5)));
}

#[test]
fn damaged_rows_beyond_what_is_remembered_are_the_highest() {
    let rows = u64::try_from(DAMAGED_MAX).unwrap() + 10;
    let mut core = Acceptor::recover(
        Recovered {
            known_to: slot(rows),
            voted_to: slot(rows),
            ..recovered()
        },
        RunNumber::from_random(5),
    );
    core.found_damaged((0..rows).map(slot));
    assert_eq!((core.damaged_rows(), core.chosen_to()), (DAMAGED_MAX, slot(0)));
    assert!(core.is_damaged(slot(0)) && !core.is_damaged(slot(rows - 1)));
}
