//! Power cuts at every sync, rename and removal of a restore at the real binary: the next start has every answered step, and
//! the restore, repeated, is finished.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use paxos_common::wire::caller;
use paxos_proto::v1::{self as pb, Membership};
use paxos_test_values::power_cuts::{PowerCut, PowerRecorder};
use support::{
    process::{Process, ProcessClient},
    seed::{SeedFile, call, complete, membership, restored, seed, send, store, uuid},
};

/// The steps of a restore at an acceptor, in order.
const STEPS: [Membership; 4] = [
    Membership::Blank,
    Membership::Seeded,
    Membership::Forming,
    Membership::Formed,
];

/// Carries out the steps of the restore after the first `done`.
async fn finish(client: &mut ProcessClient, seed: &SeedFile, done: usize) {
    let configuration = restored(uuid(client).await, 7);
    if done < 3 {
        send(client, &configuration, seed).await.unwrap();
    }
    if done < 2 {
        call(client, store(&configuration)).await.unwrap();
    }
    if done < 3 {
        call(client, complete(&configuration)).await.unwrap();
    }
    assert_eq!(membership(client).await, Membership::Formed);
    let request = pb::SnapshotRequest {
        caller: Some(caller(Some(configuration.cluster_id()))),
    };
    let mut parts = client.snapshot(request).await.unwrap().into_inner();
    let mut content = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        content.extend_from_slice(&part.data);
    }
    assert_eq!(content, seed.1);
}

/// Starts the acceptor after a power cut; returns the number of done steps.
async fn judge(cut: &PowerCut, seed: &SeedFile, is_finished: bool) -> usize {
    let directory = tempfile::tempdir().unwrap();
    cut.write_to(directory.path());
    let process = Process::start(directory.path());
    let mut client = process.client();
    let found = membership(&mut client).await;
    let done = STEPS.iter().position(|step| *step == found).unwrap();
    if is_finished {
        finish(&mut client, seed, done).await;
    }
    done
}

#[tokio::test]
async fn power_cut_at_any_moment_of_a_restore_loses_no_answered_step() {
    let (directory, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(recorder) = PowerRecorder::new(directory.path(), own.path()) else {
        return;
    };
    let mut process = Process::start_under(directory.path(), recorder.environment());
    let mut client = process.client();
    let configuration = restored(uuid(&mut client).await, 7);
    let seed = seed(&configuration);

    recorder.begin();
    // The stop from which on each step is answered.
    let mut answered = vec![0];
    for step in 1..STEPS.len() {
        match step {
            1 => send(&mut client, &configuration, &seed).await.unwrap(),
            2 => drop(call(&mut client, store(&configuration)).await.unwrap()),
            _ => drop(call(&mut client, complete(&configuration)).await.unwrap()),
        }
        answered.push(recorder.moments());
    }
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    recorder.end();

    let cuts = recorder.cuts();
    let mut found = [0; STEPS.len()];
    for (number, cut) in cuts.iter().enumerate() {
        // The uuid of the acceptor is durable before the restore, so every start has the same seed.
        let done = judge(cut, &seed, number % 4 == 0).await;
        let least = answered.iter().rposition(|&stop| stop <= cut.moment).unwrap();
        assert!(
            done >= least,
            "{}: {:?} was answered, found {:?}",
            cut.what,
            STEPS[least],
            STEPS[done]
        );
        found[done] += 1;
    }
    println!("{} power cuts, by steps done: {found:?}", cuts.len());
    assert!(found.iter().all(|&count| count > 0), "{found:?}");
}
