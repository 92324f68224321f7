//! The real binary and the seed of a restored cluster: uploads, forming, kills between all steps, and refusals.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::fs;

use paxos_common::{
    paxos::{
        identity::AcceptorUuid,
        machine::sessions::SessionState,
        quorum::Configuration,
        slot::{Slot, Version},
    },
    snapshot::encoder::SnapshotEncoder,
    wire::{
        caller,
        snapshot::{LOG_DIGEST_BYTES, SnapshotHeader},
    },
};
use paxos_proto::v1 as pb;
use support::{
    configuration,
    process::Process,
    seed::{base, call, complete, membership, restored, seed, send, snapshot_files, store, uuid},
    slot,
    snapshots::file,
};
use tonic::{Code, Status};

fn refused(result: Result<impl std::fmt::Debug, Status>, text: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains(text), "{status:?}");
}

#[tokio::test]
async fn every_step_of_a_restore_survives_a_kill_and_may_be_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(directory.path());
    let mut client = process.client();
    let ours = restored(uuid(&mut client).await, 7);
    let other = restored(uuid(&mut client).await, 8);
    let plain = configuration(uuid(&mut client).await);
    let base = base(&ours);
    let restart = |process: &mut Process| {
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        *process = Process::start(directory.path());
        process.client()
    };

    // Blank: no origin without a seed.
    refused(call(&mut client, store(&ours)).await, "holds no backup");
    for _ in 0..2 {
        send(&mut client, &ours, &seed(&ours)).await.unwrap();
        client = restart(&mut process);
        assert_eq!(membership(&mut client).await, pb::Membership::Seeded);
    }
    let held = call(&mut client, None).await.unwrap().seed.unwrap();
    assert_eq!(
        (&held.cluster_id[..], held.base),
        (&ours.cluster_id().as_bytes()[..], base)
    );
    refused(send(&mut client, &other, &seed(&other)).await, "another restore");
    refused(call(&mut client, store(&plain)).await, "holds a backup");
    refused(call(&mut client, store(&other)).await, "holds a backup");
    refused(call(&mut client, complete(&ours)).await, "has not stored");

    // Stored: the seed may still be sent again.
    for _ in 0..2 {
        call(&mut client, store(&ours)).await.unwrap();
        client = restart(&mut process);
        assert_eq!(membership(&mut client).await, pb::Membership::Forming);
        send(&mut client, &ours, &seed(&ours)).await.unwrap();
    }
    refused(
        send(&mut client, &other, &seed(&other)).await,
        "has stored the list of cluster",
    );
    refused(call(&mut client, complete(&plain)).await, "another list");

    // A damaged seed makes no member: the same seed, sent again, repairs the file.
    let [name] = &snapshot_files(directory.path())[..] else {
        panic!("one seed");
    };
    let path = directory.path().join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    client = restart(&mut process);
    assert_eq!(membership(&mut client).await, pb::Membership::Forming);
    refused(call(&mut client, complete(&ours)).await, "is damaged");
    assert_eq!(membership(&mut client).await, pb::Membership::Forming);
    send(&mut client, &ours, &seed(&ours)).await.unwrap();

    // Formed: the log begins at the base.
    for _ in 0..2 {
        call(&mut client, complete(&ours)).await.unwrap();
        let status = client.status(pb::AcceptorStatusRequest {}).await.unwrap();
        let status = status.into_inner();
        assert_eq!(
            (status.trimmed_to, status.chosen_to, status.voted_to),
            (base, base, base)
        );
        let ends: Vec<_> = status.snapshots.iter().map(|id| id.to).collect();
        assert_eq!(ends, [base], "{status:?}");
        client = restart(&mut process);
        assert_eq!(membership(&mut client).await, pb::Membership::Formed);
        // Nothing is left to do.
        send(&mut client, &ours, &seed(&ours)).await.unwrap();
    }
    refused(
        send(&mut client, &other, &seed(&other)).await,
        "belongs to cluster",
    );
    let request = pb::SnapshotRequest {
        caller: Some(caller(Some(ours.cluster_id()))),
    };
    let mut parts = client.snapshot(request).await.unwrap().into_inner();
    let mut content = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        content.extend_from_slice(&part.data);
    }
    assert_eq!(content, seed(&ours).1);
    assert_eq!(snapshot_files(directory.path()).len(), 1);
}

