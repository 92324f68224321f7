//! Fakes of all three roles on real sockets, under the control of a test.

pub(crate) mod world;

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures::Stream;
use paxos_client::Address;
use paxos_common::wire::status::{stopping, to_proto};
use paxos_proto::v1::{
    self as proto, AcceptorStatusRequest, AcceptorStatusResponse, AttachRequest, AttachResponse,
    AttachedPeer, ChangeMembersRequest, ChangeMembersResponse, Command, FillRequest, FillResponse,
    ProposeRequest, ProposeResponse, ProposeStreamRequest, ProposeStreamResponse, ProposerPhase,
    ProposerProgress, ProposerStatusRequest, ProposerStatusResponse, Role, SubscribeRequest,
    SubscribeResponse, Version,
    acceptor_server::{Acceptor, AcceptorServer},
    attach_request::Progress,
    command::Operation,
    learner_server::{Learner, LearnerServer},
    propose_stream_response::Answer,
    proposer_server::{Proposer, ProposerServer},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, service::Routes, transport::Server};

type FakeAnswers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type FakeReply<T> = Result<Response<T>, Status>;

/// The reaction of a fake proposer to a command.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// Orders the command.
    Orders,
    /// Answers with an error.
    Fails(Status),
    /// Never answers.
    IsSilent,
    /// Orders the command on [`FakeProposer::resume`], like a process on a slow disk or a paused process.
    OrdersLate,
    /// Breaks the stream, like a killed process.
    Breaks,
    /// Ends the stream, like a stopping process: unanswered commands were not read.
    Stops,
}

/// A fake proposer: `script` gives the reaction to the nth received command, from 0.
#[derive(Clone)]
pub(crate) struct FakeProposer {
    script: Arc<dyn Fn(usize) -> Does + Send + Sync>,
    seen: Arc<Mutex<SeenProposal>>,
    phase: watch::Sender<FakePhase>,
    standing: Arc<Mutex<FakeStanding>>,
}

/// The answer of a fake proposer to the question who leads.
#[derive(Clone, Debug, Default)]
pub(crate) enum FakeStanding {
    /// No answer.
    #[default]
    Unknown,
    /// The fake leads.
    Leads,
    /// The proposer at this address leads.
    Follows(Address),
}

#[derive(Default)]
struct SeenProposal {
    commands: Vec<Vec<u8>>,
    streams: usize,
    probes: usize,
}

/// The state of the process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FakePhase {
    /// Answers questions, but not yet the late commands.
    Slow,
    /// Answers nothing more after the first received command, like a paused process.
    Paused,
    /// Answers everything.
    Resumed,
}

impl FakeProposer {
    pub(crate) fn new(script: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        Self {
            script: Arc::new(script),
            seen: Arc::default(),
            phase: watch::Sender::new(FakePhase::Slow),
            standing: Arc::default(),
        }
    }

    /// Reports from now on who leads.
    pub(crate) fn stands(&self, standing: FakeStanding) {
        *self.standing.lock().unwrap() = standing;
    }

    /// As in `ProposeStreamResponse`.
    fn leader_address(&self) -> Option<String> {
        match &*self.standing.lock().unwrap() {
            FakeStanding::Unknown => None,
            FakeStanding::Leads => Some(String::new()),
            FakeStanding::Follows(leader) => Some(leader.to_string()),
        }
    }

    /// Answers nothing more from the first command on, until resumed.
    pub(crate) fn paused(self) -> Self {
        self.phase.send_replace(FakePhase::Paused);
        self
    }

    /// Answers everything, including the commands left open.
    pub(crate) fn resume(&self) {
        self.phase.send_replace(FakePhase::Resumed);
    }

    /// Number of status calls.
    pub(crate) fn probes(&self) -> usize {
        self.seen.lock().unwrap().probes
    }

    async fn resumed(&self) {
        let mut phase = self.phase.subscribe();
        phase
            .wait_for(|phase| *phase == FakePhase::Resumed)
            .await
            .unwrap();
    }

    /// The records of all received commands.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().commands.clone()
    }

    /// Number of opened streams.
    pub(crate) fn streams(&self) -> usize {
        self.seen.lock().unwrap().streams
    }

    fn take(&self, command: Option<Command>) -> (usize, Does) {
        let mut seen = self.seen.lock().unwrap();
        let Some(Operation::Append(append)) = command.and_then(|command| command.operation) else {
            panic!("only appends are expected here")
        };
        let number = seen.commands.len();
        seen.commands.push(append.record.to_vec());
        (number, (self.script)(number))
    }

    pub(crate) async fn serve(&self) -> Served {
        serve(Routes::new(ProposerServer::new(self.clone()))).await
    }

    pub(crate) async fn serve_on(&self, listener: TcpListener) -> Served {
        serve_on(listener, Routes::new(ProposerServer::new(self.clone())))
    }
}

