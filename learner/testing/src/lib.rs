//! Acceptors with scripted answers, over real gRPC, and a learner connected to these acceptors: for the learner's tests
//! and benches.
#![expect(clippy::unwrap_used, reason = "in tests, helpers included")]
#![expect(
    clippy::missing_panics_doc,
    reason = "every helper of a test panics when the test fails"
)]

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::Stream;
use paxos_common::{
    paxos::{identity::AcceptorUuid, quorum::Configuration, slot::Slot},
    peer::Address,
    wire,
};
use paxos_proto::v1::{
    self as pb,
    acceptor_server::{Acceptor, AcceptorServer},
};
use tokio::{net::TcpListener, sync::watch};
use tonic::{Request, Response, Status, Streaming};

mod running;
mod snapshots;

pub use running::TestLearner;
pub use snapshots::{KeptSnapshot, SnapshotScript};

/// The script of an acceptor.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The stored configuration; with a configuration, the acceptor is a formed member.
    pub configuration: Option<pb::Configuration>,
    /// Accepted, in the order of the commits.
    pub accepted: Vec<(pb::Ballot, u64, Bytes)>,
    /// The watermark in every frame.
    pub chosen_to: u64,
    /// Values streams stay open and silent.
    pub values_muted: bool,
    /// Frames carry the stamp of this acceptor instead.
    pub frames_stamped: Option<AcceptorUuid>,
    /// The runs on disk, by number, the present run last; empty stands for a single run, number 1.
    pub runs: Vec<u64>,
    /// The remembered runs of other acceptors, by acceptor and number.
    pub remembers: Vec<(AcceptorUuid, u64)>,
    /// The reported `voted_to`: the slot after the highest vote.
    pub voted_to: u64,
    /// The reported first readable slot; each change is reported at once.
    pub trimmed_to: u64,
    /// `Form` calls stay unanswered.
    pub forms_muted: bool,
    /// Streams opened before an increase of this counter are broken off.
    pub breaks: u64,
    /// The snapshot to `trimmed_to`.
    pub snapshot: Option<SnapshotScript>,
    /// Asks every learner for a snapshot above this slot; each change is reported at once.
    pub snapshot_wanted: Option<u64>,
    /// Uploads are refused with this code.
    pub keep_refused: Option<tonic::Code>,
    /// Uploads are neither read nor answered after the begin.
    pub keeps_muted: bool,
    /// The leadership in every answer on `Attach` streams; each change is reported at once.
    pub leadership: Option<pb::Leadership>,
}

/// The calls received by an acceptor.
#[derive(Clone, Debug, Default)]
pub struct HeardCalls {
    /// Number of `Form` calls.
    pub forms: u64,
    /// Number of `Tail` calls.
    pub tails: u64,
    /// The first slot of each stream of votes.
    pub votes_from: Vec<u64>,
    /// The first slot of each stream of values.
    pub values_from: Vec<u64>,
    /// Every report on every `Attach` stream.
    pub reports: Vec<pb::AttachRequest>,
    /// The begins of uploads.
    pub keep_begins: Vec<pb::SnapshotId>,
    /// Every whole upload.
    pub kept: Vec<KeptSnapshot>,
    /// Number of streams of the snapshot.
    pub snapshots: u64,
}

/// An acceptor of a test.
#[derive(Clone, Debug)]
pub struct FakeAcceptor {
    /// The uuid in every stamp.
    pub uuid: AcceptorUuid,
    /// The address of the acceptor's server.
    pub address: Address,
    /// What the acceptor answers.
    pub script: Arc<watch::Sender<Script>>,
    /// What the acceptor has received.
    pub heard: Arc<watch::Sender<HeardCalls>>,
}

type AnswerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl FakeAcceptor {
    /// Starts an acceptor without a configuration, on a free port.
    pub async fn start(uuid: u128) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let acceptor = Self {
            uuid: AcceptorUuid::from_u128(uuid),
            address: format!("http://{}", listener.local_addr().unwrap())
                .parse()
                .unwrap(),
            script: Arc::new(watch::Sender::default()),
            heard: Arc::new(watch::Sender::default()),
        };
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = AcceptorServer::new(acceptor.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        acceptor
    }

    /// Accepts values at a ballot of this round, for the slots given.
    pub fn accept(&self, round: u64, values: &[(u64, &str)]) {
        self.script.send_modify(|script| {
            for &(slot, text) in values {
                script.accepted.push((ballot(round), slot, value(text)));
            }
        });
    }

    /// Changes the script.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        self.script.send_modify(change);
    }

    /// Waits until `enough` is true of the received calls.
    pub async fn hears(&self, enough: impl FnMut(&HeardCalls) -> bool) -> HeardCalls {
        let mut heard = self.heard.subscribe();
        let heard = within_deadline(heard.wait_for(enough)).await;
        heard.unwrap().clone()
    }

    fn stamp(&self, stamped: Option<AcceptorUuid>) -> pb::Stamp {
        let script = self.script.borrow();
        let configuration = script.configuration.clone();
        pb::Stamp {
            cluster_id: configuration.map_or_else(Bytes::new, |configuration| {
                let configuration = Configuration::try_from(configuration).unwrap();
                Bytes::copy_from_slice(configuration.cluster_id().as_bytes())
            }),
            acceptor: Bytes::copy_from_slice(&stamped.unwrap_or(self.uuid).to_bytes()),
            run: script.runs.last().copied().unwrap_or(1),
            commit_counter: 1,
            runs: Vec::new(),
        }
    }

    fn frame(&self, script: &Script, begin: usize, request: &pb::ObserveRequest) -> pb::ObserveFrame {
        let news = script.accepted[begin..]
            .iter()
            .filter(|(_, slot, _)| *slot >= request.from.max(script.trimmed_to));
        let mut frame = pb::ObserveFrame {
            stamp: Some(self.stamp(script.frames_stamped)),
            chosen_to: script.chosen_to,
            trimmed_to: script.trimmed_to,
            ..Default::default()
        };
        for (ballot, slot, value) in news {
            if request.kind() == pb::ObserveKind::Values {
                frame.rows.push(pb::Row {
                    slot: *slot,
                    ballot: Some(*ballot),
                    value: value.clone(),
                    traceparent: String::new(),
                    unknown: false,
                });
            } else {
                frame.votes.push(pb::VoteRange {
                    ballot: Some(*ballot),
                    from: *slot,
                    to: slot + 1,
                    values: Vec::new(),
                });
            }
        }
        frame
    }
}

#[tonic::async_trait]
impl Acceptor for FakeAcceptor {
    type PrepareStream = AnswerStream<pb::PromisePage>;
    type AcceptStream = AnswerStream<pb::AcceptResponse>;
    type ObserveStream = AnswerStream<pb::ObserveFrame>;
    type AttachStream = AnswerStream<pb::AttachResponse>;
    type SnapshotStream = AnswerStream<pb::SnapshotResponse>;

    async fn form(&self, request: Request<pb::FormRequest>) -> Result<Response<pb::FormResponse>, Status> {
        assert!(request.get_ref().step.is_none(), "a learner forms nothing");
        let configuration = self.script.borrow().configuration.clone();
        let membership = match &configuration {
            Some(_) => pb::Membership::Formed,
            None => pb::Membership::Blank,
        };
        self.heard.send_modify(|heard| heard.forms += 1);
        next_script(&mut self.script.subscribe(), |script| !script.forms_muted).await;
        let mut stamp = self.stamp(None);
        let run = |run| pb::Run {
            run,
            commit_counter: 1,
        };
        stamp.runs = match &self.script.borrow().runs[..] {
            [] => vec![run(1)],
            runs => runs.iter().copied().map(run).collect(),
        };
        let remembers = self.script.borrow().remembers.clone();
        let witness = |(acceptor, run): (AcceptorUuid, u64)| pb::Witness {
            acceptor: Bytes::copy_from_slice(&acceptor.to_bytes()),
            run,
            commit_counter: 1,
        };
        Ok(Response::new(pb::FormResponse {
            witnesses: remembers.into_iter().map(witness).collect(),
            stamp: Some(stamp),
            membership: membership.into(),
            configuration,
            address: self.address.to_string(),
            ..Default::default()
        }))
    }

