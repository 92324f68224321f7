//! Strangers: garbage, impossible numbers, unused connections and streams. Errors are as documented, memory is bounded,
//! and all other clients are served.

mod addresses;
mod crowd;
mod forged;
mod frames;
mod liar;
mod readers;
mod settings;
mod sweep;

use std::collections::BTreeSet;

pub(crate) use crowd::raise_open_files;

use crate::harness::{BackgroundLoad, Cluster, LoadOutcome, Process, until};
use bytes::Bytes;
use frames::{Http2, prefixed};
use paxos_client::{Address, Client, Version};
use paxos_common::{
    paxos::ballot::Ballot,
    peer::{MESSAGE_BYTES_MAX, connect_lazy},
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient, promise_page::Answer};
use prost_reflect::{DynamicMessage, MethodDescriptor, Value};
use tokio::task::JoinSet;
use tonic::Code;

/// Codes that a call may end in, by the head of types.proto. UNKNOWN, CANCELLED and INTERNAL are not for well-formed
/// requests.
const DOCUMENTED: [Code; 9] = [
    Code::Ok,
    Code::InvalidArgument,
    Code::FailedPrecondition,
    Code::ResourceExhausted,
    Code::Unavailable,
    Code::DeadlineExceeded,
    Code::OutOfRange,
    Code::Aborted,
    Code::Unimplemented,
];

/// Memory that strangers may cost a server, in KiB: a debug build, and an allocator that returns little.
const STRANGERS_KIB_MAX: u64 = 64 * 1024;

fn processes(cluster: &Cluster) -> impl Iterator<Item = &Process> {
    let Cluster {
        acceptors,
        proposers,
        learners,
        ..
    } = cluster;
    acceptors.iter().chain(proposers).chain(learners)
}

/// The address of a service of the contract, by the service's name.
fn address_of<'a>(cluster: &'a Cluster, service: &str) -> &'a Address {
    match service {
        "Acceptor" => &cluster.acceptors[0].address,
        "Proposer" => &cluster.proposers[0].address,
        "Learner" => &cluster.learners[0].address,
        other => panic!("who serves {other}?"),
    }
}

/// Orders a value, in spite of changes of leader: a busy machine has such changes.
async fn ordered(client: &Client, value: impl Into<Bytes>) -> Version {
    let value = value.into();
    until("a value is ordered", async || {
        client.append_at_most_once(value.clone()).await.ok()
    })
    .await
}

/// The ballot that an acceptor has promised.
async fn ballot(cluster: &Cluster) -> pb::Ballot {
    let status = sweep::acceptor_status(&cluster.acceptors[0].address).await;
    status.leadership.unwrap().promised.unwrap()
}

/// Checks that a load had no failure. A change of leader may cause some failures.
fn noticed_nothing(outcome: &LoadOutcome, led_at: pb::Ballot, led_at_last: pb::Ballot) {
    println!(
        "{} acknowledged, {} unknown, {} not proposed; led at {led_at:?}, then {led_at_last:?}",
        outcome.acknowledged.len(),
        outcome.unknown.len(),
        outcome.not_proposed.len()
    );
    if led_at == led_at_last {
        assert!(outcome.unknown.is_empty() && outcome.not_proposed.is_empty());
    }
}

fn grew_little(cluster: &Cluster, before: &[u64]) {
    for (process, before) in processes(cluster).zip(before) {
        let after = process.resident_kib();
        println!("{}: {before} KiB resident before, {after} after", process.name);
        assert!(
            after < before + STRANGERS_KIB_MAX,
            "{} grew from {before} to {after} KiB",
            process.name
        );
    }
}

/// Checks that every process runs without an internal fault in the log, and that a value is ordered, applied and equal
/// everywhere.
async fn is_well(cluster: &Cluster) {
    let version = ordered(&cluster.client(), "well").await;
    cluster.digests_are_equal(version.slot.next()).await;
    for process in processes(cluster) {
        let log = process.log();
        assert!(
            !log.contains("panic") && !log.contains("internal fault"),
            "{}: {log}",
            process.name
        );
    }
}

