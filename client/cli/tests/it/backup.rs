//! `paxos backup` on a running cluster, and on files that are no whole backups.

use std::fs;

use crate::harness::{Cluster, run, stderr, stdout, until};
use serde_json::Value;

const STORAGE: i32 = 74;
const REFUSED: i32 = 78;

/// Runs `paxos backup`, and expects this exit code.
async fn backup(args: &[&str], code: i32) -> (String, String) {
    let args = [&["backup"], args].concat();
    let output = run(&args).await;
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr(&output),
    )
}

#[tokio::test]
async fn backup_has_every_acknowledged_write_and_can_be_checked() {
    let cluster = Cluster::start(3, 1, 2).await;
    let (client, urls) = (cluster.client(), cluster.urls());
    for number in 0..50 {
        client
            .put(format!("key {number}"), vec![7; 10_000])
            .await
            .unwrap();
    }
    let written = client.delete("key 7").await.unwrap();
    let file = cluster.path("saved.pxs");
    let connection = ["--acceptors", &urls, "--output", "json"];
    let (saved, _) = backup(&[&[file.as_str()], &connection[..]].concat(), 0).await;
    let saved: Value = serde_json::from_str(&saved).unwrap();
    let number = |json: &Value, name: &str| json[name].as_str().unwrap().parse::<u64>().unwrap();
    assert!(number(&saved, "to") > written.slot.get(), "{saved}");
    assert_eq!((number(&saved, "registers"), number(&saved, "sessions")), (49, 1));
    assert_eq!(number(&saved, "bytes"), fs::metadata(&file).unwrap().len());
    assert!(!fs::exists(format!("{file}.partial")).unwrap());

    let (checked, _) = backup(&["--check", &file, "--output", "json"], 0).await;
    assert_eq!(serde_json::from_str::<Value>(&checked).unwrap(), saved);
    let (table, _) = backup(&["--check", &file], 0).await;
    assert!(
        table.contains("REGISTERS") && table.contains(saved["sha256"].as_str().unwrap()),
        "{table}"
    );

    // A learner with the same slots has the same digests.
    let (at_digests, shown) = until("the learners have the slots of a backup", async || {
        let (saved, _) = backup(&[&[file.as_str()], &connection[..]].concat(), 0).await;
        let saved: Value = serde_json::from_str(&saved).unwrap();
        let of_file = ["to", "log_digest", "state_digest"].map(|name| saved[name].clone());
        let (status, _) = cluster.status().await;
        let attached = status["attached"].as_array().unwrap();
        let latest = attached
            .iter()
            .filter_map(|peer| peer["report"]["learner"]["digests"].get(0));
        let digests: Vec<_> = latest
            .map(|digest| ["to", "digest", "state"].map(|name| digest[name].clone()))
            .collect();
        let is_same = |digests: &[Value; 3]| digests[0] == of_file[0];
        (digests.len() == 2 && digests.iter().all(is_same)).then_some((digests, of_file))
    })
    .await;
    assert_eq!(at_digests, [shown.clone(), shown.clone()]);
    let (table, _) = backup(&["--check", &file], 0).await;
    assert!(table.contains("ENDS AT SLOT"), "{table}");
    for digest in &shown[1..] {
        let digest = &digest.as_str().unwrap()[..12];
        let status = stdout(&run(&["status", "--acceptors", &urls]).await);
        assert!(
            status.contains(digest) && table.contains(digest),
            "{status}{table}"
        );
    }

    // A later backup replaces the file; the state of the other registers is the same.
    client.put("key 7", "back").await.unwrap();
    let (later, _) = backup(&[&[file.as_str()], &connection[..]].concat(), 0).await;
    let later: Value = serde_json::from_str(&later).unwrap();
    assert_eq!(number(&later, "registers"), 50);
    assert!(number(&later, "to") > number(&saved, "to"));

    // No file that breaks off is taken for a backup.
    let whole = fs::read(&file).unwrap();
    let broken = cluster.path("broken.pxs");
    for len in [0, 3, 100, whole.len() - 1] {
        fs::write(&broken, &whole[..len]).unwrap();
        let (_, error) = backup(&["--check", &broken], STORAGE).await;
        assert!(
            error.contains("cut off") && error.contains(&broken),
            "{len}: {error}"
        );
    }
    fs::write(&broken, b"SQLite format 3").unwrap();
    let (_, error) = backup(&["--check", &broken], REFUSED).await;
    assert!(error.contains("no backup"), "{error}");
}

#[tokio::test]
async fn backup_without_a_cluster_leaves_the_earlier_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("saved.pxs");
    fs::write(&file, "earlier").unwrap();
    let path = file.to_str().unwrap();
    let nowhere = ["--acceptors", "http://127.0.0.1:1", "--timeout", "200ms"];
    let (_, error) = backup(&[&[path], &nowhere[..]].concat(), 69).await;
    assert!(error.contains("paxos status"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "earlier");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let (_, error) = backup(&[&[directory.path().to_str().unwrap()], &nowhere[..]].concat(), 2).await;
    assert!(error.contains("is a directory"), "{error}");
}
