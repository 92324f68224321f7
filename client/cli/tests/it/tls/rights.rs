//! Who may call what: every method with the certificate of every role, and attacks with a client's certificate.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use paxos_client::Address;
use paxos_common::{tls::RoleName, wire};
use paxos_proto::v1::{
    self as pb, form_request::Step, learner_client::LearnerClient, proposer_client::ProposerClient,
    result_request::Command as Lookup,
};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::time::timeout;
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::{acceptor, foreign, is_denied};
use crate::harness::{Cluster, tls, until};

/// The rights of the design, written again: a change of the table in the product shows here.
fn may_call(method: &str, role: RoleName) -> bool {
    use RoleName::{Client, Learner, Operator, Proposer};
    let roles: &[RoleName] = match method {
        "Acceptor/Prepare" | "Acceptor/Accept" => &[Proposer],
        "Acceptor/Observe" | "Acceptor/Attach" | "Acceptor/Snapshot" => &[Proposer, Learner],
        // Operators restore backups.
        "Acceptor/Form" | "Acceptor/Keep" => &[Proposer, Learner, Operator],
        "Acceptor/Tail" | "Proposer/Fill" => &[Learner],
        "Acceptor/Status" => &[Proposer, Learner, Client, Operator],
        "Proposer/Propose" | "Proposer/ProposeStream" => &[Proposer, Client],
        "Learner/Read" | "Learner/Result" | "Learner/Outcomes" | "Learner/Watch" | "Learner/Subscribe" => {
            &[Client]
        }
        "Learner/Backup" | "Proposer/ChangeMembers" => &[Operator],
        "Proposer/Status" | "Learner/Status" => &RoleName::ALL,
        other => panic!("{other} has no row in the design"),
    };
    roles.contains(&role)
}

/// All methods of the contract, as `Service/Method`.
fn methods() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(paxos_proto::FILE_DESCRIPTOR_SET).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    let of = |service: &prost_types::ServiceDescriptorProto| {
        let methods = service.method.iter();
        let paths = methods.map(|method| format!("{}/{}", service.name(), method.name()));
        paths.collect::<Vec<_>>()
    };
    services.flat_map(of).collect()
}

/// The services of every role beside its own, and whether every role may call the method.
const COMMON: [(&str, bool); 6] = [
    ("/grpc.health.v1.Health/Check", true),
    // Probes call `Check`.
    ("/grpc.health.v1.Health/Watch", false),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        true,
    ),
    ("/grpc.health.v1.Health/Erase", false),
    ("/paxos.v1.Acceptor/Erase", false),
];

/// The code of a call with one empty message; `Ok` when the answer has begun, or does not come.
async fn code(channel: Channel, path: &str) -> Code {
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::try_from(path).unwrap();
    let codec = ProstCodec::<(), ()>::default();
    let answer = client.streaming(Request::new(tokio_stream::iter([()])), path, codec);
    match timeout(Duration::from_secs(2), answer).await {
        Err(_) | Ok(Ok(_)) => Code::Ok,
        Ok(Err(status)) => status.code(),
    }
}

/// Whether the code says nothing about the right to the method.
fn is_no_answer(code: Code) -> bool {
    [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled].contains(&code)
}

