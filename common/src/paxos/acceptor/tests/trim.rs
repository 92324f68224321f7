//! Trims: the end of the log, below which the acceptor's own snapshot stands for the rows.

use super::*;

/// Slots 0 to 4 chosen, 5 accepted.
fn with_six_rows() -> Fixture {
    let mut fixture = Fixture::blank();
    let proposals: Vec<_> = (0..6).map(|number| (number, "x")).collect();
    fixture.accept(&accept(1, 0, &proposals)).unwrap();
    fixture.accept(&accept(1, 5, &[])).unwrap();
    fixture
}

fn trim(fixture: &mut Fixture, to: u64) -> Result<(), TrimRefusal> {
    let mut group = fixture.core.group();
    let trimmed = fixture.core.trim(&mut group, slot(to));
    fixture.commit(group);
    trimmed
}

fn marks(fixture: &Fixture) -> (u64, u64, u64) {
    let core = &fixture.core;
    (
        core.trimmed_to().get(),
        core.known_to().get(),
        core.voted_to().get(),
    )
}

#[test]
fn trim_drops_the_rows_below_and_keeps_the_rest() {
    let mut fixture = with_six_rows();
    assert_eq!(trim(&mut fixture, 3), Ok(()));
    assert_eq!(marks(&fixture), (3, 5, 6));
    let answer = fixture.accept(&accept(1, 5, &[(2, "x"), (5, "x")]));
    assert_eq!(answer, Ok(AcceptAnswer::Trimmed { trimmed_to: slot(3) }));
    let answer = fixture.accept(&accept(1, 5, &[(3, "x")]));
    assert_eq!(answer, Ok(accepted(&[(3, 4)], 6, 5)));
}

#[test]
fn trim_is_written_with_its_watermarks() {
    let fixture = with_six_rows();
    let mut group = fixture.core.group();
    fixture.core.trim(&mut group, slot(5)).unwrap();
    let write = fixture.core.write(&group).expect("a trim must be durable");
    assert_eq!((write.trimmed_to, write.known_to), (slot(5), slot(5)));
}

#[test]
fn trim_that_is_not_committed_changes_nothing() {
    let fixture = with_six_rows();
    let before = fixture.core.clone();
    let mut group = fixture.core.group();
    fixture.core.trim(&mut group, slot(4)).unwrap();
    drop(group);
    assert_eq!(fixture.core, before);
}

#[test]
fn trim_never_goes_back() {
    let mut fixture = with_six_rows();
    trim(&mut fixture, 4).unwrap();
    for to in [0, 3, 4] {
        let refusal = TrimRefusal::NotAbove {
            to: slot(to),
            trimmed_to: slot(4),
        };
        assert_eq!(trim(&mut fixture, to), Err(refusal));
    }
    assert_eq!(marks(&fixture), (4, 5, 6));
}

#[test]
fn trim_stops_at_what_leaders_claimed() {
    let mut fixture = with_six_rows();
    let refusal = TrimRefusal::AboveCap {
        to: slot(6),
        cap: slot(5),
    };
    assert_eq!(trim(&mut fixture, 6), Err(refusal));
    assert_eq!(marks(&fixture), (0, 5, 6));
    assert_eq!(trim(&mut fixture, 5), Ok(()));
}

#[test]
fn claim_of_a_rejected_leader_does_not_raise_the_cap() {
    let mut fixture = with_six_rows();
    fixture.prepare(3);
    let answer = fixture.accept(&accept(2, 9, &[]));
    assert_eq!(answer, Ok(AcceptAnswer::Rejected(rejection(3))));
    assert_eq!(fixture.core.trim_cap(), slot(5));
    fixture.accept(&accept(3, 9, &[])).unwrap();
    assert_eq!(fixture.core.trim_cap(), slot(9));
}

#[test]
fn forged_claim_raises_the_cap_only_until_the_next_claim() {
    let mut fixture = with_six_rows();
    fixture.accept(&accept(1, 1 << 62, &[])).unwrap();
    assert_eq!(fixture.core.trim_cap(), slot(1 << 62));
    // A candidate claims nothing.
    fixture.accept(&accept(2, 0, &[])).unwrap();
    assert_eq!(fixture.core.trim_cap(), slot(1 << 62));
    fixture.accept(&accept(2, 7, &[])).unwrap();
    assert_eq!(fixture.core.trim_cap(), slot(7));
    fixture.accept(&accept(2, 1, &[])).unwrap();
    assert_eq!(
        fixture.core.trim_cap(),
        slot(6),
        "the known watermark, raised by the forged claim"
    );
}

