//! Clients and readers of the cluster before, at a restored cluster at the same addresses.

use std::fs;

use tempfile::TempDir;

use super::{backup, restored};
use crate::harness::{Cluster, run, stderr};

#[tokio::test]
async fn client_of_the_cluster_before_gets_a_clear_error_and_goes_on_in_a_new_session() {
    let mut cluster = Cluster::start(3, 1, 1).await;
    let client = cluster.client();
    client.put("key", "before").await.unwrap();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("saved.pxs").display().to_string();
    backup(&cluster, &file).await;
    // The new cluster has the same addresses.
    cluster.proposers[0].kill();
    cluster.learners[0].kill();
    fs::remove_dir_all(cluster.path("learner-1")).unwrap();
    for number in 0..3 {
        cluster.acceptors[number].kill();
        fs::remove_dir_all(cluster.path(&format!("acceptor-{}", number + 1))).unwrap();
        cluster.acceptors[number].start();
    }
    let base = restored(&file, &cluster, &[]).await;
    cluster.proposers[0].start();
    cluster.learners[0].start();
    // In the old session: the command has no effect.
    let error = client.put("key", "in the old session").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the session had expired, so the command had no effect"),
        "{error}"
    );
    let register = client.get("key").await.unwrap().unwrap();
    assert_eq!(register.value, "before");
    assert!(client.put("key", "after").await.unwrap().slot.get() >= base);
    // Readers of the log before are sent to the first slot of the new cluster.
    for command in [&["log", "--from", "0"][..], &["watch", "key", "--from", "0.0"]] {
        let output = run(&[command, &["--acceptors", &cluster.urls()]].concat()).await;
        let text = stderr(&output);
        assert!(
            !output.status.success() && text.contains(&format!("slots below {base} are not kept any more")),
            "{command:?}: {text}"
        );
    }
}