#[tonic::async_trait]
impl Proposer for FakeProposer {
    async fn propose(&self, request: Request<ProposeRequest>) -> FakeReply<ProposeResponse> {
        let (number, does) = self.take(request.into_inner().command);
        match does {
            Does::Orders => Ok(Response::new(ProposeResponse {
                version: Some(version(number)),
                leader_address: self.leader_address().unwrap_or_default(),
            })),
            Does::Fails(status) => Err(status),
            Does::IsSilent => std::future::pending().await,
            Does::OrdersLate => {
                self.resumed().await;
                Ok(Response::new(ProposeResponse {
                    version: Some(version(number)),
                    ..ProposeResponse::default()
                }))
            }
            Does::Breaks => Err(Status::unavailable("broken")),
            Does::Stops => Err(stopping()),
        }
    }

    type ProposeStreamStream = FakeAnswers<ProposeStreamResponse>;

    async fn propose_stream(
        &self,
        request: Request<Streaming<ProposeStreamRequest>>,
    ) -> FakeReply<Self::ProposeStreamStream> {
        self.seen.lock().unwrap().streams += 1;
        let (answers, stream) = mpsc::channel(4096);
        let (fake, mut requests) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let mut named = None;
            while let Ok(Some(request)) = requests.message().await {
                let (number, does) = fake.take(request.command);
                let answer = match does {
                    Does::Orders => Answer::Version(version(number)),
                    Does::Fails(status) => Answer::Error(to_proto(&status)),
                    Does::IsSilent => continue,
                    Does::OrdersLate => {
                        fake.resumed().await;
                        Answer::Version(version(number))
                    }
                    Does::Breaks => {
                        let _ = answers.send(Err(Status::unavailable("broken"))).await;
                        return;
                    }
                    Does::Stops => {
                        let _ = answers.send(Err(stopping())).await;
                        return;
                    }
                };
                let leader = fake.leader_address();
                let answer = ProposeStreamResponse {
                    tag: request.tag,
                    answer: Some(answer),
                    leader_address: leader.clone().filter(|_| leader != named),
                };
                named = leader;
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
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
        let ordered = {
            let mut seen = self.seen.lock().unwrap();
            seen.probes += 1;
            u64::try_from(seen.commands.len()).unwrap()
        };
        if ordered > 0 && *self.phase.borrow() == FakePhase::Paused {
            self.resumed().await;
        }
        let phase = match &*self.standing.lock().unwrap() {
            FakeStanding::Unknown => ProposerPhase::Unspecified,
            FakeStanding::Leads => ProposerPhase::Leading,
            FakeStanding::Follows(_) => ProposerPhase::Standby,
        };
        Ok(Response::new(ProposerStatusResponse {
            chosen_to: ordered,
            phase: phase.into(),
            leader_address: self.leader_address().unwrap_or_default(),
            ..Default::default()
        }))
    }
}

/// The nth command gets slot n.
fn version(number: usize) -> Version {
    Version {
        slot: u64::try_from(number).unwrap(),
        offset: 0,
    }
}

/// A fake learner with a record in every slot: sends `log(from)`, and then breaks the stream.
#[derive(Clone)]
pub(crate) struct FakeLearner {
    log: Arc<dyn Fn(u64) -> Result<Vec<u64>, Status> + Send + Sync>,
    pub(crate) asked: Arc<Mutex<Vec<u64>>>,
}

impl FakeLearner {
    pub(crate) fn new(log: impl Fn(u64) -> Result<Vec<u64>, Status> + Send + Sync + 'static) -> Self {
        Self {
            log: Arc::new(log),
            asked: Arc::default(),
        }
    }

    pub(crate) async fn serve(&self) -> Served {
        serve(Routes::new(LearnerServer::new(self.clone()))).await
    }
}

#[tonic::async_trait]
impl Learner for FakeLearner {
    /// No register has a value; the log ends after the first page.
    async fn read(&self, _: Request<proto::ReadRequest>) -> FakeReply<proto::ReadResponse> {
        let last = (self.log)(0)?.last().copied();
        Ok(Response::new(proto::ReadResponse {
            applied_to: last.map_or(0, |slot| slot + 1),
            ..Default::default()
        }))
    }

    async fn result(&self, _: Request<proto::ResultRequest>) -> FakeReply<proto::ResultResponse> {
        Err(Status::unimplemented(""))
    }

    type OutcomesStream = FakeAnswers<proto::OutcomesResponse>;

    async fn outcomes(
        &self,
        _: Request<Streaming<proto::OutcomesRequest>>,
    ) -> FakeReply<Self::OutcomesStream> {
        Err(Status::unimplemented(""))
    }

    type WatchStream = FakeAnswers<proto::WatchResponse>;

    async fn watch(&self, _: Request<proto::WatchRequest>) -> FakeReply<Self::WatchStream> {
        Err(Status::unimplemented(""))
    }

    type BackupStream = FakeAnswers<proto::BackupResponse>;

