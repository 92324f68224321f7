//! The seed of a blank acceptor: read and verified as a whole at each start, until the acceptor has stored a configuration.

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    path::Path,
};

use paxos_common::{paxos::acceptor::Seed, service::failure::Failure, snapshot::decoder::SnapshotDecoder};
use tokio::task::spawn_blocking;

use super::PART_BYTES_MAX;
use crate::store::snapshots::SnapshotId;

/// Reads the file of the seed.
///
/// # Errors
/// The file is missing, unreadable or damaged (74). The acceptor must not start: without its seed, the acceptor could join
/// an empty cluster in place of the restored cluster.
///
/// # Cancel safety
/// Safe: only reads. The file is read on a thread; the thread ends with the process.
pub(crate) async fn read_seed(directory: &Path, id: SnapshotId) -> Result<Seed, Failure> {
    let path = directory.join(id.file_name());
    let name = path.display().to_string();
    let read = spawn_blocking(move || read_now(&path, id)).await;
    let read = read.map_err(|error| Failure::internal(anyhow::Error::new(error)))?;
    read.map_err(|reason| {
        let advice = advice(&name, &reason);
        Failure::storage(reason.context(advice))
    })
}

/// What is wrong with the file, and what to do.
fn advice(name: &str, reason: &anyhow::Error) -> String {
    let cause = reason.downcast_ref::<io::Error>().map(io::Error::kind);
    if cause.is_some_and(|kind| kind != ErrorKind::NotFound) {
        return format!(
            "the backup in {name} cannot be read: mend the disk or the access, and start this acceptor again"
        );
    }
    format!(
        "the backup in {name} is missing or damaged. While no acceptor of this restore is formed, including unreachable \
         acceptors, stop all of them, empty their data directories, start them again and repeat \"paxos restore\". If any \
         is formed, never empty a data directory: start this acceptor on its latest disk, or leave it stopped"
    )
}

fn read_now(path: &Path, id: SnapshotId) -> anyhow::Result<Seed> {
    let mut file = File::open(path)?;
    let mut decoder = SnapshotDecoder::new(None);
    let mut part = vec![0; PART_BYTES_MAX];
    loop {
        let read = file.read(&mut part)?;
        if read == 0 {
            break;
        }
        decoder.push(&part[..read]);
        while decoder.next_part()?.is_some() {}
    }
    let summary = decoder.finish()?;
    let header = &summary.header;
    let seed = Seed::of(&header.configuration);
    let is_recorded = (header.to, summary.sha256, summary.bytes) == (id.to, id.sha256, id.bytes);
    seed.filter(|seed| is_recorded && (seed.base, seed.cluster) == (header.to, header.cluster))
        .ok_or_else(|| anyhow::anyhow!("the file is another snapshot than recorded"))
}
