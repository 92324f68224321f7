//! `paxos restore`: makes blank acceptors a new cluster that begins with a backup.

mod acceptors;
mod seed;

use std::{path::PathBuf, sync::Arc, time::Duration};

use comfy_table::{Table, presets};
use paxos_common::{
    paxos::{
        forming::restoring::{RestoreAction, RestoreConflict, Restoring},
        origin::Origin,
        quorum::Configuration,
        slot::Version,
    },
    service::{
        config::{AcceptorList, parse_duration},
        failure::Failure,
        security::TlsArgs,
    },
    snapshot::SnapshotSummary,
};
use paxos_proto::v1::form_request::Step;
use serde_json::{Value, json};

use crate::{
    backup::check::check,
    connection::lasting_dialer,
    json::uint64,
    output::{OutputArgs, hex, printable},
};
use acceptors::RestoreTargets;
use seed::PreparedSeed;

/// Make blank acceptors a new cluster that begins with the backup FILE
///
/// Start the acceptors with empty data directories, in any number, and no proposer. The command verifies FILE, sends the
/// registers to every acceptor, and forms the cluster with majorities as quorums. Then start proposers and learners, the
/// learners with empty data directories.
///
/// All registers keep their values and versions. Sessions are not restored: clients open new sessions. The first new slot
/// is 2^36 slots above the end of FILE, and above the version given with --above. At 10,000 slots a second the cluster
/// before needed 79 days for as many slots. If the cluster before may have gone further, give its highest known version.
/// So all new versions and fencing tokens are above the versions of the cluster before.
///
/// Before anything is written, every acceptor must answer and be blank. After a crash or an error, repeat the command with
/// the same FILE, the same acceptors and the same --above: the command goes on. Never restore into a cluster that is in
/// use, and stop the cluster before permanently. A finished restore writes nothing when it is repeated, whatever the cluster
/// has written since: the command then says so.
///
/// The log is not restored: `paxos log` begins at the first new slot.
///
/// Exits 69 when an acceptor does not answer in time, 74 when FILE is damaged or cannot be read, and 78 when an acceptor is
/// not blank or takes part in another restore, when FILE is no backup, or when a newer release wrote FILE.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The backup, made by `paxos backup`
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// URLs of all acceptors of the new cluster, separated by commas
    #[arg(long, env = "PAXOS_ACCEPTORS", value_name = "URLS")]
    acceptors: AcceptorList,

    /// The highest known version of the cluster before, as in 70000.3 [default: only the end of FILE counts]
    #[arg(long, value_name = "VERSION")]
    above: Option<Version>,

    /// How long to wait for an acceptor's answer, with unit: 500ms, 10s, 1m
    #[arg(long, env = "PAXOS_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,

    /// The TLS identity
    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let backup = check(&args.file).await?;
    let origin = Origin::after(backup.sha256, backup.header.to, args.above).map_err(Failure::usage)?;
    let origin = match backup.header.configuration.origin() {
        // A backup below the base of its own cluster cannot be made.
        Some(before) => origin.following(before).map_err(Failure::refused)?,
        None => origin,
    };
    let (configuration, was_formed) = restore(&args, origin.clone()).await?;
    let restored = Restored {
        was_formed,
        args: &args,
        backup: &backup,
        origin,
        configuration: &configuration,
    };
    args.output.print(|| restored.text(), || restored.json()).await
}

