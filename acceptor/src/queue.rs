//! The writer's queue: requests in the order of arrival, and the age of the oldest request.
//!
//! Senders never wait. Calls are bounded here. Messages of `Accept` streams are bounded by their streams: each stream
//! has an [`Inbox`](crate::inbox::Inbox) with a limit, and the queue holds one entry for each message in an inbox.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::request::Command;

/// Maximum number of waiting `Form` and `Prepare` calls: far above the number of proposers.
pub(crate) const CALLS_MAX: usize = 512;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(Instant, Command)>,
    /// Number of calls in `waiting`.
    calls: usize,
    /// Arrival of the oldest request taken by the writer and not answered yet.
    taken_at: Option<Instant>,
    is_closed: bool,
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotQueued {
    /// Too many calls wait already.
    Full,
    /// The writer has stopped.
    Closed,
}

impl Queue {
    /// Appends a request.
    pub(crate) fn push(&self, command: Command) -> Result<(), NotQueued> {
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
    pub(crate) fn take(&self, fits: impl FnOnce(usize) -> bool) -> Option<Command> {
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::request::FormStep;

    fn call() -> Command {
        let configuration = paxos_common::paxos::quorum::Configuration::new(
            [(
                paxos_common::paxos::identity::AcceptorUuid::from_u128(1),
                "http://a:1".into(),
            )],
            1,
            1,
        );
        Command::Form {
            step: FormStep::Store(configuration.unwrap()),
            answer: oneshot::channel().0,
        }
    }

    #[test]
    fn calls_are_bounded_and_those_taken_make_room() {
        let queue = Queue::default();
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
        let queue = Queue::default();
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
        let queue = std::sync::Arc::new(Queue::default());
        let filled = std::sync::Arc::clone(&queue);
        let filled = tokio::spawn(async move { filled.filled().await });
        tokio::task::yield_now().await;
        queue.push(call()).unwrap();
        filled.await.unwrap();
    }
}
