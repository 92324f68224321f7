//! A restore beside other restores and proposers never mixes.

use super::*;
use crate::paxos::{
    acceptor::{Acceptor, FormRefusal},
    forming::FormAction,
};

/// Two parties take turns by the bits of `turns`; then each goes on alone as far as possible.
fn interleave<A, B>(
    acceptors: &mut Acceptors,
    turns: u32,
    (first, step_first): (&mut A, impl Fn(&mut Acceptors, &mut A) -> bool),
    (second, step_second): (&mut B, impl Fn(&mut Acceptors, &mut B) -> bool),
) {
    for turn in 0..12 {
        if turns >> turn & 1 == 0 {
            step_first(acceptors, first);
        } else {
            step_second(acceptors, second);
        }
        acceptors.check_no_mixture();
    }
    while step_first(acceptors, first) {}
    while step_second(acceptors, second) {}
    acceptors.check_no_mixture();
}

#[test]
fn one_of_two_restores_of_different_backups_is_finished() {
    for turns in 0..1 << 12 {
        let mut acceptors = Acceptors::blank(&[1, 2]);
        let (mut first, mut second) = (restoring(&[1, 2], 7), restoring(&[1, 2], 8));
        let step =
            |acceptors: &mut Acceptors, command: &mut Restoring| acceptors.step(command).unwrap_or(false);
        let last = |to: &[Arc<str>]| Arc::clone(&to[to.len() - 1]);
        let step_back = |acceptors: &mut Acceptors, command: &mut Restoring| {
            acceptors.step_at(command, last).unwrap_or(false)
        };
        interleave(
            &mut acceptors,
            turns,
            (&mut first, step),
            (&mut second, step_back),
        );
        let formed = acceptors
            .0
            .values()
            .filter(|acceptor| acceptor.formed_cluster().is_some());
        assert_eq!(formed.count(), 2, "turns {turns:b}");
    }
}

#[test]
fn restores_into_overlapping_lists_that_refuse_each_other_say_how_both_end() {
    let mut acceptors = Acceptors::blank(&[1, 2, 3, 4]);
    let (mut first, mut second) = (restoring(&[1, 2, 3], 7), restoring(&[2, 3, 4], 8));
    // Each has its lowest acceptor, and the first has acceptor 3 too.
    let last = |to: &[Arc<str>]| Arc::clone(&to[to.len() - 1]);
    while acceptors.0[&3].membership() == &Membership::Blank {
        acceptors.step_at(&mut first, last).unwrap();
        if acceptors.0[&2].membership() == &Membership::Blank {
            acceptors.step(&mut second).unwrap();
        }
    }
    for command in [&mut first, &mut second] {
        let refused = acceptors.finish(command).unwrap_err().to_string();
        assert!(
            refused.contains("first end both commands and stop all proposers")
                && refused.contains("no acceptor of either list is formed"),
            "{refused}"
        );
    }
}

#[test]
fn proposer_beside_a_restore_never_mixes_and_may_finish_the_restore() {
    let (mut plain_wins, mut restored_wins) = (0, 0);
    for turns in 0..1 << 12 {
        let mut acceptors = Acceptors::blank(&[1, 2]);
        let (mut command, mut proposer) = (restoring(&[1, 2], 7), forming(&[1, 2]));
        let restore =
            |acceptors: &mut Acceptors, command: &mut Restoring| acceptors.step(command).unwrap_or(false);
        let propose =
            |acceptors: &mut Acceptors, proposer: &mut Forming| acceptors.propose(proposer).unwrap_or(false);
        interleave(
            &mut acceptors,
            turns,
            (&mut command, restore),
            (&mut proposer, propose),
        );
        let formed: BTreeSet<_> = acceptors
            .0
            .values()
            .filter_map(Acceptor::formed_cluster)
            .collect();
        plain_wins += usize::from(formed.contains(&list(&[1, 2]).cluster_id()));
        restored_wins += usize::from(formed.contains(&restored(&[1, 2], 7).cluster_id()));
    }
    assert!(
        plain_wins > 0 && restored_wins > 0,
        "{plain_wins} {restored_wins}"
    );
}