#[test]
fn claim_heard_without_space_raises_the_cap_and_nothing_else() {
    let mut fixture = with_six_rows();
    fixture.prepare(3);
    let before = fixture.core.clone();
    let hear = |fixture: &mut Fixture, message: &Accept| {
        let mut group = fixture.core.group();
        fixture.core.hear_claim(&mut group, message);
        assert!(fixture.core.write(&group).is_none(), "nothing is durable");
        fixture.core.committed(group);
    };
    // A leader with an older ballot, a ballot too far above, a candidate.
    for message in [accept(2, 9, &[]), accept(1 << 40, 9, &[]), accept(3, 0, &[])] {
        hear(&mut fixture, &message);
        assert_eq!(fixture.core, before, "{message:?}");
    }
    for round in [3, 4] {
        hear(&mut fixture, &accept(round, 5 + round, &[(6, "y")]));
        assert_eq!(fixture.core.trim_cap(), slot(5 + round));
    }
    assert_eq!(fixture.core.promised(), before.promised());
    assert_eq!(marks(&fixture), (0, 5, 6));
    hear(&mut fixture, &accept(4, 2, &[]));
    assert_eq!(
        fixture.core, before,
        "the next claim counts, and is not below the known watermark"
    );
    hear(&mut fixture, &accept(3, 8, &[]));
    assert_eq!(trim(&mut fixture, 8), Ok(()));
    assert_eq!(marks(&fixture), (8, 8, 8));
}

#[test]
fn claims_are_forgotten_at_a_restart() {
    let mut fixture = with_six_rows();
    fixture.accept(&accept(1, 9, &[])).unwrap();
    assert_eq!(fixture.core.trim_cap(), slot(9));
    let restarted = Fixture::with(Recovered {
        known_to: slot(5),
        voted_to: slot(6),
        ..recovered()
    });
    assert_eq!(restarted.core.trim_cap(), slot(5));
}

#[test]
fn recorded_snapshot_stands_for_its_claim_after_a_restart_until_the_next_claim() {
    let restarted = |waiting_to| {
        let mut fixture = Fixture::with(Recovered {
            known_to: slot(5),
            voted_to: slot(6),
            ..recovered()
        });
        fixture.core = fixture.core.with_recorded_claim(slot(waiting_to));
        fixture
    };
    assert_eq!(restarted(4).core.trim_cap(), slot(5));
    let mut fixture = restarted(9);
    assert_eq!(trim(&mut fixture, 9), Ok(()));
    assert_eq!(marks(&fixture), (9, 9, 9));
    let mut fixture = restarted(9);
    fixture.accept(&accept(2, 7, &[])).unwrap();
    let refusal = TrimRefusal::AboveCap {
        to: slot(9),
        cap: slot(7),
    };
    assert_eq!(trim(&mut fixture, 9), Err(refusal));
    // Without space, the record stands for its claim beside the later claim too.
    let mut group = fixture.core.group();
    assert_eq!(fixture.core.trim_to_recorded(&mut group, slot(9)), Ok(()));
    fixture.commit(group);
    assert_eq!(marks(&fixture), (9, 9, 9));
    let mut group = fixture.core.group();
    let refusal = TrimRefusal::NotAbove {
        to: slot(9),
        trimmed_to: slot(9),
    };
    assert_eq!(fixture.core.trim_to_recorded(&mut group, slot(9)), Err(refusal));
}

#[test]
fn claim_heard_without_space_makes_the_watermark_over_its_own_rows_durable() {
    let mut fixture = Fixture::blank();
    fixture.accept(&accept(1, 0, &[(0, "x"), (1, "x")])).unwrap();
    fixture.accept(&accept(2, 0, &[(2, "x"), (3, "x")])).unwrap();
    for (claim, known_to) in [
        // Slots 0 and 1 have rows of an older ballot, which prove nothing.
        (accept(2, 4, &[]), None),
        (accept(1, 2, &[]), None),
    ] {
        let mut group = fixture.core.group();
        fixture.core.hear_claim(&mut group, &claim);
        assert_eq!(fixture.core.write(&group).map(|write| write.known_to), known_to);
    }
    fixture.accept(&accept(2, 0, &[(0, "x"), (1, "x")])).unwrap();
    let mut group = fixture.core.group();
    fixture.core.hear_claim(&mut group, &accept(2, 3, &[]));
    let write = fixture
        .core
        .write(&group)
        .expect("a raised watermark must be durable");
    assert_eq!((write.known_to, write.rows.len()), (slot(3), 0));
    fixture.commit(group);
    let mut group = fixture.core.group();
    fixture.core.hear_claim(&mut group, &accept(2, 3, &[]));
    assert!(fixture.core.write(&group).is_none(), "once");
}

