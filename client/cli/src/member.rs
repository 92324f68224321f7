//! `paxos member`: lists, replaces, adds and removes the members of the cluster while it serves.

mod drive;
mod list;
mod look;
mod moved;

use std::time::Duration;

use clap::Subcommand;
use paxos_client::Address;
use paxos_common::service::failure::Failure;

use crate::{
    connection::{ConnectionArgs, no},
    output::OutputArgs,
    signals::{Left, interruptible},
};
use drive::drive;
use look::{AskedPlan, MembersLook, RemovedAndAdded};

/// Longest wait for processes while no quorum of acceptors has answered.
const PATIENCE_MAX: Duration = Duration::from_secs(3);

/// List, replace, add and remove acceptors, while the cluster serves
///
/// ID is the address of a member, its name, or 4 or more hexadecimal digits of its uuid.
///
/// One change is made at a time. The leader brings new acceptors the log first; until then nothing has changed. Then commands
/// wait for some milliseconds, and the new members begin the next era. Interrupting the command does not stop the change.
/// The same command again joins the change under way, or finds it done.
///
/// New acceptors are started with an empty directory first. Removed acceptors may be switched off once the command is done.
///
/// Exits 0 when the change is made, 1 when the cluster refuses (nothing has changed), and 69 when no leader answers or the
/// outcome is unknown: run the same command again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: MemberAction,
}

#[derive(Debug, Subcommand)]
enum MemberAction {
    List(ListArgs),
    Replace(ReplaceArgs),
    Add(AddArgs),
    Remove(RemoveArgs),
    Quorums(QuorumsArgs),
}

/// Print the members: name, uuid, address, state, lag and era, and the command that mends what is wrong
#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Replace a member by another acceptor, or by itself with an empty directory
///
/// Without --with, a blank acceptor answers at the member's own address: its disk was lost, and it was started with an empty
/// directory. With the address of the same acceptor, the member moves there with its votes.
#[derive(Debug, clap::Args)]
struct ReplaceArgs {
    /// The member to replace
    #[arg(value_name = "ID")]
    member: String,

    /// URL of the new acceptor, as the processes of the cluster reach it [default: the member's own address]
    #[arg(long, value_name = "URL")]
    with: Option<Address>,

    #[command(flatten)]
    change: ChangeArgs,
}

/// Add acceptors, all in one change
#[derive(Debug, clap::Args)]
struct AddArgs {
    /// URLs of the new acceptors, as the processes of the cluster reach them
    #[arg(value_name = "URL", required = true)]
    added: Vec<Address>,

    #[command(flatten)]
    change: ChangeArgs,
}

/// Remove members, all in one change
#[derive(Debug, clap::Args)]
struct RemoveArgs {
    /// The members to remove
    #[arg(value_name = "ID", required = true)]
    members: Vec<String>,

    #[command(flatten)]
    change: ChangeArgs,
}

/// Change the sizes of the quorums, and no member
#[derive(Debug, clap::Args)]
struct QuorumsArgs {
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, clap::Args)]
struct ChangeArgs {
    /// Promises that a campaign needs; with --phase2, and together more than the members [default: a majority]
    #[arg(long, value_name = "N", requires = "phase2")]
    phase1: Option<u32>,

    /// Votes that choose a value; with --phase1 [default: a majority]
    #[arg(long, value_name = "N", requires = "phase1")]
    phase2: Option<u32>,

    /// Also make a change after which no member may fail, or most members are new, or older processes are refused
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        MemberAction::List(args) => {
            interruptible(Left::Nothing, async {
                let client = args.connection.client()?;
                let patience = args.connection.timeout.min(PATIENCE_MAX);
                let report = client.with_timeout(patience).cluster_report().await;
                let mut look = MembersLook::of(&report)?;
                look.find_moved(&client, patience).await;
                args.output
                    .print(|| list::text(&look), || list::json(&look))
                    .await
            })
            .await
        }
        MemberAction::Replace(args) => {
            let ReplaceArgs {
                member, with, change, ..
            } = args;
            interruptible(
                Left::Change,
                make(&change, async |look: &MembersLook| {
                    let member = look.member(&member)?;
                    let address = match &with {
                        Some(address) => address.clone(),
                        None => member.address.parse().map_err(|_| {
                            no(format!("{} has no usable address: give --with", member.shown()))
                        })?,
                    };
                    Ok(RemovedAndAdded {
                        removed: vec![member.uuid],
                        added: vec![address],
                        is_in_place: with.is_none(),
                    })
                }),
            )
            .await
        }
        MemberAction::Add(args) => {
            let added = args.added;
            interruptible(
                Left::Change,
                make(&args.change, async |_: &MembersLook| {
                    Ok(RemovedAndAdded {
                        removed: Vec::new(),
                        added: added.clone(),
                        is_in_place: false,
                    })
                }),
            )
            .await
        }
        MemberAction::Remove(args) => {
            let members = args.members;
            interruptible(
                Left::Change,
                make(&args.change, async |look: &MembersLook| {
                    let removed = members.iter().map(|id| Ok(look.member(id)?.uuid));
                    Ok(RemovedAndAdded {
                        removed: removed.collect::<Result<_, Failure>>()?,
                        ..RemovedAndAdded::default()
                    })
                }),
            )
            .await
        }
        MemberAction::Quorums(args) => {
            interruptible(
                Left::Change,
                make(&args.change, async |_: &MembersLook| {
                    Ok(RemovedAndAdded::default())
                }),
            )
            .await
        }
    }
}

/// Looks at the cluster, and drives the change to its end.
async fn make(
    args: &ChangeArgs,
    named: impl AsyncFn(&MembersLook) -> Result<RemovedAndAdded, Failure>,
) -> Result<(), Failure> {
    let client = args.connection.client()?;
    let patience = args.connection.timeout.min(PATIENCE_MAX);
    let report = client.with_timeout(patience).cluster_report().await;
    let look = MembersLook::of(&report)?;
    let asked = AskedPlan {
        named: named(&look).await?,
        quorums: args.phase1.zip(args.phase2),
        force: args.force,
    };
    let plan = look.plan(&client, asked, patience).await?;
    drive(&client, &plan, args.output, args.connection.timeout).await
}
