//! The cluster across a change of members.

use paxos_common::peer::Dialer;
use paxos_learner_testing::{FakeAcceptor, acceptors, changed, held};

use super::*;
use crate::store::testing::{configuration, next_configuration};

fn uuid(number: u128) -> AcceptorUuid {
    AcceptorUuid::from_u128(number)
}

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

/// An acceptor's answer to `Form`.
fn report(acceptor: u128, membership: Membership) -> FormReport {
    FormReport {
        acceptor: uuid(acceptor),
        address: "http://a:1".into(),
        membership,
    }
}

#[test]
fn later_configuration_is_adopted_and_an_earlier_one_never_again() {
    let first = configuration();
    let second = next_configuration(&first);
    let third = next_configuration(&second);
    let cluster = cluster_of(&first);
    let mut eras = cluster.follow();
    assert!(cluster.adopt(&second, slot(7)));
    assert!(eras.has_changed().unwrap());
    let present = Arc::clone(&eras.borrow_and_update());
    assert_eq!((present.era(), present.proves_from()), (second.era(), slot(7)));
    let members: Vec<_> = present
        .acceptors()
        .iter()
        .map(|acceptor| acceptor.uuid())
        .collect();
    assert_eq!(members, [3, 4, 5].map(uuid));
    // Another cluster, with a later era.
    let other = Configuration::new([(uuid(8), "http://a:1".into())], 1, 1).unwrap();
    let other = next_configuration(&next_configuration(&other));
    for ignored in [&first, &second, &other] {
        assert!(!cluster.adopt(ignored, Slot::ZERO));
    }
    assert!(!eras.has_changed().unwrap());
    assert_eq!(cluster.present().proves_from(), slot(7));
    assert!(cluster.adopt(&third, Slot::ZERO));
    assert_eq!(cluster.id(), first.cluster_id());
}

#[test]
fn member_that_stays_keeps_its_connection_unless_its_address_changes() {
    let first = configuration();
    let cluster = cluster_of(&first);
    let before = cluster.present();
    let entry = |number: u128| {
        let address: Arc<str> = format!("http://127.0.0.1:700{number}").into();
        (uuid(number), address.into())
    };
    let moved: Arc<str> = "http://elsewhere:1".into();
    let members = [entry(1), (uuid(2), moved.into()), entry(4)];
    assert!(cluster.adopt(&first.changed_to(members, 2, 2).unwrap(), Slot::ZERO));
    let after = cluster.present();
    let is_kept = |number| {
        let (before, after) = (before.acceptor(uuid(number)), after.acceptor(uuid(number)));
        before
            .zip(after)
            .is_some_and(|(before, after)| Arc::ptr_eq(before, after))
    };
    assert_eq!([1, 2, 3, 4].map(is_kept), [true, false, false, false]);
    assert!(after.acceptor(uuid(3)).is_none());
}

#[test]
fn configuration_in_force_is_adopted_from_any_acceptor_of_the_cluster() {
    let first = configuration();
    let second = next_configuration(&first);
    let cluster = cluster_of(&first);
    let hear = |acceptor, membership: &Membership| cluster.hear(&report(acceptor, membership.clone()));
    let (earlier, later) = (Membership::Formed(first), Membership::Formed(second.clone()));
    hear(1, &earlier).unwrap();
    // Not from an acceptor that has only stored a list, nor from another cluster.
    assert!(hear(1, &Membership::Forming(second.clone())).is_err());
    let other = Configuration::new([(uuid(8), "http://a:1".into())], 1, 1).unwrap();
    let other = Membership::Formed(next_configuration(&other));
    assert!(matches!(hear(8, &other), Err(Unusable::OtherCluster { .. })));
    assert_eq!(cluster.present().era(), Era::FIRST);
    // Acceptor 1 is removed, and reports so.
    assert!(matches!(hear(1, &later), Err(Unusable::LaterEra(era)) if era == second.era()));
    assert_eq!(cluster.present().era(), second.era());
    hear(4, &later).unwrap();
    // A member that has not installed the configuration yet.
    hear(3, &earlier).unwrap();
    assert_eq!(cluster.present().era(), second.era());
    assert!(cluster.check_present(uuid(3)).is_ok());
    assert!(matches!(
        cluster.check_present(uuid(1)),
        Err(Unusable::LaterEra(_))
    ));
}

#[tokio::test]
async fn run_that_members_of_an_earlier_era_witnessed_does_not_count() {
    let [one, two, three] = acceptors().await;
    let next = [
        one.clone(),
        FakeAcceptor::start(4).await,
        FakeAcceptor::start(5).await,
    ];
    let next = changed(&held(&one), &next);
    let book = AddressBook::new(Vec::new(), Dialer::default());
    let cluster = Arc::new(Cluster::new(&held(&one), Arc::new(book)));
    let others = [&two, &three];
    for other in others {
        other.change(|script| script.forms_muted = true);
    }
    let listed = Arc::clone(cluster.present().acceptor(one.uuid).unwrap());
    let identifying = tokio::spawn({
        let cluster = Arc::clone(&cluster);
        async move { cluster.identify(&listed).await }
    });
    for other in others {
        other.hears(|heard| heard.forms == 1).await;
    }
    assert!(cluster.adopt(&next, Slot::ZERO));
    for other in others {
        other.change(|script| script.forms_muted = false);
    }
    let found = identifying.await.unwrap();
    assert!(matches!(found, Err(Unusable::LaterEra(_))), "{found:?}");
    let run = RunNumber::from_random(1);
    assert!(!cluster.known().guard.is_witnessed(one.uuid, run));
}
