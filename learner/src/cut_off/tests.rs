//! The rules for a learner at start and for a running learner, and the end of every chain of installations.

use std::collections::BTreeMap;

use paxos_common::paxos::identity::AcceptorUuid;

use super::*;

mod ends;

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

/// Reports of the acceptors 1, 2, …
fn reports(trimmed_to: &[u64]) -> Vec<TrimReport> {
    let report = |(number, &to)| TrimReport {
        acceptor: AcceptorUuid::from_u128(number),
        trimmed_to: slot(to),
    };
    (1..).zip(trimmed_to).map(report).collect()
}

#[test]
fn learner_at_start_is_cut_off_below_all_logs_of_a_quorum() {
    let look = |position, trimmed_to: &[u64]| at_start(slot(position), 2, &reports(trimmed_to));
    let served = |index: usize, trimmed_to: &[u64]| StartStanding::Served(reports(trimmed_to)[index]);
    assert_eq!(look(0, &[]), StartStanding::Unknown);
    assert_eq!(look(0, &[10]), StartStanding::Unknown);
    assert_eq!(look(0, &[10, 20]), StartStanding::CutOff);
    assert_eq!(look(9, &[10, 20, 30]), StartStanding::CutOff);
    // The first slot of a log is readable.
    assert_eq!(look(10, &[20, 10]), served(1, &[20, 10]));
    // A single acceptor is enough for the opposite.
    assert_eq!(look(0, &[0]), served(0, &[0]));
    assert_eq!(look(0, &[10, 20, 0]), served(2, &[10, 20, 0]));
}

/// Votes alone can always prove a slot.
const MANY: SlotVoters = SlotVoters {
    members: usize::MAX,
    quorum: 1,
};

#[test]
fn learner_is_cut_off_sooner_when_votes_alone_cannot_prove_its_position() {
    let begin = Instant::now();
    let voters = SlotVoters {
        members: 3,
        quorum: 2,
    };
    // The seconds until the learner is cut off.
    let cut_off_after = |trimmed_to: &[u64]| {
        let mut standstill = Standstill::new(Duration::from_secs(10), GivenUp::default(), voters);
        (0..).find(|&second| {
            let now = begin + Duration::from_secs(second);
            standstill.look(slot(7), &reports(trimmed_to), now)
        })
    };
    // Two acceptors may have the row of slot 7. The third may be away.
    assert_eq!(cut_off_after(&[8, 7, 0]), Some(10));
    assert_eq!(cut_off_after(&[8]), Some(10));
    // At most one acceptor has the row.
    assert_eq!(cut_off_after(&[8, 9, 0]), Some(3));
    assert_eq!(cut_off_after(&[8, 9]), Some(3));
    assert_eq!(cut_off_after(&[8, 9, 10]), Some(3));
}

#[test]
fn running_learner_is_cut_off_when_it_stands_still_below_a_log() {
    let begin = Instant::now();
    let mut standstill = Standstill::new(Duration::from_secs(10), GivenUp::default(), MANY);
    let mut look = |position, trimmed_to: &[u64], second| {
        let now = begin + Duration::from_secs(second);
        standstill.look(slot(position), &reports(trimmed_to), now)
    };
    // No acceptor has trimmed beyond the position, however long the learner stands still.
    assert!(!look(10, &[10, 0, 5], 0));
    assert!(!look(10, &[10, 0, 5], 100));
    // The time counts from the first look below a log.
    assert!(!look(10, &[11, 0, 5], 101));
    assert!(!look(10, &[11, 0, 5], 110));
    assert!(look(10, &[11, 0, 5], 111));
    // Any move begins the time again.
    assert!(!look(11, &[20], 112));
    assert!(!look(12, &[20], 121));
    assert!(!look(12, &[30], 130));
    // Also a moment without a recent report of such an acceptor.
    assert!(!look(12, &[0], 131));
    assert!(!look(12, &[30], 132));
    assert!(!look(12, &[30], 141));
    assert!(look(12, &[30], 142));
    assert!(look(12, &[30], 143));
}