    async fn observe(
        &self,
        request: Request<pb::ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let request = request.into_inner();
        // Before the test sees the call, so that a later break ends this stream.
        let opened_at = self.script.borrow().breaks;
        self.heard.send_modify(|heard| match request.kind() {
            pb::ObserveKind::Votes => heard.votes_from.push(request.from),
            pb::ObserveKind::Values => heard.values_from.push(request.from),
            pb::ObserveKind::Unspecified => panic!("a learner says what it wants"),
        });
        let acceptor = self.clone();
        let mut script = self.script.subscribe();
        let frames = async_stream::try_stream! {
            let values = request.kind() == pb::ObserveKind::Values;
            let mut shown = 0;
            loop {
                let now = next_script(&mut script, |script| {
                    script.breaks != opened_at
                        || script.accepted.len() > shown && !(values && script.values_muted)
                })
                .await;
                if now.breaks != opened_at {
                    Err(Status::unavailable("broken off"))?;
                }
                yield acceptor.frame(&now, shown, &request);
                shown = now.accepted.len();
            }
        };
        Ok(Response::new(Box::pin(frames)))
    }

    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let acceptor = self.clone();
        let mut reports = request.into_inner();
        let mut script = self.script.subscribe();
        let answers = async_stream::try_stream! {
            let news = |script: &Script| (script.trimmed_to, script.snapshot_wanted, script.leadership.clone());
            let (mut trimmed_to, mut wanted, mut leadership) = news(&script.borrow());
            loop {
                let received = tokio::select! {
                    received = reports.message() => Some(received),
                    _ = script.wait_for(|script| news(script) != (trimmed_to, wanted, leadership.clone())) => None,
                };
                if let Some(received) = received {
                    let Some(report) = received? else { break };
                    acceptor.heard.send_modify(|heard| heard.reports.push(report));
                }
                let chosen_to = {
                    let script = script.borrow_and_update();
                    (trimmed_to, wanted, leadership) = news(&script);
                    script.chosen_to
                };
                yield pb::AttachResponse {
                    stamp: Some(acceptor.stamp(None)),
                    leadership: leadership.clone(),
                    chosen_to,
                    voted_to: 0,
                    trimmed_to,
                    snapshot_wanted: wanted.map(|above| pb::SnapshotWanted { above }),
                    ..Default::default()
                };
            }
        };
        Ok(Response::new(Box::pin(answers)))
    }

    async fn prepare(&self, _: Request<pb::PrepareRequest>) -> Result<Response<Self::PrepareStream>, Status> {
        unreachable!("a learner never prepares")
    }

    async fn keep(
        &self,
        request: Request<Streaming<pb::KeepRequest>>,
    ) -> Result<Response<pb::KeepResponse>, Status> {
        self.receive(request.into_inner()).await.map(Response::new)
    }

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.send_snapshot().map(Response::new)
    }

    async fn accept(
        &self,
        _: Request<Streaming<pb::AcceptRequest>>,
    ) -> Result<Response<Self::AcceptStream>, Status> {
        unreachable!("a learner never proposes")
    }

    async fn tail(&self, request: Request<pb::TailRequest>) -> Result<Response<pb::TailResponse>, Status> {
        self.heard.send_modify(|heard| heard.tails += 1);
        let script = self.script.borrow();
        Ok(Response::new(pb::TailResponse {
            stamp: Some(self.stamp(script.frames_stamped)),
            nonce: request.get_ref().nonce,
            // An acceptor never denies a shown vote.
            voted_to: script.voted_to.max(
                script
                    .accepted
                    .iter()
                    .map(|(_, slot, _)| slot + 1)
                    .max()
                    .unwrap_or(0),
            ),
            trimmed_to: script.trimmed_to,
        }))
    }

    async fn status(
        &self,
        _: Request<pb::AcceptorStatusRequest>,
    ) -> Result<Response<pb::AcceptorStatusResponse>, Status> {
        unreachable!("a learner asks no status")
    }
}

/// The ballot of this round of the only proposer.
pub fn ballot(round: u64) -> pb::Ballot {
    pb::Ballot {
        round,
        proposer: 1,
        era: 0,
    }
}

/// The same in a later era.
pub fn ballot_in(era: u64, round: u64) -> pb::Ballot {
    pb::Ballot { era, ..ballot(round) }
}

