//! Forming from the view of a caller: agreement, conflicts, interruptions, lost disks.

use super::{
    testing::{Acceptors, address, forming, list, report, uuid},
    *,
};

/// Carries out one step of `action`; returns whether there was anything to do. No acceptor refuses.
fn step(acceptors: &mut Acceptors, caller: &mut Forming, action: FormAction) -> bool {
    let taken = acceptors.carry_out(caller, action);
    taken.map(Result::unwrap).is_some()
}

/// Carries a caller through to the end, after asking every acceptor, as a starting proposer does.
fn finish(acceptors: &mut Acceptors, caller: &mut Forming) {
    for number in [1, 2, 3] {
        caller.report(acceptors.report(number));
    }
    loop {
        let action = caller.next().unwrap();
        if !step(acceptors, caller, action) {
            return;
        }
    }
}

fn all_formed(acceptors: &Acceptors) -> bool {
    acceptors
        .0
        .values()
        .all(|acceptor| acceptor.formed_cluster().is_some())
}

#[test]
fn blank_acceptors_become_a_cluster_of_majorities() {
    let mut acceptors = Acceptors::blank(&[1, 2, 3]);
    let mut caller = forming(&[1, 2, 3]);
    while let Ok(action) = caller.next() {
        if !step(&mut acceptors, &mut caller, action) {
            break;
        }
    }
    assert!(all_formed(&acceptors));
    let Ok(FormAction::Formed {
        configuration,
        complete,
        lost,
    }) = caller.next()
    else {
        panic!("{:?}", caller.next());
    };
    assert_eq!(configuration, list(&[1, 2, 3]));
    assert_eq!(
        (configuration.quorums().phase1(), configuration.quorums().phase2()),
        (2, 2)
    );
    assert_eq!((complete, lost), (vec![], vec![]));
}

#[test]
fn two_proposers_that_form_at_once_agree_in_every_interleaving() {
    // Each bit selects the next caller: every interleaving of the first twelve steps.
    for turns in 0..1 << 12 {
        let mut acceptors = Acceptors::blank(&[1, 2, 3]);
        let mut callers = [forming(&[1, 2, 3]), forming(&[3, 1, 2])];
        for turn in 0..12 {
            let caller = &mut callers[turns >> turn & 1];
            let action = caller.next().unwrap();
            step(&mut acceptors, caller, action);
        }
        for caller in &mut callers {
            finish(&mut acceptors, caller);
            assert!(matches!(caller.next(), Ok(FormAction::Formed { lost, .. }) if lost.is_empty()));
        }
        assert!(all_formed(&acceptors), "turns {turns:012b}");
    }
}

#[test]
fn a_proposer_killed_after_any_step_leaves_what_the_next_one_completes() {
    for steps in 0..10 {
        let mut acceptors = Acceptors::blank(&[1, 2, 3]);
        let mut killed = forming(&[1, 2, 3]);
        for _ in 0..steps {
            let action = killed.next().unwrap();
            step(&mut acceptors, &mut killed, action);
        }
        finish(&mut acceptors, &mut forming(&[1, 2, 3]));
        assert!(all_formed(&acceptors), "killed after {steps} steps");
    }
}

#[test]
fn asks_every_acceptor_before_listing_members() {
    let mut caller = forming(&[1, 2, 3]);
    caller.report(report(1, Membership::Blank));
    caller.report(report(2, Membership::Blank));
    assert_eq!(caller.next(), Ok(FormAction::Ask(vec![address(3)])));
}

#[test]
fn completes_only_when_all_have_stored_it() {
    let stored = || Membership::Forming(list(&[1, 2, 3]));
    let mut caller = forming(&[1, 2, 3]);
    caller.report(report(1, stored()));
    caller.report(report(2, stored()));
    assert_eq!(caller.next(), Ok(FormAction::Ask(vec![address(3)])));
    caller.report(report(3, Membership::Blank));
    assert_eq!(
        caller.next(),
        Ok(FormAction::Store(list(&[1, 2, 3]), vec![address(3)]))
    );
    caller.report(report(3, stored()));
    assert!(matches!(caller.next(), Ok(FormAction::Complete(_, to)) if to.len() == 3));
}

