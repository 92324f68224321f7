//! Readers that take nothing: the memory that a process holds for such readers, and the service for other clients.

use std::{fs, path::Path, time::Duration};

use bytes::Bytes;
use h2::client::ResponseFuture;
use paxos_client::Address;
use paxos_common::peer::{MESSAGE_BYTES_MAX, connect_lazy};
use paxos_proto::v1::{
    self as pb, acceptor_client::AcceptorClient, learner_client::LearnerClient, read_request::Target,
};
use prost::Message;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::{
    frames::{Http2, prefixed},
    is_well, ordered, sweep,
};
use crate::harness::{Cluster, PATIENCE, Process, run, until};

/// Duration of the memory watch: much longer than a local process takes to fill all windows.
const WATCHED: Duration = Duration::from_secs(4);
/// Upper bound of a process's growth in KiB for the readers of one connection: half of a budget of 32 MiB, and the cost
/// of a thousand calls in a debug build.
const GROWTH_KIB_MAX: u64 = 128 * 1024;
/// Bytes of each value in the log behind the readers.
const VALUE_BYTES: usize = 1_000_000;

/// A memory limit of the compose file, in KiB: the default of this variable.
fn limit_kib(variable: &str) -> u64 {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let compose = fs::read_to_string(root.join("docker-compose.yml")).unwrap();
    let (_, after) = compose.split_once(&format!("${{{variable}:-")).unwrap();
    let (limit, _) = after.split_once('}').unwrap();
    let (number, unit) = limit.split_at(limit.len() - 1);
    let number: u64 = number.parse().unwrap();
    match unit {
        "m" => number * 1024,
        "g" => number * 1024 * 1024,
        unit => panic!("what is {unit:?}?"),
    }
}

/// Calls with unread answers: the server may send one byte on each stream.
struct SlowReaders {
    answers: Vec<ResponseFuture>,
    _http2: Http2,
}

impl SlowReaders {
    async fn begin(address: &Address, path: &str, request: &impl Message, count: usize) -> Self {
        let mut http2 = Http2::connect(address, 1).await;
        let request = request.encode_to_vec();
        let request = prefixed(0, u32::try_from(request.len()).unwrap(), &request);
        let mut answers = Vec::new();
        for _ in 0..count {
            let (answer, mut stream) = http2.open(path).await;
            stream.send_data(request.clone(), true).unwrap();
            answers.push(answer);
        }
        Self {
            answers,
            _http2: http2,
        }
    }
}

/// Watches the memory of a process with `before` KiB resident. The memory must stay below the container's `limit`, and
/// grow little.
async fn stays_small(process: &Process, before: u64, limit: u64) {
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < WATCHED {
        most = most.max(process.resident_kib());
        assert!(
            most < limit.min(before + GROWTH_KIB_MAX),
            "{} has {most} KiB resident, and had {before} before; its container has {limit}",
            process.name
        );
        sleep(Duration::from_millis(50)).await;
    }
    println!(
        "{}: {before} KiB resident before, then at most {most}, of {limit}",
        process.name
    );
}

