//! Seeds of restored clusters, and the steps of forming.

use std::{fs, path::Path};

use paxos_common::{
    paxos::{identity::AcceptorUuid, origin::Origin, quorum::Configuration},
    wire::caller,
};
use paxos_proto::v1::{self as pb, form_request::Step, keep_request::Content};
use tonic::Status;

use super::{
    configuration,
    process::ProcessClient,
    slot,
    snapshots::{PART, data, file},
};

pub type SeedFile = (pb::SnapshotId, Vec<u8>);

pub async fn call(client: &mut ProcessClient, step: Option<Step>) -> Result<pb::FormResponse, Status> {
    let request = pb::FormRequest {
        caller: Some(caller(None)),
        step,
    };
    client.form(request).await.map(tonic::Response::into_inner)
}

pub async fn uuid(client: &mut ProcessClient) -> AcceptorUuid {
    let answer = call(client, None).await.unwrap();
    AcceptorUuid::from_slice(&answer.stamp.unwrap().acceptor).unwrap()
}

pub async fn membership(client: &mut ProcessClient) -> pb::Membership {
    call(client, None).await.unwrap().membership()
}

pub fn restored(uuid: AcceptorUuid, backup: u8) -> Configuration {
    let origin = Origin::after([backup; 32], slot(9), None).unwrap();
    configuration(uuid).restored_from(origin)
}

pub fn base(configuration: &Configuration) -> u64 {
    configuration.origin().unwrap().base().get()
}

pub fn seed(configuration: &Configuration) -> SeedFile {
    file(configuration, base(configuration), 300_000)
}

pub async fn send(
    client: &mut ProcessClient,
    configuration: &Configuration,
    (id, content): &SeedFile,
) -> Result<(), Status> {
    let begin = pb::KeepBegin {
        caller: Some(caller(Some(configuration.cluster_id()))),
        id: Some(id.clone()),
        peer: 0,
        seed: true,
    };
    let begin = pb::KeepRequest {
        content: Some(Content::Begin(begin)),
    };
    let parts: Vec<_> = [begin]
        .into_iter()
        .chain(content.chunks(PART).map(data))
        .collect();
    client.keep(tokio_stream::iter(parts)).await.map(drop)
}

pub fn store(configuration: &Configuration) -> Option<Step> {
    Some(Step::Store(configuration.into()))
}

pub fn complete(configuration: &Configuration) -> Option<Step> {
    Some(Step::Complete(configuration.into()))
}

pub fn snapshot_files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".pxs")).collect()
}