#[test]
fn proposer_finishes_a_restore_that_ended_after_a_stored_configuration() {
    let mut acceptors = Acceptors::blank(&[1, 2, 3]);
    let mut killed = restoring(&[1, 2, 3], 7);
    while !acceptors
        .0
        .values()
        .any(|acceptor| matches!(acceptor.membership(), Membership::Forming(_)))
    {
        acceptors.step(&mut killed).unwrap();
    }
    let mut proposer = forming(&[1, 2, 3]);
    for number in [1, 2, 3] {
        proposer.report(acceptors.report(number));
    }
    while acceptors.propose(&mut proposer).unwrap() {}
    acceptors.check_restored(&restored(&[1, 2, 3], 7));
}

#[test]
fn proposer_refuses_acceptors_that_hold_a_backup() {
    let mut proposer = forming(&[1, 2, 3]);
    proposer.report(report(1, Membership::Blank));
    proposer.report(report(2, Membership::Seeded(seed(&[1, 2, 3], 7))));
    let conflict = proposer.next().unwrap_err();
    assert_eq!(
        conflict.to_string(),
        "acceptor http://2 is blank and holds a backup: finish \"paxos restore\", or empty its directory"
    );
    // A seed of another cluster than the stored configuration.
    let mut proposer = forming(&[1, 2, 3]);
    proposer.report(report(1, Membership::Forming(restored(&[1, 2, 3], 7))));
    proposer.report(report(2, Membership::Seeded(seed(&[1, 2, 3], 8))));
    assert!(matches!(proposer.next(), Err(FormConflict::HoldsBackup { .. })));
    proposer.report(report(2, Membership::Blank));
    assert!(matches!(proposer.next(), Err(FormConflict::NoBackup { .. })));
}

#[test]
fn acceptor_without_its_backup_is_asked_again_once_another_takes_part_in_a_restore() {
    let mut proposer = forming(&[1, 2]);
    proposer.report(report(1, Membership::Blank));
    proposer.report(report(2, Membership::Forming(restored(&[1, 2], 7))));
    assert_eq!(proposer.next(), Ok(FormAction::Ask(vec![address(1)])));
    proposer.report(report(1, Membership::Seeded(seed(&[1, 2], 7))));
    assert!(matches!(proposer.next(), Ok(FormAction::Store(_, to)) if to == [address(1)]));
}

#[test]
fn acceptor_takes_a_configuration_and_a_seed_only_together() {
    let numbers = [1, 2];
    let mut acceptors = Acceptors::blank(&numbers);
    let (one, two) = (address(1), address(2));
    assert_eq!(
        acceptors.form(&one, &restored(&numbers, 7), false),
        Err(FormRefusal::NoBackup)
    );
    acceptors.at(&one).1.seeded(seed(&numbers, 7));
    for other in [list(&numbers), restored(&numbers, 8), restored(&[1, 3], 7)] {
        let refused = acceptors.form(&one, &other, false).unwrap_err();
        assert!(matches!(refused, FormRefusal::HoldsBackup { .. }), "{refused}");
        assert_eq!(acceptors.form(&one, &other, true), Err(FormRefusal::NotStored));
    }
    // The steps may be repeated, and come in one group.
    for _ in 0..2 {
        assert_eq!(acceptors.form(&one, &restored(&numbers, 7), false), Ok(()));
    }
    let refused = acceptors.form(&one, &list(&numbers), true).unwrap_err();
    assert!(
        refused.to_string().contains("restored from a backup to slot"),
        "{refused}"
    );
    acceptors.at(&two).1.seeded(seed(&numbers, 7));
    let (_, acceptor) = acceptors.at(&two);
    let mut group = acceptor.group();
    acceptor
        .store_configuration(&mut group, &restored(&numbers, 7))
        .unwrap();
    acceptor
        .complete_configuration(&mut group, &restored(&numbers, 7))
        .unwrap();
    let write = acceptor.write(&group).unwrap();
    assert_eq!(
        (write.trimmed_to, write.known_to),
        (origin(7).base(), origin(7).base())
    );
    assert!(
        matches!(write.membership, Some(Membership::Formed(_))),
        "one commit has both"
    );
    acceptor.committed(group);
    acceptors.form(&one, &restored(&numbers, 7), true).unwrap();
    acceptors.check_restored(&restored(&numbers, 7));
    // The cluster goes on: a repeated step changes nothing.
    let (_, acceptor) = acceptors.at(&one);
    let mut group = acceptor.group();
    acceptor
        .complete_configuration(&mut group, &restored(&numbers, 7))
        .unwrap();
    assert!(acceptor.write(&group).is_none());
    assert_eq!(
        acceptor.membership().take_seed(seed(&numbers, 7)),
        Ok(SeedUse::Nothing)
    );
}
