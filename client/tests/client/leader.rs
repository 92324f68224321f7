//! A client at a standby moves to the leader, and only to a proposer that says that it leads.

use super::{
    fake::{FakeStanding, Served},
    *,
};

/// Two proposers that order everything, and a client with a list of both, the first preferred.
struct Pair {
    first: FakeProposer,
    second: FakeProposer,
    client: Client,
    served: [Served; 2],
}

impl Pair {
    async fn new() -> Self {
        let [first, second] = [(), ()].map(|()| FakeProposer::new(|_| Does::Orders));
        let served = [first.serve().await, second.serve().await];
        let client = client_of(&[&served[0].address, &served[1].address], &[]);
        Self {
            first,
            second,
            client,
            served,
        }
    }

    /// The first proposer follows the second.
    fn first_follows(&self) {
        self.first
            .stands(FakeStanding::Follows(self.served[1].address.clone()));
    }

    async fn write(&self, is_unary: bool) {
        let written = match is_unary {
            true => self.client.propose_unary(append("value")).await,
            false => self.client.append_at_most_once("value").await,
        };
        written.unwrap();
    }

    /// Writes until the second proposer gets a command. Later commands go to the second proposer alone.
    async fn moves(&self, is_unary: bool) {
        let begun = Instant::now();
        while self.second.received().is_empty() {
            assert!(begun.elapsed() < LONG, "the client stays at the standby");
            self.write(is_unary).await;
        }
        let before = self.first.received().len();
        for _ in 0..10 {
            self.write(is_unary).await;
        }
        assert_eq!(self.first.received().len(), before);
    }
}

#[tokio::test]
async fn client_with_a_list_moves_from_a_standby_to_the_leader() {
    for is_unary in [false, true] {
        let pair = Pair::new().await;
        pair.first_follows();
        pair.second.stands(FakeStanding::Leads);
        pair.moves(is_unary).await;
    }
}

#[tokio::test]
async fn client_at_a_former_leader_follows_the_answers_to_the_new_leader() {
    for is_unary in [false, true] {
        let pair = Pair::new().await;
        pair.first.stands(FakeStanding::Leads);
        for _ in 0..10 {
            pair.write(is_unary).await;
        }
        assert!(pair.second.received().is_empty(), "the client left the leader");
        // No new stream is opened, and no question is asked: only an answer names the new leader.
        pair.first_follows();
        pair.second.stands(FakeStanding::Leads);
        pair.moves(is_unary).await;
    }
}

#[tokio::test]
async fn proposer_named_as_leader_gets_no_command_unless_it_says_that_it_leads() {
    for is_unary in [false, true] {
        let pair = Pair::new().await;
        pair.first_follows();
        // As two standbys that know different dead leaders.
        pair.second
            .stands(FakeStanding::Follows(pair.served[0].address.clone()));
        let begun = Instant::now();
        // Two searches.
        while pair.second.probes() < 2 {
            assert!(begun.elapsed() < LONG, "the client does not search");
            pair.write(is_unary).await;
        }
        assert!(pair.second.received().is_empty());
    }
}

#[tokio::test]
async fn leader_outside_the_list_is_not_asked() {
    for is_unary in [false, true] {
        let pair = Pair::new().await;
        pair.first_follows();
        pair.second.stands(FakeStanding::Leads);
        let third = FakeProposer::new(|_| Does::Orders);
        let served = third.serve().await;
        let pair = Pair {
            client: client_of(&[&pair.served[0].address, &served.address], &[]),
            ..pair
        };
        let begun = Instant::now();
        // Two searches.
        while third.probes() < 2 {
            assert!(begun.elapsed() < LONG, "the client does not search");
            pair.write(is_unary).await;
        }
        assert_eq!((third.received().len(), pair.second.probes()), (0, 0));
    }
}

#[tokio::test]
async fn first_answer_withdraws_the_leader_named_at_the_opening() {
    let first = FakeProposer::new(|number| match number {
        0 => Does::OrdersLate,
        _ => Does::Orders,
    });
    let second = FakeProposer::new(|_| Does::Orders);
    let served = [first.serve().await, second.serve().await];
    let client = client_of(&[&served[0].address, &served[1].address], &[]);
    first.stands(FakeStanding::Follows(served[1].address.clone()));
    let late = client.clone();
    let late = tokio::spawn(async move { late.append_at_most_once("late").await });
    let begun = Instant::now();
    while second.probes() == 0 {
        assert!(begun.elapsed() < LONG, "the client does not search");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The first proposer leads by now, and the second is a former leader that does not know it yet.
    first.stands(FakeStanding::Leads);
    first.resume();
    late.await.unwrap().unwrap();
    let probes = second.probes();
    second.stands(FakeStanding::Leads);
    let begun = Instant::now();
    // Longer than the pause before a second search.
    while begun.elapsed() < Duration::from_millis(2_500) {
        client.append_at_most_once("value").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((second.probes(), second.received().len()), (probes, 0));
}

#[tokio::test]
async fn commands_open_at_the_standby_are_answered_by_the_standby() {
    let first = FakeProposer::new(|_| Does::OrdersLate);
    let second = FakeProposer::new(|_| Does::Orders);
    let served = [first.serve().await, second.serve().await];
    let client = client_of(&[&served[0].address, &served[1].address], &[]);
    first.stands(FakeStanding::Follows(served[1].address.clone()));
    second.stands(FakeStanding::Leads);
    let begun = Instant::now();
    let mut writes = Vec::new();
    while second.received().is_empty() {
        assert!(begun.elapsed() < LONG, "the client stays at the standby");
        let client = client.clone();
        writes.push(tokio::spawn(
            async move { client.append_at_most_once("value").await },
        ));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    first.resume();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    assert!(!first.received().is_empty());
}