/// An encoded value of a single record.
pub fn value(text: &str) -> Bytes {
    let command = wire::command::append(Bytes::copy_from_slice(text.as_bytes()));
    wire::command::encode(command).unwrap().as_bytes().clone()
}

async fn next_script(script: &mut watch::Receiver<Script>, wanted: impl FnMut(&Script) -> bool) -> Script {
    script.wait_for(wanted).await.unwrap().clone()
}

/// Fails a hanging test, long after the time of the slowest machine.
pub async fn within_deadline<T>(waiting: impl Future<Output = T>) -> T {
    let deadline = std::time::Duration::from_secs(30);
    tokio::time::timeout(deadline, waiting)
        .await
        .expect("what the test waits for never comes")
}

/// No member of any cluster.
pub fn stranger() -> AcceptorUuid {
    AcceptorUuid::from_u128(99)
}

/// Three blank acceptors.
pub async fn blank_acceptors() -> [FakeAcceptor; 3] {
    [
        FakeAcceptor::start(1).await,
        FakeAcceptor::start(2).await,
        FakeAcceptor::start(3).await,
    ]
}

/// Makes `members` formed members of their cluster.
pub fn form(members: &[FakeAcceptor]) {
    let list = members
        .iter()
        .map(|acceptor| (acceptor.uuid, Arc::from(acceptor.address.as_str())));
    let quorum = members.len() / 2 + 1;
    let configuration = Configuration::new(list, quorum, quorum).unwrap();
    install(members, &configuration);
}

/// The acceptors hold this configuration.
pub fn install(acceptors: &[FakeAcceptor], configuration: &Configuration) {
    for acceptor in acceptors {
        acceptor.change(|script| script.configuration = Some(configuration.into()));
    }
}

/// The configuration that an acceptor holds.
pub fn held(acceptor: &FakeAcceptor) -> Configuration {
    let configuration = acceptor.script.borrow().configuration.clone().unwrap();
    Configuration::try_from(configuration).unwrap()
}

/// The configuration of the era after `present`, with these members.
pub fn changed(present: &Configuration, members: &[FakeAcceptor]) -> Configuration {
    let quorum = members.len() / 2 + 1;
    let members = members.iter().map(|acceptor| {
        let address: Arc<str> = Arc::from(acceptor.address.as_str());
        (acceptor.uuid, address.into())
    });
    present.changed_to(members, quorum, quorum).unwrap()
}

/// Three formed acceptors.
pub async fn acceptors() -> [FakeAcceptor; 3] {
    let acceptors = blank_acceptors().await;
    form(&acceptors);
    acceptors
}

/// Changes the scripts of all acceptors.
pub fn change_all(acceptors: &[FakeAcceptor], change: impl Fn(&mut Script)) {
    for acceptor in acceptors {
        acceptor.change(&change);
    }
}

/// Reads at least `count` slots, and checks that the slots are consecutive, beginning with `from`.
pub async fn read(stream: &mut Streaming<pb::SubscribeResponse>, from: u64, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    within_deadline(async {
        while texts.len() < count {
            let page = stream.message().await.unwrap();
            let page = page.expect("a subscription does not end by itself");
            for record in page.records {
                let expected = from + texts.len() as u64;
                assert_eq!(record.slot, expected, "in slot order, without gaps or repeats");
                texts.push(text(&record));
            }
            assert_eq!(page.next, from + texts.len() as u64);
        }
    })
    .await;
    texts
}

fn text(record: &pb::LogRecord) -> String {
    use pb::command::Operation;
    let texts = record
        .value
        .iter()
        .flat_map(|value| &value.commands)
        .map(|command| {
            let Some(Operation::Append(append)) = &command.operation else {
                panic!("only records are appended here");
            };
            std::str::from_utf8(&append.record).unwrap()
        });
    texts.collect::<Vec<_>>().join(",")
}

/// The slots below `to`, with a text each.
pub fn log(to: u64) -> Vec<(u64, String)> {
    Slot::ZERO
        .to(Slot::new(to).unwrap())
        .map(|slot| (slot.get(), format!("value {slot}")))
        .collect()
}
