//! Sweep: every numeric field of every request of every service, set to numbers that no process sends.

use std::{collections::BTreeSet, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes};
use paxos_client::Address;
use paxos_common::{peer::connect_lazy, wire::PROTOCOL_VERSION};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient};
use paxos_proto::v1::{AcceptorStatusRequest, AcceptorStatusResponse};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MethodDescriptor, ReflectMessage as _, Value,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// Longest duration of a request, on a busy machine. The test leaves silent streams earlier.
const CALL_MAX: Duration = Duration::from_secs(5);
/// A proposer number that conflicts with no process.
const OUR_PROPOSER: u64 = 7;

/// The contract, as known to clients in other languages.
pub(crate) fn contract() -> DescriptorPool {
    DescriptorPool::decode(paxos_proto::FILE_DESCRIPTOR_SET).unwrap()
}

/// A method's path in a call: `/paxos.v1.Acceptor/Prepare`.
pub(crate) fn path_of(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// The path to a field of a message: the numbers of the fields. In lists, the path leads to the first element.
pub(crate) type FieldPath = Vec<u32>;

/// The numeric fields of a type, at every depth.
pub(crate) fn numeric_fields(of: &prost_reflect::MessageDescriptor) -> BTreeSet<FieldPath> {
    let mut found = BTreeSet::new();
    for field in of.fields() {
        if let Kind::Message(inner) = field.kind() {
            let below = numeric_fields(&inner).into_iter();
            found.extend(below.map(|rest| [vec![field.number()], rest].concat()));
        } else if !extremes(&field.kind()).is_empty() {
            found.insert(vec![field.number()]);
        }
    }
    found
}

/// The numbers to try; none for a field without a number.
fn extremes(kind: &Kind) -> Vec<Value> {
    match kind {
        Kind::Uint64 => [0, i64::MAX as u64, 1 << 63, u64::MAX].map(Value::U64).to_vec(),
        Kind::Uint32 => [0, 1 << 31, u32::MAX].map(Value::U32).to_vec(),
        Kind::Enum(_) => [0, i32::MIN, i32::MAX].map(Value::EnumNumber).to_vec(),
        Kind::Message(_) | Kind::Bool | Kind::String | Kind::Bytes => Vec::new(),
        Kind::Int32 | Kind::Int64 | Kind::Sint32 | Kind::Sint64 | Kind::Double | Kind::Float => untried(kind),
        Kind::Fixed32 | Kind::Fixed64 | Kind::Sfixed32 | Kind::Sfixed64 => untried(kind),
    }
}

fn untried(kind: &Kind) -> ! {
    panic!("the contract has a kind of number that is not tried: {kind:?}")
}

/// The request with each number in the place of the field; none if the field is not part of this request.
pub(crate) fn mutants(request: &DynamicMessage, path: &[u32]) -> Vec<(Value, DynamicMessage)> {
    let Some(kind) = kind_at(request, path) else {
        return Vec::new();
    };
    let mutant = |value: Value| {
        let mut mutant = request.clone();
        set(&mut mutant, path, &value);
        (value, mutant)
    };
    extremes(&kind).into_iter().map(mutant).collect()
}

/// The names on the path to a field, for people.
pub(crate) fn name_of(request: &DynamicMessage, path: &[u32]) -> String {
    let mut descriptor = request.descriptor();
    let mut names = Vec::new();
    for &number in path {
        let field = descriptor.get_field(number).unwrap();
        names.push(field.name().to_owned());
        if let Kind::Message(inner) = field.kind() {
            descriptor = inner;
        }
    }
    names.join(".")
}

fn kind_at(message: &DynamicMessage, path: &[u32]) -> Option<Kind> {
    let (&number, rest) = path.split_first()?;
    let field = message.descriptor().get_field(number)?;
    if rest.is_empty() {
        return Some(field.kind());
    }
    if !message.has_field(&field) {
        return None;
    }
    let value = message.get_field(&field);
    let inner = value
        .as_message()
        .or_else(|| value.as_list()?.first()?.as_message());
    kind_at(inner?, rest)
}

fn set(message: &mut DynamicMessage, path: &[u32], number: &Value) {
    let (&tag, rest) = path.split_first().unwrap();
    let field: FieldDescriptor = message.descriptor().get_field(tag).unwrap();
    if rest.is_empty() {
        return message.set_field(&field, number.clone());
    }
    let mut value = message.get_field_mut(&field);
    if let Value::List(list) = value {
        value = &mut list[0];
    }
    set(
        value.as_message_mut().expect("a message on the way"),
        rest,
        number,
    );
}

/// Turns a message of ours into a message that can be mutated.
fn dynamic<M: prost::Message>(method: &MethodDescriptor, message: &M) -> DynamicMessage {
    DynamicMessage::decode(method.input(), message.encode_to_vec().as_slice()).unwrap()
}

/// Plausible requests to a method; together the requests have every field. Requests to an acceptor fit the acceptor's
/// present status.
pub(crate) fn plausible(method: &MethodDescriptor, acceptor: &AcceptorStatusResponse) -> Vec<DynamicMessage> {
    let cluster_id = acceptor.stamp.clone().unwrap().cluster_id;
    // A caller of this release: an acceptor that has trimmed refuses callers of version 1.
    let caller = Some(pb::Caller {
        protocol_version: PROTOCOL_VERSION,
        cluster_id: cluster_id.clone(),
    });
    let version = pb::Version { slot: 1, offset: 0 };
    let promised = acceptor.leadership.clone().unwrap().promised.unwrap();
    let next_ballot = pb::Ballot {
        round: promised.round + 1,
        proposer: OUR_PROPOSER,
        era: 0,
    };
    match (method.parent_service().name(), method.name()) {
        ("Acceptor", "Form") => {
            let mut configuration = acceptor.configuration.clone().unwrap();
            // Another cluster: refused, and the fields of the origin are tried too.
            configuration.origin = Some(pb::Origin {
                sha256: Bytes::from_static(&[9; 32]),
                ended_at: 9,
                base: 1 << 40,
                earlier: vec![pb::LostSlots { ended_at: 3, base: 5 }],
            });
            [
                None,
                Some(pb::form_request::Step::Store(configuration.clone())),
                Some(pb::form_request::Step::Complete(configuration.clone())),
                Some(pb::form_request::Step::Install(configuration.clone())),
                Some(pb::form_request::Step::Join(configuration)),
            ]
            .map(|step| {
                let caller = caller.clone();
                dynamic(method, &pb::FormRequest { caller, step })
            })
            .to_vec()
        }
        ("Acceptor", "Prepare") => vec![dynamic(
            method,
            &pb::PrepareRequest {
                caller,
                ballot: Some(next_ballot),
                from: 1,
                proposer_address: String::new(),
            },
        )],
        ("Acceptor", "Accept") => {
            // The first ballot loses against any leader. The second ballot is heard as the ballot of a new leader, and
            // votes far from every slot in use.
            let stale = pb::Ballot {
                round: 1,
                proposer: 0,
                era: 0,
            };
            [(stale, 1), (next_ballot, acceptor.voted_to + 64)]
                .map(|(ballot, slot)| {
                    let request = pb::AcceptRequest {
                        caller: caller.clone(),
                        ballot: Some(ballot),
                        sequence: 1,
                        chosen_to: 0,
                        proposals: vec![pb::Proposal {
                            slot,
                            ..Default::default()
                        }],
                        witnesses: vec![pb::Witness {
                            acceptor: Bytes::from_static(&[9; 16]),
                            run: 1,
                            commit_counter: 1,
                        }],
                        ..Default::default()
                    };
                    dynamic(method, &request)
                })
                .to_vec()
        }
        ("Acceptor", "Observe") => vec![dynamic(
            method,
            &pb::ObserveRequest {
                caller,
                kind: pb::ObserveKind::Values.into(),
                from: 1,
            },
        )],
        ("Acceptor", "Tail") => vec![dynamic(method, &pb::TailRequest { caller, nonce: 1 })],
        ("Acceptor", "Attach") => {
            let proposer = pb::attach_request::Progress::Proposer(pb::ProposerProgress {
                leading: false,
                ballot: Some(next_ballot),
                ..Default::default()
            });
            let learner = pb::attach_request::Progress::Learner(pb::LearnerProgress {
                applied_to: 1,
                digests: vec![pb::Digest::default()],
                refuses_reads: true,
                state_bytes: 0,
                installing_to: 1,
            });
            [(pb::Role::Proposer, proposer), (pb::Role::Learner, learner)]
                .map(|(role, progress)| {
                    let request = pb::AttachRequest {
                        caller: caller.clone(),
                        role: role.into(),
                        peer: 1,
                        progress: Some(progress),
                        ..Default::default()
                    };
                    dynamic(method, &request)
                })
                .to_vec()
        }
        ("Acceptor", "Keep") => {
            let id = pb::SnapshotId {
                to: 1,
                sha256: Bytes::from_static(&[9; 32]),
                bytes: 33,
            };
            let begin = pb::KeepBegin {
                caller,
                id: Some(id),
                peer: 0,
                seed: false,
            };
            [
                pb::keep_request::Content::Begin(begin),
                pb::keep_request::Content::Data(Bytes::from_static(b"x")),
            ]
            .map(|content| {
                let content = Some(content);
                dynamic(method, &pb::KeepRequest { content })
            })
            .to_vec()
        }
        ("Acceptor", "Snapshot") => vec![dynamic(method, &pb::SnapshotRequest { caller })],
        ("Proposer", "Propose") => commands()
            .into_iter()
            .map(|command| {
                let forwarded = false;
                let command = Some(command);
                dynamic(method, &pb::ProposeRequest { command, forwarded })
            })
            .collect(),
        ("Proposer", "ProposeStream") => commands()
            .into_iter()
            .map(|command| {
                let request = pb::ProposeStreamRequest {
                    tag: 1,
                    command: Some(command),
                    timeout_ms: 5_000,
                    ..Default::default()
                };
                dynamic(method, &request)
            })
            .collect(),
        ("Proposer", "ChangeMembers") => {
            let member = pb::Member {
                address: "http://127.0.0.1:1".to_owned(),
                ..Default::default()
            };
            let request = pb::ChangeMembersRequest {
                cluster_id,
                era: 0,
                add: vec![member],
                phase1: 2,
                phase2: 3,
                ..Default::default()
            };
            vec![dynamic(method, &request)]
        }
        ("Proposer", "Fill") => vec![dynamic(method, &pb::FillRequest { to: 1 })],
        ("Learner", "Read") => vec![dynamic(
            method,
            &pb::ReadRequest {
                limit: 1,
                consistency: Some(pb::read_request::Consistency::AtLeast(version)),
                ..Default::default()
            },
        )],
        ("Learner", "Result") => {
            let stamp = pb::SessionStamp {
                session: Some(version),
                sequence: 1,
                acked_below: 0,
                opener: Bytes::from_static(b"sixteen letters!"),
            };
            [
                pb::result_request::Command::Version(version),
                pb::result_request::Command::Session(stamp),
            ]
            .map(|command| {
                let command = Some(command);
                dynamic(method, &pb::ResultRequest { command })
            })
            .to_vec()
        }
        ("Learner", "Outcomes") => {
            let query = pb::OutcomeQuery {
                tag: 7,
                version: Some(version),
            };
            let queries = vec![query];
            vec![dynamic(method, &pb::OutcomesRequest { queries })]
        }
        ("Learner", "Watch") => vec![dynamic(
            method,
            &pb::WatchRequest {
                from: Some(version),
                ..Default::default()
            },
        )],
        ("Learner", "Subscribe") => vec![dynamic(method, &pb::SubscribeRequest { from: 1 })],
        (_, "Status") | ("Learner", "Backup") => vec![DynamicMessage::new(method.input())],
        (service, name) => panic!("say what a plausible request to {service}/{name} is"),
    }
}

/// Commands that together have every field.
fn commands() -> Vec<pb::Command> {
    use pb::command::Operation;
    let opening = pb::OpenSession {
        opener: Bytes::from_static(b"sixteen letters!"),
    };
    let opening = pb::Command {
        session: None,
        operation: Some(Operation::OpenSession(opening)),
    };
    let version = pb::Version { slot: 1, offset: 0 };
    let condition = Some(pb::Condition {
        condition: Some(pb::condition::Condition::Version(version)),
    });
    let session = Some(pb::SessionStamp {
        session: Some(version),
        sequence: 5,
        acked_below: 0,
        opener: Bytes::from_static(b"sixteen letters!"),
    });
    let key = Bytes::from_static(b"key");
    [
        Operation::Append(pb::Append {
            record: Bytes::from_static(b"record"),
        }),
        Operation::Put(pb::Put {
            key: key.clone(),
            value: Bytes::new(),
            condition,
        }),
        Operation::Delete(pb::Delete { key, condition }),
    ]
    .map(|operation| pb::Command {
        session: session.clone(),
        operation: Some(operation),
    })
    .into_iter()
    .chain([opening])
    .collect()
}

/// Calls a method with one message. Returns the code: of a first answer, or of a failure.
pub(crate) async fn call(channel: &Channel, method: &MethodDescriptor, request: &DynamicMessage) -> Code {
    let mut grpc = Grpc::new(channel.clone());
    let path = path_of(method).parse().unwrap();
    let request = Bytes::from(request.encode_to_vec());
    let first = async {
        grpc.ready()
            .await
            .map_err(|error| Status::unknown(error.to_string()))?;
        let (more, requests) = mpsc::channel(1);
        more.try_send(request).unwrap();
        // On a stream, the end follows the answer.
        let _open = method.is_client_streaming().then_some(more);
        let answers = grpc.streaming(Request::new(ReceiverStream::new(requests)), path, RawCodec);
        answers.await?.into_inner().message().await
    };
    let answer = tokio::time::timeout(CALL_MAX, first).await;
    match answer.unwrap_or_else(|_| panic!("no answer to {}", path_of(method))) {
        Err(status) => {
            println!("{}: {status}", path_of(method));
            status.code()
        }
        Ok(None) => Code::Ok,
        Ok(Some(answer)) => {
            let answer = DynamicMessage::decode(method.output(), answer).unwrap();
            failure_in(&answer).unwrap_or(Code::Ok)
        }
    }
}

/// The failure in an answer: on a stream of proposals, or of outcomes, the answer holds the failure.
fn failure_in(answer: &DynamicMessage) -> Option<Code> {
    if let Some(Value::List(outcomes)) = answer.get_field_by_name("outcomes").as_deref() {
        return failure_in(outcomes.first()?.as_message()?);
    }
    let error = answer.get_field_by_name("error")?;
    let code = error.as_message()?.get_field_by_name("code")?;
    code.as_i32().map(Code::from).filter(|code| *code != Code::Ok)
}

/// Messages as on the wire.
#[derive(Clone, Copy, Debug, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// An acceptor's own status.
pub(crate) async fn acceptor_status(address: &Address) -> AcceptorStatusResponse {
    let mut client = AcceptorClient::new(connect_lazy(address));
    client
        .status(AcceptorStatusRequest {})
        .await
        .unwrap()
        .into_inner()
}
