//! Proxy: a TCP connection between two processes that a test can cut, in one direction or both, and heal.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
};

use paxos_client::Address;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// Blocked traffic. Connections stay open. Blocked bytes wait, and arrive after the cut is healed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Everything passes.
    #[default]
    Whole,
    /// Bytes from the caller are blocked.
    Requests,
    /// Bytes from the callee are blocked.
    Answers,
    /// Everything is blocked.
    Both,
}

impl Cut {
    fn holds(self, way: Way) -> bool {
        match (self, way) {
            (Self::Whole, _) | (Self::Requests, Way::Answers) | (Self::Answers, Way::Requests) => false,
            (Self::Both, _) | (Self::Requests, Way::Requests) | (Self::Answers, Way::Answers) => true,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Requests,
    Answers,
}

/// A proxy between callers and one process.
pub(crate) struct Proxy {
    pub(crate) address: Address,
    cut: Arc<watch::Sender<Cut>>,
    target: watch::Sender<SocketAddr>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of the process at `target`.
    pub(crate) fn before(target: &Address) -> Self {
        Self::calling_from("127.0.0.1:0", target)
    }

    /// The same; the process sees connections from the address `from` of this machine.
    pub(crate) fn calling_from(from: &str, target: &Address) -> Self {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let scheme = if target.is_tls() { "https" } else { "http" };
        let address = format!("{scheme}://{}", listener.local_addr().unwrap());
        let address = address.parse().unwrap();
        let from = from.parse().unwrap();
        let target = watch::Sender::new(target.host_and_port().parse().unwrap());
        let cut = Arc::new(watch::Sender::new(Cut::Whole));
        let task = tokio::spawn(forward(listener, (from, target.subscribe()), cut.clone()));
        Self {
            address,
            cut,
            target,
            task,
        }
    }

    /// Leads future connections to another process. Present connections stay.
    pub(crate) fn lead_to(&self, target: &Address) {
        self.target.send_replace(target.host_and_port().parse().unwrap());
    }

    /// Cuts, or heals, every present and future connection.
    pub(crate) fn set(&self, cut: Cut) {
        self.cut.send_replace(cut);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    listener: TcpListener,
    (from, target): (SocketAddr, watch::Receiver<SocketAddr>),
    cut: Arc<watch::Sender<Cut>>,
) {
    while let Ok((caller, _)) = listener.accept().await {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(from).unwrap();
        let target = *target.borrow();
        // Without a callee, the connection closes.
        let Ok(callee) = socket.connect(target).await else {
            continue;
        };
        caller.set_nodelay(true).unwrap();
        callee.set_nodelay(true).unwrap();
        let (from_caller, to_caller) = caller.into_split();
        let (from_callee, to_callee) = callee.into_split();
        let requests = pass(from_caller, to_callee, Way::Requests, cut.subscribe());
        let answers = pass(from_callee, to_caller, Way::Answers, cut.subscribe());
        tokio::spawn(requests);
        tokio::spawn(answers);
    }
}

/// Passes bytes on until one side closes. Holds the bytes while this direction is cut.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Way, mut cut: watch::Receiver<Cut>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if cut.wait_for(|cut| !cut.holds(way)).await.is_err() {
            return;
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
