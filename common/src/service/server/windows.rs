//! Flow-control windows: how much a connection may send before the calls read the data.
//!
//! HTTP/2 keeps unread data up to the window of the connection. Long round trips need a wide window: a connection with
//! a window of 1 MiB carries 1 MiB per round trip, and a connection with 64 KiB carries 64 KiB (64 MB/s at 1 ms). A
//! server does not know a caller at the start of a connection, so the first connections get wide windows, and later
//! connections get narrow windows. A cluster's own connections are among the first, unless strangers were faster. In
//! that case the cluster's connections are slower over long distances; there are no further effects.
//!
//! Limit: 32 × 1 MiB + 736 × 64 KiB, which is 78 MiB of unread data in all.
//!
//! A server has a single window size and a single limit of concurrent calls for all connections. So there are four
//! servers, for both windows, and for the cluster and callers outside of it. All other state is shared. Callers outside
//! the cluster are known by their certificates: without TLS their servers have no connections.

use std::{convert::Infallible, io};

use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{Service, http},
    transport::{self, Server},
};

use super::{
    address_log::AddressLog,
    incoming::IncomingConnections,
    kinds::OUTSIDE_STREAMS_MAX,
    served::{Served, plain},
};

/// Number of connections with wide windows: at one process, most clusters have fewer proposers, learners and clients.
pub(super) const WIDE_MAX: usize = 32;
/// Size in bytes of a wide window, of a connection and of each call.
const WIDE_BYTES: u32 = 1024 * 1024;
/// Size in bytes of a narrow window: the initial size in HTTP/2.
const NARROW_BYTES: u32 = 65_535;

/// The servers of a process, as channels for accepted connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    wide: mpsc::Sender<Served>,
    narrow: mpsc::Sender<Served>,
    outside_wide: mpsc::Sender<Served>,
    outside_narrow: mpsc::Sender<Served>,
}

impl Servers {
    /// Servers that are gone.
    #[cfg(test)]
    pub(super) fn closed() -> Self {
        let channel = || mpsc::channel(1).0;
        Self {
            wide: channel(),
            narrow: channel(),
            outside_wide: channel(),
            outside_narrow: channel(),
        }
    }

    /// The server of a connection by its window and its caller.
    pub(super) fn of(&self, is_wide: bool, is_outside: bool) -> &mpsc::Sender<Served> {
        match (is_wide, is_outside) {
            (true, false) => &self.wide,
            (false, false) => &self.narrow,
            (true, true) => &self.outside_wide,
            (false, true) => &self.outside_narrow,
        }
    }
}

/// Serves connections with `services` until `stop`, and then until the calls have ended. `server` has all settings except
/// the windows. `accept` passes accepted connections to the servers.
///
/// # Errors
/// A server failed.
pub(super) async fn serve<S, A>(
    server: Server,
    services: S,
    accept: impl FnOnce(Servers) -> A,
    stop: CancellationToken,
) -> Result<(), transport::Error>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    A: Future<Output = ()>,
{
    // An accepted connection goes to its server at once.
    let channel = || mpsc::channel(1);
    let [
        (wide, to_wide),
        (narrow, to_narrow),
        (outside_wide, to_outside_wide),
        (outside_narrow, to_outside_narrow),
    ] = std::array::from_fn(|_| channel());
    let serve = |server: &Server, window: u32, connections: mpsc::Receiver<Served>| {
        let connections = ReceiverStream::new(connections).map(Ok::<_, io::Error>);
        let mut server = server.clone();
        server = server
            .initial_connection_window_size(window)
            .initial_stream_window_size(window);
        server.serve_with_incoming_shutdown(services.clone(), connections, stop.clone().cancelled_owned())
    };
    let outside = server.clone().max_concurrent_streams(OUTSIDE_STREAMS_MAX);
    let servers = Servers {
        wide,
        narrow,
        outside_wide,
        outside_narrow,
    };
    let (_, wide, narrow, outside_wide, outside_narrow) = tokio::join!(
        stop.run_until_cancelled(accept(servers)),
        serve(&server, WIDE_BYTES, to_wide),
        serve(&server, NARROW_BYTES, to_narrow),
        serve(&outside, WIDE_BYTES, to_outside_wide),
        serve(&outside, NARROW_BYTES, to_outside_narrow)
    );
    wide.and(narrow).and(outside_wide).and(outside_narrow)
}

/// Passes plaintext connections to their servers, until a server is gone.
pub(super) async fn accept_plain(mut incoming: IncomingConnections, servers: Servers) {
    let log = AddressLog::default();
    while let Some(connection) = incoming.next().await {
        // The listener reports its own failures and continues.
        let Ok(connection) = connection else { continue };
        let server = servers.of(connection.is_wide(), false);
        if server.send(plain(connection, &log)).await.is_err() {
            return;
        }
    }
}
