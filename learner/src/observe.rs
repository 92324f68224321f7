//! Follows the acceptors' accepted values: votes from every acceptor, values from one acceptor at a time.

use std::sync::Arc;

use paxos_common::{
    paxos::{
        era::Era,
        identity::AcceptorUuid,
        message::{Row, VoteRange},
        slot::Slot,
    },
    peer::{Backoff, acceptor::Unusable},
    wire,
};
use paxos_proto::v1 as pb;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::sleep,
};

use crate::{
    acceptors::{ListedAcceptor, backoff, within_deadline},
    cluster::{Cluster, Member},
    driver::{DriverEvent, FrameContent, FrameIntake, Offer},
};

/// Inputs of every following task.
#[derive(Clone, Debug)]
pub(crate) struct ObserveContext {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) driver: mpsc::Sender<DriverEvent>,
    /// The first unlearned slot.
    pub(crate) next: watch::Receiver<Slot>,
    /// The era of the streams. A later era opens all streams again.
    pub(crate) era: Era,
}

/// The driver is gone: the learner stops.
#[derive(Debug)]
struct Stopping;

/// Why following an acceptor came to an end.
enum Break {
    Unusable(Unusable),
    Stopping,
}

impl From<Unusable> for Break {
    fn from(reason: Unusable) -> Self {
        Self::Unusable(reason)
    }
}

impl From<Stopping> for Break {
    fn from(Stopping: Stopping) -> Self {
        Self::Stopping
    }
}

impl ObserveContext {
    /// Follows the votes of an acceptor, until the driver is gone. After a break, starts over at the first unlearned
    /// slot.
    ///
    /// # Cancel safety
    /// Safe: an offered frame was counted or not, and the votes are reported again from the first unlearned slot.
    pub(crate) async fn follow_votes(self, acceptor: Arc<ListedAcceptor>) {
        let mut backoff = backoff();
        loop {
            match self.votes(&acceptor, &mut backoff).await {
                Break::Unusable(reason) => acceptor.failed(&reason),
                Break::Stopping => return,
            }
            sleep(backoff.next_delay()).await;
        }
    }

    async fn votes(&self, acceptor: &ListedAcceptor, backoff: &mut Backoff) -> Break {
        let member = match self.cluster.identify(acceptor).await {
            Ok(member) => member,
            Err(reason) => return reason.into(),
        };
        let from = *self.next.borrow();
        self.read(acceptor, member, pb::ObserveKind::Votes, from, backoff)
            .await
    }

    /// Takes values from one acceptor at a time, starting with acceptor number `first`, until the driver is gone. The
    /// next acceptor's turn comes when the stream breaks, or when the driver counts up `stalls`.
    ///
    /// # Cancel safety
    /// As for [`Self::follow_votes`].
    pub(crate) async fn follow_values(
        self,
        acceptors: Vec<Arc<ListedAcceptor>>,
        first: usize,
        mut stalls: watch::Receiver<u64>,
    ) {
        let mut backoff = backoff();
        for acceptor in acceptors.iter().cycle().skip(first) {
            stalls.mark_unchanged();
            let broken = tokio::select! {
                // Cancel safe: the next feed starts over at the first unlearned slot.
                broken = self.values(acceptor, &mut backoff) => Some(broken),
                // `changed` only waits.
                _ = stalls.changed() => None,
            };
            match broken {
                None => {
                    let address = acceptor.address();
                    tracing::info!(%address, "value feed stalls, taking values from the next acceptor");
                }
                Some(Break::Unusable(reason)) => {
                    acceptor.failed(&reason);
                    sleep(backoff.next_delay()).await;
                }
                Some(Break::Stopping) => return,
            }
        }
    }

    async fn values(&self, acceptor: &ListedAcceptor, backoff: &mut Backoff) -> Break {
        let member = match self.cluster.identify(acceptor).await {
            Ok(member) => member,
            Err(reason) => return reason.into(),
        };
        match self.start_feed(member.acceptor).await {
            Ok(from) => {
                self.read(acceptor, member, pb::ObserveKind::Values, from, backoff)
                    .await
            }
            Err(Stopping) => Break::Stopping,
        }
    }

