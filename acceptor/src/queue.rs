//! The worker's queue: requests in the order of arrival, and the age of the oldest request.
//!
//! Senders never wait. Calls are bounded here. Messages of `Accept` streams are bounded by their streams: each stream
//! has an [`Inbox`](crate::inbox::Inbox) with a limit, and the queue holds one entry for each message in an inbox.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::request::{QueuedRequest, TakenRequest};

/// Maximum number of waiting `Form` and `Prepare` calls: far above the number of proposers.
pub(crate) const CALLS_MAX: usize = 512;

/// Maximum number of requests decided in a group: enough that a busy acceptor needs few commits, and no answer waits
/// long.
const GROUP_MAX: usize = 256;
/// Maximum bytes of the proposals decided in a group, unless a single message has more: the store keeps space for a
/// commit of this size.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct WorkerQueue {
    state: Mutex<QueueState>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    waiting: VecDeque<(Instant, QueuedRequest)>,
    /// Number of calls in `waiting`.
    calls: usize,
    /// Arrival of the oldest request taken by the worker and not answered yet.
    taken_at: Option<Instant>,
    is_closed: bool,
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotQueued {
    /// Too many calls wait already.
    Full,
    /// The worker has stopped.
    Closed,
}

impl WorkerQueue {
    /// Appends a request.
    pub(crate) fn push(&self, command: QueuedRequest) -> Result<(), NotQueued> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(NotQueued::Closed);
        }
        if command.is_call() {
            if state.calls >= CALLS_MAX {
                return Err(NotQueued::Full);
            }
            state.calls += 1;
        }
        let is_first = state.waiting.is_empty();
        state.waiting.push_back((Instant::now(), command));
        drop(state);
        if is_first {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Returns once a request waits. Only a single task at a time may wait.
    ///
    /// # Cancel safety
    /// Safe: only waits.
    pub(crate) async fn filled(&self) {
        while self.lock().waiting.is_empty() {
            self.filled.notified().await;
        }
    }

    /// Takes the oldest waiting request, if the request's weight `fits`. The request counts as waiting until
    /// [`Self::done`].
    fn take(&self, fits: impl FnOnce(usize) -> bool) -> Option<QueuedRequest> {
        let mut state = self.lock();
        let (_, next) = state.waiting.front()?;
        if !fits(next.weight()) {
            return None;
        }
        let (at, command) = state.waiting.pop_front()?;
        state.calls -= usize::from(command.is_call());
        state.taken_at.get_or_insert(at);
        Some(command)
    }

    /// Takes the requests of a group. Requests of departed senders are dropped.
    pub(crate) fn gather(&self) -> Vec<TakenRequest> {
        let mut requests = Vec::new();
        let mut bytes = 0;
        while requests.len() < GROUP_MAX {
            let is_first = requests.is_empty();
            let Some(command) = self.take(|next| is_first || bytes + next <= GROUP_BYTES_MAX) else {
                break;
            };
            match command {
                QueuedRequest::Form { step, answer } => requests.push(TakenRequest::Form { step, answer }),
                QueuedRequest::Prepare {
                    prepare,
                    claimed,
                    answer,
                    trace,
                } => {
                    if let Some(claimed) = claimed.take() {
                        requests.push(TakenRequest::Prepare {
                            prepare,
                            claimed,
                            answer,
                            trace,
                        });
                    }
                }
                QueuedRequest::Accept(inbox) => {
                    if let Some(message) = inbox.take() {
                        bytes += message.weight();
                        requests.push(TakenRequest::Accept(message));
                    }
                }
                QueuedRequest::Heartbeat(inbox) => {
                    requests.extend(inbox.take_beat().map(TakenRequest::Accept));
                }
            }
        }
        requests
    }

    /// All taken requests are answered.
    pub(crate) fn done(&self) {
        self.lock().taken_at = None;
    }

    /// The age of the oldest request, waiting or taken and not answered; zero without such a request.
    pub(crate) fn waiting(&self) -> Duration {
        let state = self.lock();
        let first = state.waiting.front().map(|(at, _)| *at);
        let oldest = state.taken_at.into_iter().chain(first).min();
        oldest.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Number of waiting requests.
    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Drops all waiting requests, and takes no more.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.calls = 0;
        let dropped = std::mem::take(&mut state.waiting);
        drop(state);
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use paxos_common::{
        paxos::{
            ballot::{Ballot, ProposerId},
            detector::RequestKind,
            message::Accept,
            slot::Slot,
            value::Value,
        },
        trace::Tracer,
    };
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        hearing::Hearing,
        inbox::{AnswerSender, Inbox, StreamMessage},
        request::FormStep,
        trace::MessageTrace,
    };

    fn call() -> QueuedRequest {
        let configuration = paxos_common::paxos::quorum::Configuration::new(
            [(
                paxos_common::paxos::identity::AcceptorUuid::from_u128(1),
                "http://a:1".into(),
            )],
            1,
            1,
        );
        QueuedRequest::Form {
            step: FormStep::Store(configuration.unwrap()),
            answer: oneshot::channel().0,
        }
    }

    #[test]
    fn calls_are_bounded_and_those_taken_make_room() {
        let queue = WorkerQueue::default();
        for _ in 0..CALLS_MAX {
            queue.push(call()).unwrap();
        }
        assert_eq!(queue.push(call()), Err(NotQueued::Full));
        assert!(queue.take(|_| true).is_some());
        assert_eq!((queue.push(call()), queue.len()), (Ok(()), CALLS_MAX));
        queue.close();
        assert_eq!((queue.push(call()), queue.len()), (Err(NotQueued::Closed), 0));
    }

    #[test]
    fn oldest_request_ages_until_it_is_answered() {
        let queue = WorkerQueue::default();
        assert_eq!(queue.waiting(), Duration::ZERO);
        queue.push(call()).unwrap();
        queue.push(call()).unwrap();
        let first = queue.waiting();
        assert!(queue.take(|_| true).is_some() && queue.take(|_| true).is_some());
        assert!(queue.waiting() >= first);
        queue.push(call()).unwrap();
        queue.done();
        assert!(queue.waiting() < first + Duration::from_secs(60));
        assert!(queue.take(|_| true).is_some());
        queue.done();
        assert_eq!(queue.waiting(), Duration::ZERO);
    }

    #[tokio::test]
    async fn one_who_waits_is_woken_by_the_first_request() {
        let queue = Arc::new(WorkerQueue::default());
        let filled = Arc::clone(&queue);
        let filled = tokio::spawn(async move { filled.filled().await });
        tokio::task::yield_now().await;
        queue.push(call()).unwrap();
        filled.await.unwrap();
    }

    /// A queue of messages with one value each, of these sizes, and the inbox of the messages.
    fn queue_of(sizes: &[usize]) -> (WorkerQueue, Arc<Inbox>) {
        let leadership = paxos_common::paxos::message::Leadership {
            promised: Ballot::ZERO,
            address: "".into(),
            resigned: false,
        };
        let (queue, inbox) = (WorkerQueue::default(), Arc::new(Inbox::default()));
        let hearing = Arc::new(Hearing::new(&leadership));
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
            let request = (accept.ballot, &accept.address, RequestKind::Accept);
            inbox.push(StreamMessage {
                claimed: hearing.queued(request, false, false),
                trace: MessageTrace::begin(&Tracer::off(), "", &accept, true),
                accept,
                witnesses: paxos_common::paxos::witness::Witnesses::default(),
                place: AnswerSender::new().0.reserve().unwrap(),
                bytes: None,
            });
            queue.push(QueuedRequest::Accept(Arc::clone(&inbox))).unwrap();
        }
        (queue, inbox)
    }

    #[test]
    fn group_is_bounded_in_bytes_but_takes_at_least_one_message() {
        let quarter = GROUP_BYTES_MAX / 4 - 1_000;
        let ends = |sizes: &[usize]| {
            let (queue, _inbox) = queue_of(sizes);
            let mut ends = Vec::new();
            while queue.len() > 0 {
                ends.push(queue.gather().len());
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
        let (queue, inbox) = queue_of(&[1, 1, 1]);
        inbox.close();
        assert!(queue.gather().is_empty());
        assert_eq!(queue.len(), 0);
    }
}
