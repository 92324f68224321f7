//! A learner's treatment of acceptors that restart, and of acceptors with older disks, over real gRPC.

use paxos_learner_testing::{FakeAcceptor, TestLearner, acceptors};

/// Each acceptor accepts this text in a single slot.
fn accept(acceptors: &[&FakeAcceptor], slot: u64, text: &str) {
    for acceptor in acceptors {
        acceptor.accept(1, &[(slot, text)]);
    }
}

/// The acceptor comes back with these runs on disk.
fn restart(acceptor: &FakeAcceptor, runs: &[u64]) {
    acceptor.change(|script| script.runs = runs.to_vec());
    acceptor.change(|script| script.breaks += 1);
}

#[tokio::test]
async fn acceptor_without_a_run_that_others_know_is_never_observed_again() {
    let acceptors = acceptors().await;
    let mut learner = TestLearner::start(&acceptors, None).await;
    accept(&acceptors.each_ref(), 0, "a");
    assert_eq!(learner.read(0, 1).await, ["a"]);
    // Nothing else makes the learner ask the other acceptors again: all connections are open, and the feed stays.
    for acceptor in &acceptors {
        acceptor
            .hears(|heard| heard.votes_from.len() == 1 && !heard.reports.is_empty())
            .await;
    }
    let feed = learner.status().await.value_feed;
    let feeds = |acceptor: &&FakeAcceptor| feed == acceptor.uuid.to_bytes()[..];
    let back = acceptors.iter().find(|acceptor| !feeds(acceptor)).unwrap();
    let others: Vec<_> = acceptors.iter().filter(|other| other.uuid != back.uuid).collect();
    // After the learner's question, the other acceptors heard of a run. The learner never saw this run.
    for other in &others {
        other.change(|script| script.remembers = vec![(back.uuid, 2)]);
    }
    let before = back.heard.borrow().forms;
    restart(back, &[1, 9]);
    // Regardless of the asking task and of the number of attempts.
    let heard = back.hears(|heard| heard.forms > before + 6).await;
    assert_eq!(heard.votes_from.len(), 1);
    accept(&others, 1, "b");
    assert_eq!(learner.read(0, 2).await, ["a", "b"]);
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn acceptor_that_restarts_repeatedly_is_observed_again() {
    let acceptors = acceptors().await;
    let [one, two, three] = &acceptors;
    let mut learner = TestLearner::start(&acceptors, None).await;
    accept(&[one, three], 0, "a");
    learner.read(0, 1).await;
    let mut runs = vec![1];
    for run in 2..6 {
        let seen = three.heard.borrow().votes_from.len();
        runs.push(run);
        for other in [one, two] {
            other.change(|script| script.remembers.push((three.uuid, run)));
        }
        restart(three, &runs);
        three.hears(|heard| heard.votes_from.len() > seen).await;
        accept(&[one, three], run - 1, "b");
        learner.read(run - 1, 1).await;
    }
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn frames_of_a_run_count_after_identification() {
    let acceptors = acceptors().await;
    let [one, _, three] = &acceptors;
    let mut learner = TestLearner::start(&acceptors, None).await;
    accept(&[one, three], 0, "a");
    learner.read(0, 1).await;
    let before = three.heard.borrow().clone();
    three.change(|script| {
        script.forms_muted = true;
        script.runs = vec![1, 2];
    });
    accept(&[one, three], 1, "b");
    three.hears(|heard| heard.forms > before.forms).await;
    assert_eq!(learner.status().await.applied_to, 1);
    three.change(|script| script.forms_muted = false);
    assert_eq!(learner.read(0, 2).await, ["a", "b"]);
    let after = three.heard.borrow().clone();
    assert!(after.votes_from.len() > before.votes_from.len());
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn new_run_waits_until_others_report_their_witnesses() {
    let acceptors = acceptors().await;
    let [one, two, three] = &acceptors;
    let mut learner = TestLearner::start(&acceptors, None).await;
    accept(&[one, three], 0, "a");
    learner.read(0, 1).await;
    let before = three.heard.borrow().clone();
    for other in [one, two] {
        other.change(|script| script.forms_muted = true);
    }
    restart(three, &[1, 2]);
    // Asked again: the first attempt failed.
    let heard = three.hears(|heard| heard.forms > before.forms + 1).await;
    assert_eq!(heard.votes_from, before.votes_from);
    // A single answer of the other acceptors is enough.
    two.change(|script| script.forms_muted = false);
    three
        .hears(|heard| heard.votes_from.len() > before.votes_from.len())
        .await;
    accept(&[one, three], 1, "b");
    learner.read(0, 2).await;
    learner.stop().await.unwrap();
}