#[tokio::test]
async fn every_method_is_for_the_roles_of_the_design() {
    let cluster = Cluster::start_secure(1, 1, 1).await;
    let address = |method: &str| -> Address {
        let process = match method.split('/').next().unwrap() {
            "Acceptor" => &cluster.acceptors[0],
            "Proposer" => &cluster.proposers[0],
            _ => &cluster.learners[0],
        };
        process.address.clone()
    };
    let mut wrong = Vec::new();
    for method in methods() {
        for role in RoleName::ALL {
            let dialer = tls::dialer(cluster.files(role.as_str()));
            let channel = dialer.connect_lazy(&address(&method), None);
            let code = code(channel, &format!("/paxos.v1.{method}")).await;
            if (code != Code::PermissionDenied) != may_call(&method, role) || is_no_answer(code) {
                wrong.push(format!("{method} as {role}: {code:?}"));
            }
        }
    }
    let processes = [&cluster.acceptors[0], &cluster.proposers[0], &cluster.learners[0]];
    for (path, is_for_all) in COMMON {
        for (process, role) in processes
            .iter()
            .flat_map(|&process| RoleName::ALL.map(|role| (process, role)))
        {
            let dialer = tls::dialer(cluster.files(role.as_str()));
            let code = code(dialer.connect_lazy(&process.address, None), path).await;
            if (code != Code::PermissionDenied) != is_for_all || is_no_answer(code) {
                wrong.push(format!("{path} of {} as {role}: {code:?}", process.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for process in processes {
        // No method is reached without a certificate.
        let said = foreign::call_without_certificate(process, &cluster.files("client")).await;
        assert!(said.contains("CertificateRequired"), "{}: {said}", process.name);
    }
    let log = cluster.acceptors[0].log();
    assert!(
        log.contains("refused a call") && log.contains("fingerprint"),
        "{log}"
    );
}

#[tokio::test]
async fn client_and_learner_cannot_vote_form_or_lead() {
    let cluster = Cluster::start_secure(3, 1, 1).await;
    cluster.client().put("colour", "blue").await.unwrap();
    let (before, _) = cluster.status().await;
    for role in ["client", "operator", "learner", "acceptor"] {
        let mut client = acceptor(&cluster, 0, role);
        is_denied(client.prepare(pb::PrepareRequest::default()).await);
        is_denied(
            client
                .accept(tokio_stream::iter([pb::AcceptRequest::default()]))
                .await,
        );
    }
    // A step of Form is not for learners.
    let mut learner = acceptor(&cluster, 0, "learner");
    is_denied(
        learner
            .form(pb::FormRequest {
                caller: Some(wire::caller(None)),
                step: Some(Step::Store(pb::Configuration::default())),
            })
            .await,
    );
    // A report has the role of its sender.
    for (certificate, role) in [("learner", pb::Role::Proposer), ("proposer", pb::Role::Learner)] {
        let report = pb::AttachRequest {
            role: role.into(),
            ..pb::AttachRequest::default()
        };
        let mut sender = acceptor(&cluster, 0, certificate);
        let answers = sender.attach(tokio_stream::iter([report])).await;
        is_denied(answers.unwrap().into_inner().message().await);
    }
    // A command marked as forwarded is for proposers, in a stream too.
    let dialer = tls::dialer(cluster.files("client"));
    let channel = dialer.to_proposer(&cluster.proposers[0].address);
    let mut proposer = ProposerClient::new(channel);
    is_denied(
        proposer
            .propose(pb::ProposeRequest {
                command: Some(wire::command::append(Bytes::from_static(b"x"))),
                forwarded: true,
            })
            .await,
    );
    let forwarded = pb::ProposeStreamRequest {
        command: Some(wire::command::append(Bytes::from_static(b"x"))),
        forwarded: true,
        ..pb::ProposeStreamRequest::default()
    };
    let answers = proposer.propose_stream(tokio_stream::iter([forwarded])).await;
    let mut answers = answers.unwrap().into_inner();
    let answer = loop {
        // The address of the leader may come alone.
        if let Some(answer) = answers.message().await.unwrap().unwrap().answer {
            break answer;
        }
    };
    let pb::propose_stream_response::Answer::Error(error) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(Code::from(error.code), Code::PermissionDenied, "{error:?}");
    let (after, code) = cluster.status().await;
    assert_eq!(code, Some(0), "{after}");
    assert_eq!(after["leader_address"], before["leader_address"]);
    assert_eq!(
        cluster.client().get("colour").await.unwrap().unwrap().value,
        "blue"
    );
}

#[tokio::test]
async fn change_of_members_and_seeds_are_for_their_roles_alone() {
    let cluster = Cluster::start_secure(3, 1, 1).await;
    cluster.client().put("colour", "blue").await.unwrap();
    let form = async |role: RoleName, step| {
        let request = pb::FormRequest {
            caller: Some(wire::caller(None)),
            step,
        };
        acceptor(&cluster, 0, role.as_str()).form(request).await
    };
    let configuration = form(RoleName::Proposer, None)
        .await
        .unwrap()
        .into_inner()
        .configuration
        .unwrap();
    let restored = pb::Configuration {
        origin: Some(pb::Origin {
            sha256: Bytes::from_static(&[7; 32]),
            ended_at: 0,
            base: 1 << 36,
            earlier: Vec::new(),
        }),
        ..configuration.clone()
    };
    // Operators make clusters of backups, and change no members by such a step. The second value: whether an operator may.
    let steps = [
        (Step::Store(configuration.clone()), false),
        (Step::Complete(configuration.clone()), false),
        (Step::Install(configuration.clone()), false),
        (Step::Join(configuration), false),
        (Step::Store(restored.clone()), true),
        (Step::Complete(restored.clone()), true),
        (Step::Install(restored.clone()), false),
        (Step::Join(restored), false),
    ];
    let is_denied = |code: Code| code == Code::PermissionDenied;
    for role in RoleName::ALL {
        for (step, is_for_operators) in &steps {
            let may = role == RoleName::Proposer || (role == RoleName::Operator && *is_for_operators);
            let code = code_of(form(role, Some(step.clone())).await);
            assert_eq!(is_denied(code), !may, "{role}: {step:?}: {code:?}");
            assert!(!is_no_answer(code), "{role}: {code:?}");
        }
        // A seed is the backup that an operator restores. Acceptors of a cluster take none.
        let begin = pb::KeepBegin {
            seed: true,
            ..pb::KeepBegin::default()
        };
        let part = pb::KeepRequest {
            content: Some(pb::keep_request::Content::Begin(begin)),
        };
        let mut client = acceptor(&cluster, 0, role.as_str());
        let code = code_of(client.keep(tokio_stream::iter([part])).await);
        assert_eq!(is_denied(code), role != RoleName::Operator, "{role}: {code:?}");
        assert!(!is_no_answer(code), "{role}: {code:?}");
        let dialer = tls::dialer(cluster.files(role.as_str()));
        let mut proposer = ProposerClient::new(dialer.to_proposer(&cluster.proposers[0].address));
        let code = code_of(proposer.change_members(pb::ChangeMembersRequest::default()).await);
        assert_eq!(is_denied(code), role != RoleName::Operator, "{role}: {code:?}");
        assert!(!is_no_answer(code), "{role}: {code:?}");
    }
    cluster.client().put("colour", "red").await.unwrap();
}

/// The code of an answer.
fn code_of<T>(answer: Result<T, tonic::Status>) -> Code {
    answer.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn session_is_for_callers_of_the_name_that_opened_it() {
    let cluster = Cluster::start_secure(3, 2, 1).await;
    let ca = tls::TestCa::of_cluster(&cluster.certificates());
    let files = |name: &str| {
        let names = [format!("{name}.client.paxos.internal")];
        let names = names.each_ref().map(String::as_str);
        let dir = cluster.dir.path().join(name);
        ca.issue(&tls::Wanted::of(&names), &ca.pem, &dir)
    };
    let (opener, thief) = (files("billing"), files("thief"));
    let propose = async |files: &paxos_client::TlsFiles, proposer: usize, command: pb::Command| {
        let channel = tls::dialer(files.clone()).to_proposer(&cluster.proposers[proposer].address);
        let request = pb::ProposeRequest {
            command: Some(command),
            forwarded: false,
        };
        until("the command is ordered", async || {
            let mut client = ProposerClient::new(channel.clone());
            client.propose(request.clone()).await.ok()
        })
        .await
        .into_inner()
        .version
        .unwrap()
    };
    const OPENER: Bytes = Bytes::from_static(b"sixteen letters!");
    let leader = cluster.leader().await;
    let opening = pb::OpenSession { opener: OPENER };
    let open = pb::Command {
        session: None,
        operation: Some(pb::command::Operation::OpenSession(opening)),
    };
    let session = propose(&opener, leader, open).await;
    let stamp = |sequence| pb::SessionStamp {
        session: Some(session),
        sequence,
        acked_below: 1,
        opener: OPENER,
    };
    let append = |sequence| pb::Command {
        session: Some(stamp(sequence)),
        ..wire::command::append(Bytes::from_static(b"x"))
    };
    let outcome = async |files: &paxos_client::TlsFiles, command| {
        let dialer = tls::dialer(files.clone());
        let mut client = LearnerClient::new(dialer.to_learner(&cluster.learners[0].address));
        let request = pb::ResultRequest {
            command: Some(command),
        };
        client.result(request).await.map(|_| ())
    };
    // The thief knows the session and its opener.
    let stolen = propose(&thief, leader, append(1)).await;
    let refused = outcome(&thief, Lookup::Version(stolen)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    assert!(refused.message().contains("opener"), "{refused}");
    // Through the leader, and forwarded by the standby.
    for (proposer, sequence) in [(leader, 1), (1 - leader, 2)] {
        let own = propose(&opener, proposer, append(sequence)).await;
        outcome(&opener, Lookup::Version(own)).await.unwrap();
        outcome(&opener, Lookup::Session(stamp(sequence))).await.unwrap();
        let refused = outcome(&thief, Lookup::Session(stamp(sequence)))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::Aborted, "{refused}");
    }
}
