//! Requests in flight to the writer: waiting, taken out in groups, decided, and answered.

use std::sync::Arc;

use paxos_common::{
    paxos::{
        acceptor::FormRefusal,
        ballot::Ballot,
        detector::Outcome,
        identity::Stamp,
        message::{AcceptAnswer, Prepare, PrepareAnswer},
        quorum::Configuration,
    },
    trace::SpanContext,
    wire::AcceptReply,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    ears::{Claimed, OfCall},
    inbox::{Inbox, Message, Place, outcome},
    metrics::Rejected,
    queue::Queue,
    shared::{Published, Shared},
    trace::Traced,
};

/// Maximum number of requests decided in a group: enough that a busy acceptor needs few commits, and no answer waits
/// long.
const GROUP_MAX: usize = 256;
/// Maximum bytes of the proposals decided in a group, unless a single message has more: the store keeps space for a
/// commit of this size.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A request to the worker, with the destination of the answer.
#[derive(Debug)]
pub(crate) enum Command {
    /// A step of forming; the answer shows the stored state after the step.
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
pub(crate) enum Request {
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
    Accept(Message),
}

/// Result of a step of forming.
pub(crate) type FormAnswer = Result<Published, FormRefusal>;

/// Too little space is left on the disk: nothing was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoSpace;

/// A step of forming.
#[derive(Debug)]
pub(crate) enum FormStep {
    /// The first.
    Store(Configuration),
    /// The second.
    Complete(Configuration),
}

/// An answer waiting for its commit. After the commit, only the stamp is added.
pub(crate) enum Release {
    Form(
        oneshot::Sender<Result<FormAnswer, NoSpace>>,
        Result<Result<(), FormRefusal>, NoSpace>,
    ),
    Prepare {
        claimed: Option<Claimed>,
        answer: oneshot::Sender<Result<(Stamp, PrepareAnswer), NoSpace>>,
        result: Result<PrepareAnswer, NoSpace>,
    },
    Accept {
        claimed: Option<Claimed>,
        place: Place,
        accept: (Ballot, u64),
        answer: AcceptAnswer,
        trace: Traced,
        _bytes: Option<OwnedSemaphorePermit>,
    },
}

/// Takes the requests of a group out of the queue. Requests of departed senders are dropped.
pub(crate) fn gather(queue: &Queue) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut bytes = 0;
    while requests.len() < GROUP_MAX {
        let is_first = requests.is_empty();
        let Some(command) = queue.take(|next| is_first || bytes + next <= GROUP_BYTES_MAX) else {
            break;
        };
        match command {
            Command::Form { step, answer } => requests.push(Request::Form { step, answer }),
            Command::Prepare {
                prepare,
                claimed,
                answer,
                trace,
            } => {
                if let Some(claimed) = claimed.take() {
                    requests.push(Request::Prepare {
                        prepare,
                        claimed,
                        answer,
                        trace,
                    });
                }
            }
            Command::Accept(inbox) => {
                if let Some(message) = inbox.take() {
                    bytes += message.weight();
                    requests.push(Request::Accept(message));
                }
            }
            Command::Heartbeat(inbox) => requests.extend(inbox.take_beat().map(Request::Accept)),
        }
    }
    requests
}

impl Command {
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

impl Request {
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

impl Release {
    /// Outcome of the request's claim, once.
    pub(crate) fn settle(&mut self) -> Option<(Claimed, Outcome)> {
        match self {
            Self::Prepare { claimed, result, .. } => {
                let outcome = match result {
                    Ok(PrepareAnswer::Promised) => Outcome::Granted,
                    Ok(PrepareAnswer::Rejected(_) | PrepareAnswer::Refused(_)) => Outcome::TurnedAway,
                    Err(NoSpace) => Outcome::NoSpace,
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
                let told = result.map(|stored| stored.map(|()| shared.published()));
                drop(answer.send(told));
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use paxos_common::{
        paxos::{ballot::ProposerId, detector::Kind, message::Accept, slot::Slot, value::Value},
        trace::Tracer,
    };

    use super::*;
    use crate::{ears::Ears, inbox::Answers};

    /// A queue of messages with one value each, of these sizes, and the inbox of the messages.
    fn queue(sizes: &[usize]) -> (Queue, Arc<Inbox>) {
        let leadership = paxos_common::paxos::message::Leadership {
            promised: Ballot::ZERO,
            address: "".into(),
            resigned: false,
        };
        let (queue, inbox) = (Queue::default(), Arc::new(Inbox::default()));
        let ears = Arc::new(Ears::new(&leadership));
        for size in sizes {
            let value = Value::from_stored(Bytes::from(vec![7; *size]), Bytes::new());
            let accept = Accept {
                ballot: Ballot::new(1, ProposerId::from_random(7)).unwrap(),
                sequence: 1,
                chosen_to: Slot::ZERO,
                proposals: vec![(Slot::ZERO, value)],
                address: "http://p:1".into(),
                resign: false,
            };
            let request = (accept.ballot, &accept.address, Kind::Accept);
            inbox.push(Message {
                claimed: ears.queued(request, false, false),
                trace: Traced::begin(&Tracer::off(), "", &accept),
                accept,
                witnesses: paxos_common::paxos::witness::Witnesses::default(),
                place: Answers::new().0.reserve().unwrap(),
                bytes: None,
            });
            queue.push(Command::Accept(Arc::clone(&inbox))).unwrap();
        }
        (queue, inbox)
    }

    #[test]
    fn group_ends_before_its_bytes_are_too_many_but_takes_one_message_at_least() {
        let quarter = GROUP_BYTES_MAX / 4 - 1_000;
        let ends = |sizes: &[usize]| {
            let (queue, _inbox) = queue(sizes);
            let mut ends = Vec::new();
            while queue.len() > 0 {
                ends.push(gather(&queue).len());
            }
            ends
        };
        assert_eq!(ends(&[1; 300]), [GROUP_MAX, 300 - GROUP_MAX]);
        assert_eq!(ends(&[quarter; 5]), [4, 1]);
        assert_eq!(ends(&[quarter, 3 * quarter, 10_000]), [2, 1]);
        assert_eq!(ends(&[GROUP_BYTES_MAX + 1, 0]), [1, 1]);
    }

    #[test]
    fn messages_of_a_closed_stream_are_not_taken() {
        let (queue, inbox) = queue(&[1, 1, 1]);
        inbox.close();
        assert!(gather(&queue).is_empty());
        assert_eq!(queue.len(), 0);
    }
}
