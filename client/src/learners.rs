//! Calls to learners: each call goes to one learner, and to another learner after a failure or when the answer is late.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use paxos_common::{
    peer::Address,
    trace::{SpanContext, inject},
};
use rand::seq::IteratorRandom as _;
use tokio::time::{Instant, error::Elapsed, sleep_until, timeout};
use tonic::{Code, Request, Response, Status};

use crate::{address::Directory, error::Unanswered, trace::Tracer};

mod asking;
mod hedge;
mod roster;

use asking::{Asking, TrimmedBy};
use hedge::Hedge;
pub(crate) use roster::LearnerConnection;
use roster::{KnownLearner, LearnerRoster};

/// Limit of the learners that one call asks at the same time (inclusive).
const CALLS_MAX: usize = 4;
/// Calls to the learners in use.
#[derive(Debug)]
pub(crate) struct Learners {
    directory: Arc<Directory>,
    roster: Arc<LearnerRoster>,
    hedge: Hedge,
    tracer: Tracer,
}

/// The deadline and the trace context of a call to a learner.
#[derive(Debug)]
pub(crate) struct CallOptions {
    patience: Duration,
    context: Option<SpanContext>,
}

impl CallOptions {
    /// Whether the application traces the call.
    pub(crate) fn is_traced(&self) -> bool {
        self.context.is_some()
    }

    /// A request with deadline and trace context.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.patience);
        inject(&mut request, self.context.as_ref());
        request
    }
}

/// A call in flight at a member, counted until dropped.
struct CallInFlight<'a>(&'a AtomicUsize);

impl<'a> CallInFlight<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for CallInFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Learners {
    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Self {
            roster: Arc::new(LearnerRoster::new(directory.clone())),
            directory,
            hedge: Hedge::default(),
            tracer: Tracer::global(),
        }
    }

    /// Asks a learner, and further learners after a failure, or while the answer is late: see [`hedge`]. Returns the
    /// first answer, or an error that all learners would return. `request` calls `method`, with options that differ from
    /// learner to learner.
    ///
    /// # Errors
    /// See [`Unanswered`].
    ///
    /// # Cancel safety
    /// Safe: calls to learners only read.
    pub(crate) async fn ask<T, F>(
        &self,
        deadline: Instant,
        method: &'static str,
        request: impl Fn(LearnerConnection, CallOptions) -> F,
    ) -> Result<T, Unanswered>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_until(TrimmedBy::All, deadline, method, request).await
    }

    /// As [`Self::ask`], but ends with the first answer that a slot is not kept any more: the caller has another way to
    /// the answer.
    pub(crate) async fn ask_unless_trimmed<T, F>(
        &self,
        deadline: Instant,
        method: &'static str,
        request: impl Fn(LearnerConnection, CallOptions) -> F,
    ) -> Result<T, Unanswered>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_until(TrimmedBy::Any, deadline, method, request).await
    }

    async fn ask_until<T, F>(
        &self,
        trimmed_by: TrimmedBy,
        deadline: Instant,
        method: &'static str,
        request: impl Fn(LearnerConnection, CallOptions) -> F,
    ) -> Result<T, Unanswered>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut asking = Asking::new(self, trimmed_by, deadline);
        let mut calls = FuturesUnordered::new();
        loop {
            let next = if calls.is_empty() {
                Some(asking.next_alone().await?)
            } else {
                asking.next_beside(calls.len())
            };
            if let Some(next) = next {
                let patience = asking.begin(&next);
                let call = self.call(next.member, patience, method, &request);
                calls.push(async move { (call.await, next.room) });
            }
            let ((member, answer), room) = tokio::select! {
                // Both arms only wait.
                Some(answered) = calls.next() => answered,
                () = sleep_until(asking.hedge_at()), if calls.len() < CALLS_MAX => continue,
            };
            let took = asking.ended(&member);
            match answer {
                Ok(Ok(response)) => {
                    self.answered(&member, took, asking.waiting());
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => asking.failed(&member, Ok(status), room)?,
                Err(elapsed) => asking.failed(&member, Err(elapsed), room)?,
            }
        }
    }

    /// Calls one learner, for `patience` at most.
    async fn call<T, F>(
        &self,
        member: Arc<KnownLearner>,
        patience: Duration,
        method: &'static str,
        request: &impl Fn(LearnerConnection, CallOptions) -> F,
    ) -> (Arc<KnownLearner>, Result<Result<Response<T>, Status>, Elapsed>)
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let counted = CallInFlight::new(&member.in_flight);
        let call = self.tracer.call(method);
        call.to(&member.address);
        let options = CallOptions {
            patience,
            context: call.context(),
        };
        let answer = timeout(patience, request(member.connection.clone(), options)).await;
        drop(counted);
        match &answer {
            Ok(Ok(_)) => call.answered(Code::Ok, ""),
            Ok(Err(status)) => call.answered(status.code(), status.message()),
            Err(_elapsed) => call.answered(Code::DeadlineExceeded, ""),
        }
        drop(call);
        (member, answer)
    }

    /// A learner answered first, while others are still `waiting`.
    fn answered(&self, member: &KnownLearner, took: Duration, waiting: &[(Arc<KnownLearner>, Instant)]) {
        self.hedge.answered(took);
        self.directory.trust(&member.address);
        if took < self.hedge.wait() {
            member.slowness.forget();
        }
        for (late, since) in waiting {
            if hedge::is_slow(since.elapsed(), took) {
                late.slowness.found(Instant::now());
            }
        }
    }

    /// The less busy of two random learners, by calls in flight. A recently failed or slow learner is chosen only
    /// without an alternative; `None` when all learners have been tried.
    fn choose(&self, members: &[Arc<KnownLearner>], tried: &[Address]) -> Option<Arc<KnownLearner>> {
        let untried = || members.iter().filter(|member| !tried.contains(&member.address));
        let now = Instant::now();
        let two = untried()
            .filter(|member| !member.slowness.is_avoided(now) && !self.directory.is_shunned(&member.address))
            .sample(&mut rand::rng(), 2);
        let chosen = two
            .into_iter()
            .min_by_key(|member| member.in_flight.load(Ordering::Relaxed));
        chosen.or_else(|| untried().choose(&mut rand::rng())).cloned()
    }
}

