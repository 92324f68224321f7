//! A restore that stops after its first step.

use std::fs;

use paxos_common::{
    paxos::{origin::Origin, quorum::Configuration},
    snapshot::{decoder::SnapshotDecoder, seed::SeedWriter},
    wire,
};
use paxos_proto::v1::{
    self as pb, FormRequest, KeepBegin, KeepRequest, SnapshotId, acceptor_client::AcceptorClient,
    keep_request::Content,
};

use crate::harness::{Cluster, channel, until};

/// Sends the seed to all acceptors as the command does, and then stops, like a killed command.
pub(super) async fn seed_all(cluster: &Cluster, file: &str) -> pb::Configuration {
    let bytes = fs::read(file).unwrap();
    let mut decoder = SnapshotDecoder::new(None);
    decoder.push(&bytes);
    while decoder.next_part().unwrap().is_some() {}
    let summary = decoder.finish().unwrap();
    let mut members = Vec::new();
    for acceptor in &cluster.acceptors {
        let mut client = AcceptorClient::new(channel(&acceptor.address));
        let request = FormRequest {
            caller: Some(wire::caller(None)),
            step: None,
        };
        let answer = until("the acceptor answers", async || {
            client.form(request.clone()).await.ok()
        })
        .await;
        let stamp = wire::read_stamp(answer.into_inner().stamp.as_ref()).unwrap();
        members.push((stamp.acceptor, acceptor.address.as_str().into()));
    }
    let quorum = members.len() / 2 + 1;
    let origin = Origin::after(summary.sha256, summary.header.to, None).unwrap();
    let configuration = Configuration::new(members, quorum, quorum)
        .unwrap()
        .restored_from(origin);
    let mut writer = SeedWriter::new(configuration.clone()).unwrap();
    let mut seed = writer.push(&bytes).unwrap();
    let (last, _, summary) = writer.finish().unwrap();
    seed.extend(last);
    for acceptor in &cluster.acceptors {
        let begin = Content::Begin(KeepBegin {
            caller: Some(wire::caller(Some(configuration.cluster_id()))),
            id: Some(SnapshotId {
                to: summary.header.to.get(),
                sha256: summary.sha256.to_vec().into(),
                bytes: summary.bytes,
            }),
            peer: 0,
            seed: true,
        });
        let parts = seed
            .chunks(100_000)
            .map(|part| Content::Data(part.to_vec().into()));
        let parts: Vec<_> = std::iter::once(begin)
            .chain(parts)
            .map(|content| KeepRequest {
                content: Some(content),
            })
            .collect();
        let mut client = AcceptorClient::new(channel(&acceptor.address));
        client.keep(tokio_stream::iter(parts)).await.unwrap();
    }
    (&configuration).into()
}
