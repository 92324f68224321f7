//! A hanging or full disk says nothing about the leader, and the acceptor keeps answering.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use prost::Message as _;

use super::*;

#[tokio::test]
async fn leader_is_heard_and_answered_while_a_commit_hangs() {
    let (cluster, _, mut leader) = led(1).await;
    let beating = leader.beating();
    cluster.gate.send_replace(false);
    leader.send(leader.value(1, 0, 100)).await;

    let hung = leader
        .alive(|alive| alive.waiting_ms >= 500 && alive.silent_ms < 250)
        .await;
    assert!(!hung.no_space);
    // The commit began some time after its request came in.
    let status = within(async {
        loop {
            let status = cluster.service.status(Request::new(pb::AcceptorStatusRequest {}));
            let status = status.await.unwrap().into_inner();
            if status.slowest_commit_ms >= 500 {
                break status;
            }
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(status.waiting_ms >= 500, "{status:?}");
    let heard = status.heard.clone().unwrap();
    assert_eq!((heard.ballot.unwrap().round, heard.ended_ms), (1, None));
    assert!(heard.silent_ms < status.waiting_ms, "{status:?}");
    assert_eq!(cluster.voted_to().await, 0);

    cluster.gate.send_replace(true);
    let (sequence, answer) = leader.answer().await.unwrap();
    assert!(
        sequence == 1 && matches!(answer, Answer::Accepted(_)),
        "{answer:?}"
    );
    leader.alive(|alive| alive.waiting_ms == 0).await;
    let status = cluster.service.status(Request::new(pb::AcceptorStatusRequest {}));
    let status = within(status).await.unwrap().into_inner();
    assert!(
        status.slowest_commit_ms >= 500 && status.waiting_ms == 0,
        "{status:?}"
    );
    beating.abort();
}

#[tokio::test]
async fn candidate_is_heard_while_its_promise_hangs() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let old = TestLeader::open(&cluster, address, 1, 20).await;
    cluster.promised(1).await;
    cluster.gate.send_replace(false);
    let prepare = pb::PrepareRequest {
        caller: Some(cluster.caller()),
        ballot: Some(ballot(2).into()),
        proposer_address: "http://p2:1".into(),
        ..Default::default()
    };
    let mut preparing = client(address);
    let preparing = tokio::spawn(async move { preparing.prepare(prepare).await });
    until(|| (cluster.heard_round() == 2).then_some(())).await;
    assert_eq!(cluster.shared.published().leadership.promised, ballot(1));
    // Messages of the old leader do not count for the candidate.
    let beating = old.beating();
    until(|| (cluster.shared.hearing.heard().silent > Duration::from_millis(100)).then_some(())).await;
    let now = cluster.shared.hearing.now();
    let candidate = TestLeader::open(&cluster, address, 2, 20).await;
    cluster.heard_since(now).await;
    cluster.gate.send_replace(true);
    assert!(within(preparing).await.unwrap().is_ok());
    cluster.promised(2).await;
    beating.abort();
    drop(candidate);
}

#[tokio::test]
async fn candidate_that_goes_away_while_the_disk_hangs_is_forgotten() {
    let (cluster, address, leader) = hanging(1).await;
    let candidate = TestLeader::open(&cluster, address, 2, 20).await;
    candidate.send(candidate.value(1, 0, 100)).await;
    candidate.send(candidate.value(2, 1, 100)).await;
    let prepare = pb::PrepareRequest {
        caller: Some(cluster.caller()),
        ballot: Some(ballot(3).into()),
        ..Default::default()
    };
    let mut preparing = client(address);
    let preparing = tokio::spawn(async move { preparing.prepare(prepare).await });
    until(|| (cluster.heard_round() == 3 && cluster.queue.len() == 4).then_some(())).await;
    preparing.abort();
    until(|| (cluster.heard_round() == 2).then_some(())).await;
    drop(candidate);
    until(|| (cluster.heard_round() == 1).then_some(())).await;
    assert_eq!(cluster.shared.hearing.heard().ended, None);
    cluster.gate.send_replace(true);
    until(|| (cluster.queue.len() == 0).then_some(())).await;
    leader.send(leader.value(2, 1, 100)).await;
    cluster.readable(1).await;
    assert_eq!(cluster.shared.published().leadership.promised, ballot(1));
}

#[tokio::test]
async fn prepare_of_a_giant_ballot_is_refused_and_never_heard() {
    let (cluster, address, _leader) = hanging(1).await;
    let giant = (1 << 63) - 1;
    let prepare = pb::PrepareRequest {
        caller: Some(cluster.caller()),
        ballot: Some(ballot(giant).into()),
        ..Default::default()
    };
    let mut preparing = client(address);
    let preparing = tokio::spawn(async move { preparing.prepare(prepare).await });
    let mut stream = TestLeader::open(&cluster, address, giant, 20).await;
    until(|| (cluster.queue.len() == 2).then_some(())).await;
    assert_eq!(cluster.heard_round(), 1);
    cluster.gate.send_replace(true);
    let mut pages = within(preparing).await.unwrap().unwrap().into_inner();
    let page = within(pages.message()).await.unwrap().unwrap();
    assert!(matches!(page.answer, Some(pb::promise_page::Answer::Refused(_))));
    let (sequence, answer) = stream.answer().await.unwrap();
    assert!(
        sequence == 0 && matches!(answer, Answer::Refused(_)),
        "{answer:?}"
    );
    assert_eq!(cluster.heard_round(), 1);
}

#[tokio::test]
async fn full_disk_is_said_and_the_leader_is_heard() {
    let (cluster, _, mut leader) = led(1).await;
    cluster.has_space.store(false, Ordering::Relaxed);
    leader.send(leader.value(1, 0, 100)).await;
    let (sequence, answer) = leader.answer().await.unwrap();
    assert!(
        sequence == 1 && matches!(answer, Answer::NoSpace(_)),
        "{answer:?}"
    );
    let beating = leader.beating();
    leader
        .alive(|alive| alive.no_space && alive.silent_ms < 250)
        .await;
    let heard = cluster.shared.hearing.heard();
    assert_eq!((heard.ballot, heard.ended), (ballot(1), None));
    cluster.has_space.store(true, Ordering::Relaxed);
    leader.alive(|alive| !alive.no_space).await;
    beating.abort();
}

/// A stream with raw bytes from the test, opened with a heartbeat of round 1; and the answer.
struct RawStream {
    body: h2::SendStream<Bytes>,
    answer: h2::client::ResponseFuture,
    _connection: h2::client::SendRequest<Bytes>,
}

impl RawStream {
    async fn open(cluster: &Cluster, address: SocketAddr) -> Self {
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut requests, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let request =
            tonic::codegen::http::Request::post(format!("http://{address}/paxos.v1.Acceptor/Accept"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
                .unwrap();
        let (answer, mut body) = requests.send_request(request, false).unwrap();
        let first = pb::AcceptRequest {
            alive_interval_ms: 20,
            ..heartbeat(cluster, 1)
        };
        let now = cluster.shared.hearing.now();
        body.send_data(framed(&first).into(), false).unwrap();
        cluster.promised(1).await;
        cluster.heard_since(now).await;
        Self {
            body,
            answer,
            _connection: requests,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.body.send_data(Bytes::copy_from_slice(bytes), false).unwrap();
    }
}

fn framed(request: &pb::AcceptRequest) -> Vec<u8> {
    let encoded = request.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(encoded.len()).unwrap().to_be_bytes());
    framed.extend(encoded);
    framed
}

#[tokio::test]
async fn bytes_count_before_they_are_a_message() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let mut raw = RawStream::open(&cluster, address).await;
    // First the silence, then single bytes of a message that is never whole.
    until(|| cluster.shared.hearing.news().borrow().silent.then_some(())).await;
    let message = pb::AcceptRequest {
        sequence: 1,
        ..heartbeat(&cluster, 1)
    };
    for byte in &framed(&message)[..20] {
        let now = cluster.shared.hearing.now();
        raw.send(&[*byte]);
        cluster.heard_since(now).await;
    }
    // Such bytes are no work, even of a large message.
    let mut large = RawStream::open(&cluster, address).await;
    large.send(&[0, 0, 16, 0, 0]);
    for _ in 0..20 {
        let now = cluster.shared.hearing.now();
        large.send(&[10]);
        cluster.heard_since(now).await;
    }
    assert_eq!((cluster.queue.len(), cluster.shared.hearing.heard().work), (0, 0));
}

#[tokio::test]
async fn stream_that_is_refused_has_not_ended_and_one_that_is_reset_has() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    // A message of 4 GiB.
    let mut refused = RawStream::open(&cluster, address).await;
    refused.send(&[0, 255, 255, 255, 255]);
    let answer = within(refused.answer).await.unwrap();
    let mut answer = answer.into_body();
    while let Some(data) = within(answer.data()).await {
        drop(data.unwrap());
    }
    let trailers = within(answer.trailers()).await.unwrap().unwrap();
    assert_eq!(
        Code::from_bytes(trailers["grpc-status"].as_bytes()),
        Code::InvalidArgument
    );
    assert_eq!(cluster.shared.hearing.heard().ended, None);
    // No message at all.
    let mut refused = RawStream::open(&cluster, address).await;
    refused.send(&[0, 0, 0, 0, 2, 255, 255]);
    until(|| (cluster.service.inner.streams.count() == 0).then_some(())).await;
    assert_eq!(cluster.shared.hearing.heard().ended, None);

    let mut reset = RawStream::open(&cluster, address).await;
    reset.body.send_reset(h2::Reason::INTERNAL_ERROR);
    until(|| cluster.shared.hearing.heard().ended).await;
    let again = TestLeader::open(&cluster, address, 1, 20).await;
    until(|| cluster.shared.hearing.heard().ended.is_none().then_some(())).await;
    drop(again);
    until(|| cluster.shared.hearing.heard().ended).await;
}