#[test]
fn sources_are_the_snapshots_above_the_position_lowest_first() {
    let ends = |position, trimmed_to: &[u64]| -> Vec<_> {
        let sources = sources(slot(position), reports(trimmed_to)).into_iter();
        sources.map(|report| report.trimmed_to.get()).collect()
    };
    assert_eq!(ends(10, &[30, 10, 0, 11, 20]), [11, 20, 30]);
    assert_eq!(ends(30, &[30, 10]), [0; 0]);
}

/// A worst case: the learner never learns a slot by itself, and acceptors trim in between.
#[test]
fn chain_of_installations_ends_at_the_highest_log() {
    let mut draw = 1_u64;
    let mut random = |below: u64| {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (draw >> 33) % below
    };
    for acceptors in 1..=5_u64 {
        for _ in 0..200 {
            let uuids = (1..=acceptors).map(|number| AcceptorUuid::from_u128(number.into()));
            let mut logs: BTreeMap<_, _> = uuids.map(|uuid| (uuid, slot(random(50)))).collect();
            let (mut position, mut trims, mut installations) = (slot(random(50)), 0_u64, 0_u64);
            let mut standstill = Standstill::new(Duration::from_secs(10), GivenUp::default(), MANY);
            let mut now = Instant::now();
            while logs.values().any(|log| *log > position) {
                let reports = logs.iter();
                let reports: Vec<_> = reports
                    .map(|(&acceptor, &trimmed_to)| TrimReport { acceptor, trimmed_to })
                    .collect();
                let first = standstill.look(position, &reports, now);
                now += Duration::from_secs(10);
                assert!(
                    !first && standstill.look(position, &reports, now),
                    "never cut off"
                );
                let source = sources(position, reports)[0];
                assert!(
                    source.trimmed_to > position,
                    "an installation raises the position"
                );
                position = source.trimmed_to;
                installations += 1;
                if trims < 20 && random(2) == 0 {
                    trims += 1;
                    let number = AcceptorUuid::from_u128((1 + random(acceptors)).into());
                    let log = logs[&number].plus(random(9));
                    logs.insert(number, log);
                }
            }
            assert!(
                installations <= acceptors + trims,
                "{installations} installations"
            );
        }
    }
}

#[test]
fn learner_learns_without_a_snapshot_only_from_an_acceptor_with_the_slots() {
    let served = StartStanding::Served(TrimReport {
        acceptor: AcceptorUuid::from_u128(1),
        trimmed_to: Slot::ZERO,
    });
    let seconds = Duration::from_secs;
    let (absent, unproved) = (CutOffCause::NoAcceptorHas, CutOffCause::NotProved);
    for cause in [absent, unproved] {
        for standing in [StartStanding::CutOff, StartStanding::Unknown] {
            assert!(!is_given_up(cause, standing, false, seconds(1_000)));
            assert!(!is_given_up(cause, standing, true, seconds(1_000)));
        }
    }
    assert!(is_given_up(absent, served, true, seconds(0)));
    // The learner could not learn these slots.
    assert!(!is_given_up(unproved, served, true, seconds(59)));
    // The acceptor that had trimmed is gone, or its snapshot is of no use.
    assert!(is_given_up(unproved, served, false, seconds(0)));
    assert!(is_given_up(unproved, served, true, seconds(60)));
}

#[test]
fn learner_stands_still_for_longer_after_each_installation_given_up() {
    let begin = Instant::now();
    let mut given_up = GivenUp::default();
    // The seconds until the learner is cut off at a position.
    let mut cut_off_after = |position: u64| {
        let mut standstill = Standstill::new(Duration::from_secs(10), given_up, MANY);
        let mut look = |second| {
            let now = begin + Duration::from_secs(second);
            standstill.look(slot(position), &reports(&[100]), now)
        };
        let seconds = (0..1_000).find(|&second| look(second));
        given_up = given_up.cut_off_at(slot(position));
        seconds.unwrap()
    };
    let at_seven = [(); 6].map(|()| cut_off_after(7));
    assert_eq!(at_seven, [10, 20, 40, 80, 80, 80]);
    // After a move, the first time counts again.
    assert_eq!([(); 3].map(|()| cut_off_after(8)), [10, 20, 40]);
}
