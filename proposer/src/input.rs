//! Inputs of the driver: what the links, streams and callers of a proposer send to the task that owns the core.

use std::sync::Arc;

use paxos_common::{
    paxos::{
        ballot::Ballot,
        identity::{AcceptorUuid, RunNumber, Stamp},
        message::Accept,
        proposer::{Event, Pending, ProposalOutcome},
    },
    peer::{Address, Arrivals, Watched},
    trace::{Span, names},
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{changes::AskedChange, requests::ClientRequest};

/// The task that keeps the link to an acceptor. Reports of an earlier task for the acceptor are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkId {
    pub(crate) acceptor: AcceptorUuid,
    /// Never used twice by a process.
    pub(crate) number: u64,
}

/// Report of a link, or of a call over a link.
#[derive(Debug)]
pub(crate) enum LinkReport {
    /// Passed to the core unchanged.
    Core(Event),
    /// Report of an acceptor, with the acceptor's commit at that time.
    Reported(Stamp, Event),
    /// An acceptor has shown its runs, and the link is open. `None`: too few other acceptors reported tables.
    Introduced(Event, Option<Box<OpenLink>>),
    /// The link broke.
    Closed,
}

/// Inputs of the driver.
#[derive(Debug)]
pub(crate) enum Input {
    /// Passed to the core unchanged.
    Core(Event),
    /// From the link to an acceptor.
    Link(LinkId, LinkReport),
    /// From the `Accept` stream of this ballot to an acceptor.
    Stream(AcceptorUuid, Ballot, StreamReport),
    /// A new command.
    Request(ClientRequest),
    /// A request for other members.
    ChangeMembers(AskedChange),
    /// Result of a forwarded command.
    Forwarded(Pending, Forwarded),
}

/// An open link to an acceptor.
#[derive(Clone, Debug)]
pub(crate) struct OpenLink {
    pub(crate) link: LinkId,
    pub(crate) address: Address,
    /// For calls beside the streams. Arriving bytes of the answers are noted in `arrivals`.
    pub(crate) client: AcceptorClient<Watched<Channel>>,
    pub(crate) arrivals: Arrivals,
    pub(crate) acceptor: AcceptorUuid,
    /// The operator's name for the acceptor, for traces.
    pub(crate) id: Arc<str>,
    /// The run of the acceptor's introduction. An answer from a different run is not counted.
    pub(crate) run: RunNumber,
    /// Cancelled when the acceptor must show its runs again.
    pub(crate) reopen: CancellationToken,
}

impl OpenLink {
    /// Names the called acceptor in the span of a call.
    pub(crate) fn name(&self, span: &mut Span) {
        span.peer(&self.address);
        span.set(names::ACCEPTOR, self.id.to_string());
    }
}

/// A message to an acceptor, at intervals with the leader's memory of the acceptors.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) accept: Accept,
    pub(crate) witnesses: Vec<pb::Witness>,
    /// The message's trace context; empty for an untraced message.
    pub(crate) traceparent: String,
}

/// Report of a stream to the driver.
#[derive(Debug)]
pub(crate) enum StreamReport {
    /// The stream is open (again): messages go here.
    Opened(mpsc::Sender<Outgoing>),
    /// A message of the acceptor, as of this commit.
    Answered(Stamp, Box<Event>),
    /// The stream broke: sent messages without an answer are lost.
    Broke,
}

/// Result of a forwarded command.
#[derive(Debug)]
pub(crate) enum Forwarded {
    /// The leader's outcome, or an unknown outcome.
    Decided(ProposalOutcome),
    /// The command did not reach a leader and may be handed in again.
    Returned,
}