    /// Announces another feed; returns the slot to start at.
    async fn start_feed(&self, member: AcceptorUuid) -> Result<Slot, Stopping> {
        let (answer, from) = oneshot::channel();
        self.send(DriverEvent::StartFeed { member, answer }).await?;
        from.await.map_err(|_| Stopping)
    }

    async fn read(
        &self,
        acceptor: &ListedAcceptor,
        member: Member,
        kind: pb::ObserveKind,
        from: Slot,
        backoff: &mut Backoff,
    ) -> Break {
        match self.read_frames(acceptor, member, kind, from, backoff).await {
            Ok(()) => Unusable::Closed.into(),
            Err(broken) => broken,
        }
    }

    async fn read_frames(
        &self,
        acceptor: &ListedAcceptor,
        member: Member,
        kind: pb::ObserveKind,
        from: Slot,
        backoff: &mut Backoff,
    ) -> Result<(), Break> {
        let request = pb::ObserveRequest {
            caller: Some(wire::caller(Some(self.cluster.id()))),
            kind: kind.into(),
            from: from.get(),
        };
        tracing::debug!(address = %acceptor.address(), %from, ?kind, "observing");
        let mut client = acceptor.client()?;
        let mut frames = within_deadline(client.observe(request)).await?.into_inner();
        acceptor.answered();
        while let Some(frame) = frames.message().await.map_err(Unusable::from)? {
            self.cluster.check(frame.stamp.as_ref(), member)?;
            backoff.reset();
            acceptor.proved();
            let frame = read_frame(frame, kind).map_err(Unusable::from)?;
            if self.has_later_votes(&frame) {
                // Such votes say only that the acceptor holds a later configuration. If the acceptor reports the configuration,
                // the learner adopts it, and this task ends.
                if let Err(reason) = self.cluster.ask(acceptor).await {
                    tracing::debug!(address = %acceptor.address(), %reason, "votes of a later era");
                }
            }
            self.offer(member.acceptor, frame).await?;
        }
        Ok(())
    }

    fn has_later_votes(&self, frame: &FrameContent) -> bool {
        match frame {
            FrameContent::Votes(votes) => votes.iter().any(|votes| votes.ballot.era() > self.era),
            FrameContent::Rows { .. } => false,
        }
    }

    /// Hands a frame to the driver. Content beyond the driver's window is held here, and no further frame is read until
    /// the learner has advanced.
    async fn offer(&self, acceptor: AcceptorUuid, mut frame: FrameContent) -> Result<(), Stopping> {
        let mut next = self.next.clone();
        loop {
            let (answer, verdict) = oneshot::channel();
            let offer = Offer {
                acceptor,
                frame,
                answer,
            };
            self.send(DriverEvent::Offer(offer)).await?;
            match verdict.await.map_err(|_| Stopping)? {
                FrameIntake::Whole => return Ok(()),
                FrameIntake::Later { rest, at } => {
                    frame = rest;
                    next.wait_for(|next| *next > at).await.map_err(|_| Stopping)?;
                }
            }
        }
    }

    async fn send(&self, event: DriverEvent) -> Result<(), Stopping> {
        self.driver.send(event).await.map_err(|_| Stopping)
    }
}

fn read_frame(frame: pb::ObserveFrame, kind: pb::ObserveKind) -> Result<FrameContent, wire::Malformed> {
    if kind == pb::ObserveKind::Votes {
        let votes = frame.votes.into_iter().map(VoteRange::try_from);
        return Ok(FrameContent::Votes(votes.collect::<Result<_, _>>()?));
    }
    let mut rows = wire::rows(frame.rows)?;
    // In slot order, so that a waiting row never holds back an earlier row.
    rows.sort_by_key(|row: &Row| row.slot);
    Ok(FrameContent::Rows {
        rows: rows.into(),
        known_to: Slot::new(frame.chosen_to)?,
    })
}
