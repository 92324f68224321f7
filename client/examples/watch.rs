//! Prints each change of the registers with the argument as the prefix of the key.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example watch -- config/`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::env;

use paxos_client::{Client, DEV_ACCEPTORS, Target};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(DEV_ACCEPTORS)?;
    let prefix = env::args().nth(1).unwrap_or_default();
    let mut watch = client.watch_with(Target::Prefix(prefix.into()), None);
    while let Some(page) = watch.next().await {
        for change in page?.changes {
            let (version, key) = (change.version, String::from_utf8_lossy(&change.key));
            match &change.value {
                Some(value) => println!("{version}  {key} = {}", String::from_utf8_lossy(value)),
                None => println!("{version}  {key} deleted"),
            }
        }
    }
    Ok(())
}
