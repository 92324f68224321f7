//! Prints each change of the registers with the argument as the prefix of the key.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example watch -- config/`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::{env, time::Duration};

use paxos_client::{Client, ClientConfig, Target};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let acceptors = [
        "http://127.0.0.1:7001",
        "http://127.0.0.1:7002",
        "http://127.0.0.1:7003",
    ];
    let acceptors = acceptors
        .iter()
        .map(|url| url.parse())
        .collect::<Result<_, _>>()?;
    let client = Client::new(ClientConfig {
        acceptors,
        ..ClientConfig::default()
    })?;
    let prefix = env::args().nth(1).unwrap_or_default();
    let mut watch = client.watch(Target::Prefix(prefix.into()), None, Duration::from_secs(30));
    while let Some(news) = watch.next().await {
        for change in news?.changes {
            let key = String::from_utf8_lossy(&change.key);
            match &change.value {
                Some(value) => println!("{}  {key} = {}", change.version, String::from_utf8_lossy(value)),
                None => println!("{}  {key} deleted", change.version),
            }
        }
    }
    Ok(())
}
