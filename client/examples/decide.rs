//! Decides a name: run the example many times at once with different values, and all runs print the same winner.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example decide -- leader-2026 alice`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::env;

use anyhow::Context as _;
use paxos_client::{Client, DEV_ACCEPTORS};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(DEV_ACCEPTORS)?;
    let name = env::args().nth(1).context("give a name and a value")?;
    let value = env::args().nth(2).context("give a value too")?;
    let decision = client.decide(name, value).await?;
    let winner = String::from_utf8_lossy(&decision.winner);
    let (version, ours) = (decision.version, decision.ours);
    println!("{winner} wins at version {version}; ours: {ours}");
    Ok(())
}
