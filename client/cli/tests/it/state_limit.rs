//! The limit on the size of the registers: puts are refused before the order, elections go on, and deletes make room.

use crate::harness::{Cluster, run, stderr, until};

/// Each register counts 256 bytes beside key and value, and each recorded outcome 128 bytes.
const LIMIT: &str = "64KiB";
/// Number of large values: most of the limit.
const LARGE: usize = 3;

#[tokio::test]
async fn registers_at_the_limit_refuse_puts_until_registers_are_deleted() {
    let environment = vec![("PAXOS_STATE_BYTES_MAX", LIMIT.to_owned())];
    let cluster = Cluster::start_with(3, 2, 1, environment).await;
    let urls = cluster.urls();
    let call = async |args: &[&str]| run(&[args, &["--acceptors", &urls]].concat()).await;
    let (large, small) = ("v".repeat(16_000), "v".repeat(1_000));
    let mut keys = Vec::new();
    // The learner's reports are up to a tenth of a second old. Small values at the end leave the reserve for elections free.
    let refused = until("a put is refused", async || {
        let key = format!("key-{}", keys.len());
        let value = if keys.len() < LARGE { &large } else { &small };
        let put = call(&["put", &key, value]).await;
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
    assert!(
        keys.len() > LARGE,
        "the limit has room for more registers: {keys:?}"
    );

    // An election that has no holder yet has one now, at the limit, although another new register is refused.
    let won = call(&["elect", "leader-of-jobs", "--as", "node-1", "--", "true"]).await;
    assert!(won.status.success(), "elections go on: {}", stderr(&won));
    let small = call(&["put", "small", "value"]).await;
    assert_eq!(small.status.code(), Some(69), "{}", stderr(&small));

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
