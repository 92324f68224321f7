//! Does guarded work while holding an election: start the example in several terminals, and stop the working process.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example election -- alice`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::{env, time::Duration};

use anyhow::Context as _;
use paxos_client::{Client, ClientConfig, Election};

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
    let candidate = env::args().nth(1).context("give a name to stand under")?;
    let election = Election::new(&client, "example-job", candidate, Duration::from_secs(5))?;
    let tenure = election.campaign(Duration::from_secs(30)).await?;
    for step in 1..=20 {
        // Before each step: the tenure may have been lost meanwhile.
        let token = tenure.check()?;
        // The target of the work gets the token, and refuses every token below the highest token seen.
        println!("step {step} with token {token}");
        tokio::select! {
            // Cancel safe: a timer.
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            // Cancel safe: only waits.
            lost = tenure.lost() => return Err(lost.into()),
        }
    }
    tenure.resign().await?;
    Ok(())
}
