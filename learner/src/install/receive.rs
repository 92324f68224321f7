//! Receives and checks the snapshot of one acceptor.

use std::{sync::Arc, time::Duration};

use paxos_common::{
    paxos::{quorum::Configuration, slot::Slot},
    peer::acceptor::Unusable,
    snapshot::{
        SNAPSHOT_BYTES_MAX, SnapshotError, SnapshotSummary,
        decoder::{SnapshotDecoder, SnapshotPart},
    },
    wire::{self, Malformed},
};
use paxos_proto::v1 as pb;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Streaming;

use super::Installer;
use crate::{
    acceptors::{ListedAcceptor, within_deadline},
    store::{PlaceError, StoreImport},
};

/// Longest time without bytes of the snapshot.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Lowest rate of the snapshot in bytes a second, beside two silences: another acceptor may be faster.
const RATE_MIN: u64 = 256 * 1024;

/// Why the snapshot of an acceptor is not installed.
#[derive(Debug, thiserror::Error)]
pub(super) enum InstallError {
    #[error("the acceptor is no member any more")]
    Gone,
    #[error("the acceptor sends fewer than {RATE_MIN} bytes a second")]
    Slow,
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("the acceptor sent an invalid message: {0}")]
    Malformed(#[from] Malformed),
    #[error("the snapshot ends at slot {to}, and this learner has learned the slots below {position}")]
    Useless { to: Slot, position: Slot },
    #[error("the acceptor announced {announced}, and sent {sent}")]
    Other { announced: String, sent: String },
    #[error("the snapshot has the members or the quorums of another configuration")]
    OtherConfiguration,
    #[error(transparent)]
    Content(#[from] SnapshotError),
    #[error(transparent)]
    Import(#[from] PlaceError),
}

/// The file, as announced before the first byte.
#[derive(Debug)]
struct AnnouncedFile {
    to: Slot,
    sha256: [u8; 32],
    bytes: u64,
}

impl Installer<'_> {
    /// Receives the snapshot of an acceptor, and puts the snapshot in the place of the learner's own file.
    pub(super) async fn receive(
        &self,
        acceptor: &ListedAcceptor,
        position: Slot,
    ) -> Result<SnapshotSummary, InstallError> {
        let member = self.cluster.identify(acceptor).await?;
        let request = pb::SnapshotRequest {
            caller: Some(wire::caller(Some(self.cluster.id()))),
        };
        let mut parts = within_deadline(acceptor.client()?.snapshot(request))
            .await?
            .into_inner();
        let first = within_deadline(parts.message()).await?.ok_or(Unusable::Closed)?;
        self.cluster.check(first.stamp.as_ref(), member)?;
        let announced = announced(first.id.as_ref())?;
        if announced.to <= position {
            let to = announced.to;
            return Err(InstallError::Useless { to, position });
        }
        // The acceptor may have trimmed since its report.
        self.target.send_replace(announced.to);
        self.progress.arrives(announced.to, announced.bytes);
        let mut import =
            StoreImport::begin(Arc::clone(self.directory), self.cluster.id(), announced.bytes).await?;
        let longest = SILENCE_MAX * 2 + Duration::from_secs(announced.bytes / RATE_MIN);
        let filled = timeout(longest, self.fill(&mut import, &mut parts, &announced)).await;
        match filled.unwrap_or(Err(InstallError::Slow)) {
            Ok(summary) => {
                import
                    .finish(&summary, self.cluster.present().configuration())
                    .await?;
                Ok(summary)
            }
            Err(error) => {
                import.discard().await;
                Err(error)
            }
        }
    }

    /// Writes all bytes, and checks every record. On success the snapshot is whole, and the announced one.
    async fn fill(
        &self,
        import: &mut StoreImport,
        parts: &mut Streaming<pb::SnapshotResponse>,
        announced: &AnnouncedFile,
    ) -> Result<SnapshotSummary, InstallError> {
        let mut decoder = SnapshotDecoder::new(Some(self.cluster.id()));
        let mut received = 0;
        let mut due = Instant::now() + SILENCE_MAX;
        while let Some(part) = next_part(parts, due).await? {
            // Messages without content keep the stream open while the acceptor has no room.
            if part.data.is_empty() {
                continue;
            }
            received += part.data.len() as u64;
            if received > announced.bytes {
                let sent = "more bytes".to_owned();
                return Err(announced.differs(sent));
            }
            decoder.push(&part.data);
            while let Some(content) = decoder.next_part()? {
                if let SnapshotPart::Header(header) = &content {
                    if header.to != announced.to {
                        return Err(announced.differs(format!("a snapshot to slot {}", header.to)));
                    }
                    self.check_configuration(&header.configuration)?;
                }
            }
            import.add(part.data).await?;
            self.progress.received(received);
            due = Instant::now() + SILENCE_MAX;
        }
        let summary = decoder.finish()?;
        if summary.sha256 != announced.sha256 || summary.bytes != announced.bytes {
            return Err(announced.differs("another file".to_owned()));
        }
        Ok(summary)
    }

    /// Checks the configuration in the header. The snapshot may have been made in an earlier or in a later era.
    fn check_configuration(&self, found: &Configuration) -> Result<(), InstallError> {
        let present = self.cluster.present();
        let is_same_era = found.era() == present.era();
        if found.cluster_id() != self.cluster.id()
            || is_same_era && !found.same_cluster(present.configuration())
        {
            return Err(InstallError::OtherConfiguration);
        }
        Ok(())
    }
}

impl AnnouncedFile {
    fn differs(&self, sent: String) -> InstallError {
        let announced = format!("a snapshot to slot {} of {} bytes", self.to, self.bytes);
        InstallError::Other { announced, sent }
    }
}

/// The next message; `None` at the end of the stream.
async fn next_part(
    parts: &mut Streaming<pb::SnapshotResponse>,
    due: Instant,
) -> Result<Option<pb::SnapshotResponse>, Unusable> {
    let part = timeout_at(due, parts.message()).await;
    Ok(part.map_err(|_| Unusable::Silent)??)
}

fn announced(id: Option<&pb::SnapshotId>) -> Result<AnnouncedFile, Malformed> {
    let id = id.ok_or(Malformed::Missing("id"))?;
    let sha256 = id.sha256.as_ref().try_into();
    Ok(AnnouncedFile {
        to: Slot::new(id.to)?,
        sha256: sha256.map_err(|_| Malformed::Length {
            what: "sha256",
            len: id.sha256.len(),
            expected: 32,
        })?,
        bytes: id.bytes.min(SNAPSHOT_BYTES_MAX),
    })
}
