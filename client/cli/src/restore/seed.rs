//! The seed of a restored cluster, rewritten from the backup for each upload: no copy of the backup needs a disk.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use indicatif::ProgressBar;
use paxos_common::{
    paxos::quorum::Configuration,
    service::failure::Failure,
    snapshot::{SnapshotSummary, seed::SeedWriter},
    wire,
};
use paxos_proto::v1::{self as pb, keep_request::Content};
use tokio::{sync::mpsc, task::spawn_blocking};

use crate::backup::{check::progress, refused};

/// Largest part of a message, in bytes (inclusive). Also the number of bytes read at a time.
const PART_BYTES: usize = 256 * 1024;

/// A seed with a known hash.
#[derive(Debug)]
pub(super) struct PreparedSeed {
    file: PathBuf,
    configuration: Configuration,
    /// Of the seed.
    summary: SnapshotSummary,
}

impl PreparedSeed {
    /// Rewrites the backup once, to know the size and the hash of the seed.
    ///
    /// # Errors
    /// The file is unreadable, or has changed since its verification.
    ///
    /// # Cancel safety
    /// Safe: only reads. The file is read on a thread; the thread ends with the process.
    pub(super) async fn new(file: &Path, configuration: &Configuration) -> Result<Self, Failure> {
        let (file, configuration) = (file.to_owned(), configuration.clone());
        let prepared = spawn_blocking(move || {
            let bytes = std::fs::metadata(&file).map_or(0, |file| file.len());
            let bar = progress("preparing", bytes);
            let summary = rewrite(&file, &configuration, |read, _| {
                bar.inc(read as u64);
                true
            })?;
            bar.finish_and_clear();
            let summary = summary.ok_or_else(|| changed(&file))?;
            Ok(Self {
                file,
                configuration,
                summary,
            })
        });
        prepared
            .await
            .map_err(|error| Failure::internal(anyhow::Error::new(error)))?
    }

    pub(super) fn is_of(&self, configuration: &Configuration) -> bool {
        self.configuration == *configuration
    }

    /// Size of the seed.
    pub(super) fn bytes(&self) -> u64 {
        self.summary.bytes
    }

    fn begin(&self) -> pb::KeepBegin {
        pb::KeepBegin {
            caller: Some(wire::caller(Some(self.summary.header.cluster))),
            id: Some(pb::SnapshotId {
                to: self.summary.header.to.get(),
                sha256: Bytes::copy_from_slice(&self.summary.sha256),
                bytes: self.summary.bytes,
            }),
            peer: 0,
            seed: true,
        }
    }

    /// Sends the whole seed, until the end or until the receiver is gone. To be called on a thread for blocking work.
    ///
    /// # Errors
    /// The file is unreadable, or has changed since its verification.
    pub(super) fn send(
        &self,
        parts: &mpsc::Sender<pb::KeepRequest>,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let send = |content| {
            let content = Some(content);
            // Without a receiver, the call has an answer already.
            parts.blocking_send(pb::KeepRequest { content }).is_ok()
        };
        let mut is_taken = send(Content::Begin(self.begin()));
        let sent = rewrite(&self.file, &self.configuration, |_, bytes| {
            for part in bytes.chunks(PART_BYTES) {
                is_taken = is_taken && send(Content::Data(Bytes::copy_from_slice(part)));
                bar.inc(part.len() as u64);
            }
            is_taken
        })?;
        match sent {
            Some(sent) if sent != self.summary => Err(changed(&self.file)),
            Some(_) | None => Ok(()),
        }
    }
}

/// Rewrites the backup as the seed of `configuration`. Gives each read length with the bytes of the seed to `take`, and
/// ends early, without a summary, when `take` returns `false`. Returns the summary of the seed.
fn rewrite(
    path: &Path,
    configuration: &Configuration,
    mut take: impl FnMut(usize, &[u8]) -> bool,
) -> Result<Option<SnapshotSummary>, Failure> {
    let unreadable =
        |error| Failure::storage(anyhow::Error::new(error).context(format!("read {}", path.display())));
    let mut writer = SeedWriter::new(configuration.clone())
        .ok_or_else(|| Failure::internal(anyhow::anyhow!("the configuration has no origin")))?;
    let mut file = File::open(path).map_err(unreadable)?;
    let mut part = vec![0; PART_BYTES];
    loop {
        let read = file.read(&mut part).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        let bytes = writer.push(&part[..read]).map_err(|error| refused(path, error))?;
        if !take(read, &bytes) {
            return Ok(None);
        }
    }
    let (last, backup, seed) = writer.finish().map_err(|error| refused(path, error))?;
    let origin = configuration.origin();
    if origin.is_none_or(|origin| *origin.sha256() != backup.sha256) {
        return Err(changed(path));
    }
    take(0, &last);
    Ok(Some(seed))
}

fn changed(path: &Path) -> Failure {
    Failure::storage(anyhow::anyhow!(
        "{} has changed since its verification: no file is restored while another process writes it",
        path.display()
    ))
}
