//! Decides a name: run the example many times at once with different values, and all runs print the same winner.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example decide -- leader-2026 alice`
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
    let mut args = env::args().skip(1);
    let name = args.next().context("give a name and a value")?;
    let value = args.next().context("give a value too")?;
    let decision = client.decide(name, value, Duration::from_secs(5)).await?;
    let winner = String::from_utf8_lossy(&decision.winner);
    println!(
        "{winner} wins at version {}; ours: {}",
        decision.version, decision.ours
    );
    Ok(())
}