/// Drives the acceptors until all are formed. Also returns whether all were formed before.
///
/// # Cancel safety
/// Safe: the same command goes on.
async fn restore(args: &Args, origin: Origin) -> Result<(Configuration, bool), Failure> {
    let is_chained = !origin.earlier().is_empty();
    let dialer = lasting_dialer(&args.tls, args.acceptors.addresses())?;
    let targets = RestoreTargets::new(args.acceptors.addresses(), &dialer, args.timeout, is_chained);
    let addresses: Vec<Arc<str>> = targets.addresses().collect();
    let mut restoring = Restoring::new(addresses, origin).map_err(conflict)?;
    let mut prepared: Option<Arc<PreparedSeed>> = None;
    let mut was_formed = true;
    loop {
        let action = restoring.next().map_err(conflict)?;
        let refused = match &action {
            RestoreAction::Formed(configuration) => return Ok((configuration.clone(), was_formed)),
            RestoreAction::Ask(to) => targets.step(None, to, &mut restoring).await?,
            RestoreAction::Keep(configuration, to) => {
                let seed = match prepared.take().filter(|seed| seed.is_of(configuration)) {
                    Some(seed) => seed,
                    None => Arc::new(PreparedSeed::new(&args.file, configuration).await?),
                };
                prepared = Some(Arc::clone(&seed));
                targets.keep(&seed, to, &mut restoring).await?
            }
            RestoreAction::Store(configuration, to) => {
                let step = Step::Store(configuration.into());
                targets.step(Some(&step), to, &mut restoring).await?
            }
            RestoreAction::Complete(configuration, to) => {
                let step = Step::Complete(configuration.into());
                targets.step(Some(&step), to, &mut restoring).await?
            }
        };
        was_formed = was_formed && matches!(action, RestoreAction::Ask(_));
        // The acceptor's present state explains the refusal, or is another than before. Otherwise the refusal stands.
        if let Some(refusal) = refused
            && restoring.next().map_err(conflict)? == action
        {
            return Err(Failure::refused(anyhow::anyhow!(refusal)));
        }
    }
}

fn conflict(conflict: RestoreConflict) -> Failure {
    match conflict {
        RestoreConflict::Invalid(_) | RestoreConflict::AddressTwice => Failure::usage(conflict),
        RestoreConflict::Refused { .. }
        | RestoreConflict::LostDisk { .. }
        | RestoreConflict::ShortList { .. } => Failure::refused(conflict),
    }
}

/// A finished restore.
struct Restored<'a> {
    args: &'a Args,
    backup: &'a SnapshotSummary,
    origin: Origin,
    configuration: &'a Configuration,
    /// Every acceptor was formed before the command: nothing was written.
    was_formed: bool,
}

impl Restored<'_> {
    fn text(&self) -> String {
        let quorums = self.configuration.quorums();
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let rows = [
            ("FILE", printable(&self.args.file.display().to_string())),
            ("CLUSTER", self.configuration.cluster_id().to_string()),
            (
                "ACCEPTORS",
                format!(
                    "{}; quorums {} to lead, {} to choose",
                    self.configuration.members().len(),
                    quorums.phase1(),
                    quorums.phase2()
                ),
            ),
            ("REGISTERS", self.backup.footer.registers.to_string()),
            ("BACKUP ENDS AT SLOT", self.origin.ended_at().to_string()),
            ("FIRST NEW SLOT", self.origin.base().to_string()),
        ];
        for (name, value) in rows {
            table.add_row([name, &value]);
        }
        let mut text: String = table.lines().map(|line| format!("{}\n", line.trim())).collect();
        let urls: Vec<_> = self
            .configuration
            .members()
            .values()
            .map(|member| printable(&member.address))
            .collect();
        if self.was_formed {
            text.push_str(
                "This restore was finished before: nothing was written. The cluster keeps everything that it has written \
                 since.\n",
            );
            return text;
        }
        text.push_str(&format!(
            "The cluster is formed. Now start proposers and learners with --acceptors {}; learners need empty data \
             directories.\n",
            urls.join(",")
        ));
        text
    }

    fn json(&self) -> Value {
        json!({
            "file": self.args.file.display().to_string(),
            "cluster_id": hex(self.configuration.cluster_id().as_bytes()),
            "acceptors": uint64(self.configuration.members().len() as u64),
            "registers": uint64(self.backup.footer.registers),
            "sha256": hex(&self.backup.sha256),
            "ended_at": uint64(self.origin.ended_at().get()),
            "base": uint64(self.origin.base().get()),
            "was_finished": self.was_formed,
        })
    }
}
