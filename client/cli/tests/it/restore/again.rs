//! A finished restore that is repeated.

use super::*;

#[tokio::test]
async fn finished_restore_writes_nothing_when_repeated_and_says_so() {
    let saved = Saved::new().await;
    let mut cluster = Cluster::blank(1).await;
    let described = async || -> Value {
        let output = restore(&saved.file, &cluster.urls(), &[]).await;
        serde_json::from_str(&stdout(&output)).unwrap()
    };
    let first = described().await;
    assert_eq!(first["was_finished"], false);
    let second = described().await;
    assert_eq!(second["was_finished"], true);
    assert_eq!(second["base"], first["base"]);

    let client = start(&mut cluster, "new").await;
    let version = client.put("key 03", "new").await.unwrap();
    let output = run(&["restore", &saved.file, "--acceptors", &cluster.urls()]).await;
    assert!(stdout(&output).contains("nothing was written"), "{output:?}");
    let register = client.get("key 03").await.unwrap().unwrap();
    assert_eq!(register.version, version, "the restore took nothing back");
}
