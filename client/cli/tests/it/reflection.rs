//! Access without our generated code, as with `grpcurl`: reflection, a message made from descriptors, health.

use std::collections::HashMap;

use crate::harness::{Cluster, Process, until};
use bytes::Buf as _;
use paxos_client::Address;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, Value};
use prost_types::FileDescriptorProto;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

#[tokio::test]
async fn every_role_can_be_asked_by_reflection_and_reports_its_health() {
    let cluster = Cluster::start(3, 1, 1).await;
    for (process, service) in [
        (&cluster.acceptors[0], "paxos.v1.Acceptor"),
        (&cluster.proposers[0], "paxos.v1.Proposer"),
        (&cluster.learners[0], "paxos.v1.Learner"),
    ] {
        let channel = Endpoint::from_shared(process.address.to_string())
            .unwrap()
            .connect()
            .await
            .unwrap();
        let services = list_services(channel.clone()).await;
        for expected in [service, "grpc.health.v1.Health"] {
            assert!(services.contains(&expected.to_owned()), "{services:?}");
        }
        let descriptors = descriptors_of(channel.clone(), service).await;
        let status = call(channel.clone(), &descriptors, service, "Status").await;
        let address = status.get_field_by_name("address").unwrap();
        assert_eq!(address.as_str(), Some(process.address.as_str()));
        is_healthy(process, channel, service).await;
    }
    proposes(&cluster.proposers[0].address).await;
}

/// Orders a command written from the descriptors alone.
async fn proposes(address: &Address) {
    let channel = Endpoint::from_shared(address.to_string())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let pool = descriptors_of(channel.clone(), "paxos.v1.Proposer").await;
    let message = |name: &str| DynamicMessage::new(pool.get_message_by_name(name).unwrap());
    let mut append = message("paxos.v1.Append");
    append.set_field_by_name("record", Value::Bytes("by reflection".into()));
    let mut command = message("paxos.v1.Command");
    command.set_field_by_name("append", Value::Message(append));
    let mut request = message("paxos.v1.ProposeRequest");
    request.set_field_by_name("command", Value::Message(command));
    let response = unary(channel, &pool, "paxos.v1.Proposer", "Propose", request).await;
    assert!(response.has_field_by_name("version"), "{response:?}");
}

async fn is_healthy(process: &Process, channel: Channel, service: &str) {
    let mut client = HealthClient::new(channel);
    for service in [service, ""] {
        until(
            &format!("{} says that it serves {service:?}", process.name),
            async || {
                let request = HealthCheckRequest {
                    service: service.to_owned(),
                };
                let status = client.check(request).await.unwrap().into_inner().status();
                (status == ServingStatus::Serving).then_some(())
            },
        )
        .await;
    }
}

async fn ask(channel: Channel, request: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let mut client = ServerReflectionClient::new(channel);
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap()
}

async fn list_services(channel: Channel) -> Vec<String> {
    let MessageResponse::ListServicesResponse(list) =
        ask(channel, MessageRequest::ListServices(String::new())).await
    else {
        panic!("another answer than a list")
    };
    list.service.into_iter().map(|service| service.name).collect()
}

/// All descriptors for the service's messages, fetched file by file as tools do.
async fn descriptors_of(channel: Channel, service: &str) -> DescriptorPool {
    let mut files: HashMap<String, FileDescriptorProto> = HashMap::new();
    let mut wanted = vec![MessageRequest::FileContainingSymbol(service.to_owned())];
    while let Some(request) = wanted.pop() {
        let MessageResponse::FileDescriptorResponse(answer) = ask(channel.clone(), request).await else {
            panic!("another answer than files")
        };
        for file in answer.file_descriptor_proto {
            let file = FileDescriptorProto::decode(file.as_slice()).unwrap();
            let missing = file.dependency.iter().filter(|name| !files.contains_key(*name));
            wanted.extend(missing.map(|name| MessageRequest::FileByFilename(name.clone())));
            files.insert(file.name().to_owned(), file);
        }
    }
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_protos(files.into_values()).unwrap();
    pool
}

/// Calls a unary method with an empty request.
async fn call(channel: Channel, pool: &DescriptorPool, service: &str, method: &str) -> DynamicMessage {
    let input = method_of(pool, service, method).input();
    unary(channel, pool, service, method, DynamicMessage::new(input)).await
}

fn method_of(pool: &DescriptorPool, service: &str, method: &str) -> prost_reflect::MethodDescriptor {
    let service = pool.get_service_by_name(service).unwrap();
    service.methods().find(|found| found.name() == method).unwrap()
}

async fn unary(
    channel: Channel,
    pool: &DescriptorPool,
    service: &str,
    method: &str,
    request: DynamicMessage,
) -> DynamicMessage {
    let path = format!("/{service}/{method}").parse().unwrap();
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = Dynamic(method_of(pool, service, method).output());
    grpc.unary(Request::new(request), path, codec)
        .await
        .unwrap()
        .into_inner()
}

/// Encodes any message, and decodes the described message.
#[derive(Clone)]
struct Dynamic(MessageDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message
            .encode(buffer)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        let message = DynamicMessage::decode(self.0.clone(), bytes);
        message
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
