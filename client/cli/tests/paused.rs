//! A leader and a standby that stand still: clients go on at the new leader, while both are still paused.
#![expect(clippy::unwrap_used, reason = "in tests, helpers included")]

#[expect(unreachable_pub, reason = "a module of every test binary")]
mod harness;

use std::time::Instant;

use futures::future::join_all;
use harness::{Cluster, PATIENCE, until};
use nix::sys::signal::Signal;
use paxos_client::{Condition, ProposeError};
use tonic::Code;

#[tokio::test]
async fn clients_go_on_while_the_leader_and_a_standby_stand_still() {
    let cluster = Cluster::start(3, 3, 1).await;
    let leader = cluster.leader().await;
    let client = cluster.client();
    client.append("before", PATIENCE).await.unwrap();
    client
        .put("key", "before", Condition::Always, PATIENCE)
        .await
        .unwrap();
    let paused = [leader, (leader + 1) % 3];
    for proposer in paused {
        cluster.proposers[proposer].signal(Signal::SIGSTOP);
    }
    let begun = Instant::now();
    let without_session = join_all((0..64).map(|_| client.append("without a session", PATIENCE)));
    let writing = client.put("key", "after", Condition::Always, PATIENCE);
    let (appended, written) = tokio::join!(without_session, async { (writing.await, begun.elapsed()) });
    println!(
        "put after {:?}, all 64 answered after {:?}",
        written.1,
        begun.elapsed()
    );
    // All of this happened while both are paused: nothing was waited out.
    assert!(written.0.unwrap().is_applied());
    for outcome in appended {
        match outcome {
            Ok(_) => {}
            Err(ProposeError::OutcomeUnknown(cause)) => {
                assert_ne!(cause.code, Code::DeadlineExceeded, "{cause}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    until("values are ordered", async || {
        client.append("after", PATIENCE).await.ok()
    })
    .await;
    for proposer in paused {
        cluster.proposers[proposer].signal(Signal::SIGCONT);
    }
}
