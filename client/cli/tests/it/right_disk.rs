//! An acceptor that was refused on an older copy of its disk, and returns on the right disk.

use std::{fs, path::Path};

use crate::harness::{Cluster, run, until};

/// Replaces the files of a directory by the files of another directory.
fn replace(to: &str, from: &str) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), Path::new(to).join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn acceptor_on_its_right_disk_again_reports_no_refusal_from_before() {
    let mut cluster = Cluster::start(3, 2, 0).await;
    let data = cluster.path(&cluster.acceptors[2].name);
    let [old, right] = ["old", "right"].map(|name| cluster.path(name));
    let listen = cluster.acceptors[2].address.as_str().replace("http://", "");
    cluster.client().append_at_most_once("first").await.unwrap();
    cluster.acceptors[2].stop().await;
    replace(&old, &data);
    cluster.acceptors[2].start();
    // Without the second acceptor, the commits of the third are needed, and so remembered.
    cluster.acceptors[1].stop().await;
    for _ in 0..5 {
        cluster.client().append_at_most_once("second").await.unwrap();
    }
    cluster.acceptors[1].start();
    cluster.acceptors[2].stop().await;
    replace(&right, &data);
    replace(&data, &old);
    cluster.acceptors[2].start();
    let health = async || {
        let health = run(&["healthcheck", &listen]).await;
        (
            health.status.code(),
            String::from_utf8_lossy(&health.stderr).into_owned(),
        )
    };
    let refused = until("the older copy is refused", async || {
        let (code, reason) = health().await;
        (code == Some(1) && reason.contains("does not count this acceptor")).then_some(reason)
    })
    .await;
    assert!(
        refused
            .trim_end()
            .ends_with("see `paxos repair forget-witness --help`"),
        "{refused}"
    );

    cluster.acceptors[2].stop().await;
    replace(&data, &right);
    cluster.acceptors[2].start();
    until("the acceptor is ready on its right disk", async || {
        let (code, reason) = health().await;
        assert!(
            !reason.contains("does not count this acceptor"),
            "refused on the right disk: {reason}"
        );
        (code == Some(0)).then_some(())
    })
    .await;
    // Every report since then is about the present run, too.
    cluster.acceptors[1].stop().await;
    cluster.client().append_at_most_once("with it").await.unwrap();
    assert_eq!(health().await, (Some(0), String::new()));
}
