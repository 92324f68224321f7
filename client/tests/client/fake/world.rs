//! A fake cluster with registers and sessions as in the contract, and with failures on demand of a test.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use paxos_common::wire::status::to_proto;
use paxos_proto::v1::{
    self as proto, Change, ChangeMembersRequest, ChangeMembersResponse, Command, Condition, Deleted,
    FillRequest, FillResponse, ProposeRequest, ProposeResponse, ProposeStreamRequest, ProposeStreamResponse,
    ProposerStatusRequest, ProposerStatusResponse, Register, Version, change, command::Operation, condition,
    learner_server, proposer_server,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::{FakeAnswers, FakeReply, Served, serve, version};
use learner::WorldLearner;
pub(crate) use learner::trimmed;

mod learner;

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
        Ok(Response::new(ProposeResponse {
            version,
            ..ProposeResponse::default()
        }))
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
                        ..ProposeStreamResponse::default()
                    };
                    answers.send(Ok(answer)).await.is_ok()
                };
                tokio::spawn(answering);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type ChangeMembersStream = FakeAnswers<ChangeMembersResponse>;

    async fn change_members(&self, _: Request<ChangeMembersRequest>) -> FakeReply<Self::ChangeMembersStream> {
        Err(Status::unimplemented(""))
    }

    async fn fill(&self, _: Request<FillRequest>) -> FakeReply<FillResponse> {
        Err(Status::unimplemented(""))
    }

    async fn status(&self, _: Request<ProposerStatusRequest>) -> FakeReply<ProposerStatusResponse> {
        Err(Status::unimplemented(""))
    }
}
