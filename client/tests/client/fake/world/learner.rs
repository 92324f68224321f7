//! The learners of the fake world.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use paxos_client::Slot;
use paxos_common::wire::status::{self, KeptSlots, to_proto};
use paxos_proto::v1::{
    self as proto, Applied, Change, ConditionFailed, Duplicate, OutcomeQuery, OutcomesRequest,
    OutcomesResponse, QueriedOutcome, ReadRequest, ReadResponse, Register, ResultRequest, ResultResponse,
    WatchRequest, WatchResponse, duplicate, learner_server, queried_outcome, read_request, result_request,
    result_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{CommandOutcome, FakeWorld, LearnerReaction};
use crate::fake::{FakeAnswers, FakeReply, version};

#[derive(Clone)]
pub(super) struct WorldLearner {
    pub(super) world: FakeWorld,
    pub(super) reaction: Arc<dyn Fn(usize) -> LearnerReaction + Send + Sync>,
    pub(super) calls: Arc<Mutex<usize>>,
    /// Number of streams of outcomes; none: the learner's release has no such call.
    pub(super) streams: Option<Arc<AtomicUsize>>,
}

impl WorldLearner {
    async fn answer(self, query: OutcomeQuery, answers: mpsc::Sender<Result<OutcomesResponse, Status>>) {
        let command = query.version.map(result_request::Command::Version);
        let answer =
            match learner_server::Learner::result(&self, Request::new(ResultRequest { command })).await {
                Ok(result) => queried_outcome::Answer::Result(result.into_inner()),
                Err(error) => queried_outcome::Answer::Error(to_proto(&error)),
            };
        let outcome = QueriedOutcome {
            tag: query.tag,
            answer: Some(answer),
        };
        let response = OutcomesResponse {
            outcomes: vec![outcome],
        };
        // The client may be gone.
        let _ = answers.send(Ok(response)).await;
    }

    /// The reaction to this call, if there is an answer.
    async fn called(&self) -> Result<LearnerReaction, Status> {
        let number = {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            *calls - 1
        };
        match (self.reaction)(number) {
            reaction @ (LearnerReaction::Truth | LearnerReaction::FirstPage | LearnerReaction::Below(_)) => {
                Ok(reaction)
            }
            LearnerReaction::Fails(status) => Err(status),
            LearnerReaction::Nothing => std::future::pending().await,
        }
    }
}

impl WorldLearner {
    /// This learner keeps the slots from `from` on.
    fn trimmed(&self, from: u64) -> Status {
        let to = u64::try_from(self.world.state().log.len()).unwrap();
        trimmed(from, to.max(from))
    }
}

/// A learner's answer below the kept log.
pub(crate) fn trimmed(from: u64, to: u64) -> Status {
    let [from, to] = [from, to].map(|slot| Slot::new(slot).unwrap());
    status::trimmed(KeptSlots { from, to })
}

fn failed(current: Option<Register>) -> ConditionFailed {
    ConditionFailed {
        current,
        value_gone: false,
    }
}

#[tonic::async_trait]
impl learner_server::Learner for WorldLearner {
    async fn read(&self, request: Request<ReadRequest>) -> FakeReply<ReadResponse> {
        let _ = self.called().await?;
        let ReadRequest {
            target, limit, after, ..
        } = request.into_inner();
        let state = self.world.state();
        let wanted = |key: &Bytes| match target.as_ref().unwrap() {
            read_request::Target::Key(wanted) => key == wanted,
            read_request::Target::Prefix(prefix) => key.starts_with(prefix) && *key > after,
        };
        let limit = if limit == 0 {
            1000
        } else {
            usize::try_from(limit).unwrap()
        };
        let all: Vec<_> = state
            .registers
            .values()
            .filter(|register| wanted(&register.key))
            .cloned()
            .collect();
        let registers: Vec<_> = all.iter().take(limit).cloned().collect();
        let more = all.len() > registers.len();
        let next_after = registers.last().filter(|_| more).map(|last| last.key.clone());
        Ok(Response::new(ReadResponse {
            registers,
            applied_to: u64::try_from(state.log.len()).unwrap(),
            next_after: next_after.unwrap_or_default(),
        }))
    }

    async fn result(&self, request: Request<ResultRequest>) -> FakeReply<ResultResponse> {
        let reaction = self.called().await?;
        let state = self.world.state();
        let (asked, outcome) = match request.into_inner().command.unwrap() {
            result_request::Command::Version(asked) => {
                if let LearnerReaction::Below(kept) = reaction
                    && asked.slot < kept
                {
                    drop(state);
                    return Err(self.trimmed(kept));
                }
                let entry = state.log.get(usize::try_from(asked.slot).unwrap());
                (asked, entry.and_then(|(_, outcome)| outcome.clone()))
            }
            result_request::Command::Session(stamp) => {
                let session = state.sessions.get(&stamp.session.unwrap().slot);
                let session = session.ok_or_else(|| Status::aborted("the session has expired"))?;
                let recorded = session.get(&stamp.sequence).cloned();
                let (slot, outcome) = recorded.ok_or_else(|| Status::out_of_range("not applied yet"))?;
                (version(slot), Some(outcome))
            }
        };
        let outcome = match outcome {
            None => return Err(Status::out_of_range("nothing is there")),
            Some(CommandOutcome::Expired) => return Err(Status::aborted("the session has expired")),
            Some(CommandOutcome::Applied) => result_response::Outcome::Applied(Applied {}),
            Some(CommandOutcome::Failed(current)) => {
                result_response::Outcome::ConditionFailed(failed(current))
            }
            Some(CommandOutcome::Duplicate(first, outcome)) => {
                let outcome = match *outcome {
                    CommandOutcome::Failed(current) => duplicate::Outcome::ConditionFailed(failed(current)),
                    CommandOutcome::Applied | CommandOutcome::Duplicate(..) | CommandOutcome::Expired => {
                        duplicate::Outcome::Applied(Applied {})
                    }
                };
                result_response::Outcome::Duplicate(Duplicate {
                    first: Some(version(first)),
                    outcome: Some(outcome),
                })
            }
        };
        Ok(Response::new(ResultResponse {
            version: Some(asked),
            outcome: Some(outcome),
            applied_to: u64::try_from(state.log.len()).unwrap(),
        }))
    }

    type OutcomesStream = FakeAnswers<OutcomesResponse>;

    /// Each query counts as a call.
    async fn outcomes(
        &self,
        request: Request<Streaming<OutcomesRequest>>,
    ) -> FakeReply<Self::OutcomesStream> {
        let streams = self.streams.as_ref();
        let streams = streams.ok_or_else(|| Status::unimplemented("an older release"))?;
        streams.fetch_add(1, Ordering::Relaxed);
        let (answers, stream) = mpsc::channel(16);
        let (learner, mut requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                for query in request.queries {
                    tokio::spawn(learner.clone().answer(query, answers.clone()));
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type WatchStream = FakeAnswers<WatchResponse>;

    /// Sends the existing changes, and then the new changes.
    async fn watch(&self, request: Request<WatchRequest>) -> FakeReply<Self::WatchStream> {
        let reaction = self.called().await?;
        let WatchRequest { target, from } = request.into_inner();
        let goes_on = !matches!(reaction, LearnerReaction::FirstPage);
        if let (LearnerReaction::Below(kept), Some(from)) = (&reaction, &from)
            && from.slot < *kept
        {
            return Err(self.trimmed(*kept));
        }
        let (answers, stream) = mpsc::channel(16);
        let (world, mut applied_to) = (self.world.clone(), self.world.applied_to.subscribe());
        let from = from.map_or(*applied_to.borrow(), |from| usize::try_from(from.slot).unwrap());
        tokio::spawn(async move {
            let mut reported = from;
            loop {
                let now = *applied_to.borrow_and_update();
                let wanted = |change: &&Change| {
                    let slot = usize::try_from(change.version.unwrap().slot).unwrap();
                    let ours = match target.as_ref().unwrap() {
                        proto::watch_request::Target::Key(key) => change.key == key,
                        proto::watch_request::Target::Prefix(prefix) => change.key.starts_with(prefix),
                    };
                    ours && reported <= slot && slot < now
                };
                let response = WatchResponse {
                    changes: world.state().changes.iter().filter(wanted).cloned().collect(),
                    applied_to: u64::try_from(now).unwrap(),
                };
                reported = reported.max(now);
                if answers.send(Ok(response)).await.is_err() {
                    return;
                }
                if !goes_on {
                    answers.closed().await;
                    return;
                }
                let _ = tokio::time::timeout(Duration::from_secs(1), applied_to.changed()).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type BackupStream = FakeAnswers<proto::BackupResponse>;

    async fn backup(&self, _: Request<proto::BackupRequest>) -> FakeReply<Self::BackupStream> {
        Err(Status::unimplemented(""))
    }

    type SubscribeStream = FakeAnswers<proto::SubscribeResponse>;

    async fn subscribe(&self, _: Request<proto::SubscribeRequest>) -> FakeReply<Self::SubscribeStream> {
        Err(Status::unimplemented(""))
    }

    async fn status(
        &self,
        _: Request<proto::LearnerStatusRequest>,
    ) -> FakeReply<proto::LearnerStatusResponse> {
        Err(Status::unimplemented(""))
    }
}
