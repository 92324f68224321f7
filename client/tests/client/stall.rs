//! Proposers that fall silent: a stopped proposer is left once another leads, a slow proposer is waited for.

use super::{
    fake::{Does, FakeAcceptor, FakeProposer, Served},
    *,
};

/// Two proposers, the first preferred, and an acceptor that reports the leader.
struct Pair {
    first: FakeProposer,
    second: FakeProposer,
    client: Client,
    _served: [Served; 3],
}

impl Pair {
    async fn new(first: FakeProposer, first_leads: bool) -> Self {
        let second = FakeProposer::new(|_| Does::Orders);
        let (one, two) = (first.serve().await, second.serve().await);
        let mut named = [(Role::Proposer, &one.address), (Role::Proposer, &two.address)];
        if first_leads {
            named.reverse();
        }
        let acceptor = FakeAcceptor::naming(&named).serve().await;
        let mut config = ClientConfig::new([&acceptor.address]).unwrap();
        config.proposers = vec![one.address.clone(), two.address.clone()];
        config.timeout = LONG;
        let client = Client::new(config).unwrap();
        Self {
            first,
            second,
            client,
            _served: [one, two, acceptor],
        }
    }

    /// Waits until the first proposer has received this many probes.
    async fn probed(&self, times: usize) {
        let begun = Instant::now();
        while self.first.probes() < times {
            assert!(begun.elapsed() < LONG, "it is not probed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn names_another_leader(error: &ProposeError) -> bool {
    matches!(error, ProposeError::OutcomeUnknown(cause) if cause.message.contains("another proposer leads"))
}

#[tokio::test]
async fn commands_at_a_stopped_proposer_are_unknown_once_another_leads() {
    let stopped = FakeProposer::new(|_| Does::OrdersLate).paused();
    let pair = Pair::new(stopped, false).await;
    let lost: Vec<_> = ["one", "two", "three"]
        .map(|record| pair.client.append_at_most_once(record))
        .into();
    for lost in futures::future::join_all(lost).await {
        let error = lost.unwrap_err();
        assert!(names_another_leader(&error), "{error:?}");
    }
    pair.client.append_at_most_once("kept").await.unwrap();
    // Sent commands are not sent again, and the first proposer is still silent.
    assert_eq!(pair.second.received(), [b"kept".to_vec()]);
    assert_eq!(pair.first.received().len(), 1, "it stopped at its first command");
}

#[tokio::test]
async fn single_call_at_a_stopped_proposer_is_unknown_once_another_leads() {
    let stopped = FakeProposer::new(|_| Does::OrdersLate).paused();
    let pair = Pair::new(stopped, false).await;
    let error = pair.client.propose_unary(append("lost")).await.unwrap_err();
    assert!(names_another_leader(&error), "{error:?}");
    pair.client.propose_unary(append("kept")).await.unwrap();
    assert_eq!(pair.second.received(), [b"kept".to_vec()]);
}

#[tokio::test]
async fn slow_proposer_that_answers_its_probe_is_waited_for() {
    let pair = Pair::new(FakeProposer::new(|_| Does::OrdersLate), false).await;
    let (client, unary) = (pair.client.clone(), pair.client.clone());
    let late = tokio::spawn(async move { client.append_at_most_once("late").await });
    let late_unary = tokio::spawn(async move { unary.propose_unary(append("unary")).await });
    pair.probed(6).await;
    pair.first.resume();
    late.await.unwrap().unwrap();
    late_unary.await.unwrap().unwrap();
    assert_eq!(pair.second.received().len(), 0);
}

#[tokio::test]
async fn proposer_that_stopped_is_waited_for_while_no_other_leads() {
    let stopped = FakeProposer::new(|_| Does::OrdersLate).paused();
    let pair = Pair::new(stopped, true).await;
    let client = pair.client.clone();
    let late = tokio::spawn(async move { client.append_at_most_once("late").await });
    pair.probed(4).await;
    pair.first.resume();
    late.await.unwrap().unwrap();
    assert_eq!(pair.second.received().len(), 0);
}

#[tokio::test]
async fn stream_is_opened_elsewhere_when_the_opening_is_not_answered() {
    // Accepts connections and stays silent, like a stopped process.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stopped = fake::address_of(&listener);
    let healthy = FakeProposer::new(|_| Does::Orders);
    let served = healthy.serve().await;
    let client = client_of(&[&stopped, &served.address], &[]);
    // Less than a slow proposer may take to open a stream.
    let timeout = Duration::from_millis(1_500);
    client
        .with_timeout(timeout)
        .append_at_most_once("value")
        .await
        .unwrap();
    client
        .with_timeout(timeout)
        .propose_unary(append("value"))
        .await
        .unwrap();
    assert_eq!(healthy.received().len(), 2);
}
