//! Operators' views of the members on real processes: quorums.

use super::*;

#[tokio::test]
async fn quorums_that_need_every_member_to_lead_are_healthy_with_the_reason() {
    let cluster = Cluster::start(3, 2, 1).await;
    let made = changed(&cluster, &["quorums", "--phase1", "3", "--phase2", "1", "--force"]).await;
    assert!(made.contains("because the quorums were chosen so"), "{made}");
    let healthy = until("the changed cluster is healthy", async || {
        let status = stdout(&run(&["status", "--acceptors", &cluster.urls()]).await);
        status.contains("healthy: ").then_some(status)
    })
    .await;
    assert!(
        healthy.contains("none may be lost, because the quorums were chosen so: a new leader needs all 3 members"),
        "{healthy}"
    );
    let shown = stdout(&member(&cluster, &["list"]).await);
    println!("{shown}");
    assert!(
        shown.contains("quorums: 3 of 3 to elect a leader (phase 1), 1 of 3 to choose a value (phase 2)"),
        "{shown}"
    );
}