#[test]
fn lift_skips_missing_and_older_rows() {
    let mut fixture = with_six_rows();
    // A later leader knows slots 0 to 8 to be chosen. Slot 5 is held at an older ballot, 6 to 8 are missing.
    let answer = fixture.accept(&accept(2, 9, &[(10, "y")]));
    assert_eq!(answer, Ok(accepted(&[(10, 11)], 11, 5)));
    assert_eq!(trim(&mut fixture, 9), Ok(()));
    assert_eq!(marks(&fixture), (9, 9, 11));
    // The watermark goes on from there, over rows of the leader's ballot.
    let answer = fixture.accept(&accept(2, 11, &[(9, "z")]));
    assert_eq!(answer, Ok(accepted(&[(9, 10)], 11, 11)));
}

#[test]
fn lift_above_all_votes_raises_the_end_of_the_votes() {
    let mut fixture = Fixture::blank();
    fixture.accept(&accept(1, 7, &[])).unwrap();
    trim(&mut fixture, 7).unwrap();
    assert_eq!(marks(&fixture), (7, 7, 7));
    assert_eq!(
        fixture.accept(&accept(1, 8, &[])),
        Ok(accepted(&[], 7, 7)),
        "no row above the lift, so the watermark stays"
    );
}

#[test]
fn trim_forgets_the_damage_below() {
    let mut fixture = with_six_rows();
    fixture.core.found_damaged([slot(1), slot(3)]);
    assert_eq!(fixture.core.chosen_to(), slot(1));
    trim(&mut fixture, 2).unwrap();
    assert_eq!(
        (fixture.core.chosen_to(), fixture.core.damaged_rows()),
        (slot(3), 1)
    );
    assert_eq!(fixture.core.found_damaged([slot(1)]), 0, "no row is left there");
    trim(&mut fixture, 4).unwrap();
    assert_eq!(
        (fixture.core.chosen_to(), fixture.core.damaged_rows()),
        (slot(5), 0)
    );
}

#[test]
fn answer_after_a_trim_in_the_same_group_no_longer_stops_at_the_damage() {
    let mut fixture = with_six_rows();
    fixture.core.found_damaged([slot(1)]);
    let mut group = fixture.core.group();
    fixture.core.trim(&mut group, slot(2)).unwrap();
    let answer = fixture
        .core
        .accept(&mut group, &accept(1, 5, &[]), &BTreeMap::new());
    assert_eq!(answer, Ok(accepted(&[], 6, 5)));
}

#[test]
fn accept_is_judged_by_a_trim_of_the_same_group() {
    // Slot 0 is held at an older ballot. The chosen value is another: the lift covers the slot.
    let mut fixture = Fixture::blank();
    fixture.accept(&accept(1, 0, &[(0, "old")])).unwrap();
    fixture.accept(&accept(2, 1, &[])).unwrap();
    let mut group = fixture.core.group();
    fixture.core.trim(&mut group, slot(1)).unwrap();
    let message = accept(2, 1, &[(0, "chosen")]);
    let below = fixture.below(&message);
    let answer = fixture.core.accept(&mut group, &message, &below);
    assert_eq!(answer, Ok(AcceptAnswer::Trimmed { trimmed_to: slot(1) }));
}

#[test]
fn trim_covers_rows_accepted_earlier_in_the_same_group() {
    let mut fixture = with_six_rows();
    let mut group = fixture.core.group();
    let message = accept(1, 7, &[(6, "y"), (7, "z")]);
    let answer = fixture.core.accept(&mut group, &message, &BTreeMap::new());
    assert_eq!(answer, Ok(accepted(&[(6, 8)], 8, 7)));
    fixture.core.trim(&mut group, slot(7)).unwrap();
    assert_eq!(group.rows().keys().copied().collect::<Vec<_>>(), [slot(7)]);
    fixture.commit(group);
    assert_eq!(marks(&fixture), (7, 7, 8));
}

#[test]
fn no_stored_row_below_the_first_slot_is_read() {
    let mut fixture = with_six_rows();
    trim(&mut fixture, 3).unwrap();
    let message = accept(1, 5, &[(2, "x"), (3, "x"), (5, "x")]);
    let slots: Vec<_> = fixture.core.slots_to_read(&message).collect();
    assert_eq!(slots, [slot(3)]);
}
