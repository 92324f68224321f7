//! Adds one to a counter by compare-and-set, with as many attempts as needed; exactly once, despite any failure on the
//! way.
//!
//! Start a cluster with `paxos dev`, then: `cargo run -p paxos-client --example counter`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::time::Duration;

use paxos_client::{Client, ClientConfig, Condition, Consistency, Written};

const TIMEOUT: Duration = Duration::from_secs(5);

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
    loop {
        let register = client.get("counter", Consistency::Linearizable, TIMEOUT).await?;
        let (count, condition) = match &register {
            Some(register) => (
                str::from_utf8(&register.value)?.parse::<u64>()?,
                Condition::Version(register.version),
            ),
            None => (0, Condition::Absent),
        };
        let next = count + 1;
        match client
            .put("counter", next.to_string(), condition, TIMEOUT)
            .await?
        {
            Written::Applied { version } => {
                println!("{next}, written at version {version}");
                return Ok(());
            }
            // Another client was faster, and nothing was changed: read again.
            Written::ConditionFailed { .. } => {}
        }
    }
}