#[tokio::test]
async fn thousand_stalled_readers_fit_the_memory_and_delay_no_client() {
    let cluster = Cluster::start(3, 1, 2).await;
    let client = cluster.client();
    for number in 0..6 {
        let key = format!("large/{number}");
        let value = vec![number; VALUE_BYTES];
        client.put(key, value).await.unwrap();
    }
    let end = client.chosen_to().await.unwrap();
    let (acceptor, learner) = (&cluster.acceptors[0], &cluster.learners[0]);
    let status = sweep::acceptor_status(&acceptor.address).await;
    let (acceptor_limit, learner_limit) = (limit_kib("ACCEPTOR_MEMORY"), limit_kib("LEARNER_MEMORY"));
    until("the learners have all of it", async || {
        let status = LearnerClient::new(connect_lazy(&learner.address))
            .status(pb::LearnerStatusRequest {})
            .await
            .unwrap();
        (status.into_inner().applied_to >= end.get()).then_some(())
    })
    .await;

    let observe = pb::ObserveRequest {
        caller: Some(pb::Caller {
            protocol_version: 1,
            cluster_id: status.stamp.unwrap().cluster_id,
        }),
        kind: pb::ObserveKind::Values.into(),
        from: 0,
    };
    let before = acceptor.resident_kib();
    let path = "/paxos.v1.Acceptor/Observe";
    let slow = SlowReaders::begin(&acceptor.address, path, &observe, 1_000).await;
    stays_small(acceptor, before, acceptor_limit).await;
    // Another observer gets the whole log meanwhile.
    let observed = async {
        let mut observer = AcceptorClient::new(connect_lazy(&acceptor.address))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .observe(observe.clone())
            .await
            .unwrap()
            .into_inner();
        let mut bytes = 0;
        while bytes < 6 * VALUE_BYTES {
            let frame = observer.message().await.unwrap().unwrap();
            bytes += frame.encoded_len();
        }
    };
    timeout(PATIENCE, observed)
        .await
        .expect("another observer is served");
    ordered(&client, "beside slow observers").await;
    drop(slow);

    let before = learner.resident_kib();
    let path = "/paxos.v1.Learner/Subscribe";
    let slow = SlowReaders::begin(&learner.address, path, &pb::SubscribeRequest { from: 0 }, 1_000).await;
    stays_small(learner, before, learner_limit).await;
    let read = pb::ReadRequest {
        target: Some(Target::Prefix(Bytes::from_static(b"large/"))),
        ..Default::default()
    };
    let path = "/paxos.v1.Learner/Read";
    let slow_reads = SlowReaders::begin(&learner.address, path, &read, 512).await;
    stays_small(learner, before, learner_limit).await;
    // Other clients subscribe and read meanwhile, without limit.
    let mut reader = LearnerClient::new(connect_lazy(&learner.address));
    reader = reader.max_decoding_message_size(MESSAGE_BYTES_MAX);
    let subscribed = async {
        let request = pb::SubscribeRequest { from: 0 };
        let mut pages = reader.clone().subscribe(request).await.unwrap().into_inner();
        while pages.message().await.unwrap().unwrap().next < end.get() {}
    };
    timeout(PATIENCE, subscribed)
        .await
        .expect("another subscriber is served");
    let answer = until("another reader is served", async || {
        reader.read(read.clone()).await.ok()
    })
    .await;
    assert!(answer.into_inner().registers.len() > 1);
    assert!(!slow.answers.is_empty() && !slow_reads.answers.is_empty());
    drop((slow, slow_reads));
    is_well(&cluster).await;
}

/// Number of calls refused at once, with RESOURCE_EXHAUSTED.
async fn refused(answers: Vec<ResponseFuture>) -> usize {
    let mut refused = 0;
    for answer in answers {
        let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
        if let Some(code) = answer.headers().get("grpc-status") {
            assert_eq!(Code::from_bytes(code.as_bytes()), Code::ResourceExhausted);
            refused += 1;
        }
    }
    refused
}

#[tokio::test]
async fn thousands_of_open_calls_leave_room_for_probes_and_for_newcomers() {
    let cluster = Cluster::start(3, 1, 2).await;
    ordered(&cluster.client(), "before").await;
    let (acceptor, proposer, learner) = (&cluster.acceptors[0], &cluster.proposers[0], &cluster.learners[0]);
    let mut open = Vec::new();
    let watch = tonic_health::pb::HealthCheckRequest::default();
    let path = "/grpc.health.v1.Health/Watch";
    for process in [acceptor, proposer, learner] {
        for number in 0..8 {
            let mut watches = SlowReaders::begin(&process.address, path, &watch, 1_024).await;
            let answers = watches.answers.split_off(4);
            if number == 0 {
                let all = answers.len();
                assert_eq!(refused(answers).await, all, "four are a connection's share");
            }
            open.push(watches);
        }
    }
    // Requests without data, as many as each connection may have.
    let path = "/paxos.v1.Proposer/Propose";
    let mut endless = Vec::new();
    for _ in 0..8 {
        let mut http2 = Http2::connect(&proposer.address, 65_535).await;
        for _ in 0..1_024 {
            let (answer, mut request) = http2.open(path).await;
            if request.send_data(Bytes::from_static(&[0, 0]), false).is_ok() {
                endless.push((answer, request));
            }
        }
    }
    for process in [acceptor, proposer, learner] {
        let listen = process.address.as_str().strip_prefix("http://").unwrap();
        // A probe waits 2 s. A busy machine may need this time for thousands of calls.
        until("a probe is answered", async || {
            run(&["healthcheck", listen]).await.status.success().then_some(())
        })
        .await;
    }
    sweep::acceptor_status(&acceptor.address).await;
    let newcomer = cluster.client();
    newcomer
        .with_timeout(Duration::from_secs(20))
        .append_at_most_once(Bytes::from_static(b"beside them"))
        .await
        .unwrap();
    let read = newcomer.get("none");
    assert!(read.await.unwrap().is_none());
    drop((open, endless));
    is_well(&cluster).await;
}
