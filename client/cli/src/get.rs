//! `paxos get`: reads registers.

use std::ffi::OsString;

use bytes::Bytes;
use paxos_client::{Client, Consistency, PageRequest, Register, Version};
use paxos_common::service::failure::Failure;

use crate::{
    connection::{ConnectionArgs, no},
    key::{bytes, read_failure, register_as_json},
    output::{Form, OutputArgs, bytes_as_text, key_as_text, write_value},
};

/// Read a register: print its value
///
/// Writes exactly the stored bytes to a file or a pipe. At a terminal, a newline follows.
///
/// By default a read sees every write acknowledged before the read, through any learner. --local and --at-least ask for
/// less.
///
/// With --prefix: one line for each register, SLOT.OFFSET KEY = VALUE, ascending by key. The registers are read in
/// pages; a later page may show a later state. A key that would make the line ambiguous is in double quotes.
///
/// Exits 1 when there is no such key.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The key, 1 byte to 4 KiB; with --prefix the start of the keys, may be empty
    key: OsString,

    /// Read all registers with a key that starts with KEY
    #[arg(long)]
    prefix: bool,

    /// Read the current state of any learner, possibly old
    #[arg(long, conflicts_with = "at_least")]
    local: bool,

    /// Read a state that includes this version; wait for a learner with such a state
    #[arg(long, value_name = "SLOT.OFFSET")]
    at_least: Option<Version>,

    /// Print a newline after the value, even to a file or a pipe
    #[arg(long, conflicts_with = "prefix")]
    newline: bool,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let key = bytes(args.key.clone());
    let consistency = match args.at_least {
        Some(version) => Consistency::AtLeast(version),
        None if args.local => Consistency::Local,
        None => Consistency::Linearizable,
    };
    if args.prefix {
        return print_prefix(&args, &client, key, consistency).await;
    }
    let register = client
        .get_with(key.clone(), consistency)
        .await
        .map_err(read_failure)?
        .ok_or_else(|| no(format!("there is no key {}", bytes_as_text(&key))))?;
    match args.output.output {
        Form::Text => write_value(&register.value, args.newline).await,
        Form::Json => {
            args.output
                .print(String::new, || register_as_json(&register))
                .await
        }
    }
}

async fn print_prefix(
    args: &Args,
    client: &Client,
    prefix: Bytes,
    consistency: Consistency,
) -> Result<(), Failure> {
    let mut request = PageRequest::default();
    request.consistency = consistency;
    let mut found = false;
    loop {
        let page = client
            .get_prefix(prefix.clone(), request.clone())
            .await
            .map_err(read_failure)?;
        for register in &page.registers {
            found = true;
            args.output
                .print(|| line(register), || register_as_json(register))
                .await?;
        }
        request.after = page.next_after;
        if request.after.is_none() {
            break;
        }
    }
    if found {
        return Ok(());
    }
    Err(no(format!(
        "there is no key that starts with {}",
        bytes_as_text(&prefix)
    )))
}

fn line(register: &Register) -> String {
    format!(
        "{}  {} = {}\n",
        register.version,
        key_as_text(&register.key),
        bytes_as_text(&register.value)
    )
}
