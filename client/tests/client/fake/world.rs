//! A fake cluster with registers and sessions as in the contract, and with failures on demand of a test.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use paxos_client::Slot;
use paxos_common::wire::status::{self, KeptSlots, to_proto};
use paxos_proto::v1::{
    self as proto, Applied, Change, Command, Condition, ConditionFailed, Deleted, Duplicate, FillRequest,
    FillResponse, OutcomeQuery, OutcomesRequest, OutcomesResponse, ProposeRequest, ProposeResponse,
    ProposeStreamRequest, ProposeStreamResponse, ProposerStatusRequest, ProposerStatusResponse,
    QueriedOutcome, ReadRequest, ReadResponse, Register, ResultRequest, ResultResponse, Version,
    WatchRequest, WatchResponse, change, command::Operation, condition, duplicate, learner_server,
    proposer_server, queried_outcome, read_request, result_request, result_response,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::{FakeAnswers, FakeReply, Served, serve, version};

/// The fate of the nth proposed command, from 0; openings of sessions are not counted.
#[derive(Clone, Debug)]
pub(crate) enum CommandFate {
    /// The command is ordered and answered.
    Ordered,
    /// The command is ordered, and the answer is lost.
    AnswerLost,
    /// The command is lost on the way, with an unknown fate.
    Lost,
    /// The command is lost on the way, and no answer ever comes.
    Unanswered,
    /// The proposer answers with this error.
    Fails(Status),
}

/// The reaction of a learner to the nth call, from 0.
#[derive(Clone, Debug)]
pub(crate) enum LearnerReaction {
    /// The truth.
    Truth,
    /// This error.
    Fails(Status),
    /// The truth, but of commands below this slot only the outcome that the session recorded.
    Below(u64),
    /// Nothing, ever.
    Nothing,
    /// The truth; on a stream, nothing after the first page.
    FirstPage,
}

#[derive(Clone)]
pub(crate) struct FakeWorld {
    state: Arc<Mutex<WorldState>>,
    fate: Arc<dyn Fn(usize) -> CommandFate + Send + Sync>,
    applied_to: watch::Sender<usize>,
}

#[derive(Default)]
struct WorldState {
    log: Vec<(Command, Option<CommandOutcome>)>,
    registers: BTreeMap<Bytes, Register>,
    sessions: HashMap<u64, BTreeMap<u64, (usize, CommandOutcome)>>,
    /// The opener of every opened session.
    openers: HashMap<u64, Bytes>,
    changes: Vec<Change>,
    proposed: usize,
}

#[derive(Clone, Debug)]
enum CommandOutcome {
    Applied,
    Failed(Option<Register>),
    Duplicate(usize, Box<CommandOutcome>),
    Expired,
}

impl FakeWorld {
    pub(crate) fn new(fate: impl Fn(usize) -> CommandFate + Send + Sync + 'static) -> Self {
        Self {
            state: Arc::default(),
            fate: Arc::new(fate),
            applied_to: watch::Sender::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, WorldState> {
        self.state.lock().unwrap()
    }

    /// The ordered commands, in order.
    pub(crate) fn log(&self) -> Vec<Command> {
        self.state()
            .log
            .iter()
            .map(|(command, _)| command.clone())
            .collect()
    }

    /// Number of opened sessions.
    pub(crate) fn opened(&self) -> usize {
        let is_opening = |command: &Command| matches!(command.operation, Some(Operation::OpenSession(_)));
        self.log().iter().filter(|command| is_opening(command)).count()
    }

    /// Expires all sessions.
    pub(crate) fn expire_sessions(&self) {
        self.state().sessions.clear();
    }

    /// Orders a command from elsewhere.
    pub(crate) fn order(&self, command: Command) -> usize {
        let applied_to = {
            let mut state = self.state();
            state.apply(command);
            state.log.len()
        };
        self.applied_to.send_replace(applied_to);
        applied_to - 1
    }

    pub(crate) async fn serve_proposer(&self) -> Served {
        serve(Routes::new(proposer_server::ProposerServer::new(self.clone()))).await
    }

    pub(crate) async fn serve_learner(
        &self,
        reaction: impl Fn(usize) -> LearnerReaction + Send + Sync + 'static,
    ) -> ServedLearner {
        self.serve(Arc::new(reaction), Some(Arc::default())).await
    }

    /// A learner of a release without streams of outcomes.
    pub(crate) async fn serve_old_learner(&self) -> ServedLearner {
        self.serve(Arc::new(|_| LearnerReaction::Truth), None).await
    }

    async fn serve(
        &self,
        reaction: Arc<dyn Fn(usize) -> LearnerReaction + Send + Sync>,
        streams: Option<Arc<AtomicUsize>>,
    ) -> ServedLearner {
        let calls = Arc::new(Mutex::new(0));
        let learner = WorldLearner {
            world: self.clone(),
            reaction,
            calls: calls.clone(),
            streams: streams.clone(),
        };
        let served = serve(Routes::new(learner_server::LearnerServer::new(learner))).await;
        ServedLearner {
            served,
            calls,
            streams,
        }
    }

    /// `None`: the connection breaks without an answer.
    async fn propose(&self, command: Option<Command>) -> Option<Result<Version, Status>> {
        let command = command.unwrap();
        let fate = if matches!(command.operation, Some(Operation::OpenSession(_))) {
            CommandFate::Ordered
        } else {
            let mut state = self.state();
            let number = state.proposed;
            state.proposed += 1;
            (self.fate)(number)
        };
        match fate {
            CommandFate::Ordered => Some(Ok(version(self.order(command)))),
            CommandFate::AnswerLost => {
                self.order(command);
                None
            }
            CommandFate::Lost => None,
            CommandFate::Unanswered => std::future::pending().await,
            CommandFate::Fails(status) => Some(Err(status)),
        }
    }
}

/// A served learner, and the number of its calls.
pub(crate) struct ServedLearner {
    pub(crate) served: Served,
    calls: Arc<Mutex<usize>>,
    streams: Option<Arc<AtomicUsize>>,
}

impl ServedLearner {
    /// Number of streams of outcomes that clients have opened.
    pub(crate) fn outcome_streams(&self) -> usize {
        self.streams
            .as_ref()
            .map_or(0, |streams| streams.load(Ordering::Relaxed))
    }

    pub(crate) fn calls(&self) -> usize {
        *self.calls.lock().unwrap()
    }
}

impl WorldState {
    fn apply(&mut self, command: Command) {
        let slot = self.log.len();
        let outcome = match &command.session {
            None => self.carry_out(slot, &command),
            Some(stamp) => {
                let name = stamp.session.unwrap().slot;
                let recorded = self.sessions.get(&name);
                let opener = self.openers.get(&name);
                assert_eq!(opener, Some(&stamp.opener), "the opener of the session");
                match recorded.map(|outcomes| outcomes.get(&stamp.sequence).cloned()) {
                    None => CommandOutcome::Expired,
                    Some(Some((first, outcome))) => CommandOutcome::Duplicate(first, Box::new(outcome)),
                    Some(None) => {
                        let outcome = self.carry_out(slot, &command);
                        let outcomes = self.sessions.get_mut(&name).unwrap();
                        outcomes.retain(|sequence, _| *sequence >= stamp.acked_below);
                        outcomes.insert(stamp.sequence, (slot, outcome.clone()));
                        outcome
                    }
                }
            }
        };
        self.log.push((command, Some(outcome)));
    }

    fn carry_out(&mut self, slot: usize, command: &Command) -> CommandOutcome {
        let (key, value, condition) = match command.operation.clone().unwrap() {
            Operation::Append(_) => return CommandOutcome::Applied,
            Operation::OpenSession(opening) => {
                self.openers.insert(u64::try_from(slot).unwrap(), opening.opener);
                self.sessions
                    .insert(u64::try_from(slot).unwrap(), BTreeMap::new());
                return CommandOutcome::Applied;
            }
            Operation::Put(put) => (put.key, Some(put.value), put.condition),
            Operation::Delete(delete) => (delete.key, None, delete.condition),
        };
        let current = self.registers.get(&key);
        let holds = match condition.and_then(|Condition { condition }| condition) {
            None => true,
            Some(condition::Condition::Absent(_)) => current.is_none(),
            Some(condition::Condition::Version(version)) => {
                current.is_some_and(|register| register.version == Some(version))
            }
        };
        if !holds {
            return CommandOutcome::Failed(current.cloned());
        }
        let change = match &value {
            Some(value) => change::Change::Value(value.clone()),
            None => change::Change::Deleted(Deleted {}),
        };
        self.changes.push(Change {
            key: key.clone(),
            version: Some(version(slot)),
            change: Some(change),
        });
        match value {
            Some(value) => {
                let version = Some(version(slot));
                self.registers
                    .insert(key.clone(), Register { key, value, version });
            }
            None => drop(self.registers.remove(&key)),
        }
        CommandOutcome::Applied
    }
}

#[tonic::async_trait]
impl proposer_server::Proposer for FakeWorld {
    async fn propose(&self, request: Request<ProposeRequest>) -> FakeReply<ProposeResponse> {
        let answer = self.propose(request.into_inner().command).await;
        let version = Some(answer.unwrap_or_else(|| Err(Status::unavailable("broken")))?);
        Ok(Response::new(ProposeResponse { version }))
    }

    type ProposeStreamStream = FakeAnswers<ProposeStreamResponse>;

    async fn propose_stream(
        &self,
        request: Request<Streaming<ProposeStreamRequest>>,
    ) -> FakeReply<Self::ProposeStreamStream> {
        let (answers, stream) = mpsc::channel(4096);
        let (world, mut requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let (world, answers) = (world.clone(), answers.clone());
                let answering = async move {
                    use proto::propose_stream_response::Answer;
                    let answer = match world.propose(request.command).await {
                        None => return answers.send(Err(Status::unavailable("broken"))).await.is_ok(),
                        Some(Ok(version)) => Answer::Version(version),
                        Some(Err(status)) => Answer::Error(to_proto(&status)),
                    };
                    let answer = ProposeStreamResponse {
                        tag: request.tag,
                        answer: Some(answer),
                    };
                    answers.send(Ok(answer)).await.is_ok()
                };
                tokio::spawn(answering);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn fill(&self, _: Request<FillRequest>) -> FakeReply<FillResponse> {
        Err(Status::unimplemented(""))
    }

    async fn status(&self, _: Request<ProposerStatusRequest>) -> FakeReply<ProposerStatusResponse> {
        Err(Status::unimplemented(""))
    }
}

#[derive(Clone)]
struct WorldLearner {
    world: FakeWorld,
    reaction: Arc<dyn Fn(usize) -> LearnerReaction + Send + Sync>,
    calls: Arc<Mutex<usize>>,
    /// Number of streams of outcomes; none: the learner's release has no such call.
    streams: Option<Arc<AtomicUsize>>,
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
