//! Appends the arguments to the log, then reads the first record back.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example propose -- hello world`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::{env, time::Duration};

use anyhow::Context as _;
use paxos_client::{Client, ClientConfig};

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
    let timeout = Duration::from_secs(5);

    let mut first = None;
    for value in env::args().skip(1) {
        let version = client.append(value.clone(), timeout).await?;
        println!("{version}  {value}");
        first = first.or(Some(version));
    }
    let first = first.context("give at least one value")?;

    let mut log = client.subscribe(first.slot, timeout);
    while let Some(news) = log.next().await {
        if let Some(record) = news?.records.first() {
            println!(
                "slot {} holds {} commands",
                record.slot,
                record.value.clone().unwrap_or_default().commands.len()
            );
            break;
        }
    }
    Ok(())
}
