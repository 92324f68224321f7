//! Writes and reads over mutual TLS, with the files that the variables of the command `paxos` name.
//!
//! Start a cluster with `paxos dev --tls`, set the variables that it prints, then:
//! `cargo run -p paxos-client --example secure`
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::env;

use anyhow::Context as _;
use paxos_client::{Client, ClientConfig, Domain, TlsFiles, TlsSettings};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let file = |name| env::var_os(name).map(Into::into);
    let files = TlsFiles::all_or_none(
        file("PAXOS_TLS_CERT"),
        file("PAXOS_TLS_KEY"),
        file("PAXOS_TLS_CA"),
    )?;
    let mut config = ClientConfig::new(["https://127.0.0.1:7001", "https://127.0.0.1:7002"])?;
    config.tls = Some(TlsSettings {
        files: files.context("set PAXOS_TLS_CERT, PAXOS_TLS_KEY and PAXOS_TLS_CA")?,
        domain: Domain::default(),
    });
    let client = Client::new(config)?;
    client.put("colour", "blue").await?;
    let register = client.get("colour").await?.context("the register was written")?;
    println!("colour is {}", String::from_utf8_lossy(&register.value));
    Ok(())
}
