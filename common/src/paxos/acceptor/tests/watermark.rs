//! How far an acceptor claims that slots are chosen.

use super::*;

#[test]
fn watermark_advances_over_contiguous_rows_of_the_claimants_own_ballot() {
    let mut acceptor = Fixture::blank();
    acceptor
        .accept(&accept(1, 0, &[(0, "a"), (1, "b"), (3, "d")]))
        .unwrap();
    assert_eq!(acceptor.accept(&accept(1, 4, &[])), Ok(accepted(&[], 4, 2)));
    assert_eq!(
        acceptor.accept(&accept(1, 4, &[(2, "c")])),
        Ok(accepted(&[(2, 3)], 4, 4))
    );
}

#[test]
fn watermark_never_passes_the_claim() {
    let mut acceptor = Fixture::blank();
    acceptor.accept(&accept(1, 0, &[(0, "a"), (1, "b")])).unwrap();
    assert_eq!(acceptor.accept(&accept(1, 1, &[])), Ok(accepted(&[], 2, 1)));
}

#[test]
fn older_row_below_the_watermark_is_unproven_until_accepted_again() {
    let mut acceptor = Fixture::blank();
    acceptor.accept(&accept(1, 0, &[(0, "a"), (1, "b")])).unwrap();
    assert_eq!(
        acceptor.accept(&accept(2, 2, &[(1, "b")])),
        Ok(accepted(&[(1, 2)], 2, 0))
    );
    assert_eq!(
        acceptor.accept(&accept(2, 2, &[(0, "other")])),
        Ok(accepted(&[(0, 1)], 2, 2))
    );
}

#[test]
fn a_rejected_claim_moves_no_watermark() {
    let mut acceptor = Fixture::blank();
    acceptor.accept(&accept(1, 0, &[(0, "a")])).unwrap();
    acceptor.prepare(2);
    acceptor.accept(&accept(1, 1, &[])).unwrap();
    assert_eq!(acceptor.core.chosen_to(), Slot::ZERO);
}

#[test]
fn an_unknown_row_stops_the_watermark_and_is_healed_by_the_leader() {
    let rows = BTreeMap::from([
        (slot(0), HeldRow::Accepted(ballot(1), value("a").fingerprint())),
        (slot(1), HeldRow::Unknown),
    ]);
    let mut acceptor = Fixture::with(Recovered {
        promised: ballot(1),
        voted_to: slot(2),
        rows,
        ..recovered()
    });
    assert_eq!(acceptor.accept(&accept(1, 2, &[])), Ok(accepted(&[], 2, 1)));
    // A damaged row cannot be compared: the leader's value is accepted.
    assert_eq!(
        acceptor.accept(&accept(1, 2, &[(1, "b")])),
        Ok(accepted(&[(1, 2)], 2, 2))
    );
}