#[test]
fn one_formed_member_is_enough_to_begin() {
    let mut caller = forming(&[1, 2, 3]);
    caller.report(report(2, Membership::Formed(list(&[1, 2, 3]))));
    caller.report(report(3, Membership::Forming(list(&[1, 2, 3]))));
    assert_eq!(
        caller.next(),
        Ok(FormAction::Formed {
            configuration: list(&[1, 2, 3]),
            complete: vec![address(3)],
            lost: vec![]
        })
    );
}

#[test]
fn an_acceptor_that_is_blank_after_another_was_formed_has_lost_its_disk() {
    let mut caller = forming(&[1, 2, 3]);
    caller.report(report(1, Membership::Formed(list(&[1, 2, 3]))));
    // The acceptor drew a new uuid with its new disk.
    caller.report(FormReport {
        acceptor: uuid(99),
        ..report(3, Membership::Blank)
    });
    assert_eq!(
        caller.next(),
        Ok(FormAction::Formed {
            configuration: list(&[1, 2, 3]),
            complete: vec![],
            lost: vec![address(3)]
        })
    );
}

#[test]
fn acceptor_blank_before_another_was_formed_is_not_taken_as_lost() {
    let mut caller = forming(&[1, 2, 3]);
    caller.report(report(3, Membership::Blank));
    caller.report(report(1, Membership::Formed(list(&[1, 2, 3]))));
    assert!(matches!(caller.next(), Ok(FormAction::Formed { lost, .. }) if lost.is_empty()));
}

#[test]
fn conflicting_lists_stick_with_a_message_that_says_the_way_out() {
    let mut caller = forming(&[1, 2, 3]);
    caller.report(report(1, Membership::Forming(list(&[1, 2, 3]))));
    caller.report(report(3, Membership::Forming(list(&[2, 3, 4]))));
    let conflict = caller.next().unwrap_err();
    assert!(
        matches!(conflict, FormConflict::ListsDiffer { .. }),
        "{conflict:?}"
    );
    let message = conflict.to_string();
    for part in [
        &address(1)[..],
        &address(3)[..],
        &uuid(1).to_string(),
        &uuid(4).to_string(),
        "including unreachable acceptors",
        "stop the proposers and empty every listed data directory",
        "If any listed acceptor is formed, never empty a data directory",
    ] {
        assert!(message.contains(part), "{part:?} is missing in {message:?}");
    }
}

#[test]
fn stored_list_without_an_acceptor_that_answered_is_a_conflict() {
    let mut caller = forming(&[1, 2, 3]);
    caller.report(report(1, Membership::Forming(list(&[1, 2, 4]))));
    caller.report(report(3, Membership::Blank));
    let conflict = caller.next().unwrap_err();
    assert!(matches!(conflict, FormConflict::Stranger { .. }), "{conflict:?}");
    assert!(
        conflict.to_string().contains("correct the list of addresses"),
        "{conflict}"
    );
}

#[test]
fn a_wrong_number_of_addresses_is_a_conflict_unless_the_cluster_is_named_or_has_changed() {
    let first = list(&[1, 2, 3]);
    for membership in [
        Membership::Forming(first.clone()),
        Membership::Formed(first.clone()),
    ] {
        let mut caller = forming(&[1, 2]);
        caller.report(report(1, membership));
        assert_eq!(caller.next(), Err(FormConflict::Count { given: 2, members: 3 }));
    }
    let mut caller = forming(&[1, 2]).of_cluster(Some(first.cluster_id()));
    caller.report(report(2, Membership::Formed(first.clone())));
    assert_eq!(taken(&caller), first);
    let second = next(&first, &[1, 2, 4]);
    let mut caller = forming(&[1, 2]);
    caller.report(report(2, Membership::Formed(second.clone())));
    assert_eq!(taken(&caller), second);
}

/// The configuration that the caller goes on with.
fn taken(caller: &Forming) -> Configuration {
    match caller.next() {
        Ok(FormAction::Formed { configuration, .. }) => configuration,
        other => panic!("{other:?}"),
    }
}

/// The configuration of the era after `before`, with these members.
fn next(before: &Configuration, numbers: &[u128]) -> Configuration {
    let members = numbers
        .iter()
        .map(|&number| (uuid(number), address(number).into()));
    let quorum = majority(numbers.len());
    before.changed_to(members, quorum, quorum).unwrap()
}

