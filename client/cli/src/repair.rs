//! `paxos repair`: looks at, and changes, what a stopped acceptor remembers of the others.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _},
    path::PathBuf,
};

use clap::Subcommand;
use paxos_acceptor::store::sqlite::repair::Stopped;
use paxos_common::{paxos::identity::AcceptorUuid, service::failure::Failure};
use serde_json::json;

use crate::{
    connection::no,
    output::{OutputArgs, write},
};

/// Repair the data directory of an acceptor that is stopped
///
/// These commands work on the directory itself, on the acceptor's machine. They take the directory's lock: a running
/// acceptor refuses them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Witnesses(WitnessesArgs),
    ForgetWitness(ForgetArgs),
}

/// Print what a stopped acceptor remembers of the other acceptors' runs
///
/// Changes nothing. Exits 0 when printed, 74 when there is no acceptor's file or it cannot be read, 78 when the acceptor
/// runs.
#[derive(Debug, clap::Args)]
struct WitnessesArgs {
    /// The data directory of the stopped acceptor
    #[arg(long, env = "PAXOS_DATA_DIR", value_name = "DIRECTORY")]
    data_dir: PathBuf,

    #[command(flatten)]
    output: OutputArgs,
}

/// Make a stopped acceptor forget what it remembers of another acceptor's runs
///
/// For one case only: an acceptor is refused on its right disk, because the others remember something of it that is
/// wrong. That can happen when an older copy of its disk was counted, and passed on, before it was found out.
///
/// What is forgotten is the proof that the other acceptor's disk went back. If its disk did go back, counting it can
/// lose acknowledged writes, or decide a slot twice. Be certain that it runs on its right disk.
///
/// Stop all proposers and learners, then run this for every other acceptor of the cluster, one after the other, each
/// stopped while it is repaired; then start everything. A process that was not stopped remembers on.
///
/// Exits 0 when it is forgotten, 1 when nothing is remembered or it was not confirmed, 2 when the acceptor is no other
/// member of the cluster, 74 when the file cannot be read or written, 78 when the acceptor runs.
#[derive(Debug, clap::Args)]
struct ForgetArgs {
    /// The data directory of the stopped acceptor that is to forget
    #[arg(long, env = "PAXOS_DATA_DIR", value_name = "DIRECTORY")]
    data_dir: PathBuf,

    /// The refused acceptor, whose runs are to be forgotten
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    acceptor: AcceptorUuid,

    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Witnesses(args) => list(args).await,
        Action::ForgetWitness(args) => forget(args).await,
    }
}

async fn list(args: WitnessesArgs) -> Result<(), Failure> {
    let mut stopped = open(&args.data_dir).await?;
    let witnesses = stopped.witnesses().await?;
    for (acceptor, run, counter) in witnesses.iter() {
        let (run, counter) = (format!("{:x}", run.get()), counter.get());
        args.output.print(
            || format!("acceptor {acceptor}  run {run}  commit {counter}\n"),
            || json!({ "acceptor": acceptor.to_string(), "run": run, "commit_counter": counter.to_string() }),
        )?;
    }
    Ok(stopped.close().await?)
}

async fn forget(args: ForgetArgs) -> Result<(), Failure> {
    let mut stopped = open(&args.data_dir).await?;
    let members = stopped.members();
    if args.acceptor == stopped.uuid() || !members.contains_key(&args.acceptor) {
        let others: Vec<_> = members
            .iter()
            .filter(|(uuid, _)| **uuid != stopped.uuid())
            .map(|(uuid, address)| format!("{uuid} at {address}"))
            .collect();
        return Err(Failure::usage(format!(
            "--acceptor {} is no other member of this acceptor's cluster; the others are: {}",
            args.acceptor,
            others.join(", ")
        )));
    }
    let witnesses = stopped.witnesses().await?;
    let mut text = format!(
        "Acceptor {} ({}) remembers of acceptor {} at {}:\n",
        stopped.name(),
        stopped.uuid(),
        args.acceptor,
        members[&args.acceptor]
    );
    let mut runs = 0;
    for (run, counter) in witnesses.of(args.acceptor) {
        runs += 1;
        writeln!(text, "  run {:x}, up to commit {}", run.get(), counter.get())
            .map_err(|error| Failure::internal(anyhow::Error::new(error)))?;
    }
    if runs == 0 {
        return Err(no(format!(
            "acceptor {} remembers nothing of acceptor {}",
            stopped.name(),
            args.acceptor
        )));
    }
    text += "This is the proof that the other acceptor's disk went back, if it did. If it did, counting that acceptor can \
             lose acknowledged writes, or decide a slot twice.\n";
    eprint_all(&text);
    if !args.yes && !confirmed(args.acceptor)? {
        return Err(no("not confirmed: nothing was changed".to_owned()));
    }
    let forgotten = stopped.forget(args.acceptor).await?;
    stopped.close().await?;
    write(&format!(
        "forgotten: {forgotten} runs of acceptor {}\n",
        args.acceptor
    ))
}

async fn open(data_dir: &std::path::Path) -> Result<Stopped, Failure> {
    let opened = Stopped::open(data_dir).await;
    opened.map_err(|error| {
        Failure::from(error).context(format!("open the acceptor's directory {}", data_dir.display()))
    })
}

/// Asks for the uuid once more.
fn confirmed(acceptor: AcceptorUuid) -> Result<bool, Failure> {
    eprint_all("Type the uuid of the other acceptor to forget this: ");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|error| {
        Failure::usage(format!(
            "cannot read the confirmation from standard input: {error}"
        ))
    })?;
    Ok(parse_uuid(line.trim()) == Ok(acceptor))
}

/// Writes to standard error; what cannot be written there is not worth a failure.
fn eprint_all(text: &str) {
    use std::io::Write as _;
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn parse_uuid(text: &str) -> Result<AcceptorUuid, String> {
    let hex: String = text.chars().filter(|&char| char != '-').collect();
    let is_uuid = hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bits = is_uuid.then(|| u128::from_str_radix(&hex, 16).ok()).flatten();
    bits.map(AcceptorUuid::from_u128).ok_or_else(|| {
        "an acceptor's uuid has 32 hexadecimal digits, as in c0a80101-0000-4000-8000-000000000001".to_owned()
    })
}