/// Checks that a new leader emerges when the present leader dies.
async fn elects(cluster: &mut Cluster) {
    let leader = cluster.leader().await;
    cluster.proposers[leader].kill();
    ordered(&cluster.client(), "after the leader").await;
    cluster.proposers[leader].start();
    is_well(cluster).await;
}

/// Calls a method that a standby does not answer. Requests of this test may depose the leader, so the call is repeated.
async fn call_leader(cluster: &Cluster, method: &MethodDescriptor, request: &DynamicMessage) -> Code {
    until("the leader answers", async || {
        let leader = cluster.leader().await;
        let channel = connect_lazy(&cluster.proposers[leader].address);
        let code = sweep::call(&channel, method, request).await;
        (code != Code::Unavailable).then_some(code)
    })
    .await
}

/// The required code for a number in a field; `None` if any documented code will do.
fn expected(method: &str, field: &str, value: &Value) -> Option<Code> {
    let last = field.rsplit('.').next().unwrap_or_default();
    match (value, last) {
        // Refused before the quorums are looked at: no acceptor answers at the added address.
        (Value::U32(1..), "phase1" | "phase2") if method == "ChangeMembers" => Some(Code::FailedPrecondition),
        (Value::U64(_), "nonce" | "tag") => Some(Code::Ok),
        (Value::U64(_), "sequence") if method == "Accept" => Some(Code::Ok),
        (Value::U64(number), _) if *number > i64::MAX as u64 => Some(Code::InvalidArgument),
        (Value::U32(1..), "protocol_version") => Some(Code::FailedPrecondition),
        (Value::U32(0), "protocol_version") | (Value::U32(_), "phase1" | "phase2") => {
            Some(Code::InvalidArgument)
        }
        (Value::U32(1..), "offset") | (Value::EnumNumber(_), _) => Some(Code::InvalidArgument),
        _ => None,
    }
}

#[tokio::test]
async fn numbers_that_cannot_be_are_refused_and_leave_no_trace() {
    let mut cluster = Cluster::start(3, 2, 2).await;
    // Makes slot 1 and the version 1.0 exist.
    for value in ["a", "b", "c"] {
        ordered(&cluster.client(), value).await;
    }
    let contract = sweep::contract();
    let (mut calls, mut answered) = (0, BTreeSet::new());
    for service in contract.services() {
        let address = address_of(&cluster, service.name());
        let channel = connect_lazy(address);
        for method in service.methods() {
            let mut covered = BTreeSet::new();
            let fields = sweep::numeric_fields(&method.input());
            // The status is fetched again for each mutant: an earlier mutant may have taken effect.
            let requests = async || {
                let status = sweep::acceptor_status(&cluster.acceptors[0].address).await;
                sweep::plausible(&method, &status)
            };
            for number in 0..requests().await.len() {
                for path in &fields {
                    let count = sweep::mutants(&requests().await[number], path).len();
                    for mutant in 0..count {
                        let plausible = &requests().await[number];
                        let field = sweep::name_of(plausible, path);
                        let (value, request) = sweep::mutants(plausible, path).swap_remove(mutant);
                        covered.insert(path.clone());
                        // A leader's claim of another value in slot 0, chosen long ago, ends an acceptor.
                        if field == "proposals.slot" && value == Value::U64(0) {
                            continue;
                        }
                        let code = match method.name() {
                            "ChangeMembers" => call_leader(&cluster, &method, &request).await,
                            _ => sweep::call(&channel, &method, &request).await,
                        };
                        let what = format!("{}: {field} = {value:?}", sweep::path_of(&method));
                        match expected(method.name(), &field, &value) {
                            Some(expected) => assert_eq!(code, expected, "{what}"),
                            None => assert!(DOCUMENTED.contains(&code), "{what}: {code:?}"),
                        }
                        calls += 1;
                        answered.insert(code as i32);
                    }
                }
            }
            assert_eq!(covered, fields, "{} is not tried whole", sweep::path_of(&method));
        }
    }
    println!("{calls} calls, ended in the codes {answered:?}");
    assert!(calls > 150, "only {calls} calls");
    is_well(&cluster).await;
    elects(&mut cluster).await;
}

