//! The last reports of a learner that stops, over real gRPC.

use std::pin::pin;

use paxos_learner_testing::{HeardCalls, TestLearner, acceptors, ballot};
use paxos_proto::v1 as pb;

fn is_left(heard: &HeardCalls) -> bool {
    heard
        .reports
        .last()
        .is_some_and(|report| report.leaving && report.stopping == Some(true))
}

#[tokio::test]
async fn acceptor_whose_stream_broke_gets_a_last_report_too() {
    let all = acceptors().await;
    let learner = TestLearner::start(&all, None).await;
    for acceptor in &all {
        acceptor.hears(|heard| !heard.reports.is_empty()).await;
    }
    // The stream to the first acceptor breaks, and the next attempt to open the stream waits.
    let one = &all[0];
    let formed = one.script.borrow().configuration.clone();
    let forms = one.heard.borrow().forms;
    one.change(|script| {
        script.configuration = None;
        script.forms_muted = true;
        script.leadership = Some(pb::Leadership {
            promised: Some(ballot(1)),
            ..pb::Leadership::default()
        });
    });
    one.hears(|heard| heard.forms > forms).await;
    one.change(|script| script.configuration = formed);
    let mut stopping = pin!(learner.stop());
    assert!(futures::poll!(&mut stopping).is_pending());
    assert!(!is_left(&one.heard.borrow()));
    // The attempt fails.
    one.change(|script| script.forms_muted = false);
    stopping.await.unwrap();
    for acceptor in &all {
        assert!(is_left(&acceptor.heard.borrow()));
    }
}
