//! No downgrade: only records of TLS leave a process with TLS, and no address of a plaintext process is dialled.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use paxos_client::{Address, Client, ClientConfig};
use paxos_common::wire;
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::{acceptor, foreign::PREFACE};
use crate::harness::{Cluster, PATIENCE, Process, free_ports, run_with, tls, until};

/// Types of records of TLS: RFC 8446, section 5.1.
const CHANGE_CIPHER_SPEC: u8 = 0x14;
const ALERT: u8 = 0x15;
const HANDSHAKE: u8 = 0x16;
const APPLICATION_DATA: u8 = 0x17;
/// Types of messages of a handshake: RFC 8446, section 4.
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// Most recorded bytes of a connection and direction.
const RECORDED_MAX: usize = 4 * 1024 * 1024;
/// A value to look for in all bytes.
const VALUE: &str = "this value leaves no process in plaintext";

/// The bytes of a connection.
#[derive(Clone, Debug, Default)]
struct Recording {
    from_caller: Vec<u8>,
    from_callee: Vec<u8>,
}

/// A socket that records all bytes, and passes them on to a process, or answers in plaintext.
struct Recorder {
    local: SocketAddr,
    target: Arc<OnceLock<String>>,
    recordings: Arc<Mutex<Vec<Recording>>>,
    _task: AbortOnDropHandle<()>,
}

impl Recorder {
    /// Passes bytes on to the target, once there is one.
    fn passing() -> Self {
        Self::new(true)
    }

    /// Answers each caller with the settings of HTTP/2 in plaintext.
    fn answering() -> Self {
        Self::new(false)
    }

    fn new(passes: bool) -> Self {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let (target, recordings) = (Arc::new(OnceLock::<String>::new()), Arc::default());
        let recorder = (Arc::clone(&target), Arc::clone(&recordings));
        let local = listener.local_addr().unwrap();
        let task: JoinHandle<()> = tokio::spawn(async move {
            let (target, recordings) = recorder;
            while let Ok((caller, _)) = listener.accept().await {
                let recordings = Arc::clone(&recordings);
                if !passes {
                    tokio::spawn(answer(caller, recordings));
                } else if let Some(target) = target.get().cloned() {
                    tokio::spawn(pass(caller, target, recordings));
                }
            }
        });
        Self {
            local,
            target,
            recordings,
            _task: AbortOnDropHandle::new(task),
        }
    }

    fn url(&self) -> String {
        format!("https://{}", self.local)
    }

    fn before(target: &Address) -> Self {
        let recorder = Self::passing();
        recorder.set_target(target);
        recorder
    }

    fn set_target(&self, target: &Address) {
        self.target.set(target.host_and_port().to_owned()).unwrap();
    }

    /// The recordings of connections with bytes of the caller.
    fn recordings(&self) -> Vec<Recording> {
        let all = self.recordings.lock().unwrap().clone();
        all.into_iter()
            .filter(|one| !one.from_caller.is_empty())
            .collect()
    }
}

fn begin(recordings: &Mutex<Vec<Recording>>) -> usize {
    let mut recordings = recordings.lock().unwrap();
    recordings.push(Recording::default());
    recordings.len() - 1
}