#[tokio::test]
async fn witness_that_cannot_be_stored_harms_no_acceptor() {
    let cluster = Cluster::start(3, 1, 2).await;
    let status = sweep::acceptor_status(&cluster.acceptors[0].address).await;
    let other = sweep::acceptor_status(&cluster.acceptors[1].address).await;
    let method = sweep::contract()
        .get_service_by_name("paxos.v1.Acceptor")
        .unwrap();
    let method = method.methods().find(|method| method.name() == "Accept").unwrap();
    let stamp = other.stamp.unwrap();
    for (run, commit_counter) in [(stamp.run, u64::MAX), (stamp.run, 1 << 63), (u64::MAX, 1)] {
        let mut request = pb::AcceptRequest {
            caller: Some(pb::Caller {
                protocol_version: 1,
                cluster_id: stamp.cluster_id.clone(),
            }),
            ballot: status.leadership.clone().unwrap().promised,
            ..Default::default()
        };
        request.witnesses.push(pb::Witness {
            acceptor: stamp.acceptor.clone(),
            run,
            commit_counter,
        });
        let request = prost::Message::encode_to_vec(&request);
        let request = DynamicMessage::decode(method.input(), request.as_slice()).unwrap();
        let channel = connect_lazy(&cluster.acceptors[0].address);
        let code = sweep::call(&channel, &method, &request).await;
        assert_eq!(code, Code::InvalidArgument, "{run} {commit_counter}");
    }
    is_well(&cluster).await;
}

#[tokio::test]
async fn acceptor_driven_up_by_legal_steps_does_not_prevent_elections() {
    let mut cluster = Cluster::start(3, 2, 2).await;
    ordered(&cluster.client(), "before").await;
    for _ in 0..2 {
        let promised = drive_up(&cluster.acceptors[0].address).await;
        ordered(&cluster.client(), "meanwhile").await;
        // A leader has followed to this round, with a quorum.
        let leader = sweep::acceptor_status(&cluster.acceptors[0].address).await;
        let leading = leader.leadership.unwrap().promised.unwrap();
        println!("driven up to {}, led at {}", promised.round, leading.round);
    }
    is_well(&cluster).await;
    // From now on every leader needs the driven-up acceptor.
    cluster.acceptors[1].kill();
    elects_without_digests(&mut cluster).await;
    cluster.acceptors[1].start();
    elects(&mut cluster).await;
}

/// Has one acceptor promise the highest round that the acceptor allows.
async fn drive_up(address: &Address) -> pb::Ballot {
    let mut client = AcceptorClient::new(connect_lazy(address));
    loop {
        let status = sweep::acceptor_status(address).await;
        let mut ballot = status.leadership.unwrap().promised.unwrap();
        ballot.round += Ballot::ROUND_JUMP_MAX;
        let request = pb::PrepareRequest {
            caller: Some(pb::Caller {
                protocol_version: 1,
                cluster_id: status.stamp.unwrap().cluster_id,
            }),
            ballot: Some(ballot),
            from: status.voted_to,
            ..Default::default()
        };
        let mut pages = client.prepare(request).await.unwrap().into_inner();
        match pages.message().await.unwrap().unwrap().answer.unwrap() {
            Answer::Promise(_) => return ballot,
            // Another proposer was faster.
            Answer::Rejected(_) => {}
            Answer::Refused(refused) => panic!("{refused:?}"),
        }
    }
}

async fn elects_without_digests(cluster: &mut Cluster) {
    let leader = cluster.leader().await;
    cluster.proposers[leader].kill();
    ordered(&cluster.client(), "with two of three").await;
    cluster.proposers[leader].start();
}

