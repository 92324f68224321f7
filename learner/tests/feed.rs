//! A learner's input from acceptors, and the log shown to subscribers, over real gRPC.

use paxos_common::service::failure::Exit;
use paxos_learner_testing::{FakeAcceptor, TestLearner, acceptors, blank_acceptors, form, log, read};
use paxos_proto::v1 as pb;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Every acceptor accepts `slots` at the ballot of round 1.
fn accept_everywhere(acceptors: &[FakeAcceptor], slots: &[(u64, String)]) {
    let slots: Vec<_> = slots.iter().map(|(slot, text)| (*slot, text.as_str())).collect();
    for acceptor in acceptors {
        acceptor.accept(1, &slots);
    }
}

fn texts(slots: &[(u64, String)]) -> Vec<String> {
    slots.iter().map(|(_, text)| text.clone()).collect()
}

#[tokio::test]
async fn learns_what_a_quorum_voted_for_at_one_ballot() {
    let acceptors = acceptors().await;
    let [one, two, three] = &acceptors;
    // Whichever acceptor feeds: the value of `one` has no quorum, and `one` never gets the chosen value.
    one.accept(1, &[(0, "minority")]);
    two.accept(2, &[(0, "chosen")]);
    three.accept(2, &[(0, "chosen")]);
    let mut learner = TestLearner::start(&acceptors, None).await;
    assert_eq!(learner.read(0, 1).await, ["chosen"]);
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn duplicates_and_votes_in_other_names_are_not_counted() {
    let acceptors = acceptors().await;
    let [one, two, three] = &acceptors;
    // The frames carry the stamp of a stranger: the frames are refused, and so is the stream.
    three.change(|script| script.frames_stamped = Some(paxos_learner_testing::stranger()));
    three.accept(1, &[(1, "wrong")]);
    // The same message three times, before the vote for slot 0.
    for _ in 0..3 {
        one.accept(1, &[(1, "wrong")]);
    }
    let mut learner = TestLearner::start(&acceptors, None).await;
    three.hears(|heard| heard.votes_from.len() > 1).await;
    one.accept(1, &[(0, "right")]);
    two.accept(1, &[(0, "right")]);
    assert_eq!(learner.read(0, 1).await, ["right"]);
    // By now all votes for slot 1 have been seen.
    one.accept(2, &[(1, "right too")]);
    two.accept(2, &[(1, "right too")]);
    assert_eq!(learner.read(0, 2).await, ["right", "right too"]);
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn acceptor_that_is_no_member_is_never_observed() {
    let [one, two, three] = acceptors().await;
    let stranger = FakeAcceptor::start(9).await;
    let configuration = one.script.borrow().configuration.clone();
    stranger.change(|script| script.configuration = configuration);
    let listed = [one, two, stranger.clone()];
    let mut learner = TestLearner::start(&listed, None).await;
    accept_everywhere(&listed[..2], &log(3));
    assert_eq!(learner.read(0, 3).await, texts(&log(3)));
    let heard = stranger.heard.borrow().clone();
    assert!(heard.votes_from.is_empty() && heard.values_from.is_empty() && heard.reports.is_empty());
    learner.stop().await.unwrap();
    drop(three);
}

#[tokio::test]
async fn acceptor_that_forgot_a_reported_run_is_never_observed_again() {
    let acceptors = acceptors().await;
    let mut learner = TestLearner::start(&acceptors, None).await;
    accept_everywhere(&acceptors, &log(3));
    assert_eq!(learner.read(0, 3).await, texts(&log(3)));
    let [one, two, three] = &acceptors;
    // A restart adds a run.
    three.change(|script| script.runs = vec![1, 2]);
    three.change(|script| script.breaks += 1);
    three.hears(|heard| heard.votes_from.len() == 2).await;
    // Then a disk without both runs: not the disk behind the votes.
    let before = three.heard.borrow().forms;
    three.change(|script| script.runs = vec![7]);
    three.change(|script| script.breaks += 1);
    let heard = three.hears(|heard| heard.forms > before + 4).await;
    assert_eq!(heard.votes_from.len(), 2);
    accept_everywhere(&[one.clone(), two.clone()], &log(5)[3..]);
    assert_eq!(learner.read(0, 5).await, texts(&log(5)));
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn takes_values_from_another_acceptor_when_the_feed_stalls() {
    let acceptors = acceptors().await;
    let mut learner = TestLearner::start(&acceptors, None).await;
    accept_everywhere(&acceptors, &[(0, "a".to_owned())]);
    assert_eq!(learner.read(0, 1).await, ["a"]);
    let feed = learner.status().await.value_feed;
    let stalled = acceptors
        .iter()
        .find(|acceptor| feed == acceptor.uuid.to_bytes()[..])
        .unwrap();
    stalled.change(|script| script.values_muted = true);
    accept_everywhere(&acceptors, &[(1, "b".to_owned())]);
    assert_eq!(learner.read(0, 2).await, ["a", "b"]);
    assert_ne!(learner.status().await.value_feed, feed);
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn read_is_refused_until_the_learner_has_caught_up_once() {
    let acceptors = acceptors().await;
    for acceptor in &acceptors {
        acceptor.change(|script| script.chosen_to = 3);
        acceptor.change(|script| script.values_muted = true);
    }
    accept_everywhere(&acceptors, &log(3));
    let mut learner = TestLearner::start(&acceptors, None).await;
    let refuses_reads = |report: &pb::AttachRequest| match &report.progress {
        Some(pb::attach_request::Progress::Learner(learner)) => learner.refuses_reads,
        progress => panic!("{progress:?}"),
    };
    for acceptor in &acceptors {
        let heard = acceptor.hears(|heard| !heard.reports.is_empty()).await;
        assert!(heard.reports.iter().all(refuses_reads));
    }
    let local = || pb::ReadRequest {
        target: Some(pb::read_request::Target::Key("key".into())),
        consistency: Some(pb::read_request::Consistency::Local(pb::Local {})),
        ..pb::ReadRequest::default()
    };
    let linearizable = || pb::ReadRequest {
        consistency: None,
        ..local()
    };
    let result = pb::ResultRequest {
        command: Some(pb::result_request::Command::Version(pb::Version::default())),
    };
    let refused = [
        learner.client.read(local()).await.unwrap_err(),
        learner.client.read(linearizable()).await.unwrap_err(),
        learner.client.result(result).await.unwrap_err(),
    ];
    for status in refused {
        assert_eq!(status.code(), Code::Unavailable);
        assert!(
            status.message().contains("has not caught up since its start"),
            "{status}"
        );
    }

    for acceptor in &acceptors {
        acceptor.change(|script| script.values_muted = false);
    }
    for acceptor in &acceptors {
        let heard = acceptor.hears(|heard| !heard.reports.iter().all(refuses_reads));
        heard.await;
    }
    learner.client.read(local()).await.unwrap();
    learner.client.read(linearizable()).await.unwrap();
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn bulk_beyond_the_window_is_learned_by_votes_and_by_watermark_alike() {
    let slots = log(20_000);
    for chosen_to in [0, slots.len() as u64] {
        let acceptors = acceptors().await;
        for acceptor in &acceptors {
            acceptor.change(|script| script.chosen_to = chosen_to);
        }
        accept_everywhere(&acceptors, &slots);
        let mut learner = TestLearner::start(&acceptors, None).await;
        assert_eq!(learner.read(0, slots.len()).await, texts(&slots));
        learner.stop().await.unwrap();
    }
}

#[tokio::test]
async fn goes_on_at_the_first_slot_not_learned_after_every_stream_broke() {
    let acceptors = acceptors().await;
    let mut learner = TestLearner::start(&acceptors, None).await;
    accept_everywhere(&acceptors, &log(5));
    let mut subscription = learner.subscribe(0).await;
    read(&mut subscription, 0, 5).await;
    for acceptor in &acceptors {
        acceptor.change(|script| script.breaks += 1);
    }
    for acceptor in &acceptors {
        let heard = acceptor.hears(|heard| heard.votes_from.len() > 1).await;
        assert_eq!(heard.votes_from, [0, 5]);
    }
    accept_everywhere(&acceptors, &log(9)[5..]);
    assert_eq!(read(&mut subscription, 5, 4).await, texts(&log(9)[5..]));
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn late_subscriber_gets_everything_in_order_without_repeats() {
    let acceptors = acceptors().await;
    let slots = log(3_000);
    accept_everywhere(&acceptors, &slots[..2_500]);
    let mut learner = TestLearner::start(&acceptors, None).await;
    // Only one page, then the subscriber goes away.
    let mut first = learner.subscribe(0).await;
    let mut got = read(&mut first, 0, 1).await;
    drop(first);
    accept_everywhere(&acceptors, &slots[2_500..]);
    let rest = slots.len() - got.len();
    got.extend(learner.read(got.len() as u64, rest).await);
    assert_eq!(got, texts(&slots));
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn subscriber_at_the_end_of_the_log_waits_and_one_beyond_it_is_refused() {
    let acceptors = acceptors().await;
    accept_everywhere(&acceptors, &log(2));
    let mut learner = TestLearner::start(&acceptors, None).await;
    learner.read(0, 2).await;
    let mut ahead = learner.subscribe(2).await;
    let idle = ahead.message().await.unwrap().unwrap();
    assert_eq!((idle.records.len(), idle.next), (0, 2));
    assert_eq!(learner.status().await.subscribers, 1);
    let beyond = pb::SubscribeRequest { from: 3 };
    let refused = learner.client.subscribe(beyond).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    assert!(refused.message().contains("begin at 2"), "{refused}");
    accept_everywhere(&acceptors, &log(3));
    assert_eq!(read(&mut ahead, 2, 1).await, ["value 2"]);
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn restart_goes_on_from_the_cursor() {
    let acceptors = acceptors().await;
    let directory = tempfile::tempdir().unwrap();
    accept_everywhere(&acceptors, &log(10));
    let mut learner = TestLearner::start(&acceptors, Some(directory.path())).await;
    learner.read(0, 10).await;
    let before = learner.status().await;
    learner.stop().await.unwrap();

    let mut learner = TestLearner::start(&acceptors, Some(directory.path())).await;
    accept_everywhere(&acceptors, &log(12)[10..]);
    assert_eq!(learner.read(0, 12).await, texts(&log(12)));
    for acceptor in &acceptors {
        let heard = acceptor.hears(|heard| heard.votes_from.len() > 1).await;
        assert_eq!(heard.votes_from[..2], [0, 10]);
    }
    let after = learner.status().await;
    assert_eq!((before.applied_to, after.applied_to), (10, 12));
    assert_eq!(before.cluster_id, after.cluster_id);
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn learners_of_one_log_report_equal_digests_to_every_acceptor() {
    let acceptors = acceptors().await;
    let slots = log(1_500);
    accept_everywhere(&acceptors, &slots);
    let mut reports = Vec::new();
    for _ in 0..2 {
        let mut learner = TestLearner::start(&acceptors, None).await;
        learner.read(0, slots.len()).await;
        let status = learner.status().await;
        for acceptor in &acceptors {
            let complete = |report: &&pb::AttachRequest| {
                report.peer == status.learner
                    && matches!(
                        &report.progress,
                        Some(pb::attach_request::Progress::Learner(progress)) if progress.applied_to == 1_500
                    )
            };
            let heard = acceptor
                .hears(|heard| heard.reports.iter().any(|report| complete(&report)))
                .await;
            let report = heard.reports.iter().find(complete).unwrap();
            assert_eq!(
                (report.role(), &report.address),
                (pb::Role::Learner, &status.address)
            );
            let Some(pb::attach_request::Progress::Learner(progress)) = &report.progress else {
                panic!("{report:?}")
            };
            reports.push(progress.digests.clone());
        }
        let marks: Vec<_> = status.digests.iter().map(|digest| digest.to).collect();
        assert_eq!(marks, [1_500, 1_472, 1_440, 1_280, 1_024]);
        assert!(status.digests.iter().all(|digest| digest.state.len() == 16));
        learner.stop().await.unwrap();
    }
    assert!(reports.iter().all(|report| *report == reports[0]), "{reports:?}");
}

#[tokio::test]
async fn waits_for_the_cluster_to_form_and_serves_once_it_has_caught_up() {
    let acceptors = blank_acceptors().await;
    let mut learner = TestLearner::start(&acceptors, None).await;
    let mut checks = HealthClient::new(learner.channel.clone());
    let request = || HealthCheckRequest {
        service: "paxos.v1.Learner".to_owned(),
    };
    let mut health = checks.watch(request()).await.unwrap().into_inner();
    assert_eq!(
        health.message().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    let refused = learner
        .client
        .subscribe(pb::SubscribeRequest { from: 0 })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(learner.status().await.cluster_id.is_empty());

    // The acceptors know one chosen slot more than the votes shown at first.
    for acceptor in &acceptors {
        acceptor.change(|script| script.chosen_to = 4);
    }
    accept_everywhere(&acceptors, &log(3));
    form(&acceptors);
    learner.read(0, 3).await;
    for acceptor in &acceptors {
        acceptor.hears(|heard| heard.reports.len() > 1).await;
    }
    let checked = checks.check(request()).await.unwrap().into_inner();
    assert_eq!(checked.status(), ServingStatus::NotServing);

    accept_everywhere(&acceptors, &log(4)[3..]);
    assert_eq!(
        health.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    assert_eq!(learner.status().await.applied_to, 4);
    drop(health);
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn acceptors_that_are_not_one_cluster_end_the_learner() {
    let [one, two, three] = blank_acceptors().await;
    let [four, five, six] = blank_acceptors().await;
    form(&[one.clone(), two.clone(), three.clone()]);
    form(&[four.clone(), five, six]);
    // Two clusters, too few addresses, and one acceptor at two addresses.
    let wrong = [
        vec![one.clone(), two.clone(), four.clone()],
        vec![one.clone(), two.clone()],
        vec![one, two.clone(), two],
    ];
    for list in wrong {
        let failure = TestLearner::start(&list, None).await.ended().await.unwrap_err();
        assert_eq!(failure.code, Exit::Refused, "{failure}");
    }
}

#[tokio::test]
async fn directory_of_another_cluster_or_of_a_running_learner_is_refused() {
    let ours = acceptors().await;
    let directory = tempfile::tempdir().unwrap();
    let mut learner = TestLearner::start(&ours, Some(directory.path())).await;
    learner.subscribe(0).await;
    let second = TestLearner::start(&ours, Some(directory.path())).await;
    assert_eq!(second.ended().await.unwrap_err().code, Exit::Refused);
    learner.stop().await.unwrap();

    let theirs = [FakeAcceptor::start(11).await];
    form(&theirs);
    let stranger = TestLearner::start(&theirs, Some(directory.path())).await;
    assert_eq!(stranger.ended().await.unwrap_err().code, Exit::Refused);
}

#[tokio::test]
async fn bad_calls_get_the_documented_error() {
    let acceptors = acceptors().await;
    let mut learner = TestLearner::start(&acceptors, None).await;
    learner.subscribe(0).await;
    let beyond = pb::SubscribeRequest { from: 1 << 63 };
    let refused = learner.client.subscribe(beyond).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let empty = [
        learner.client.read(pb::ReadRequest::default()).await.unwrap_err(),
        learner
            .client
            .result(pb::ResultRequest::default())
            .await
            .unwrap_err(),
        learner
            .client
            .watch(pb::WatchRequest::default())
            .await
            .unwrap_err(),
    ];
    for status in empty {
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("give a"), "{status}");
    }
    learner.stop().await.unwrap();
}
