//! The limit on the size of the registers: puts are refused before the order, and deletes make room.

use crate::harness::{Cluster, run, stderr, until};

/// Room for a few registers: each counts 256 bytes beside key and value, and each recorded outcome 128 bytes.
const LIMIT: &str = "16KiB";

#[tokio::test]
async fn registers_at_the_limit_refuse_puts_until_registers_are_deleted() {
    let environment = vec![("PAXOS_STATE_BYTES_MAX", LIMIT.to_owned())];
    let cluster = Cluster::start_with(3, 2, 1, environment).await;
    let urls = cluster.urls();
    let call = async |args: &[&str]| run(&[args, &["--acceptors", &urls]].concat()).await;
    let value = "v".repeat(8_000);
    let mut keys = Vec::new();
    // The learner's reports are up to a tenth of a second old.
    let refused = until("a put is refused", async || {
        let key = format!("key-{}", keys.len());
        let put = call(&["put", &key, &value]).await;
        if put.status.success() {
            keys.push(key);
            return None;
        }
        Some(put)
    })
    .await;
    let text = stderr(&refused);
    assert_eq!(refused.status.code(), Some(69), "{text}");
    assert!(text.contains("--state-bytes-max"), "{text}");
    assert!(keys.len() >= 2, "the limit has room for two registers: {keys:?}");

    let append = call(&["propose", "a record"]).await;
    assert!(append.status.success(), "appends go on: {}", stderr(&append));
    for key in &keys {
        let delete = call(&["delete", key]).await;
        assert!(delete.status.success(), "{}", stderr(&delete));
    }
    until("puts are taken again", async || {
        let put = call(&["put", "small", "value"]).await;
        put.status.success().then_some(())
    })
    .await;
}
