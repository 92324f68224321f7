//! Answers to standbys, and to releases before this release.

use super::*;
use crate::service::streams::{REPORT_INTERVAL, REPORTS_AT_ONCE, attached};

struct Standby {
    reports: mpsc::Sender<pb::AttachRequest>,
    answers: Streaming<pb::AttachResponse>,
}

fn report(cluster: &Cluster, number: u64) -> pb::AttachRequest {
    pb::AttachRequest {
        caller: Some(cluster.caller()),
        role: pb::Role::Proposer.into(),
        peer: 9,
        report: number,
        ..Default::default()
    }
}

impl Standby {
    async fn attach(cluster: &Cluster, address: SocketAddr) -> Self {
        let (reports, receiver) = mpsc::channel(1_024);
        reports.send(report(cluster, 1)).await.unwrap();
        let mut client = client(address);
        let answers = within(client.attach(ReceiverStream::new(receiver))).await;
        Self {
            reports,
            answers: answers.unwrap().into_inner(),
        }
    }

    /// The next answer with `holds`.
    async fn hears(&mut self, holds: impl Fn(&pb::AttachResponse, &pb::Heard) -> bool) -> pb::AttachResponse {
        within(async {
            loop {
                let response = self.answers.message().await.unwrap().unwrap();
                if holds(&response, response.heard.as_ref().unwrap()) {
                    return response;
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn standby_hears_at_once_who_is_heard_and_when_that_ends() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let mut standby = Standby::attach(&cluster, address).await;
    let first = standby.hears(|_, _| true).await;
    assert_eq!((first.report, first.heard.unwrap().ballot.unwrap().round), (1, 0));
    // The standby sends no second report yet: every answer until then is sent because of a change.
    let leader = TestLeader::open(&cluster, address, 1, 15_000).await;
    standby
        .hears(|answer, heard| answer.report == 1 && heard.ballot.unwrap().round == 1)
        .await;
    cluster.promised(1).await;
    let resignation = pb::AcceptRequest {
        sequence: 1,
        resign: true,
        ..leader.heartbeat.clone()
    };
    leader.send(resignation).await;
    standby
        .hears(|_, heard| heard.resigned && heard.ended_ms.is_none())
        .await;
    drop(leader);
    standby.hears(|_, heard| heard.ended_ms.is_some()).await;
    let again = TestLeader::open(&cluster, address, 1, 15_000).await;
    standby.hears(|_, heard| heard.ended_ms.is_none()).await;
    standby.reports.send(report(&cluster, 2)).await.unwrap();
    standby.hears(|answer, _| answer.report == 2).await;
    drop(again);
}

#[tokio::test]
async fn stream_has_ended_once_its_answers_are_no_longer_read() {
    let cluster = Cluster::start().await;
    let (requests, receiver) = mpsc::channel(8);
    let first = heartbeat(&cluster, 1);
    requests.send(Ok(first.clone())).await.unwrap();
    let inner = Arc::clone(&cluster.service.inner);
    let answers = accept::accept(&inner, &tonic::Extensions::new(), ReceiverStream::new(receiver));
    cluster.promised(1).await;
    // Without a server, whole messages count as heard.
    let now = cluster.shared.hearing.now();
    requests.send(Ok(first)).await.unwrap();
    cluster.heard_since(now).await;
    assert_eq!(cluster.shared.hearing.heard().ended, None);
    drop(answers);
    until(|| cluster.shared.hearing.heard().ended).await;
    within(requests.closed()).await;
}

#[tokio::test]
async fn standby_hears_at_once_that_the_leader_is_silent() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let mut standby = Standby::attach(&cluster, address).await;
    standby.hears(|_, _| true).await;
    // A leader timeout of 100 ms, and nothing after the first heartbeat.
    let _leader = TestLeader::open(&cluster, address, 1, 25).await;
    let silent = standby.hears(|_, heard| heard.silent_ms >= 100).await;
    assert_eq!(silent.report, 1);
    assert_eq!(silent.heard.unwrap().ended_ms, None);
}

#[tokio::test]
async fn work_shows_while_values_arrive_and_votes_are_committed() {
    let (cluster, _, mut leader) = led(1).await;
    let work = || cluster.shared.hearing.heard().work;
    assert_eq!(work(), 0);
    cluster.gate.send_replace(false);
    leader.send(leader.value(1, 0, 100)).await;
    until(|| (work() == 100).then_some(())).await;
    cluster.gate.send_replace(true);
    leader.answer().await.unwrap();
    assert_eq!(work(), 101);
    // A value already chosen is no work.
    let mut repair = leader.value(2, 0, 100);
    repair.chosen_to = 1;
    leader.send(repair.clone()).await;
    leader.answer().await.unwrap();
    let before = work();
    repair.sequence = 3;
    leader.send(repair).await;
    leader.answer().await.unwrap();
    assert_eq!(work(), before);
}

#[tokio::test]
async fn pages_that_are_sent_show_as_work_of_the_candidate() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let mut leader = TestLeader::open(&cluster, address, 1, 20).await;
    leader.send(leader.value(1, 0, 100)).await;
    leader.answer().await.unwrap();
    let prepare = pb::PrepareRequest {
        caller: Some(cluster.caller()),
        ballot: Some(ballot(2).into()),
        ..Default::default()
    };
    let mut pages = within(client(address).prepare(prepare))
        .await
        .unwrap()
        .into_inner();
    while within(pages.message()).await.unwrap().is_some() {}
    let heard = cluster.shared.hearing.heard();
    assert_eq!((heard.ballot, heard.work), (ballot(2), 101));
}

#[tokio::test]
async fn flood_of_reports_is_read_at_a_bounded_rate() {
    let cluster = Cluster::start().await;
    let inner = Arc::clone(&cluster.service.inner);
    let read = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let report = report(&cluster, 1);
    let flood = std::iter::repeat_with(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok::<_, Status>(report.clone())
    });
    let mut answers = std::pin::pin!(attached(inner, tokio_stream::iter(flood), None));
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        assert!(within(answers.next()).await.unwrap().is_ok());
    }
    assert!(begun.elapsed() >= REPORT_INTERVAL * (100 - REPORTS_AT_ONCE - 2));
    assert_eq!(read.load(std::sync::atomic::Ordering::Relaxed), 100);
}

#[tokio::test]
async fn leader_of_an_earlier_release_gets_answers_and_no_alive_message() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let mut leader = TestLeader::open(&cluster, address, 1, 0).await;
    for sequence in 1..=20 {
        leader.send(leader.numbered(sequence)).await;
        let response = within(leader.answers.message()).await.unwrap().unwrap();
        assert_eq!(response.sequence, sequence);
        assert!(
            matches!(response.answer, Some(Answer::Accepted(_))),
            "{response:?}"
        );
    }
    // The leader's stream continues at a higher ballot.
    let mut higher = leader.numbered(21);
    higher.ballot = Some(ballot(3).into());
    leader.send(higher).await;
    assert!(matches!(leader.answer().await, Ok((21, Answer::Accepted(_)))));
    assert_eq!(cluster.heard_round(), 3);
    drop(leader);
    until(|| cluster.shared.hearing.heard().ended).await;
}

