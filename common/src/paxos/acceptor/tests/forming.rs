//! Becoming a member.

use super::*;

#[test]
fn forming_takes_two_steps_and_each_may_be_repeated() {
    let list = configuration(&[1, 2, 3]);
    let mut acceptor = Fixture::with(Recovered {
        membership: Membership::Blank,
        ..recovered()
    });
    assert_eq!(acceptor.core.stamp().cluster, None);
    for _ in 0..2 {
        let mut group = acceptor.core.group();
        assert_eq!(acceptor.core.store_configuration(&mut group, &list), Ok(()));
        acceptor.commit(group);
        assert_eq!(*acceptor.core.membership(), Membership::Forming(list.clone()));
        assert_eq!(
            acceptor.core.formed_cluster(),
            None,
            "a forming acceptor does not vote"
        );
    }
    for _ in 0..2 {
        let mut group = acceptor.core.group();
        assert_eq!(acceptor.core.complete_configuration(&mut group, &list), Ok(()));
        acceptor.commit(group);
        assert_eq!(acceptor.core.formed_cluster(), Some(list.cluster_id()));
    }
    // Storing again does not unmake a member.
    let mut group = acceptor.core.group();
    assert_eq!(acceptor.core.store_configuration(&mut group, &list), Ok(()));
    assert!(acceptor.core.write(&group).is_none());
}

#[test]
fn forming_refuses_other_lists_and_a_skipped_step() {
    let list = configuration(&[1, 2, 3]);
    let other = configuration(&[1, 2, 4]);
    let blank = Fixture::with(Recovered {
        membership: Membership::Blank,
        ..recovered()
    });
    let mut group = blank.core.group();
    assert_eq!(
        blank
            .core
            .store_configuration(&mut group, &configuration(&[2, 3, 4])),
        Err(FormRefusal::NotListed(uuid(1)))
    );
    assert_eq!(
        blank.core.complete_configuration(&mut group, &list),
        Err(FormRefusal::NotStored)
    );
    assert!(!group.needs_commit());

    for membership in [
        Membership::Forming(list.clone()),
        Membership::Formed(list.clone()),
    ] {
        let acceptor = Fixture::with(Recovered {
            membership,
            ..recovered()
        });
        let mut group = acceptor.core.group();
        for refusal in [
            acceptor.core.store_configuration(&mut group, &other),
            acceptor.core.complete_configuration(&mut group, &other),
        ] {
            let Err(FormRefusal::Conflict { stored, asked }) = &refusal else {
                panic!("{refusal:?}");
            };
            assert_ne!(stored, asked);
            let message = refusal.unwrap_err().to_string();
            assert!(message.contains("empty every listed data directory"), "{message}");
            assert!(
                message.contains("is formed, never empty a data directory"),
                "{message}"
            );
        }
        assert!(!group.needs_commit());
    }
}

#[test]
fn a_list_stored_in_the_same_group_counts_as_stored() {
    let list = configuration(&[1, 2, 3]);
    let mut acceptor = Fixture::with(Recovered {
        membership: Membership::Blank,
        ..recovered()
    });
    let mut group = acceptor.core.group();
    acceptor.core.store_configuration(&mut group, &list).unwrap();
    assert!(matches!(
        acceptor
            .core
            .store_configuration(&mut group, &configuration(&[1, 5, 6])),
        Err(FormRefusal::Conflict { .. })
    ));
    acceptor.core.complete_configuration(&mut group, &list).unwrap();
    acceptor.commit(group);
    assert_eq!(acceptor.core.formed_cluster(), Some(list.cluster_id()));
}

#[test]
fn the_same_list_with_other_quorums_is_another_cluster() {
    let list = configuration(&[1, 2, 3]);
    let acceptor = Fixture::with(Recovered {
        membership: Membership::Forming(list.clone()),
        ..recovered()
    });
    let members = list.members().clone();
    let flexible = Configuration::of_members(members, 3, 1).unwrap();
    let mut group = acceptor.core.group();
    assert!(matches!(
        acceptor.core.complete_configuration(&mut group, &flexible),
        Err(FormRefusal::Conflict { .. })
    ));
}
