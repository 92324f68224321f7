//! `paxos backup`: saves all registers in a file, and checks such files.

pub(crate) mod check;
mod save;

use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use paxos_common::{
    service::failure::{Exit, Failure},
    snapshot::{SnapshotError, SnapshotSummary},
};
use serde_json::{Value, json};

use crate::{
    connection::ConnectionArgs,
    json::uint64,
    output::{OutputArgs, hex, printable},
    signals::{Left, interruptible},
};

/// Save all registers in FILE, or check such a file
///
/// A learner makes a backup with the effect of every command acknowledged before. The command writes FILE.partial,
/// verifies every byte, and then gives the file its name. An earlier FILE is replaced only then. The file is as secret
/// as the data directory of a learner: it has the values of all registers, and the openers of all sessions.
///
/// With --check, no cluster is needed: the command verifies FILE and describes its content.
///
/// Compare both digests with `paxos status`, at a learner whose APPLIED TO equals ENDS AT SLOT: `paxos status` shows the
/// first 12 digits. A restored cluster has another state digest, because sessions are not restored.
///
/// Exits 69 when no learner makes a backup, 74 when the file is damaged or cannot be read or written, and 78 when the file
/// is no backup, or a newer release wrote the file.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Verify and describe FILE, and change nothing
    #[arg(long)]
    check: bool,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    interruptible(Left::Nothing, async {
        let summary = if args.check {
            check::check(&args.file).await?
        } else {
            save::save(&args.connection.client()?, &args.file).await?
        };
        let text = || text(&args.file, &summary);
        args.output
            .print(text, || description(&args.file, &summary))
            .await
    })
    .await
}

/// A file that is no whole backup.
pub(crate) fn refused(file: &Path, error: SnapshotError) -> Failure {
    let code = match error {
        SnapshotError::Foreign | SnapshotError::Newer { .. } | SnapshotError::OtherCluster { .. } => {
            Exit::Refused
        }
        SnapshotError::Truncated { .. }
        | SnapshotError::Trailing { .. }
        | SnapshotError::Hash
        | SnapshotError::Record { .. }
        | SnapshotError::Content { .. }
        | SnapshotError::TooLarge => Exit::Storage,
    };
    Failure::new(code, error).context(file.display().to_string())
}

fn text(file: &Path, summary: &SnapshotSummary) -> String {
    let SnapshotSummary { header, footer, .. } = summary;
    let configuration = &header.configuration;
    let quorums = configuration.quorums();
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let rows = [
        ("FILE", printable(&file.display().to_string())),
        ("ENDS AT SLOT", header.to.to_string()),
        ("REGISTERS", footer.registers.to_string()),
        ("SESSIONS", footer.sessions.to_string()),
        ("OUTCOMES", footer.outcomes.to_string()),
        ("BYTES", summary.bytes.to_string()),
        ("SHA-256", hex(&summary.sha256)),
        ("LOG DIGEST", hex(&header.log_digest)),
        ("STATE DIGEST", footer.digest.to_string()),
        ("CLUSTER", header.cluster.to_string()),
        (
            "ACCEPTORS",
            format!(
                "{}; quorums {} to lead, {} to choose",
                configuration.members().len(),
                quorums.phase1(),
                quorums.phase2()
            ),
        ),
    ];
    for (name, value) in rows {
        table.add_row([name, &value]);
    }
    let lines = table.lines().map(|line| format!("{}\n", line.trim()));
    lines.collect()
}

fn description(file: &Path, summary: &SnapshotSummary) -> Value {
    let SnapshotSummary { header, footer, .. } = summary;
    json!({
        "file": file.display().to_string(),
        "to": uint64(header.to.get()),
        "registers": uint64(footer.registers),
        "sessions": uint64(footer.sessions),
        "outcomes": uint64(footer.outcomes),
        "bytes": uint64(summary.bytes),
        "sha256": hex(&summary.sha256),
        "log_digest": hex(&header.log_digest),
        "state_digest": footer.digest.to_string(),
        "cluster_id": hex(header.cluster.as_bytes()),
        "acceptors": uint64(header.configuration.members().len() as u64),
    })
}
