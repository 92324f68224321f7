//! The slots lost by earlier restores, beside an acceptor of an earlier release that leaves the list out.

use super::*;

const NUMBERS: [u128; 2] = [1, 2];

/// The origin of a backup of a restored cluster.
fn chained() -> Origin {
    let first = origin(7);
    let second = Origin::after([8; 32], first.base().next(), None).unwrap();
    second.following(&first).unwrap()
}

/// The configuration as an earlier release stores it.
fn shortened() -> Configuration {
    let origin = chained();
    let short = Origin::new(*origin.sha256(), origin.ended_at(), origin.base()).unwrap();
    list(&NUMBERS).restored_from(short)
}

#[test]
fn configuration_without_the_earlier_restores_ends_the_command_until_it_is_formed() {
    let seed = Seed::of(&shortened()).unwrap();
    let next = |memberships: [Membership; 2]| {
        let mut command = Restoring::new(NUMBERS.map(address).to_vec(), chained()).unwrap();
        for (number, membership) in NUMBERS.into_iter().zip(memberships) {
            command.report(report(number, membership));
        }
        command.next()
    };
    for other in [Membership::Seeded(seed), Membership::Forming(shortened())] {
        let refused = next([other, Membership::Forming(shortened())]).unwrap_err();
        assert!(matches!(refused, RestoreConflict::ShortList { .. }), "{refused}");
        assert!(refused.to_string().contains("update every acceptor"), "{refused}");
    }
    let long = list(&NUMBERS).restored_from(chained());
    let stored = next([Membership::Seeded(seed), Membership::Forming(long)]);
    assert!(matches!(stored, Ok(RestoreAction::Keep(..))), "{stored:?}");
    // Nothing is left to do.
    let formed = next(NUMBERS.map(|_| Membership::Formed(shortened())));
    assert!(matches!(formed, Ok(RestoreAction::Formed(_))), "{formed:?}");
}