#[tokio::test]
async fn older_standby_hears_of_a_live_leader_while_the_disk_hangs() {
    let (cluster, address, mut leader) = led(1).await;
    cluster.gate.send_replace(false);
    leader.send(leader.value(1, 0, 100)).await;
    let beating = leader.beating();
    leader.alive(|alive| alive.waiting_ms >= 500).await;
    let mut standby = Standby::attach(&cluster, address).await;
    let mut number = 1;
    let answer = loop {
        let answer = standby.hears(|_, _| true).await;
        let leadership = answer.leadership.clone().unwrap();
        if leadership.silent_ms < 250 {
            break answer;
        }
        number += 1;
        standby.reports.send(report(&cluster, number)).await.unwrap();
    };
    let leadership = answer.leadership.unwrap();
    assert_eq!(leadership.promised.unwrap().round, 1);
    assert!(answer.waiting_ms >= 500 && leadership.silent_ms < answer.waiting_ms);
    beating.abort();
}

#[tokio::test]
async fn report_without_a_number_is_answered_with_none() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let mut standby = Standby::attach(&cluster, address).await;
    standby.hears(|answer, _| answer.report == 1).await;
    standby.reports.send(report(&cluster, 0)).await.unwrap();
    standby.hears(|answer, _| answer.report == 0).await;
}

#[tokio::test]
async fn acceptor_that_a_proposer_refuses_is_not_ready_until_the_proposer_counts_it() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let mut standby = Standby::attach(&cluster, address).await;
    let not_ready = async || {
        let status = cluster.service.status(Request::new(pb::AcceptorStatusRequest {}));
        status.await.unwrap().into_inner().not_ready
    };
    assert_eq!(not_ready().await, "");
    let refusing = pb::AttachRequest {
        refused: "it lost commits".to_owned(),
        ..report(&cluster, 2)
    };
    standby.reports.send(refusing).await.unwrap();
    standby.hears(|answer, _| answer.report == 2).await;
    assert_eq!(
        not_ready().await,
        "a proposer does not count this acceptor: it lost commits"
    );
    standby.reports.send(report(&cluster, 3)).await.unwrap();
    standby.hears(|answer, _| answer.report == 3).await;
    assert_eq!(not_ready().await, "");
}

#[tokio::test]
async fn stopped_peer_is_forgotten_and_killed_peer_is_remembered() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let departed = async || {
        let status = cluster.service.status(Request::new(pb::AcceptorStatusRequest {}));
        status.await.unwrap().into_inner().departed.len()
    };
    let stopping = Standby::attach(&cluster, address).await;
    let last = pb::AttachRequest {
        leaving: true,
        ..report(&cluster, 2)
    };
    stopping.reports.send(last).await.unwrap();
    let mut answers = stopping.answers;
    within(async { while let Ok(Some(_)) = answers.message().await {} }).await;
    assert_eq!(departed().await, 0);
    let mut killed = Standby::attach(&cluster, address).await;
    killed.hears(|_, _| true).await;
    drop(killed);
    within(async {
        while departed().await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