#[tokio::test]
async fn garbage_and_truncated_messages_harm_no_process() {
    let mut cluster = Cluster::start(3, 2, 2).await;
    let client = cluster.client();
    ordered(&client, "before").await;
    let before: Vec<_> = processes(&cluster).map(Process::resident_kib).collect();
    let led_at = ballot(&cluster).await;
    let load = BackgroundLoad::start(&cluster, 1, usize::MAX, 4);
    let mut saying = JoinSet::new();
    for role in ["Acceptor", "Proposer", "Learner"] {
        for (what, bytes) in frames::garbage() {
            println!("to the {role}: {what}");
            let address = address_of(&cluster, role).clone();
            saying.spawn(async move { frames::say(&address, &bytes).await });
        }
    }
    // The connections stay open to the end.
    let _said = saying.join_all().await;
    let contract = sweep::contract();
    let methods = contract.services().flat_map(|service| {
        let methods: Vec<_> = service.methods().collect();
        methods
            .into_iter()
            .map(move |method| (service.name().to_owned(), sweep::path_of(&method)))
    });
    for (service, path) in methods {
        let address = address_of(&cluster, &service);
        let mut http2 = Http2::connect(address, 65_535).await;
        let too_long = u32::try_from(MESSAGE_BYTES_MAX + 1).unwrap();
        for (what, body, code) in [
            (
                "too long",
                prefixed(0, too_long, &[0; 100]),
                Code::InvalidArgument,
            ),
            (
                "too long, and whole",
                prefixed(0, too_long, &vec![0; MESSAGE_BYTES_MAX + 1]),
                Code::InvalidArgument,
            ),
            ("4 GiB", prefixed(0, u32::MAX, &[0; 100]), Code::InvalidArgument),
            ("cut short", prefixed(0, 100, &[0; 10]), Code::InvalidArgument),
            (
                "half a prefix",
                Bytes::from_static(&[0, 0, 0]),
                Code::InvalidArgument,
            ),
            ("compressed", prefixed(1, 3, &[1, 2, 3]), Code::InvalidArgument),
            ("no message", prefixed(0, 10, &[0xff; 10]), Code::Internal),
        ] {
            let found = http2.code(&path, body).await;
            assert_eq!(found, code, "{path}, {what}");
        }
    }
    for (service, path) in [
        ("Acceptor", "/paxos.v1.Acceptor/Nonsense"),
        ("Acceptor", "/paxos.v1.Proposer/Propose"),
        ("Learner", "/"),
        ("Proposer", "/x/y/z"),
    ] {
        let mut http2 = Http2::connect(address_of(&cluster, service), 65_535).await;
        let code = http2.code(path, prefixed(0, 0, &[])).await;
        assert_eq!(code, Code::Unimplemented, "{path}");
    }
    let long = "x".repeat(10_000);
    for (header, code) in [
        (("grpc-timeout", "soon"), Code::Ok),
        (("grpc-timeout", "18446744073709551616S"), Code::Ok),
        (("grpc-timeout", "99999999H"), Code::Ok),
        (("grpc-timeout", "-1S"), Code::Ok),
        (("traceparent", &long), Code::Ok),
        (("grpc-encoding", "gzip"), Code::Unimplemented),
    ] {
        let mut http2 = Http2::connect(address_of(&cluster, "Proposer"), 65_535).await;
        let path = "/paxos.v1.Proposer/Status";
        let found = http2.code_with(path, header, prefixed(0, 0, &[])).await;
        assert_eq!(found, code, "{header:?}");
        // An append of one letter.
        let append = prefixed(0, 7, &[0x0a, 5, 0x12, 3, 0x0a, 1, b'x']);
        let found = http2
            .code_with("/paxos.v1.Proposer/Propose", header, append)
            .await;
        assert!(
            found == code || found == Code::Unavailable,
            "{header:?}: {found:?}"
        );
    }
    load.goes_on(100).await;
    noticed_nothing(&load.stop().await, led_at, ballot(&cluster).await);
    grew_little(&cluster, &before);
    is_well(&cluster).await;
    elects(&mut cluster).await;
}