fn record(recorded: &mut Vec<u8>, bytes: &[u8]) {
    let room = RECORDED_MAX - recorded.len();
    recorded.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

async fn answer(mut caller: TcpStream, recordings: Arc<Mutex<Vec<Recording>>>) {
    let number = begin(&recordings);
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = caller.read(&mut bytes).await {
        record(
            &mut recordings.lock().unwrap()[number].from_caller,
            &bytes[..count],
        );
        let _ = caller.write_all(&PREFACE[24..]).await;
    }
}

async fn pass(caller: TcpStream, target: String, recordings: Arc<Mutex<Vec<Recording>>>) {
    let Ok(callee) = TcpStream::connect(target).await else {
        return;
    };
    let number = begin(&recordings);
    let (mut from_caller, mut to_caller) = caller.into_split();
    let (mut from_callee, mut to_callee) = callee.into_split();
    let requests = async {
        let mut bytes = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_caller.read(&mut bytes).await {
            record(
                &mut recordings.lock().unwrap()[number].from_caller,
                &bytes[..count],
            );
            if to_callee.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
    };
    let answers = async {
        let mut bytes = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_callee.read(&mut bytes).await {
            record(
                &mut recordings.lock().unwrap()[number].from_callee,
                &bytes[..count],
            );
            if to_caller.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
    };
    // The end of one direction ends the connection.
    tokio::select! {
        () = requests => {}
        () = answers => {}
    }
}

/// Checks that bytes are records of TLS, of which only the first, this message of the handshake, is in plaintext.
/// Returns the number of records.
fn check_tls(bytes: &[u8], hello: u8) -> Result<usize, String> {
    let (mut rest, mut count) = (bytes, 0);
    while let [kind, 3, 1..=3, high, low, body @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let is_right = match (*kind, count) {
            (HANDSHAKE, 0) => body.first().is_none_or(|first| *first == hello),
            (_, 0) => false,
            (CHANGE_CIPHER_SPEC, _) => length == 1,
            // A handshake that failed before there were keys.
            (ALERT, _) => length == 2,
            (APPLICATION_DATA, _) => length <= 16_640,
            (_, _) => false,
        };
        if !is_right {
            return Err(format!(
                "record {count} has the type {kind:#x} and {length} bytes"
            ));
        }
        count += 1;
        // The last record may be incomplete.
        rest = body.get(length..).unwrap_or_default();
    }
    if rest.len() >= 5 || count == 0 {
        return Err(format!("no record of TLS after {count} records: {rest:x?}"));
    }
    Ok(count)
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[test]
fn plaintext_is_no_record_of_tls() {
    assert!(check_tls(PREFACE, CLIENT_HELLO).is_err());
    let hello = [HANDSHAKE, 3, 1, 0, 2, CLIENT_HELLO, 0];
    assert_eq!(check_tls(&hello, CLIENT_HELLO), Ok(1));
    assert!(check_tls(&hello, SERVER_HELLO).is_err());
    assert!(check_tls(&[&hello[..], &hello].concat(), CLIENT_HELLO).is_err());
    assert!(check_tls(&[&hello[..], PREFACE].concat(), CLIENT_HELLO).is_err());
    let data = [APPLICATION_DATA, 3, 3, 0, 1, 9];
    assert_eq!(check_tls(&[&hello[..], &data].concat(), CLIENT_HELLO), Ok(2));
}

#[tokio::test]
async fn bytes_of_a_secure_cluster_are_records_of_tls_alone() {
    let mut cluster = Cluster::blank_and_secure(3).await;
    let before_acceptors: Vec<_> = cluster
        .acceptors
        .iter()
        .map(|acceptor| Recorder::before(&acceptor.address))
        .collect();
    let urls: Vec<_> = before_acceptors.iter().map(Recorder::url).collect();
    let urls = urls.join(",");
    let before_proposers = [Recorder::passing(), Recorder::passing()];
    for recorder in &before_proposers {
        cluster.add_proposer(&urls, &["--advertise", &recorder.url()]);
        recorder.set_target(&cluster.proposers.last().unwrap().address);
    }
    let before_learner = Recorder::passing();
    cluster.add_learner_of(&urls, "learner-1", &["--advertise", &before_learner.url()]);
    before_learner.set_target(&cluster.learners[0].address);

    let mut config = ClientConfig::new(urls.split(',')).unwrap();
    config.tls = Some(tls::settings(cluster.files("client")));
    config.timeout = PATIENCE;
    let client = Client::new(config).unwrap();
    client.put("colour", VALUE).await.unwrap();
    // Elections, and commands through a standby.
    for proposer in 0..2 {
        cluster.proposers[proposer].kill();
        client.put("colour", VALUE).await.unwrap();
        cluster.proposers[proposer].start();
        client.put("colour", VALUE).await.unwrap();
        assert_eq!(client.get("colour").await.unwrap().unwrap().value, VALUE);
    }
    let environment = cluster.commands_as("client");
    let status = run_with(&["status", "--acceptors", &urls], &environment).await;
    println!("{}", String::from_utf8_lossy(&status.stdout));
    for recorder in before_acceptors
        .iter()
        .chain(&before_proposers)
        .chain([&before_learner])
    {
        let recordings = recorder.recordings();
        let mut bytes = 0;
        for Recording {
            from_caller,
            from_callee,
        } in &recordings
        {
            check_tls(from_caller, CLIENT_HELLO).unwrap();
            if !from_callee.is_empty() {
                check_tls(from_callee, SERVER_HELLO).unwrap();
            }
            for recorded in [from_caller, from_callee] {
                assert!(!contains(recorded, VALUE.as_bytes()) && !contains(recorded, b"PRI * HTTP"));
                bytes += recorded.len();
            }
        }
        println!("{} connections, {bytes} bytes", recordings.len());
        assert!(bytes > 2_000, "nothing was recorded");
    }
}

#[tokio::test]
async fn server_that_answers_in_plaintext_gets_a_client_hello_and_no_more() {
    let dir = tempfile::TempDir::new().unwrap();
    tls::make_certificates(dir.path());
    let mut callers = Vec::new();
    for role in ["proposer", "learner"] {
        let recorder = Recorder::answering();
        let environment = tls::variables(&tls::files(dir.path(), role));
        let url = recorder.url();
        let flags = ["--acceptors", &url];
        let process = Process::role_with(
            dir.path(),
            role,
            role.to_owned(),
            free_ports(1),
            &flags,
            environment,
        );
        callers.push((process, recorder));
    }
    let of_client = Recorder::answering();
    let environment = tls::variables(&tls::files(dir.path(), "client"));
    let url = of_client.url();
    let put = ["put", "colour", VALUE, "--timeout", "3s", "--acceptors", &url];
    let refused = run_with(&put, &environment).await;
    assert_eq!(refused.status.code(), Some(69), "{refused:?}");
    // Each caller tries again, and again with TLS alone.
    for (process, recorder) in &callers {
        until(&format!("{} tries again", process.name), async || {
            (recorder.recordings().len() >= 4).then_some(())
        })
        .await;
    }
    for (process, _) in &mut callers {
        assert_eq!(process.try_ended(), None, "{}", process.log());
    }
    let recorders = callers.iter().map(|(_, recorder)| recorder).chain([&of_client]);
    for recording in recorders.flat_map(Recorder::recordings) {
        let records = check_tls(&recording.from_caller, CLIENT_HELLO).unwrap();
        // A ClientHello, and perhaps an alert.
        assert!(records <= 2, "{records}");
        assert!(recording.from_caller.len() < 2_000, "{:?}", recording.from_caller);
    }
    assert!(of_client.recordings().len() >= 2);
}

/// A proposer and a learner with this address lie about it: it is the address of the leader and of a reader.
async fn claims(cluster: &Cluster, address: &str) -> impl Sized + use<> {
    let status = until("an acceptor answers", async || cluster.acceptor_status(0).await).await;
    let mut ballot = status.leadership.clone().unwrap().promised.unwrap();
    ballot.round += 1;
    ballot.proposer = 7;
    let caller = pb::Caller {
        protocol_version: wire::PROTOCOL_VERSION,
        cluster_id: status.stamp.unwrap().cluster_id,
    };
    let mut held = Vec::new();
    for number in 0..cluster.acceptors.len() {
        let prepare = pb::PrepareRequest {
            caller: Some(caller.clone()),
            ballot: Some(ballot),
            proposer_address: address.to_owned(),
            ..pb::PrepareRequest::default()
        };
        let mut pages = acceptor(cluster, number, "proposer")
            .prepare(prepare)
            .await
            .unwrap()
            .into_inner();
        let _ = pages.message().await;
        for (role, certificate, progress) in [
            (
                pb::Role::Proposer,
                "proposer",
                pb::attach_request::Progress::Proposer(pb::ProposerProgress {
                    leading: true,
                    ballot: Some(ballot),
                    ..pb::ProposerProgress::default()
                }),
            ),
            (
                pb::Role::Learner,
                "learner",
                pb::attach_request::Progress::Learner(pb::LearnerProgress {
                    applied_to: 1,
                    ..pb::LearnerProgress::default()
                }),
            ),
        ] {
            let report = pb::AttachRequest {
                caller: Some(caller.clone()),
                role: role.into(),
                peer: 7,
                address: address.to_owned(),
                progress: Some(progress),
                ..pb::AttachRequest::default()
            };
            let (reports, receiver) = mpsc::channel(1);
            reports.send(report).await.unwrap();
            let mut client: AcceptorClient<_> = acceptor(cluster, number, certificate);
            let answers = client.attach(ReceiverStream::new(receiver)).await.unwrap();
            held.push((reports, answers));
        }
    }
    held
}

#[tokio::test]
async fn plaintext_address_from_a_peer_is_never_dialled() {
    for (scheme, is_dialled) in [("https", true), ("http", false)] {
        let cluster = Cluster::start_secure(3, 2, 1).await;
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("{scheme}://{}", listener.local_addr().unwrap());
        let held = claims(&cluster, &address).await;
        let mut dialled = 0;
        let begun = tokio::time::Instant::now();
        // New clients look for the leader and for readers, and processes follow the claims.
        while begun.elapsed() < Duration::from_secs(4) {
            let client = cluster.client().with_timeout(Duration::from_secs(2));
            let _ = client.put("colour", "blue").await;
            let _ = client.get("colour").await;
            cluster.status().await;
            while listener.accept().is_ok() {
                dialled += 1;
            }
        }
        println!("{scheme}: dialled {dialled} times");
        assert_eq!(dialled > 0, is_dialled, "{scheme}: {dialled}");
        drop(held);
        let written = until("a client writes", async || {
            cluster.client().put("colour", "red").await.ok()
        })
        .await;
        println!("{written:?}");
        let warnings = |process: &Process| process.log().matches("of the other scheme is ignored").count();
        let all = cluster
            .proposers
            .iter()
            .chain(&cluster.learners)
            .chain(&cluster.acceptors);
        let most = all.map(warnings).max().unwrap();
        assert!(most <= usize::from(!is_dialled), "{most} warnings of a process");
    }
}
