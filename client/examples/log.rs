//! Appends the arguments to the log, then reads them back: all appended records from the first of them on.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example log -- hello world`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::env;

use anyhow::Context as _;
use paxos_client::{Client, DEV_ACCEPTORS, Operation};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(DEV_ACCEPTORS)?;
    let mut next = client.chosen_to().await?;
    let mut log = client.log(next);
    for record in env::args().skip(1) {
        client.append(record).await?;
    }
    let end = client.chosen_to().await?;
    while next < end {
        let page = log.next().await.context("the log goes on")??;
        for command in page.commands() {
            if let Operation::Append(record) = command.operation {
                println!("{}  {}", command.version, String::from_utf8_lossy(&record));
            }
        }
        next = page.next;
    }
    Ok(())
}
