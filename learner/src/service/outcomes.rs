//! Answers `Outcomes`: the outcomes of many commands over one stream, each once its command is applied.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use paxos_common::{
    paxos::slot::{Slot, Version},
    wire::status::{invalid_argument, to_proto},
};
use paxos_proto::v1::{self as pb, queried_outcome};
use prost::Message as _;
use tokio::{
    sync::watch::{self, error::RecvError},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tonic::Status;

use crate::{barrier::Barrier, progress::Progress};

use super::{LearnerService, ServingState, beyond_the_log, ended, reads::read_version, results, streams};

/// Maximum number of queries in a request.
const QUERIES_MAX: usize = 256;
/// While this many queries of a stream wait, no further request is read.
const WAITING_MAX: usize = 512;
/// Longest wait of a query.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Interval of looks for queries that have waited for long.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Limit of a response in bytes: no such response needs room.
const RESPONSE_BYTES_MAX: usize = 8 * 1024;

/// The answers to a stream of requests, until the caller ends the stream or the learner stops.
pub(super) fn stream(
    service: LearnerService,
    opened: Arc<ServingState>,
    requests: impl Stream<Item = Result<pb::OutcomesRequest, Status>> + Send + 'static,
) -> impl Stream<Item = Result<pb::OutcomesResponse, Status>> + Send {
    let (mut applied, installing) = (opened.applied.clone(), Arc::clone(&opened.installing));
    let (barrier, stop) = (opened.barrier.clone(), opened.stop.clone());
    // A stream whose caller reads nothing must not keep an outdated state.
    let state = Arc::downgrade(&opened);
    drop(opened);
    async_stream::try_stream! {
        let mut requests = Box::pin(requests);
        let mut waiting = WaitingQueries::default();
        let mut is_open = true;
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut end_of_log: Option<BoxFuture<'static, Option<EndOfLog>>> = None;
        loop {
            let applied_to = applied.borrow_and_update().applied_to();
            loop {
                let opened = state.upgrade().ok_or_else(|| ended(&installing))?;
                let answers = waiting.answers(&service, &opened, applied_to).await;
                drop(opened);
                let Some(outcomes) = answers else { break };
                yield pb::OutcomesResponse { outcomes };
            }
            if !is_open && waiting.is_empty() {
                break;
            }
            let event = tokio::select! {
                // Cancel safe: a request not returned stays unread.
                request = requests.next(), if is_open && waiting.has_room() => StreamEvent::Request(request),
                // Only waits.
                changed = applied.changed(), if !waiting.is_empty() => StreamEvent::Applied(changed),
                // Cancel safe: a tick not returned now is returned next time.
                _ = ticks.tick(), if !waiting.is_empty() => StreamEvent::Tick,
                // Only waits. A stream without queries has no other news of the end.
                () = stop.cancelled() => StreamEvent::Stop,
                // Cancel safe: the future is kept.
                end = async { end_of_log.as_mut()?.await }, if end_of_log.is_some() => StreamEvent::EndOfLog(end),
            };
            match event {
                StreamEvent::Request(Some(request)) => waiting.add(request?)?,
                StreamEvent::Request(None) => is_open = false,
                StreamEvent::Stop => Err(ended(&installing))?,
                StreamEvent::Applied(changed) => changed.map_err(|_| ended(&installing))?,
                StreamEvent::Tick => {
                    waiting.expire();
                    if end_of_log.is_none() {
                        end_of_log = Some(EndOfLog::ask(barrier.clone(), applied.clone()).boxed());
                    }
                }
                StreamEvent::EndOfLog(end) => {
                    end_of_log = None;
                    waiting.refuse_beyond(end);
                }
            }
        }
    }
}

enum StreamEvent {
    /// The next request; none at the end of the requests.
    Request(Option<Result<pb::OutcomesRequest, Status>>),
    /// More is applied, or the learner stops.
    Applied(Result<(), RecvError>),
    Tick,
    Stop,
    EndOfLog(Option<EndOfLog>),
}

/// The end of the log, not before the time of a question.
#[derive(Clone, Copy, Debug)]
struct EndOfLog {
    to: Slot,
    asked: Instant,
}

impl EndOfLog {
    /// Asks the acceptors; none if the learner cannot find the end.
    async fn ask(barrier: Barrier, applied: watch::Receiver<Progress>) -> Option<Self> {
        let asked = Instant::now();
        timeout(WAIT_MAX, barrier.pass(None)).await.ok()?.ok()?;
        let to = applied.borrow().applied_to();
        Some(Self { to, asked })
    }
}

/// The unanswered queries of a stream.
#[derive(Debug, Default)]
struct WaitingQueries {
    /// Version and tag, with the time of arrival.
    queries: BTreeMap<(Version, u64), Instant>,
    /// Answers that need no record.
    failed: Vec<pb::QueriedOutcome>,
}

impl WaitingQueries {
    fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    fn has_room(&self) -> bool {
        self.queries.len() < WAITING_MAX
    }

    fn add(&mut self, request: pb::OutcomesRequest) -> Result<(), Status> {
        let queries = request.queries.len();
        if queries > QUERIES_MAX {
            return Err(invalid_argument(format!(
                "the request has {queries} queries: at most {QUERIES_MAX} are allowed"
            )));
        }
        let since = Instant::now();
        for pb::OutcomeQuery { tag, version } in request.queries {
            let version = version.ok_or_else(|| invalid_argument("the query names no version"));
            match version.and_then(read_version) {
                Ok(version) => {
                    self.queries.insert((version, tag), since);
                }
                Err(error) => self.failed.push(failed(tag, &error)),
            }
        }
        Ok(())
    }

    /// Fails the queries that have waited for too long.
    fn expire(&mut self) {
        let error = Status::deadline_exceeded(
            "the command was not applied in time: retry, here or at another learner",
        );
        let is_expired = |_: &(Version, u64), since: &mut Instant| since.elapsed() >= WAIT_MAX;
        let expired = self.queries.extract_if(.., is_expired);
        self.failed
            .extend(expired.map(|((_, tag), _)| failed(tag, &error)));
    }

    /// Fails the queries beyond the end of the log that came before the question.
    fn refuse_beyond(&mut self, end: Option<EndOfLog>) {
        let Some(EndOfLog { to, asked }) = end else { return };
        let is_beyond =
            |(version, _): &(Version, u64), since: &mut Instant| version.slot >= to && *since < asked;
        let beyond = self.queries.extract_if(.., is_beyond);
        let refused = beyond.map(|((version, tag), _)| failed(tag, &beyond_the_log(version.slot, to)));
        self.failed.extend(refused);
    }

    /// The answers of the next response; none while every query waits.
    async fn answers(
        &mut self,
        service: &LearnerService,
        opened: &ServingState,
        applied_to: Slot,
    ) -> Option<Vec<pb::QueriedOutcome>> {
        let mut outcomes = Vec::new();
        let mut bytes = 0;
        while let Some(answer) = self.failed.pop() {
            bytes += answer.encoded_len();
            outcomes.push(answer);
            if bytes > RESPONSE_BYTES_MAX / 2 {
                return Some(outcomes);
            }
        }
        while let Some((&query, _)) = self.queries.first_key_value()
            && let (version, tag) = query
            && version.slot < applied_to
        {
            let mut answer = answered(tag, outcome(service, opened, version).await);
            if answer.encoded_len() > RESPONSE_BYTES_MAX / 2 {
                // Room for large answers is held until the next message of a stream: single calls give it back.
                answer.answer = None;
            }
            bytes += answer.encoded_len();
            if bytes > RESPONSE_BYTES_MAX {
                break;
            }
            self.queries.remove(&query);
            outcomes.push(answer);
        }
        (!outcomes.is_empty()).then_some(outcomes)
    }
}

async fn outcome(
    service: &LearnerService,
    opened: &ServingState,
    version: Version,
) -> Result<pb::ResultResponse, Status> {
    service.readable()?;
    opened.check_kept(version.slot)?;
    let record = opened.history.record(version.slot).await;
    let record = record.map_err(|error| streams::read_failed(&error, &opened.history, &opened.installing))?;
    let record = record.ok_or_else(|| Status::internal("an applied slot is missing in the history"))?;
    opened
        .knowledge
        .machine(|machine| results::of_version(version, &record, machine))
}

fn answered(tag: u64, answer: Result<pb::ResultResponse, Status>) -> pb::QueriedOutcome {
    match answer {
        Ok(result) => pb::QueriedOutcome {
            tag,
            answer: Some(queried_outcome::Answer::Result(result)),
        },
        Err(error) => failed(tag, &error),
    }
}

fn failed(tag: u64, error: &Status) -> pb::QueriedOutcome {
    pb::QueriedOutcome {
        tag,
        answer: Some(queried_outcome::Answer::Error(to_proto(error))),
    }
}