#[test]
fn latest_configuration_of_the_cluster_is_taken() {
    let first = list(&[1, 2, 3]);
    let second = next(&first, &[1, 2, 4]);
    let third = next(&second, &[1, 4, 5]);
    // Acceptor 3 was removed, acceptor 2 has not heard of the third era, and acceptor 6 was never a member.
    let mut caller = forming(&[2, 3, 4, 6]).of_cluster(Some(first.cluster_id()));
    for (number, held) in [(3, &first), (2, &second), (4, &third)] {
        caller.report(report(number, Membership::Formed(held.clone())));
        assert_eq!(taken(&caller), *held);
    }
    let wrong = caller.wrong_list(&third).unwrap();
    assert_eq!(wrong.no_members_at, [address(2), address(3), address(6)]);
    assert_eq!(
        wrong.right_list,
        [1, 4, 5].map(|number| address(number).to_string()).join(",")
    );
    assert_eq!(caller.unaware(&third), [address(2), address(3)]);
    assert_eq!(forming(&[1, 4, 5]).wrong_list(&third), None);
    let short = forming(&[1, 4]).wrong_list(&third).unwrap();
    assert!(short.no_members_at.is_empty());
    // Two configurations of one era: a process broke the protocol.
    caller.report(report(6, Membership::Formed(next(&second, &[1, 4, 6]))));
    assert!(matches!(caller.next(), Err(FormConflict::ListsDiffer { .. })));
}

#[test]
fn list_of_the_members_is_right_after_a_move_to_tls() {
    let members = list(&[1, 2, 3]);
    let secure = |number: u128| -> Arc<str> { address(number).replace("http://", "https://").into() };
    // No acceptor has answered yet.
    assert_eq!(
        Forming::new([1, 2, 3].map(secure).to_vec()).wrong_list(&members),
        None
    );
    let wrong = Forming::new([1, 2, 4].map(secure).to_vec())
        .wrong_list(&members)
        .unwrap();
    assert_eq!(wrong.no_members_at, [secure(4)]);
    let right = [1, 2, 3].map(|number| secure(number).to_string());
    assert_eq!(wrong.right_list, right.join(","));
}

#[test]
fn caller_of_one_cluster_ignores_others_and_forms_none() {
    let (ours, other) = (list(&[1, 2, 3]), list(&[4]));
    let mut caller = forming(&[1, 4, 5]).of_cluster(Some(ours.cluster_id()));
    let wait = Ok(FormAction::Wait([1, 4, 5].map(address).to_vec()));
    assert_eq!(caller.next(), wait);
    for number in [1, 4, 5] {
        caller.report(report(number, Membership::Blank));
    }
    assert_eq!(caller.next(), wait, "blank acceptors stay blank");
    caller.report(report(1, Membership::Forming(ours.clone())));
    assert_eq!(caller.next(), wait);
    caller.report(report(4, Membership::Formed(other)));
    assert_eq!(caller.next(), wait);
    caller.report(report(1, Membership::Formed(ours.clone())));
    assert_eq!(taken(&caller), ours);
}

#[test]
fn the_same_acceptor_behind_two_addresses_is_a_conflict() {
    let mut caller = forming(&[1, 2]);
    caller.report(report(1, Membership::Blank));
    caller.report(FormReport {
        address: address(2),
        ..report(1, Membership::Blank)
    });
    assert_eq!(
        caller.next(),
        Err(FormConflict::Invalid(InvalidConfiguration::Twice(uuid(1))))
    );
}

#[test]
fn the_same_address_given_twice_is_a_conflict_before_anything_is_stored() {
    let mut caller = forming(&[1, 1, 2]);
    caller.report(report(1, Membership::Blank));
    caller.report(report(2, Membership::Blank));
    assert_eq!(caller.next(), Err(FormConflict::Count { given: 3, members: 2 }));
}

#[test]
fn a_later_answer_replaces_an_earlier_one() {
    let mut caller = forming(&[1]);
    caller.report(report(1, Membership::Blank));
    assert!(matches!(caller.next(), Ok(FormAction::Store(..))));
    caller.report(report(1, Membership::Forming(list(&[1]))));
    assert!(matches!(caller.next(), Ok(FormAction::Complete(..))));
    caller.report(report(1, Membership::Formed(list(&[1]))));
    assert!(matches!(caller.next(), Ok(FormAction::Formed { .. })));
}
