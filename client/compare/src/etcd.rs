//! Calls of etcd: the few messages that the comparison needs, written by hand. Field numbers are those of etcd's
//! `rpc.proto` and `kv.proto`.

use bytes::Bytes;
use prost::Message;
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

#[derive(Clone, PartialEq, Message)]
struct PutCall {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutAnswer {}

/// A read of a single key. Linearizable, as no field says otherwise.
#[derive(Clone, PartialEq, Message)]
struct RangeCall {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RangeAnswer {
    #[prost(message, repeated, tag = "2")]
    found: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct StatusCall {}

#[derive(Clone, PartialEq, Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member: u64,
}

/// A connection to a member.
#[derive(Clone, Debug)]
pub(crate) struct EtcdClient(Grpc<Channel>);

impl EtcdClient {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(Grpc::new(channel))
    }

    pub(crate) async fn put(&mut self, key: Bytes, value: Bytes) -> anyhow::Result<()> {
        let _: PutAnswer = self.call(PUT, PutCall { key, value }).await?;
        Ok(())
    }

    /// A linearizable read. Returns whether the key holds a value.
    pub(crate) async fn get(&mut self, key: Bytes) -> anyhow::Result<bool> {
        let answer: RangeAnswer = self.call(RANGE, RangeCall { key }).await?;
        Ok(answer.found.iter().any(|found| !found.value.is_empty()))
    }

    /// The version of the member, and whether the member leads.
    pub(crate) async fn status(&mut self) -> anyhow::Result<(String, bool)> {
        let answer: StatusAnswer = self.call(STATUS, StatusCall {}).await?;
        let member = answer.header.unwrap_or_default().member;
        Ok((answer.version, member != 0 && member == answer.leader))
    }

    async fn call<C, A>(&mut self, path: &'static str, call: C) -> anyhow::Result<A>
    where
        C: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await?;
        let codec = ProstCodec::<C, A>::default();
        let answer = self
            .0
            .unary(Request::new(call), PathAndQuery::from_static(path), codec)
            .await?;
        Ok(answer.into_inner())
    }
}
