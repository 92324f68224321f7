//! How much a connection may send before its calls read any of that: its flow-control windows.
//!
//! HTTP/2 keeps what has arrived and is not read yet, up to the window of the connection. A wide window is needed where a
//! round trip takes long: a connection with a window of 1 MiB carries 1 MiB per round trip, and one with 64 KiB carries
//! 64 KiB (64 MB/s at 1 ms). A server does not know its callers when they connect, so the first connections get wide
//! windows, and those beyond get narrow ones. A cluster's own connections are among the first, unless strangers were
//! faster: then they are slower over long distances, and nothing else.
//!
//! Bound: 32 × 1 MiB + 736 × 64 KiB, which is 78 MiB of unread data in all.
//!
//! One server has one window for all its connections. So there are two servers, which share everything else.

use std::{convert::Infallible, io};

use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{Service, http},
    transport::{self, Server},
};

use super::connections::{Connection, Incoming};

/// Connections with wide windows: more than the proposers, learners and clients of most clusters have at one process.
pub(super) const WIDE_MAX: usize = 32;
/// Bytes of a wide window, of a connection and of each of its calls.
const WIDE_BYTES: u32 = 1024 * 1024;
/// Bytes of a narrow window: what HTTP/2 begins with.
const NARROW_BYTES: u32 = 65_535;

/// Serves the connections of `incoming` with `services` until `stop`, and then until their calls have ended. `server` has
/// all settings but the windows.
///
/// # Errors
/// A server failed.
pub(super) async fn serve<S>(
    server: Server,
    services: S,
    incoming: Incoming,
    stop: CancellationToken,
) -> Result<(), transport::Error>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    // A connection that is accepted goes to its server at once.
    let (wide, wide_connections) = mpsc::channel(1);
    let (narrow, narrow_connections) = mpsc::channel(1);
    let serve = |window: u32, connections: mpsc::Receiver<Connection>| {
        let connections = ReceiverStream::new(connections).map(Ok::<_, io::Error>);
        let server = server
            .clone()
            .initial_connection_window_size(window)
            .initial_stream_window_size(window);
        server.serve_with_incoming_shutdown(services.clone(), connections, stop.clone().cancelled_owned())
    };
    let sorting = stop.run_until_cancelled(sort(incoming, wide, narrow));
    let (_, wide, narrow) = tokio::join!(
        sorting,
        serve(WIDE_BYTES, wide_connections),
        serve(NARROW_BYTES, narrow_connections)
    );
    wide.and(narrow)
}

/// Hands each connection to the server of its window, until one of them is gone.
async fn sort(mut incoming: Incoming, wide: mpsc::Sender<Connection>, narrow: mpsc::Sender<Connection>) {
    while let Some(connection) = incoming.next().await {
        // The listener reports its own failures and goes on.
        let Ok(connection) = connection else { continue };
        let server = if connection.is_wide() { &wide } else { &narrow };
        if server.send(connection).await.is_err() {
            return;
        }
    }
}
