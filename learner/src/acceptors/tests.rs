//! Acceptors at several addresses, over real gRPC.

use paxos_common::peer::Dialer;
use paxos_learner_testing::{FakeAcceptor, acceptors};

use super::*;

/// An address without a listening process.
const NOWHERE: &str = "http://127.0.0.1:1";

fn book(given: &[&FakeAcceptor]) -> Arc<AddressBook> {
    let given = given.iter().map(|acceptor| acceptor.address.clone());
    Arc::new(AddressBook::new(given.collect(), Dialer::default()))
}

#[tokio::test]
async fn member_is_found_at_a_given_address_where_a_removed_acceptor_answered() {
    let [one, two, _] = acceptors().await;
    let removed = AcceptorUuid::from_u128(9);
    let book = book(&[&two, &one]);
    book.answered(&two.address, two.uuid);
    book.answered(&one.address, removed);
    let listed = ListedAcceptor::new(one.uuid, NOWHERE.into(), book);
    let found = listed.ask(|acceptor| acceptor != removed, |_| Ok(())).await;
    assert_eq!(found.unwrap().report.acceptor, one.uuid);
    assert_eq!(two.heard.borrow().forms, 0, "another member answers there");
}

#[tokio::test]
async fn other_acceptor_is_a_refusal_only_at_the_address_of_the_member() {
    let [one, two, _] = acceptors().await;
    let uuid = one.uuid;
    for is_ours in [true, false] {
        let check = |_: &FormReport| if is_ours { Ok(()) } else { Err(Unusable::Blank) };
        let guessed = ListedAcceptor::new(uuid, NOWHERE.into(), book(&[&two]));
        let reason = guessed.ask(|_| true, check).await.unwrap_err();
        assert!(!reason.is_refusal(), "{reason}");
        let own = ListedAcceptor::new(uuid, two.address.as_str().into(), book(&[&two]));
        let reason = own.ask(|_| true, check).await.unwrap_err();
        assert!(reason.is_refusal(), "{reason}");
    }
    assert!(two.heard.borrow().forms >= 4);
}
