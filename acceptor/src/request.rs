//! Requests in flight to the worker: waiting, decided, and answered.

use std::sync::Arc;

use paxos_common::{
    paxos::{
        acceptor::{FormRefusal, InstallRefusal},
        ballot::Ballot,
        detector::Settlement,
        identity::Stamp,
        message::{AcceptAnswer, Prepare, PrepareAnswer},
        quorum::Configuration,
        slot::Slot,
    },
    trace::SpanContext,
    wire::AcceptReply,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    hearing::{Claimed, OfCall},
    inbox::{AnswerPlace, Inbox, StreamMessage, outcome},
    shared::{Published, Shared},
    trace::MessageTrace,
};

/// A request to the worker, with the destination of the answer.
#[derive(Debug)]
pub(crate) enum QueuedRequest {
    /// A step of forming or of a change of members; the answer shows the stored state after the step.
    Form {
        step: FormStep,
        answer: oneshot::Sender<Result<FormAnswer, NoSpace>>,
    },
    /// Phase 1.
    Prepare {
        prepare: Prepare,
        claimed: OfCall,
        answer: oneshot::Sender<Result<(Stamp, PrepareAnswer), NoSpace>>,
        /// The span of a traced request.
        trace: Option<SpanContext>,
    },
    /// Phase 2: the oldest message of a stream, if still present.
    Accept(Arc<Inbox>),
    /// A stream's heartbeat, if still present.
    Heartbeat(Arc<Inbox>),
}

/// A request being decided.
pub(crate) enum TakenRequest {
    Form {
        step: FormStep,
        answer: oneshot::Sender<Result<FormAnswer, NoSpace>>,
    },
    Prepare {
        prepare: Prepare,
        claimed: Claimed,
        answer: oneshot::Sender<Result<(Stamp, PrepareAnswer), NoSpace>>,
        trace: Option<SpanContext>,
    },
    Accept(StreamMessage),
}

/// Result of a step of forming, or of a change of members.
pub(crate) type FormAnswer = Result<Published, StepRefusal>;

/// Why a step changes nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepRefusal {
    /// A step of forming.
    #[error(transparent)]
    Form(#[from] FormRefusal),
    /// A step of a change of members.
    #[error(transparent)]
    Install(#[from] InstallRefusal),
}

/// Too little space is left on the disk: nothing was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoSpace;

/// Kind of the rejected request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    Prepare,
    Accept,
}

/// A step of forming, or of a change of members.
#[derive(Debug)]
pub(crate) enum FormStep {
    /// The first.
    Store(Configuration),
    /// The second.
    Complete(Configuration),
    /// A configuration in force.
    Install(Configuration),
    /// The same, for an acceptor that will join.
    Join(Configuration),
}

impl FormStep {
    /// The configuration to store.
    pub(crate) fn configuration(&self) -> &Configuration {
        match self {
            Self::Store(configuration)
            | Self::Complete(configuration)
            | Self::Install(configuration)
            | Self::Join(configuration) => configuration,
        }
    }
}

/// An answer waiting for its commit. After the commit, only the stamp is added.
pub(crate) enum Release {
    Form(
        oneshot::Sender<Result<FormAnswer, NoSpace>>,
        Result<Result<(), StepRefusal>, NoSpace>,
    ),
    Prepare {
        claimed: Option<Claimed>,
        answer: oneshot::Sender<Result<(Stamp, PrepareAnswer), NoSpace>>,
        result: Result<PrepareAnswer, NoSpace>,
    },
    Accept {
        claimed: Option<Claimed>,
        place: AnswerPlace,
        accept: (Ballot, u64),
        answer: AcceptAnswer,
        trace: MessageTrace,
        _bytes: Option<OwnedSemaphorePermit>,
    },
}

impl QueuedRequest {
    /// Bytes that the command adds to a group.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Accept(inbox) => inbox.next_weight(),
            Self::Form { .. } | Self::Prepare { .. } | Self::Heartbeat(_) => 0,
        }
    }

    /// Whether the command is a separate call, and no message of a stream.
    pub(crate) fn is_call(&self) -> bool {
        matches!(self, Self::Form { .. } | Self::Prepare { .. })
    }
}

impl TakenRequest {
    /// The request leaves the queue. Returns the span of a traced request.
    pub(crate) fn taken(&mut self) -> Option<SpanContext> {
        match self {
            Self::Accept(message) => {
                message.trace.taken();
                message.trace.context()
            }
            Self::Prepare { trace, .. } => trace.take(),
            Self::Form { .. } => None,
        }
    }
}

impl TakenRequest {
    /// One past the highest proposed slot; 0 without a proposal.
    pub(crate) fn proposed_to(&self) -> Slot {
        let highest = match self {
            Self::Accept(message) => message.accept.proposals.last().map(|(slot, _)| slot.next()),
            Self::Form { .. } | Self::Prepare { .. } => None,
        };
        highest.unwrap_or_default()
    }
}

impl Release {
    /// Whether proposals are turned away for lack of space.
    pub(crate) fn lacks_space(&self) -> bool {
        match self {
            Self::Accept { answer, .. } => matches!(answer, AcceptAnswer::NoSpace),
            Self::Form(..) | Self::Prepare { .. } => false,
        }
    }

    /// Outcome of the request's claim, once.
    pub(crate) fn settle(&mut self) -> Option<(Claimed, Settlement)> {
        match self {
            Self::Prepare { claimed, result, .. } => {
                let outcome = match result {
                    Ok(PrepareAnswer::Promised) => Settlement::Granted,
                    Ok(PrepareAnswer::Rejected(_) | PrepareAnswer::Refused(_)) => Settlement::TurnedAway,
                    Err(NoSpace) => Settlement::NoSpace,
                };
                Some((claimed.take()?, outcome))
            }
            Self::Accept { claimed, answer, .. } => Some((claimed.take()?, outcome(answer))),
            Self::Form(..) => None,
        }
    }

    /// The phase rejected because of a higher ballot.
    pub(crate) fn rejected(&self) -> Option<Rejected> {
        match self {
            Self::Prepare {
                result: Ok(PrepareAnswer::Rejected(_)),
                ..
            } => Some(Rejected::Prepare),
            Self::Accept { answer, .. } => {
                matches!(answer, AcceptAnswer::Rejected(_)).then_some(Rejected::Accept)
            }
            Self::Prepare { .. } | Self::Form(..) => None,
        }
    }

    /// Sends the answer, or drops the answer when the client no longer waits.
    pub(crate) fn send(self, shared: &Shared, stamp: Stamp) {
        match self {
            Self::Form(answer, result) => {
                let shown = result.map(|stored| stored.map(|()| shared.published()));
                drop(answer.send(shown));
            }
            Self::Prepare { answer, result, .. } => {
                drop(answer.send(result.map(|result| (stamp, result))));
            }
            Self::Accept {
                place,
                accept: (ballot, sequence),
                answer,
                trace,
                ..
            } => {
                trace.answered(&answer);
                place.send(AcceptReply {
                    stamp,
                    ballot,
                    sequence,
                    answer,
                });
            }
        }
    }
}
