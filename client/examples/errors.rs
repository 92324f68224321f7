//! Writes a register, and does what each error asks for.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example errors -- blue`. Stop the cluster to see
//! errors.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::{env, time::Duration};

use paxos_client::{Client, WriteError};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect([
        "http://127.0.0.1:7001",
        "http://127.0.0.1:7002",
        "http://127.0.0.1:7003",
    ])?
    .with_timeout(Duration::from_secs(2));
    let value = env::args().nth(1).unwrap_or_default();
    match client.put("example-errors", value).await {
        Ok(version) => println!("written at {version}"),
        // The caller's mistake, or the wrong cluster: a retry does not help.
        Err(error @ (WriteError::Invalid(_) | WriteError::Refused(_))) => println!("give up: {error}"),
        // The write is in the log. Ask again whether its condition held; a retry would write a second time.
        Err(WriteError::OutcomeNotRead { version, .. }) => match client.outcome(version).await {
            Ok(written) => println!("{written:?}"),
            Err(error) => println!("ordered at {version}, ask later: {error}"),
        },
        // Nothing was written, and nothing will be.
        Err(error) if error.had_no_effect() => println!("a retry is safe: {error}"),
        // The write may still take effect: read the register before deciding.
        Err(error) => match client.get("example-errors").await {
            Ok(register) => println!("{error}; the register holds {register:?}"),
            Err(unread) => println!("{error}; and the read failed: {unread}"),
        },
    }
    Ok(())
}
