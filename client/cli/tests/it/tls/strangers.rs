//! Crowds of strangers at the handshake, on threads of their own: a client of the test must not wait for their work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::TLS13,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::harness::Cluster;

/// Address of the strangers that stall.
const STALLING: &str = "127.0.0.9:0";
/// Address of the strangers that make whole handshakes.
const WHOLE: &str = "127.0.0.8:0";

/// Most whole handshakes in flight.
const IN_FLIGHT_MAX: usize = 64;

/// Strangers, over all acceptors and proposers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd {
    /// Connections that send nothing.
    pub(super) silent: usize,
    /// Connections that send a ClientHello, and no more.
    pub(super) begun: usize,
    /// Whole handshakes with a client's certificate, a second.
    pub(super) whole: u32,
    /// Time from the end of a connection to the next. The crowd and the cluster share the processors of this machine.
    pub(super) pause: Duration,
}

/// What the strangers have done.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) silent: AtomicUsize,
    pub(super) begun: AtomicUsize,
    pub(super) whole: AtomicUsize,
}

/// Connects from another address of this machine, so that the crowd has addresses of its own.
pub(super) async fn connect(from: &str, address: &str) -> Option<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().ok()?;
    socket.bind(from.parse().unwrap()).ok()?;
    let connecting = socket.connect(address.parse().unwrap());
    timeout(Duration::from_secs(1), connecting).await.ok()?.ok()
}

/// A ClientHello of the library.
fn client_hello(config: &Arc<ClientConfig>, name: &ServerName<'static>) -> Vec<u8> {
    let mut session = ClientConnection::new(Arc::clone(config), name.clone()).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    hello
}

/// A client of another making, with these files.
pub(super) fn config_of(files: &paxos_client::TlsFiles) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&files.ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let chain = CertificateDer::pem_file_iter(&files.cert).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = builder
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            chain.collect::<Result<_, _>>().unwrap(),
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// A process to call: its host and port, and the name of its role.
type Callee = (String, ServerName<'static>);

/// A crowd at work. Dropping the value ends all connections of the crowd.
pub(super) struct Strangers {
    pub(super) counts: Arc<Counts>,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Strangers {
    pub(super) fn begin(crowd: Crowd, cluster: &Cluster) -> Self {
        let callees: Vec<Callee> = cluster
            .acceptors
            .iter()
            .chain(&cluster.proposers)
            .map(|process| {
                let role = process.name.split('-').next().unwrap();
                let name = ServerName::try_from(format!("{role}.paxos.internal")).unwrap();
                (process.address.host_and_port().to_owned(), name)
            })
            .collect();
        let config = config_of(&cluster.files("client"));
        let mut strangers = Self {
            counts: Arc::default(),
            stop: CancellationToken::new(),
            threads: Vec::new(),
        };
        let (counts, hello_config, stalled) = (
            Arc::clone(&strangers.counts),
            Arc::clone(&config),
            callees.clone(),
        );
        strangers.spawn(async move {
            for number in 0..crowd.silent + crowd.begun {
                let (address, name) = stalled[number % stalled.len()].clone();
                let hello = (number >= crowd.silent).then(|| client_hello(&hello_config, &name));
                tokio::spawn(stall(address, hello, crowd.pause, Arc::clone(&counts)));
                // The strangers of before run on.
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        });
        let counts = Arc::clone(&strangers.counts);
        strangers.spawn(make_whole(callees, crowd.whole, config, counts));
        strangers
    }

    /// Runs strangers on a thread until the end of the crowd.
    fn spawn(&mut self, strangers: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.threads.push(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            // The end of the runtime ends all tasks.
            runtime.block_on(stop.run_until_cancelled(strangers));
        }));
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        self.stop.cancel();
        // A failure of a thread is a failure of the test, unless the test has failed already.
        let have_ended = self.threads.drain(..).all(|thread| thread.join().is_ok());
        assert!(std::thread::panicking() || have_ended, "the strangers failed");
    }
}

/// Connects again and again, and sends no more than a ClientHello.
async fn stall(address: String, hello: Option<Vec<u8>>, pause: Duration, counts: Arc<Counts>) {
    loop {
        if let Some(mut stream) = connect(STALLING, &address).await {
            let count = match &hello {
                Some(hello) if stream.write_all(hello).await.is_ok() => &counts.begun,
                Some(_) | None => &counts.silent,
            };
            count.fetch_add(1, Ordering::Relaxed);
            // Until the server closes the connection.
            while let Ok(1..) = stream.read(&mut [0; 4096]).await {}
        }
        tokio::time::sleep(pause).await;
    }
}

/// Begins this number of whole handshakes a second, as far as this thread can: more in flight would all be too slow.
async fn make_whole(callees: Vec<Callee>, per_second: u32, config: Arc<ClientConfig>, counts: Arc<Counts>) {
    let connector = TlsConnector::from(config);
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    for (address, name) in callees.into_iter().cycle() {
        ticks.tick().await;
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let (connector, counts) = (connector.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            let _place = place;
            if let Some(stream) = connect(WHOLE, &address).await
                && let Ok(Ok(_)) = timeout(Duration::from_secs(5), connector.connect(name, stream)).await
            {
                counts.whole.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}
