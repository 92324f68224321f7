//! An acceptor refused on the right disk, because another acceptor remembers something wrong, and the repair.

use std::{
    io::{BufReader, Read as _},
    process::Stdio,
};

use crate::harness::{Cluster, paxos, run, stdout, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use paxos_common::{
    paxos::{
        ballot::{Ballot, ProposerId},
        message::Accept,
        slot::Slot,
    },
    peer::connect_lazy,
    wire,
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient};

/// Passes a wrong run of an acceptor on to another acceptor, like a leader that counted an older copy.
async fn poison(cluster: &Cluster, at: usize, of: &pb::Stamp) {
    let mut client = AcceptorClient::new(connect_lazy(&cluster.acceptors[at].address));
    let accept = Accept {
        ballot: Ballot::new(1_000, ProposerId::from_random(1)).unwrap(),
        sequence: 1,
        chosen_to: Slot::ZERO,
        proposals: Vec::new(),
        address: "http://127.0.0.1:1".into(),
        resign: true,
    };
    let cluster_id = wire::read_stamp(Some(of)).unwrap().cluster.unwrap();
    let request = pb::AcceptRequest {
        witnesses: vec![pb::Witness {
            acceptor: of.acceptor.clone(),
            run: 77,
            commit_counter: 1_000_000,
        }],
        ..wire::accept_request(&accept, cluster_id)
    };
    let mut answers = client
        .accept(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().answer.unwrap();
    assert!(
        matches!(answer, pb::accept_response::Answer::Accepted(_)),
        "{answer:?}"
    );
}

#[tokio::test]
async fn refused_acceptor_counts_again_once_wrong_memories_are_deleted() {
    let mut cluster = Cluster::start(3, 1, 1).await;
    cluster.client().append_at_most_once("before").await.unwrap();
    let third = cluster.acceptor_status(2).await.unwrap().stamp.unwrap();
    let uuid = wire::read_stamp(Some(&third)).unwrap().acceptor.to_string();
    cluster.proposers[0].stop().await;
    cluster.learners[0].stop().await;
    poison(&cluster, 0, &third).await;
    cluster.proposers[0].start();
    until("the third acceptor is refused", async || {
        cluster.proposers[0]
            .log()
            .contains("had reported commit 1000000 in run 4d")
            .then_some(())
    })
    .await;
    assert!(cluster.proposers[0].log().contains("paxos repair forget-witness"));
    let listen = cluster.acceptors[2].address.as_str().replace("http://", "");
    until("the third acceptor knows that it is refused", async || {
        let health = run(&["healthcheck", &listen]).await;
        let is_named = String::from_utf8_lossy(&health.stderr).contains("does not count this acceptor");
        (health.status.code() == Some(1) && is_named).then_some(())
    })
    .await;
    // The acceptor is still refused, and no other acceptor is, however often the refused acceptor shows its runs.
    cluster.client().append_at_most_once("without it").await.unwrap();

    // A running acceptor is not repaired.
    let directory = cluster.path("acceptor-1");
    let forget = [
        "repair",
        "forget-witness",
        "--data-dir",
        &directory,
        "--acceptor",
        &uuid,
        "--yes",
    ];
    let refused = run(&forget).await;
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("locked by another process"));

    cluster.proposers[0].stop().await;
    cluster.acceptors[0].stop().await;
    let listed = run(&["repair", "witnesses", "--data-dir", &directory]).await;
    let line = format!("acceptor {uuid}  run 4d  commit 1000000");
    assert!(stdout(&listed).contains(&line), "{listed:?}");
    // Without a confirmation nothing changes.
    let unconfirmed = run(&forget[..forget.len() - 1]).await;
    assert_eq!(unconfirmed.status.code(), Some(1), "{unconfirmed:?}");
    // A signal ends the command at its prompt.
    let mut asking = paxos(&forget[..forget.len() - 1]);
    let mut asking = asking
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    for byte in BufReader::new(asking.stderr.take().unwrap()).bytes() {
        shown.push(byte.unwrap());
        if shown.ends_with(b"to forget these runs: ") {
            break;
        }
    }
    kill(Pid::from_raw(asking.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let ended = until("the command ends", async || asking.try_wait().unwrap()).await;
    assert_eq!(ended.code(), Some(143));
    let own = cluster.acceptor_status(1).await.unwrap().stamp.unwrap();
    let other = wire::read_stamp(Some(&own)).unwrap().acceptor.to_string();
    assert_ne!(own.acceptor, third.acceptor);
    let stranger = "00000000-0000-0000-0000-000000000001";
    let no_member = run(&[
        "repair",
        "forget-witness",
        "--data-dir",
        &directory,
        "--acceptor",
        stranger,
    ])
    .await;
    assert_eq!(no_member.status.code(), Some(2), "{no_member:?}");
    assert!(
        String::from_utf8_lossy(&no_member.stderr).contains(&other),
        "{no_member:?}"
    );
    let no_file = run(&["repair", "witnesses", "--data-dir", &cluster.path("nothing")]).await;
    assert_eq!(no_file.status.code(), Some(74), "{no_file:?}");
    let garbage = cluster.path("garbage");
    std::fs::create_dir(&garbage).unwrap();
    std::fs::write(format!("{garbage}/acceptor.db"), "garbage").unwrap();
    let damaged = run(&["repair", "witnesses", "--data-dir", &garbage]).await;
    assert_eq!(damaged.status.code(), Some(74), "{damaged:?}");
    let advice = String::from_utf8_lossy(&damaged.stderr).into_owned();
    assert!(
        advice.contains("restore all files of the directory") && advice.contains("file is not a database"),
        "{advice}"
    );

    let forgotten = run(&forget).await;
    assert_eq!(forgotten.status.code(), Some(0), "{forgotten:?}");
    assert!(stdout(&forgotten).starts_with("forgotten: "), "{forgotten:?}");
    let again = run(&forget).await;
    assert_eq!(
        again.status.code(),
        Some(1),
        "nothing is left to forget: {again:?}"
    );

    // The third acceptor counts again: the second is not needed.
    cluster.acceptors[0].start();
    cluster.proposers[0].start();
    cluster.learners[0].start();
    cluster.acceptors[1].stop().await;
    cluster.client().append_at_most_once("with it").await.unwrap();
}