#[tokio::test]
async fn other_spelling_of_the_addresses_replaces_the_file_of_the_seed() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let mut client = process.client();
    let ours = restored(uuid(&mut client).await, 7);
    send(&mut client, &ours, &seed(&ours)).await.unwrap();
    let members = [(uuid(&mut client).await, "http://elsewhere:1".into())];
    let renamed = Configuration::new(members, 1, 1).unwrap();
    let renamed = renamed.restored_from(ours.origin().unwrap().clone());
    assert_ne!(seed(&renamed).0.sha256, seed(&ours).0.sha256);
    send(&mut client, &renamed, &seed(&renamed)).await.unwrap();
    assert_eq!(snapshot_files(directory.path()).len(), 1);
    call(&mut client, store(&ours)).await.unwrap();
    call(&mut client, complete(&ours)).await.unwrap();
    assert_eq!(membership(&mut client).await, pb::Membership::Formed);
}

#[tokio::test]
async fn seed_without_space_on_the_disk_leaves_a_blank_acceptor_and_may_be_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start_on_a_small_disk(directory.path(), &[]);
    let mut client = process.client();
    let ours = restored(uuid(&mut client).await, 7);
    let large = file(&ours, base(&ours), 5_000_000);
    let refused = send(&mut client, &ours, &large).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("no space"), "{refused:?}");
    assert_eq!(membership(&mut client).await, pb::Membership::Blank);
    assert_eq!(snapshot_files(directory.path()), [""; 0]);
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    process = Process::start(directory.path());
    client = process.client();
    assert_eq!(membership(&mut client).await, pb::Membership::Blank);
    send(&mut client, &ours, &large).await.unwrap();
    assert_eq!(membership(&mut client).await, pb::Membership::Seeded);
}

#[tokio::test]
async fn content_that_is_no_seed_for_this_acceptor_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let mut client = process.client();
    let ours = restored(uuid(&mut client).await, 7);
    let plain = configuration(uuid(&mut client).await);
    let foreign = restored(AcceptorUuid::from_u128(1), 7);
    let (id, content) = seed(&ours);
    let mut changed = content.clone();
    changed[200_000] ^= 1;
    let with_session = {
        let mut encoder = SnapshotEncoder::new(SnapshotHeader {
            cluster: ours.cluster_id(),
            to: slot(base(&ours)),
            log_digest: [7; LOG_DIGEST_BYTES],
            configuration: ours.clone(),
        });
        let first = Version {
            slot: Slot::ZERO,
            offset: 0,
        };
        let session = SessionState {
            opener: None,
            last_used: first,
            acked_below: 1,
            recorded: Default::default(),
        };
        encoder.session(first, &session).unwrap();
        let mut content = encoder.take();
        let (last, summary) = encoder.finish().unwrap();
        content.extend(last);
        let id = pb::SnapshotId {
            to: base(&ours),
            sha256: summary.sha256.to_vec().into(),
            bytes: summary.bytes,
        };
        (id, content)
    };
    let cut = (id.clone(), content[..content.len() - 1].to_vec());
    let cases = [
        (&ours, (id.clone(), changed), Code::InvalidArgument),
        (&ours, cut, Code::InvalidArgument),
        (&ours, with_session, Code::InvalidArgument),
        // Another end than the base.
        (&ours, file(&ours, base(&ours) + 1, 1_000), Code::InvalidArgument),
        // No origin, another acceptor, another cluster.
        (&plain, file(&plain, 10, 1_000), Code::InvalidArgument),
        (&foreign, seed(&foreign), Code::InvalidArgument),
        (&ours, seed(&foreign), Code::FailedPrecondition),
    ];
    for (configuration, seed, code) in &cases {
        let refused = send(&mut client, configuration, seed).await.unwrap_err();
        assert_eq!(refused.code(), *code, "{refused:?}");
        assert_eq!(membership(&mut client).await, pb::Membership::Blank);
        assert_eq!(snapshot_files(directory.path()), [""; 0]);
    }
    // A plain cluster forms, and takes no seed any more.
    call(&mut client, store(&plain)).await.unwrap();
    refused(
        send(&mut client, &ours, &seed(&ours)).await,
        "has stored the list of cluster",
    );
    call(&mut client, complete(&plain)).await.unwrap();
    refused(
        send(&mut client, &ours, &seed(&ours)).await,
        "never empty the data directory",
    );
}
