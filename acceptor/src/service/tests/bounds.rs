//! Bounds of a single stream, and of all streams together.

use paxos_common::paxos::ballot::Ballot;
use paxos_proto::v1::promise_page::Answer as PromiseAnswer;

use super::*;

#[tokio::test]
async fn leader_within_its_bound_is_read_whatever_the_disk_does() {
    let (cluster, _, mut leader) = led(1).await;
    cluster.gate.send_replace(false);
    for sequence in 1..=UNANSWERED_MAX {
        leader.send(leader.value(sequence, sequence - 1, 1 << 20)).await;
    }
    // The heartbeat behind all the values arrives.
    let last = pb::AcceptRequest {
        sequence: UNANSWERED_MAX + 1,
        resign: true,
        ..leader.heartbeat.clone()
    };
    leader.send(last).await;
    until(|| cluster.shared.hearing.heard().resigned.then_some(())).await;
    cluster.gate.send_replace(true);
    for expected in 1..=UNANSWERED_MAX + 1 {
        let (sequence, answer) = leader.answer().await.unwrap();
        assert_eq!(sequence, expected);
        assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
    }
}

#[tokio::test]
async fn stream_with_too_many_unanswered_messages_is_cut_off_and_has_not_ended() {
    let (cluster, address, mut leader) = hanging(1).await;
    for sequence in 2..200 {
        // The stream may be gone by then.
        drop(leader.requests.send(leader.numbered(sequence)).await);
    }
    let status = leader.answer().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("64 unanswered messages"), "{status:?}");
    let heard = cluster.shared.hearing.heard();
    assert_eq!((heard.ballot, heard.ended), (ballot(1), None));
    // Messages not taken by the worker are gone; a new stream opens at once.
    let mut again = TestLeader::open(&cluster, address, 1, 20).await;
    again.send(again.value(1, 1, 100)).await;
    cluster.gate.send_replace(true);
    let (sequence, answer) = again.answer().await.unwrap();
    assert!(
        sequence == 1 && matches!(answer, Answer::Accepted(_)),
        "{answer:?}"
    );
    assert_eq!(cluster.voted_to().await, 2);
}

#[tokio::test]
async fn rounds_climb_at_a_limited_rate_by_both_calls() {
    /// More large jumps than the burst of the limit.
    const JUMPS: u32 = 24;
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let begun = std::time::Instant::now();
    let mut leader = TestLeader::open(&cluster, address, 1, 0).await;
    for jump in 1..u64::from(JUMPS / 2) {
        let ballot = ballot(1 + jump * Ballot::ROUND_JUMP_MAX);
        leader.heartbeat.ballot = Some(ballot.into());
        leader.send(leader.numbered(jump)).await;
        let (_, answer) = leader.answer().await.unwrap();
        assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
    }
    for jump in u64::from(JUMPS / 2)..=u64::from(JUMPS) {
        let request = pb::PrepareRequest {
            caller: Some(cluster.caller()),
            ballot: Some(ballot(1 + jump * Ballot::ROUND_JUMP_MAX).into()),
            ..Default::default()
        };
        let mut pages = client(address).prepare(request).await.unwrap().into_inner();
        let page = pages.message().await.unwrap().unwrap();
        let answer = page.answer.unwrap();
        assert!(matches!(answer, PromiseAnswer::Promise(_)), "{answer:?}");
    }
    let shortest = Duration::from_secs(1) * (JUMPS - jumps::PER_SECOND - 1) / jumps::PER_SECOND;
    assert!(begun.elapsed() >= shortest, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn values_of_one_stream_are_bounded_in_bytes() {
    let (cluster, _, mut leader) = led(1).await;
    cluster.gate.send_replace(false);
    for sequence in 1..=40 {
        drop(
            leader
                .requests
                .send(leader.value(sequence, sequence - 1, 3 << 20))
                .await,
        );
    }
    let status = leader.answer().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("bytes of values"), "{status:?}");
    cluster.gate.send_replace(true);
}

#[tokio::test]
async fn messages_below_the_promise_hold_no_values() {
    let (cluster, address, _leader) = hanging(2).await;
    let mut old = TestLeader::open(&cluster, address, 1, 20).await;
    // The heartbeat that opened the stream is answered at once.
    let (sequence, answer) = old.answer().await.unwrap();
    assert!(
        sequence == 0 && matches!(answer, Answer::Rejected(_)),
        "{answer:?}"
    );
    for sequence in 1..=60 {
        old.send(old.value(sequence, 1_000 + sequence, 3 << 20)).await;
    }
    until(|| (cluster.queue.len() == 60).then_some(())).await;
    cluster.gate.send_replace(true);
    for expected in 1..=60 {
        let (sequence, answer) = old.answer().await.unwrap();
        assert_eq!(sequence, expected);
        assert!(matches!(answer, Answer::Rejected(_)), "{answer:?}");
    }
}

#[tokio::test]
async fn heartbeats_do_not_pile_up_before_the_worker() {
    let (cluster, address, leader) = hanging(1).await;
    // Heartbeats without news do not wait for the worker; of the heartbeats with news, a single heartbeat waits.
    let said = |chosen_to, resign, sequence| pb::AcceptRequest {
        chosen_to,
        resign,
        sequence,
        ..leader.heartbeat.clone()
    };
    for chosen_to in [0, 0, 0, 1, 2, 3, 3, 2, 4] {
        leader.send(said(chosen_to, false, 0)).await;
    }
    // Sent behind the heartbeats: once this message is read, all heartbeats have been read.
    leader.send(said(4, true, 2)).await;
    until(|| cluster.shared.hearing.heard().resigned.then_some(())).await;
    assert_eq!(cluster.queue.len(), 2);
    let candidate = TestLeader::open(&cluster, address, 2, 20).await;
    for _ in 0..20 {
        candidate.send(heartbeat(&cluster, 2)).await;
    }
    candidate.send(candidate.numbered(1)).await;
    until(|| (cluster.queue.len() == 4).then_some(())).await;
    cluster.gate.send_replace(true);
    until(|| (cluster.queue.len() == 0).then_some(())).await;
    // The watermark of the last heartbeat was taken: the row below is the leader's own.
    until(|| (cluster.shared.published().known_to == Slot::new(1).unwrap()).then_some(())).await;
    cluster.promised(2).await;
}

#[tokio::test]
async fn streams_are_bounded_and_the_leader_keeps_its_own() {
    let (cluster, address, mut leader) = led(5).await;
    let mut shared = client(address);
    let mut others = Vec::new();
    for round in 1..=accept::STREAMS_MAX as u64 + 100 {
        let (requests, receiver) = mpsc::channel(1);
        requests.send(heartbeat(&cluster, round % 4 + 1)).await.unwrap();
        let answers = within(shared.accept(ReceiverStream::new(receiver))).await;
        others.push((requests, answers.unwrap().into_inner()));
    }
    assert!(cluster.service.inner.streams.count() <= accept::STREAMS_MAX);
    leader.send(leader.value(1, 0, 100)).await;
    let (_, answer) = leader.answer().await.unwrap();
    assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
    let mut cut_off = 0;
    for (_requests, answers) in &mut others {
        // Each stream is rejected, below the promise; then the stream is cut off, or still open.
        while let Ok(answer) = timeout(Duration::from_millis(1), answers.message()).await {
            if let Err(status) = answer {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                cut_off += 1;
                break;
            }
        }
    }
    assert!(cut_off > 0);
    drop(others);
    until(|| (cluster.service.inner.streams.count() == 1).then_some(())).await;
}
