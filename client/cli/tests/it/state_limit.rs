//! The limit on the size of the registers: puts are refused before the order, elections go on, and deletes make room.

use crate::harness::{Cluster, run, stderr, until};

/// Each register counts 256 bytes beside key and value, and each recorded outcome 128 bytes.
const LIMIT_KIB: usize = 1_000;

#[tokio::test]
async fn registers_at_the_limit_refuse_puts_and_elections_go_on_until_registers_are_deleted() {
    let environment = vec![("PAXOS_STATE_BYTES_MAX", format!("{LIMIT_KIB}KiB"))];
    let cluster = Cluster::start_with(3, 2, 1, environment).await;
    let urls = cluster.urls();
    let call = async |args: &[&str]| run(&[args, &["--acceptors", &urls]].concat()).await;
    // A single register reaches the limit: no put is under way while the learner's report is on its way, so almost the
    // whole reserve for elections, a sixteenth of the limit, is free.
    let value = "v".repeat(LIMIT_KIB * 1_024);
    cluster.client().put("large", value).await.unwrap();
    let refused = until("a put is refused", async || {
        let put = call(&["put", "small", "value"]).await;
        (!put.status.success()).then_some(put)
    })
    .await;
    let text = stderr(&refused);
    assert_eq!(refused.status.code(), Some(69), "{text}");
    assert!(text.contains("--state-bytes-max"), "{text}");

    // An election that has no holder yet has one now, at the limit, although another new register is refused.
    let elect = [
        "elect",
        "leader-of-jobs",
        "--as",
        "node-1",
        "--timeout",
        "60s",
        "--acceptors",
        &urls,
    ];
    let won = run(&[&elect[..], &["--", "true"]].concat()).await;
    assert!(won.status.success(), "elections go on: {}", stderr(&won));
    let other = call(&["put", "other", "value"]).await;
    assert_eq!(other.status.code(), Some(69), "{}", stderr(&other));

    let append = call(&["propose", "a record"]).await;
    assert!(append.status.success(), "appends go on: {}", stderr(&append));
    let delete = call(&["delete", "large"]).await;
    assert!(delete.status.success(), "{}", stderr(&delete));
    until("puts are taken again", async || {
        let put = call(&["put", "small", "value"]).await;
        put.status.success().then_some(())
    })
    .await;
}
