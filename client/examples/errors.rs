//! Writes a register, and does what each error asks for.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example errors -- blue`. Stop the cluster to see
//! errors.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::{env, time::Duration};

use paxos_client::{Client, DEV_ACCEPTORS, ReadError, WriteError};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(DEV_ACCEPTORS)?.with_timeout(Duration::from_secs(2));
    let value = env::args().nth(1).unwrap_or_default();
    match client.put("example-errors", value).await {
        Ok(version) => println!("written at {version}"),
        // The caller's mistake, or the wrong cluster: a retry does not help.
        Err(error @ (WriteError::Invalid(_) | WriteError::Refused(_))) => println!("give up: {error}"),
        // The write is in the log. Ask again whether its condition held; a retry would write a second time.
        Err(WriteError::OutcomeNotRead { version, .. }) => match client.outcome(version).await {
            Ok(written) => println!("{written:?}"),
            Err(ReadError::Expired(cause)) => println!("this attempt changed nothing: {cause}"),
            Err(error) => println!("ordered at {version}, ask again later: {error}"),
        },
        // Nothing was written, and nothing will be.
        Err(error) if error.had_no_effect() => println!("a retry is safe: {error}"),
        // The write may have taken effect, or may still do so. Read the register, and write again with `put_if` and the
        // version that was read: then the two writes cannot both count.
        Err(error) => match client.get("example-errors").await {
            Ok(register) => println!("{error}; now put_if on {register:?}"),
            Err(unread) => println!("{error}; and the read failed: {unread}"),
        },
    }
    Ok(())
}
