//! Appends the arguments to the log, then prints the log from the first of them on.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example log -- hello world`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::env;

use paxos_client::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect([
        "http://127.0.0.1:7001",
        "http://127.0.0.1:7002",
        "http://127.0.0.1:7003",
    ])?;
    let from = client.chosen_to().await?;
    for record in env::args().skip(1) {
        client.append(record).await?;
    }
    let end = client.chosen_to().await?;
    let mut log = client.log(from);
    while let Some(page) = log.next().await {
        let page = page?;
        for record in &page.records {
            println!("{record:?}");
        }
        if page.next >= end {
            break;
        }
    }
    Ok(())
}
