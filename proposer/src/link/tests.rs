//! The last report of a link.

use paxos_common::{paxos::witness::Witnesses, peer::Dialer, service::failure::Failure};
use tokio::task::JoinHandle;

use super::*;

fn acceptor() -> AcceptorUuid {
    AcceptorUuid::from_u128(1)
}

/// A link with an open stream, and the other ends.
struct TestLink {
    running: JoinHandle<Result<(), Unusable>>,
    /// Ends the link.
    stop: CancellationToken,
    shutdown: Shutdown,
    /// The reports, as the acceptor gets them.
    reports: mpsc::Receiver<pb::AttachRequest>,
    /// Closed by the acceptor after the last report.
    words: mpsc::Sender<Result<pb::AttachResponse, Status>>,
}

/// Starts a link of a driver that takes no inputs any more. `hears`: something arrives for the driver.
fn start(hears: bool) -> TestLink {
    let members = [(acceptor(), "http://a:1".into())];
    let configuration = Arc::new(Configuration::new(members, 1, 1).unwrap());
    let (inputs, _) = mpsc::channel(1);
    let (outbox, reports) = mpsc::channel(1);
    let (words, heard) = mpsc::channel(1);
    let (stop, shutdown) = (CancellationToken::new(), Shutdown::new(&CancellationToken::new()));
    let context = LinkContext {
        cluster: configuration.cluster_id(),
        configuration,
        book: Arc::new(LinkBook::new(Vec::new(), Dialer::default())),
        proposer: ProposerId::from_random(1),
        address: "http://p:1".parse().unwrap(),
        leader_timeout: Duration::from_mins(10),
        watchful: watch::channel(false).1,
        clock: Clock::start(),
        inputs,
        views: watch::channel(View::forming(ProposerId::from_random(1))).1,
        shutdown: shutdown.clone(),
    };
    let stopped = stop.clone();
    let running = tokio::spawn(async move {
        let member = (acceptor(), RunNumber::from_random(1));
        let asked = FuturesUnordered::new();
        if hears {
            let table: BoxFuture<'_, TableReport> =
                Box::pin(async { Some((acceptor(), Witnesses::default())) });
            asked.push(table);
        }
        let link = AttachedLink {
            context: &context,
            id: LinkId {
                acceptor: acceptor(),
                number: 1,
            },
            member,
            words: ReceiverStream::new(heard),
            reports: Reports::new(member, outbox),
            asked,
            reopen: CancellationToken::new(),
        };
        link.forward(&stopped).await
    });
    TestLink {
        running,
        stop,
        shutdown,
        reports,
        words,
    }
}

impl TestLink {
    /// The last report of the link: whether it says that the process stops; `None` without a last report.
    async fn leaves(mut self) -> Option<bool> {
        let last = self.reports.recv().await;
        drop(self.words);
        self.running.await.unwrap().unwrap();
        last.filter(|last| last.leaving)?.stopping
    }
}

#[tokio::test]
async fn acceptor_gets_a_last_report_whatever_arrives_at_the_end_of_the_driver() {
    let link = start(true);
    link.shutdown.begin();
    assert_eq!(link.leaves().await, Some(true));
}

#[tokio::test]
async fn removed_acceptor_gets_a_last_report_of_a_proposer_that_goes_on() {
    let link = start(false);
    link.stop.cancel();
    assert_eq!(link.leaves().await, Some(false));
}

#[tokio::test]
async fn acceptor_without_confirmation_delays_the_stop_for_a_while_only() {
    let mut link = start(false);
    link.stop.cancel();
    assert!(link.reports.recv().await.unwrap().leaving);
    link.running.await.unwrap().unwrap();
    drop(link.words);
}

#[tokio::test]
async fn proposer_that_failed_leaves_without_a_last_report() {
    let link = start(false);
    link.shutdown.fail(Failure::internal(anyhow::anyhow!("a fault")));
    link.stop.cancel();
    assert_eq!(link.leaves().await, None);
}
