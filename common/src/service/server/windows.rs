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
//! A server has a single window size for all connections. So there are two servers, which share all other state.

use std::{convert::Infallible, io};

use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{Service, http},
    transport::{self, Server},
};

use super::{connections::Connection, handshakes::Handshakes, incoming::IncomingConnections, served::Served};

/// Number of connections with wide windows: at one process, most clusters have fewer proposers, learners and clients.
pub(super) const WIDE_MAX: usize = 32;
/// Size in bytes of a wide window, of a connection and of each call.
const WIDE_BYTES: u32 = 1024 * 1024;
/// Size in bytes of a narrow window: the initial size in HTTP/2.
const NARROW_BYTES: u32 = 65_535;

/// Serves the connections of `incoming` with `services` until `stop`, and then until the calls have ended. `server` has
/// all settings except the windows. `handshakes`: the connections use TLS.
///
/// # Errors
/// A server failed.
pub(super) async fn serve<S>(
    server: Server,
    services: S,
    incoming: IncomingConnections,
    handshakes: Option<Handshakes>,
    stop: CancellationToken,
) -> Result<(), transport::Error>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    // An accepted connection goes to its server at once.
    let (wide, wide_connections) = mpsc::channel(1);
    let (narrow, narrow_connections) = mpsc::channel(1);
    let serve = |window: u32, connections: mpsc::Receiver<Served>| {
        let connections = ReceiverStream::new(connections).map(Ok::<_, io::Error>);
        let server = server
            .clone()
            .initial_connection_window_size(window)
            .initial_stream_window_size(window);
        server.serve_with_incoming_shutdown(services.clone(), connections, stop.clone().cancelled_owned())
    };
    let sorting = stop.run_until_cancelled(async {
        match handshakes {
            None => sort(incoming, wide, narrow).await,
            Some(handshakes) => {
                let server_of = |connection: &Connection| server_of(connection, &wide, &narrow).clone();
                handshakes.run(incoming, server_of).await;
            }
        }
    });
    let (_, wide, narrow) = tokio::join!(
        sorting,
        serve(WIDE_BYTES, wide_connections),
        serve(NARROW_BYTES, narrow_connections)
    );
    wide.and(narrow)
}

/// Hands each connection to the server of its window, until a server is gone.
async fn sort(mut incoming: IncomingConnections, wide: mpsc::Sender<Served>, narrow: mpsc::Sender<Served>) {
    while let Some(connection) = incoming.next().await {
        // The listener reports its own failures and continues.
        let Ok(connection) = connection else { continue };
        let server = server_of(&connection, &wide, &narrow);
        if server.send(Served::plain(connection)).await.is_err() {
            return;
        }
    }
}

fn server_of<'a>(
    connection: &Connection,
    wide: &'a mpsc::Sender<Served>,
    narrow: &'a mpsc::Sender<Served>,
) -> &'a mpsc::Sender<Served> {
    if connection.is_wide() { wide } else { narrow }
}
