//! Leads, one process at a time: start the example in several terminals, and stop the leading process.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example election -- alice`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::{env, time::Duration};

use anyhow::Context as _;
use paxos_client::{Client, DEV_ACCEPTORS, Election};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(DEV_ACCEPTORS)?;
    let candidate = env::args().nth(1).context("give the name of the candidate")?;
    let election = Election::new(&client, "example-leader", candidate, Duration::from_secs(5))?;
    let tenure = election.campaign().await?;
    println!("leading since version {}", tenure.token());
    tokio::select! {
        // Cancel safe: a timer, in place of the leader's work.
        () = tokio::time::sleep(Duration::from_secs(10)) => tenure.resign().await?,
        // Cancel safe: only waits.
        lost = tenure.lost() => println!("leading no more: {lost}"),
    }
    Ok(())
}
