//! Adds one to a counter by compare-and-set, with as many attempts as needed. `Ok` means: added exactly once. After an
//! error, one more may have been added: example `errors` shows what to do.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example counter`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use paxos_client::{Client, Condition, DEV_ACCEPTORS};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = Client::connect(DEV_ACCEPTORS)?;
    loop {
        let (count, condition) = match client.get("counter").await? {
            Some(register) => (
                str::from_utf8(&register.value)?.parse::<u64>()?,
                Condition::Version(register.version),
            ),
            None => (0, Condition::Absent),
        };
        let next = count + 1;
        let written = client.put_if("counter", next.to_string(), condition).await?;
        if written.is_applied() {
            println!("{next}, written at version {}", written.version());
            return Ok(());
        }
        // Another client was faster, and nothing was changed: read again.
    }
}
