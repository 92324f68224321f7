//! Clients whose given acceptors were removed: they follow to the members, or say early that no member answers.

use paxos_proto::v1::{Configuration, Member, Stamp};

use super::*;

/// A formed acceptor with this number, of a cluster with these members.
fn of_cluster(acceptor: FakeAcceptor, number: u8, members: &[(u8, &Address)]) -> FakeAcceptor {
    let member = |&(number, address): &(u8, &Address)| Member {
        acceptor: vec![number; 16].into(),
        address: address.to_string(),
        name: String::new(),
    };
    acceptor.with(|answer| {
        answer.stamp = Some(Stamp {
            cluster_id: vec![9; 16].into(),
            acceptor: vec![number; 16].into(),
            ..Stamp::default()
        });
        answer.configuration = Some(Configuration {
            members: members.iter().map(member).collect(),
            era: 1,
            ..Configuration::default()
        });
    })
}

fn client_of_acceptors(acceptors: &[&Address]) -> Client {
    let mut config = ClientConfig::new(acceptors.iter().map(|address| address.as_str())).unwrap();
    config.timeout = LONG;
    Client::new(config).unwrap()
}

#[tokio::test]
async fn client_follows_removed_acceptors_to_the_members() {
    let proposer = FakeProposer::new(|_| Does::Orders);
    let served = proposer.serve().await;
    let member = FakeAcceptor::naming(&[(Role::Proposer, &served.address)]);
    let place = closed_address().await;
    // The acceptor at the closed address is a member, too.
    let member = of_cluster(member, 4, &[(4, &place), (5, &place)]).serve().await;
    let members = [(4, &member.address), (5, &place)];
    let removed = of_cluster(FakeAcceptor::naming(&[]), 1, &members).serve().await;
    let client = client_of_acceptors(&[&removed.address]);
    client.propose(append("followed")).await.unwrap();
    // The followed members are asked from now on.
    drop(removed);
    client.propose_unary(append("again")).await.unwrap();
}

#[tokio::test]
async fn client_whose_acceptors_are_removed_says_early_that_no_member_answers() {
    let [first, second] = [closed_address().await, closed_address().await];
    let members = [(4, &first), (5, &second)];
    let removed = of_cluster(FakeAcceptor::naming(&[]), 1, &members).serve().await;
    let client = client_of_acceptors(&[&removed.address]);
    let begun = Instant::now();
    let error = client.propose(append("lost")).await.unwrap_err();
    let read = client.get("key").await.unwrap_err();
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
    let ProposeError::Refused(cause) = error else {
        panic!("{error}")
    };
    for part in [
        "is a member any more: give the members of era 1, ",
        "No member answers: ",
        first.as_str(),
        second.as_str(),
    ] {
        assert!(cause.message.contains(part), "{cause}");
        assert!(read.to_string().contains(part), "{read}");
    }
}
