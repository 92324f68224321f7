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
    peer::{Address, Backoff},
    trace::{SpanContext, inject},
};
use rand::seq::IteratorRandom as _;
use tokio::time::{Instant, error::Elapsed, sleep, sleep_until, timeout, timeout_at};
use tonic::{Code, Request, Response, Status};

use crate::{
    address::Directory,
    error::{Cause, TrimmedAnswer, Unanswered, longer},
    trace::Tracer,
    trimmed::TrimmedRounds,
};

mod hedge;
mod roster;

use hedge::Hedge;
pub(crate) use roster::LearnerConnection;
use roster::{KnownLearner, LearnerRoster, Members};

/// Limit of the learners that one call asks at the same time (inclusive).
const CALLS_MAX: usize = 4;
/// Longest wait for a learner before another learner is asked: at the first attempt, and at most. The wait doubles with
/// each attempt of a call, so that a cluster of slow learners still answers.
const ATTEMPT_PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));
/// Pauses after all learners have failed, from the shortest to the longest.
const ROUND_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Calls to the learners in use.
#[derive(Debug)]
pub(crate) struct Learners {
    directory: Arc<Directory>,
    roster: Arc<LearnerRoster>,
    hedge: Hedge,
    tracer: Tracer,
}

/// The learners that must answer that a slot is not kept any more, before a call ends with this answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TrimmedBy {
    /// One learner.
    Any,
    /// All learners: see [`TrimmedRounds`].
    All,
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
        let mut patience = ATTEMPT_PATIENCE.0;
        let mut pause = Backoff::new(ROUND_PAUSE.0, ROUND_PAUSE.1);
        // The learners of this round, with the calls in flight.
        let mut tried: Vec<Address> = Vec::new();
        let mut trimmed = TrimmedRounds::default();
        let mut calls = FuturesUnordered::new();
        let mut waiting: Vec<(Arc<KnownLearner>, Instant)> = Vec::new();
        let mut hedge_at = Instant::now();
        // After a failure beside other calls in flight: the retry takes the room of the failed call.
        let mut retry = None;
        let mut last = Cause::deadline();
        // The longest wait requested by a learner in this round.
        let mut requested = None;
        loop {
            let mut next = None;
            if calls.is_empty() {
                retry = None;
                let members = match timeout_at(deadline, self.roster.members()).await {
                    Ok(Ok(members)) => members,
                    Ok(Err(cause)) => {
                        last = cause;
                        Members::default()
                    }
                    Err(_elapsed) => return Err(Unanswered::Unavailable(last)),
                };
                let Some(member) = self.choose(&members, &tried) else {
                    if let Some(trimmed) = trimmed.end_round(tried.len()) {
                        return Err(Unanswered::Trimmed(trimmed));
                    }
                    tried.clear();
                    self.roster.expire();
                    let delay = longer(pause.next_delay(), requested.take());
                    if Instant::now() + delay >= deadline {
                        return Err(Unanswered::Unavailable(last));
                    }
                    sleep(delay).await;
                    continue;
                };
                // Another learner, if any, must have a turn before the deadline.
                let is_last = members.len() <= tried.len() + 1;
                next = Some((member, None, is_last));
            } else if let Some(room) = retry.take() {
                let (members, _) = self.roster.known();
                next = self.choose(&members, &tried).map(|member| (member, room, true));
            } else if Instant::now() >= hedge_at && calls.len() < CALLS_MAX {
                hedge_at = Instant::now() + self.hedge.wait();
                let (members, _) = self.roster.known();
                if let (Some(room), Some(member)) = (self.hedge.room(), self.choose(&members, &tried)) {
                    next = Some((member, Some(room), true));
                }
            }
            if let Some((member, room, is_last)) = next {
                let left = deadline.saturating_duration_since(Instant::now());
                let patience = patience.min(if is_last { left } else { left / 2 });
                tried.push(member.address.clone());
                waiting.push((Arc::clone(&member), Instant::now()));
                hedge_at = Instant::now() + self.hedge.wait();
                let call = self.call(member, patience, method, &request);
                calls.push(async move { (call.await, room) });
            }
            let ((member, answer), room) = tokio::select! {
                // Both arms only wait.
                Some(answered) = calls.next() => answered,
                () = sleep_until(hedge_at), if calls.len() < CALLS_MAX => continue,
            };
            let begun = waiting
                .iter()
                .position(|(waiting, _)| Arc::ptr_eq(waiting, &member));
            let took = begun.map_or(Duration::ZERO, |begun| waiting.swap_remove(begun).1.elapsed());
            let cause = match answer {
                Ok(Ok(response)) => {
                    self.answered(&member, took, &waiting);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => {
                    if let Some(answer) = TrimmedAnswer::of(&status) {
                        last = answer.cause.clone().at(&member.address);
                        if trimmed_by == TrimmedBy::Any {
                            return Err(Unanswered::Trimmed(answer));
                        }
                        trimmed.add(answer);
                        retry = Some(room);
                        continue;
                    }
                    match Unanswered::judge(&status) {
                        Some(unanswered) => return Err(unanswered),
                        None => Cause::of(&status),
                    }
                }
                Err(_elapsed) => {
                    member.slowness.found(Instant::now());
                    Cause::deadline()
                }
            };
            requested = requested.max(cause.retry_delay);
            last = cause.at(&member.address);
            if Instant::now() >= deadline {
                return Err(Unanswered::Unavailable(last));
            }
            tracing::debug!(cause = %last, "asking another learner");
            self.directory.shun(&member.address);
            patience = (2 * patience).min(ATTEMPT_PATIENCE.1);
            retry = Some(room);
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
    use super::*;
    use crate::ClientConfig;

    fn learners(addresses: &[&str]) -> Arc<Learners> {
        let config = ClientConfig {
            learners: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            ..ClientConfig::default()
        };
        Arc::new(Learners::new(Arc::new(Directory::new(config))))
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