    async fn backup(&self, _: Request<proto::BackupRequest>) -> FakeReply<Self::BackupStream> {
        Err(Status::unimplemented(""))
    }

    type SubscribeStream = FakeAnswers<SubscribeResponse>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> FakeReply<Self::SubscribeStream> {
        let from = request.into_inner().from;
        self.asked.lock().unwrap().push(from);
        let records: Vec<_> = (self.log)(from)?
            .into_iter()
            .map(|slot| proto::LogRecord {
                slot,
                ..Default::default()
            })
            .collect();
        let next = records.last().map_or(from, |record| record.slot + 1);
        let answers = [
            Ok(SubscribeResponse { records, next }),
            Err(Status::unavailable("broken")),
        ];
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn status(
        &self,
        _: Request<proto::LearnerStatusRequest>,
    ) -> FakeReply<proto::LearnerStatusResponse> {
        Err(Status::unimplemented(""))
    }
}

/// A fake acceptor that only names the attached peers; the last proposer leads.
pub(crate) struct FakeAcceptor(AcceptorStatusResponse);

impl FakeAcceptor {
    pub(crate) fn naming(peers: &[(Role, &Address)]) -> Self {
        let leader = peers.iter().rfind(|(role, _)| *role == Role::Proposer);
        let peer = |peer: &(Role, &Address)| AttachedPeer {
            report: Some(AttachRequest {
                role: peer.0.into(),
                address: peer.1.to_string(),
                progress: (Some(peer) == leader).then(|| {
                    Progress::Proposer(ProposerProgress {
                        leading: true,
                        ..ProposerProgress::default()
                    })
                }),
                ..AttachRequest::default()
            }),
            age_ms: 0,
        };
        Self(AcceptorStatusResponse {
            attached: peers.iter().map(peer).collect(),
            ..AcceptorStatusResponse::default()
        })
    }

    /// The same acceptor with another answer.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut AcceptorStatusResponse)) -> Self {
        change(&mut self.0);
        self
    }

    pub(crate) async fn serve(self) -> Served {
        serve(Routes::new(AcceptorServer::new(self))).await
    }
}

#[tonic::async_trait]
impl Acceptor for FakeAcceptor {
    async fn form(&self, _: Request<proto::FormRequest>) -> FakeReply<proto::FormResponse> {
        Err(Status::unimplemented(""))
    }

    type PrepareStream = FakeAnswers<proto::PromisePage>;

    async fn prepare(&self, _: Request<proto::PrepareRequest>) -> FakeReply<Self::PrepareStream> {
        Err(Status::unimplemented(""))
    }

    type AcceptStream = FakeAnswers<proto::AcceptResponse>;

    async fn accept(&self, _: Request<Streaming<proto::AcceptRequest>>) -> FakeReply<Self::AcceptStream> {
        Err(Status::unimplemented(""))
    }

    type ObserveStream = FakeAnswers<proto::ObserveFrame>;

    async fn observe(&self, _: Request<proto::ObserveRequest>) -> FakeReply<Self::ObserveStream> {
        Err(Status::unimplemented(""))
    }

    async fn tail(&self, _: Request<proto::TailRequest>) -> FakeReply<proto::TailResponse> {
        Err(Status::unimplemented(""))
    }

    async fn keep(&self, _: Request<Streaming<proto::KeepRequest>>) -> FakeReply<proto::KeepResponse> {
        Err(Status::unimplemented(""))
    }

    type SnapshotStream = FakeAnswers<proto::SnapshotResponse>;

    async fn snapshot(&self, _: Request<proto::SnapshotRequest>) -> FakeReply<Self::SnapshotStream> {
        Err(Status::unimplemented(""))
    }

    type AttachStream = FakeAnswers<AttachResponse>;

    async fn attach(&self, _: Request<Streaming<AttachRequest>>) -> FakeReply<Self::AttachStream> {
        Err(Status::unimplemented(""))
    }

    async fn status(&self, _: Request<AcceptorStatusRequest>) -> FakeReply<AcceptorStatusResponse> {
        Ok(Response::new(self.0.clone()))
    }
}

/// A running fake; a drop ends the fake and all connections.
pub(crate) struct Served {
    pub(crate) address: Address,
    task: AbortHandle,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(routes: Routes) -> Served {
    serve_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), routes)
}

fn serve_on(listener: TcpListener, routes: Routes) -> Served {
    let address = address_of(&listener);
    let server = Server::builder()
        .add_routes(routes)
        .serve_with_incoming(TcpListenerStream::new(listener));
    Served {
        address,
        task: tokio::spawn(server).abort_handle(),
    }
}

pub(crate) fn address_of(listener: &TcpListener) -> Address {
    format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap()
}

/// An address without a listener.
pub(crate) async fn closed_address() -> Address {
    address_of(&TcpListener::bind("127.0.0.1:0").await.unwrap())
}
