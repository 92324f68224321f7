//! Backups: a snapshot file, part by part, from some learner.

use std::time::Duration;

use bytes::Bytes;
use paxos_common::{
    peer::{Address, Backoff, Dialer, MESSAGE_BYTES_MAX},
    snapshot::SNAPSHOT_BYTES_MAX,
};
use paxos_proto::v1::{BackupRequest, BackupResponse, SnapshotId, learner_client::LearnerClient};
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

use crate::{
    Client, Slot,
    error::{Cause, ReadError},
    follow::{LEARNER_SILENCE_MIN, RETRY_PAUSE},
};

/// A snapshot file on the way from a learner. The caller verifies the content.
#[derive(Debug)]
pub struct Backup {
    learner: Address,
    to: Slot,
    sha256: [u8; 32],
    bytes: u64,
    /// Number of received bytes.
    received: u64,
    /// Longest silence of the learner.
    silence_max: Duration,
    stream: Streaming<BackupResponse>,
}

impl Backup {
    /// The file has the effect of every command in a slot below.
    pub fn to(&self) -> Slot {
        self.to
    }

    /// The SHA-256 of all bytes but the last 32, and the last 32 bytes of the file.
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next part of the file; `None` once all bytes are received.
    ///
    /// # Errors
    /// The learner failed: begin another backup.
    ///
    /// # Cancel safety
    /// Safe: no part is lost.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Cause> {
        while self.received < self.bytes {
            let response = message(&mut self.stream, self.silence_max).await;
            let data = response.map_err(|cause| cause.at(&self.learner))?.data;
            if data.is_empty() {
                continue;
            }
            self.received += data.len() as u64;
            if self.received > self.bytes {
                let cause = Cause::unavailable("the learner sent more bytes than announced");
                return Err(cause.at(&self.learner));
            }
            return Ok(Some(data));
        }
        Ok(None)
    }
}

impl Client {
    /// Begins a backup: a snapshot file with the effect of every command acknowledged before the call.
    ///
    /// Waits while a learner makes the file, for longer than the client's timeout if the learner reports that it works.
    /// Asks another learner after a failure or a silence, until the client's timeout is over.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`]: no learner began a file within the client's timeout. [`ReadError::Refused`]: the client
    /// needs the certificate of an operator.
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub async fn backup(&self) -> Result<Backup, ReadError> {
        let deadline = self.deadline();
        let silence_max = self.timeout().max(LEARNER_SILENCE_MIN);
        let mut pause = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
        loop {
            let mut last = Cause::unavailable("no learner is known");
            match self.directory.learners().await {
                Err(cause) => last = cause,
                Ok(learners) => {
                    for learner in learners {
                        match begin(&self.directory.dialer, &learner, silence_max).await {
                            Ok(backup) => return Ok(backup),
                            // A denial says more than the silence of another learner.
                            Err(_) if last.is_permanent() => {}
                            Err(cause) => last = cause.at(&learner),
                        }
                        if Instant::now() >= deadline {
                            return Err(ReadError::Unavailable(last));
                        }
                    }
                }
            }
            if last.is_permanent() {
                return Err(ReadError::Refused(last));
            }
            let delay = last.retry_in(pause.next_delay());
            if Instant::now() + delay >= deadline {
                return Err(ReadError::Unavailable(last));
            }
            sleep(delay).await;
        }
    }
}

/// Begins a backup at a learner. Returns once the learner has made the file.
async fn begin(dialer: &Dialer, learner: &Address, silence_max: Duration) -> Result<Backup, Cause> {
    let channel = dialer.to_learner(learner);
    let mut client = LearnerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let opened = timeout(silence_max, client.backup(BackupRequest {})).await;
    let opened = opened.map_err(|_elapsed| Cause::deadline())?;
    let mut stream = opened.map_err(|status| Cause::of(&status))?.into_inner();
    let SnapshotId { to, sha256, bytes } = loop {
        if let Some(id) = message(&mut stream, silence_max).await?.id {
            break id;
        }
    };
    let invalid = |what: &str| Cause::unavailable(format!("the learner announced a file with {what}"));
    if bytes > SNAPSHOT_BYTES_MAX {
        return Err(invalid("too many bytes"));
    }
    Ok(Backup {
        learner: learner.clone(),
        to: Slot::new(to).map_err(|_| invalid("an impossible slot"))?,
        sha256: sha256[..]
            .try_into()
            .map_err(|_| invalid("an impossible SHA-256"))?,
        bytes,
        received: 0,
        silence_max,
        stream,
    })
}

async fn message(
    stream: &mut Streaming<BackupResponse>,
    silence_max: Duration,
) -> Result<BackupResponse, Cause> {
    match timeout(silence_max, stream.message()).await {
        Ok(Ok(Some(response))) => Ok(response),
        Ok(Ok(None)) => Err(Cause::unavailable("the learner closed the stream")),
        Ok(Err(status)) => Err(Cause::of(&status)),
        Err(_elapsed) => Err(Cause::deadline()),
    }
}
