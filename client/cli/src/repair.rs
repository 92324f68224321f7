//! `paxos repair`: prints and changes what a stopped acceptor remembers of the other acceptors.

use std::{fmt::Write as _, io, path::PathBuf};

use clap::Subcommand;
use paxos_acceptor::store::sqlite::repair::Stopped;
use paxos_common::{paxos::identity::AcceptorUuid, service::failure::Failure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::{
    connection::no,
    output::{OutputArgs, write},
    signals::{Left, interruptible},
};

/// Longest confirmation in bytes: a uuid is much shorter.
const LINE_BYTES_MAX: u64 = 4096;

/// Repair the data directory of a stopped acceptor
///
/// These commands open the directory itself, on the acceptor's machine, and take the directory's lock. A running
/// acceptor holds the lock, and the commands fail.
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

/// Print the runs of other acceptors that a stopped acceptor remembers
///
/// Changes nothing. Exits 0 when printed, 74 when the acceptor's file is missing or unreadable, 78 when the acceptor
/// runs.
#[derive(Debug, clap::Args)]
struct WitnessesArgs {
    /// Data directory of the stopped acceptor
    #[arg(long, env = "PAXOS_DATA_DIR", value_name = "DIRECTORY")]
    data_dir: PathBuf,

    #[command(flatten)]
    output: OutputArgs,
}

/// Make a stopped acceptor forget the remembered runs of another acceptor
///
/// For a single case: an acceptor is refused on the right disk, because the other acceptors remember wrong runs of the
/// refused acceptor. This can happen when an older copy of the disk was counted, and the copy's runs were passed on,
/// before the copy was detected.
///
/// The forgotten runs are the proof that the refused acceptor's disk went back. If the disk did go back, counting this
/// acceptor can lose acknowledged writes, or decide a slot twice. Be certain that the acceptor runs on the right disk.
///
/// Stop all proposers and learners. Then run this command for every other acceptor of the cluster, in turn, with the
/// repaired acceptor stopped. Then start everything. A process that was not stopped still remembers the runs.
///
/// Exits 0 when the runs are forgotten, 1 when no runs are remembered or the confirmation is missing, 2 when --acceptor
/// is no other member of the cluster, 74 when the file cannot be read or written, 78 when the acceptor runs.
#[derive(Debug, clap::Args)]
struct ForgetArgs {
    /// Data directory of the stopped acceptor that must forget
    #[arg(long, env = "PAXOS_DATA_DIR", value_name = "DIRECTORY")]
    data_dir: PathBuf,

    /// The refused acceptor, with the runs to forget
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    acceptor: AcceptorUuid,

    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Witnesses(args) => interruptible(Left::Nothing, list(args)).await,
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
        )
        .await?;
    }
    Ok(stopped.close().await?)
}

async fn forget(args: ForgetArgs) -> Result<(), Failure> {
    let mut stopped = interruptible(Left::Nothing, to_forget(&args)).await?;
    interruptible(Left::Write, async {
        let forgotten = stopped.forget(args.acceptor).await?;
        stopped.close().await?;
        write(&format!(
            "forgotten: {forgotten} runs of acceptor {}\n",
            args.acceptor
        ))
        .await
    })
    .await
}

/// The stopped acceptor, once the user has confirmed. Changes nothing.
async fn to_forget(args: &ForgetArgs) -> Result<Stopped, Failure> {
    let mut stopped = open(&args.data_dir).await?;
    let members = stopped.members();
    if args.acceptor == stopped.uuid() || !members.contains_key(&args.acceptor) {
        let others: Vec<_> = members
            .iter()
            .filter(|(uuid, _)| **uuid != stopped.uuid())
            .map(|(uuid, member)| format!("{uuid} at {}", member.address))
            .collect();
        return Err(Failure::usage(format!(
            "--acceptor {} is no other member of this acceptor's cluster; the other members are: {}",
            args.acceptor,
            others.join(", ")
        )));
    }
    let witnesses = stopped.witnesses().await?;
    let mut text = format!(
        "Acceptor {} ({}) remembers these runs of acceptor {} at {}:\n",
        stopped.name(),
        stopped.uuid(),
        args.acceptor,
        members[&args.acceptor].address
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
    text += "If the other acceptor's disk went back, these runs are the proof, and counting that acceptor can lose \
             acknowledged writes, or decide a slot twice.\n";
    eprint_all(&text);
    if !args.yes && !confirmed(args.acceptor).await? {
        return Err(no("not confirmed: nothing was changed".to_owned()));
    }
    Ok(stopped)
}

async fn open(data_dir: &std::path::Path) -> Result<Stopped, Failure> {
    let opened = Stopped::open(data_dir).await;
    opened.map_err(|error| {
        Failure::from(error).context(format!("open the acceptor's directory {}", data_dir.display()))
    })
}

/// Asks for the uuid a second time.
async fn confirmed(acceptor: AcceptorUuid) -> Result<bool, Failure> {
    eprint_all("Type the uuid of the other acceptor to forget these runs: ");
    let mut line = String::new();
    let mut input = BufReader::new(tokio::io::stdin().take(LINE_BYTES_MAX));
    input.read_line(&mut line).await.map_err(|error| {
        Failure::usage(format!(
            "cannot read the confirmation from standard input: {error}"
        ))
    })?;
    Ok(parse_uuid(line.trim()) == Ok(acceptor))
}

/// Writes to standard error. A failed write there is ignored.
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
