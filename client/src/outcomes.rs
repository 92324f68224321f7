//! The outcomes of commands over one stream for each learner, at a fraction of the cost of a call for each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use paxos_common::wire::status::from_proto;
use paxos_proto::v1::{
    OutcomeQuery, OutcomesRequest, OutcomesResponse, ResultResponse, learner_client::LearnerClient,
    queried_outcome,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use crate::Version;

/// Maximum number of queries in a request: the learner's limit.
const QUERIES_MAX: usize = 256;
/// Capacity of the queue of queries. A full queue sends further queries as single calls.
const QUEUE_MAX: usize = 4_096;
/// Capacity of the queue of requests: the next request gathers queries while the last request is being sent.
const REQUESTS_MAX: usize = 1;
/// Longest wait for the opening of a stream.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
/// Time without queries after which a stream ends.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long a learner without the call `Outcomes` is not asked for a stream again: the learner may be updated.
const UNSUPPORTED_FOR: Duration = Duration::from_secs(60);

type Answer = Result<ResultResponse, Status>;

/// A query, and the waiting caller.
#[derive(Debug)]
struct PendingQuery {
    version: Version,
    answer: oneshot::Sender<Answer>,
}

/// The stream of outcomes from one learner, opened with the first query. Cheap to clone; clones share the stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutcomeStream(Arc<Mutex<OutcomeStreamState>>);

#[derive(Debug, Default)]
enum OutcomeStreamState {
    #[default]
    Closed,
    Open(mpsc::Sender<PendingQuery>),
    /// The learner's release has no such call, as found at this time.
    Unsupported(Instant),
}

impl OutcomeStream {
    /// The learner's answer; none if the stream gives no answer. Then a single call does.
    ///
    /// # Cancel safety
    /// Safe: the answer is dropped.
    pub(crate) async fn outcome(&self, client: &LearnerClient<Channel>, version: Version) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        let query = PendingQuery { version, answer };
        self.queries(client)?.try_send(query).ok()?;
        answered.await.ok()
    }

    /// The open stream; opens a stream if there is none. None: the learner has no such call.
    fn queries(&self, client: &LearnerClient<Channel>) -> Option<mpsc::Sender<PendingQuery>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            OutcomeStreamState::Open(queries) if !queries.is_closed() => return Some(queries.clone()),
            OutcomeStreamState::Unsupported(found) if found.elapsed() < UNSUPPORTED_FOR => return None,
            OutcomeStreamState::Open(_) | OutcomeStreamState::Unsupported(_) | OutcomeStreamState::Closed => {
            }
        }
        let (queries, queue) = mpsc::channel(QUEUE_MAX);
        *state = OutcomeStreamState::Open(queries.clone());
        // The stream ends with the client: the task does not keep its own queue open.
        let (client, stream) = (client.clone(), Arc::downgrade(&self.0));
        tokio::spawn(async move {
            let ended = run(client, queue).await;
            tracing::debug!(reason = %ended, "a stream of outcomes has ended");
            if ended.code() == Code::Unimplemented
                && let Some(state) = stream.upgrade()
            {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                *state = OutcomeStreamState::Unsupported(Instant::now());
            }
        });
        Some(queries)
    }
}

/// Serves queries until the learner ends the stream, or no caller has a query for a while. Queries without an answer are
/// dropped: their callers use single calls.
async fn run(mut client: LearnerClient<Channel>, mut queue: mpsc::Receiver<PendingQuery>) -> Status {
    let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
    let opening = client.outcomes(ReceiverStream::new(outgoing));
    let mut responses = match timeout(OPEN_PATIENCE, opening).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return status,
        Err(_elapsed) => return Status::deadline_exceeded("the learner opens no stream"),
    };
    let mut unanswered = SentQueries::default();
    let mut gathered = Vec::new();
    let mut idle_from = Instant::now();
    loop {
        let room = QUERIES_MAX - gathered.len();
        tokio::select! {
            // Cancel safe: queries not returned stay queued.
            count = queue.recv_many(&mut gathered, room), if room > 0 => {
                if count == 0 {
                    return Status::cancelled("the client is gone");
                }
                idle_from = Instant::now();
            }
            // Cancel safe: nothing is sent before the permit is granted.
            permit = requests.reserve(), if !gathered.is_empty() => match permit {
                Ok(permit) => permit.send(unanswered.request(gathered.drain(..))),
                Err(_) => return Status::unavailable("the stream broke"),
            },
            // Cancel safe: a message not returned stays unread.
            response = responses.message() => match response {
                Ok(Some(response)) => unanswered.answer(response),
                Ok(None) => return Status::unavailable("the learner closed the stream"),
                Err(status) => return status,
            },
            // A timer.
            () = sleep_until(idle_from + IDLE_MAX) => {
                if unanswered.forget_abandoned() == 0 {
                    return Status::ok("no queries");
                }
                idle_from = Instant::now();
            }
        }
    }
}

/// Queries sent to the learner.
#[derive(Debug, Default)]
struct SentQueries {
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    last_tag: u64,
}

impl SentQueries {
    fn request(&mut self, queries: impl Iterator<Item = PendingQuery>) -> OutcomesRequest {
        let queries = queries.filter(|query| !query.answer.is_closed()).map(|query| {
            self.last_tag += 1;
            self.answers.insert(self.last_tag, query.answer);
            OutcomeQuery {
                tag: self.last_tag,
                version: Some(query.version.into()),
            }
        });
        OutcomesRequest {
            queries: queries.collect(),
        }
    }

    fn answer(&mut self, response: OutcomesResponse) {
        for outcome in response.outcomes {
            let Some(waiting) = self.answers.remove(&outcome.tag) else {
                continue;
            };
            let answer = match outcome.answer {
                Some(queried_outcome::Answer::Result(result)) => Ok(result),
                Some(queried_outcome::Answer::Error(error)) => Err(from_proto(&error)),
                // Too large for the stream: the caller uses a single call.
                None => continue,
            };
            // A caller that gave up does not get the answer.
            let _ = waiting.send(answer);
        }
    }

    /// Forgets queries whose callers gave up. Returns the number of the others.
    fn forget_abandoned(&mut self) -> usize {
        self.answers.retain(|_, answer| !answer.is_closed());
        self.answers.len()
    }
}
