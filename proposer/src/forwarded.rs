//! The call `ProposeStream` with commands in their stored form: a forwarded command is not decoded and encoded again.

use bytes::Bytes;
use paxos_common::peer::MESSAGE_BYTES_MAX;
use paxos_proto::{codec::ExactCodec, v1::ProposeStreamResponse};
use tokio_stream::Stream;
use tonic::{
    GrpcMethod, IntoStreamingRequest as _, Status, Streaming, client::Grpc, codegen::http::uri::PathAndQuery,
    transport::Channel,
};

/// A `paxos.v1.ProposeStreamRequest` with an encoded command; the same bytes on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ForwardedRequest {
    #[prost(uint64, tag = "1")]
    pub(crate) tag: u64,
    /// An encoded `paxos.v1.Command`, checked by this process.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) command: Bytes,
    #[prost(uint32, tag = "3")]
    pub(crate) timeout_ms: u32,
    #[prost(string, tag = "4")]
    pub(crate) traceparent: String,
    #[prost(bool, tag = "5")]
    pub(crate) forwarded: bool,
}

/// Opens a `ProposeStream`.
///
/// # Errors
/// The status of the call.
pub(crate) async fn propose_stream(
    channel: Channel,
    requests: impl Stream<Item = ForwardedRequest> + Send + 'static,
) -> Result<Streaming<ProposeStreamResponse>, Status> {
    let mut client = Grpc::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static("/paxos.v1.Proposer/ProposeStream");
    let mut requests = requests.into_streaming_request();
    let method = GrpcMethod::new("paxos.v1.Proposer", "ProposeStream");
    requests.extensions_mut().insert(method);
    let opened = client.streaming(requests, path, ExactCodec::default()).await?;
    Ok(opened.into_inner())
}

#[cfg(test)]
mod tests {
    use paxos_common::wire::command;
    use paxos_proto::v1::{self as pb, command::Operation};
    use prost::Message as _;

    use super::*;

    #[test]
    fn forwarded_request_has_the_bytes_of_the_request_in_the_contract() {
        let session = pb::SessionStamp {
            session: Some(pb::Version { slot: 7, offset: 3 }),
            sequence: 9,
            acked_below: 8,
            opener: Bytes::from_static(&[5; 16]),
        };
        let put = |bytes| pb::Put {
            key: Bytes::from_static(b"key"),
            value: Bytes::from(vec![1; bytes]),
            condition: None,
        };
        for command in [
            command::append(Bytes::from_static(b"record")),
            pb::Command {
                session: Some(session),
                operation: Some(Operation::Put(put(300))),
            },
            pb::Command {
                session: None,
                operation: Some(Operation::Put(put(1_000_000))),
            },
        ] {
            let encoded = command::encode(command.clone()).unwrap();
            let forwarded = ForwardedRequest {
                tag: 300,
                command: command::stored_form(&encoded).unwrap(),
                timeout_ms: 900,
                traceparent: "00-trace".to_owned(),
                forwarded: true,
            };
            let request = pb::ProposeStreamRequest {
                tag: 300,
                command: Some(command),
                timeout_ms: 900,
                traceparent: "00-trace".to_owned(),
                forwarded: true,
            };
            assert_eq!(forwarded.encode_to_vec(), request.encode_to_vec());
        }
    }
}