#[cfg(test)]
mod tests {
    use paxos_common::peer::Dialer;
    use tokio::time::sleep;

    use super::*;
    use crate::ClientConfig;

    fn learners(addresses: &[&str]) -> Arc<Learners> {
        let config = ClientConfig {
            learners: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            ..ClientConfig::default()
        };
        Arc::new(Learners::new(Arc::new(Directory::new(config, Dialer::default()))))
    }

    #[tokio::test]
    async fn busier_of_two_learners_is_spared() {
        let learners = learners(&["http://a:1", "http://b:1"]);
        let members = learners.roster.members().await.unwrap();
        let _busy = CallInFlight::new(&members[0].in_flight);
        for _ in 0..20 {
            assert_eq!(
                learners.choose(&members, &[]).unwrap().address.as_str(),
                "http://b:1"
            );
        }
    }

    #[tokio::test]
    async fn learner_that_failed_is_asked_only_when_no_other_is_left() {
        let learners = learners(&["http://a:1", "http://b:1"]);
        let members = learners.roster.members().await.unwrap();
        learners.directory.shun(&members[0].address);
        let first = learners.choose(&members, &[]).unwrap();
        assert_eq!(first.address.as_str(), "http://b:1");
        let second = learners
            .choose(&members, std::slice::from_ref(&first.address))
            .unwrap();
        assert_eq!(second.address.as_str(), "http://a:1");
        let both = [first.address.clone(), second.address.clone()];
        assert!(learners.choose(&members, &both).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_a_failure_needs_no_room_for_a_hedge() {
        let learners = learners(&["http://a:1", "http://b:1", "http://c:1"]);
        // Other calls of this client use all the room but one.
        let mut others: Vec<_> = std::iter::from_fn(|| learners.hedge.room()).collect();
        others.pop();
        let (begun, failed_after) = (Instant::now(), Duration::from_millis(400));
        let calls = AtomicUsize::new(0);
        let answered = learners.ask(begun + Duration::from_secs(60), "method", |_, _| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            async move {
                match call {
                    0 => {
                        sleep(failed_after).await;
                        Err(Status::unavailable("stopping"))
                    }
                    // A hedge, in the last room. The learner hangs.
                    1 => std::future::pending().await,
                    _ => Ok(Response::new(call)),
                }
            }
        });
        assert_eq!(answered.await.unwrap(), 2);
        assert_eq!(begun.elapsed(), failed_after);
    }

    #[tokio::test]
    async fn slow_learner_is_asked_only_when_no_other_is_left() {
        let learners = learners(&["http://slow:1", "http://b:1"]);
        let members = learners.roster.members().await.unwrap();
        let long_ago = Instant::now() - Duration::from_millis(200);
        learners.answered(
            &members[1],
            Duration::from_millis(1),
            &[(members[0].clone(), long_ago)],
        );
        for _ in 0..20 {
            assert_eq!(
                learners.choose(&members, &[]).unwrap().address.as_str(),
                "http://b:1"
            );
        }
        let other = std::slice::from_ref(&members[1].address);
        assert_eq!(
            learners.choose(&members, other).unwrap().address.as_str(),
            "http://slow:1"
        );
    }
}
