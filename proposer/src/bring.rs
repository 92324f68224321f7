//! Copies a snapshot from a member to a joiner: passes the answer of `Snapshot` at the member on to `Keep` at the joiner.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use paxos_common::{
    paxos::{
        identity::{AcceptorUuid, ClusterId, RunNumber},
        proposer::Event,
    },
    peer::{
        Address, Dialer, MessageLimits as _,
        acceptor::{Unusable, answer_within},
    },
    trace::{Span, names},
    wire::{self, Malformed},
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient, keep_request::Content};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{input::Input, link::check, trace::TaskTracer};

/// Maximum time of both acceptors for a part.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Lowest rate of an upload in bytes a second, beside two silences: that of the acceptors.
const RATE_MIN: u64 = 256 * 1024;

/// Pause after a failed upload. An acceptor takes a snapshot unasked only after it was behind for some time.
const PAUSE: Duration = Duration::from_secs(1);

/// An acceptor, and where it is reached.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) acceptor: AcceptorUuid,
    pub(crate) address: Address,
    pub(crate) run: RunNumber,
}

/// An upload to be made.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) source: Placed,
    pub(crate) joiner: Placed,
    pub(crate) cluster: ClusterId,
    pub(crate) dialer: Dialer,
    /// Adds up the bytes taken by joiners.
    pub(crate) taken: Arc<AtomicU64>,
}

/// Brings the joiner the snapshot, and reports the end to the driver, with any outcome. The driver ends the task with the
/// change of members.
///
/// # Cancel safety
/// Safe: the joiner removes a snapshot that is not whole.
pub(crate) async fn bring(upload: Upload, inputs: mpsc::Sender<Input>, traced: TaskTracer) {
    let mut span = traced.tracer.below(traced.context.as_ref(), "proposer.snapshot");
    if let Some(span) = &mut span {
        span.peer(&upload.joiner.address);
    }
    let brought = upload.run(span.as_mut()).await;
    let (joiner, source) = (&upload.joiner, &upload.source);
    match &brought {
        Ok(bytes) => tracing::info!(
            joiner = %joiner.address, source = %source.address, bytes,
            "a joiner has got the snapshot of a member"
        ),
        Err(reason) => {
            tracing::info!(
                joiner = %joiner.address, source = %source.address, %reason,
                "a joiner has not got the snapshot of a member; trying again"
            );
            if let Some(span) = &mut span {
                span.fail("snapshot", reason.to_string());
            }
        }
    }
    drop(span);
    if brought.is_err() {
        sleep(PAUSE).await;
    }
    let event = Event::SnapshotBrought(upload.joiner.acceptor);
    // The driver may have ended.
    let _ = inputs.send(Input::Core(event)).await;
}

impl Upload {
    /// Returns the size of the snapshot once the joiner has it on disk. Both connections serve this upload alone: votes do not
    /// wait behind the parts.
    async fn run(&self, span: Option<&mut Span>) -> Result<u64, Unusable> {
        let (channel, _source) = self.dialer.dedicated(&self.source.address);
        let mut source = AcceptorClient::new(channel).with_message_limits();
        let request = pb::SnapshotRequest {
            caller: Some(wire::caller(Some(self.cluster))),
        };
        let parts = answer_within(SILENCE_MAX, source.snapshot(request)).await?;
        let mut parts = parts.into_inner();
        let first = answer_within(SILENCE_MAX, parts.message()).await?;
        let first = first.ok_or(Unusable::Closed)?;
        check(
            first.stamp.as_ref(),
            (self.source.acceptor, self.source.run),
            self.cluster,
        )?;
        let id = first.id.ok_or(Malformed::Missing("id"))?;
        let bytes = id.bytes;
        if let Some(span) = span {
            span.count(names::SLOT, id.to);
            span.count(names::BYTES, bytes);
        }
        let begin = pb::KeepBegin {
            caller: Some(wire::caller(Some(self.cluster))),
            id: Some(id),
            peer: 0,
            seed: false,
        };
        let longest = SILENCE_MAX * 2 + Duration::from_secs(bytes / RATE_MIN);
        let piped = timeout(longest, self.pipe(begin, &mut parts)).await;
        piped.unwrap_or(Err(Unusable::Silent))?;
        Ok(bytes)
    }

    /// Streams all parts to the joiner, and waits for its answer.
    async fn pipe(
        &self,
        begin: pb::KeepBegin,
        parts: &mut Streaming<pb::SnapshotResponse>,
    ) -> Result<(), Unusable> {
        let (channel, _joiner) = self.dialer.dedicated(&self.joiner.address);
        let mut joiner = AcceptorClient::new(channel).with_message_limits();
        let (outbox, requests) = mpsc::channel(1);
        let mut call = pin!(joiner.keep(ReceiverStream::new(requests)));
        let mut sending = pin!(self.send(begin, parts, outbox));
        let answer = tokio::select! {
            // Both are polled to the end, or dropped together.
            answer = &mut call => answer?,
            sent = &mut sending => {
                sent?;
                answer_within(SILENCE_MAX, call).await?
            }
        };
        check(
            answer.into_inner().stamp.as_ref(),
            (self.joiner.acceptor, self.joiner.run),
            self.cluster,
        )?;
        Ok(())
    }

    /// Passes the parts on. The end of the channel is the end of the upload.
    async fn send(
        &self,
        begin: pb::KeepBegin,
        parts: &mut Streaming<pb::SnapshotResponse>,
        outbox: mpsc::Sender<pb::KeepRequest>,
    ) -> Result<(), Unusable> {
        let send = async |content| {
            let content = Some(content);
            let sent = timeout(SILENCE_MAX, outbox.send(pb::KeepRequest { content })).await;
            // Without a receiver, the call has an answer already.
            sent.map(|sent| sent.is_ok()).map_err(|_| Unusable::Silent)
        };
        let mut is_taken = send(Content::Begin(begin)).await?;
        while is_taken && let Some(part) = answer_within(SILENCE_MAX, parts.message()).await? {
            // Messages without content keep the stream open while the source has no room.
            if part.data.is_empty() {
                continue;
            }
            let bytes = part.data.len() as u64;
            is_taken = send(Content::Data(part.data)).await?;
            self.taken.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
