//! Works under a lock, with a fencing token in every request: start the example in several terminals.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example lock -- alice`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::{env, time::Duration};

use anyhow::Context as _;
use paxos_client::{Client, DEV_ACCEPTORS, Election};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(DEV_ACCEPTORS)?;
    let owner = env::args().nth(1).context("give the name of the owner")?;
    let lock = Election::new(&client, "example-lock", owner, Duration::from_secs(5))?;
    let locked = lock.campaign().await?;
    for step in 1..=3 {
        // The lock may have been lost since the step before: check before each request.
        let token = locked.check()?;
        // The target of the request refuses every token below the highest token seen.
        println!("request {step} with fencing token {token}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    locked.resign().await?;
    Ok(())
}
