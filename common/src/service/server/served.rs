//! An accepted connection as the HTTP/2 server sees it: in plaintext, or decrypted, with the caller.

use std::sync::Arc;

use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{
    connections::{CallerConnection, Connection},
    outside::OutsidePlace,
};
use crate::tls::{Caller, ConnectionBytes, ReadObserver};

/// An accepted connection, ready for HTTP/2.
pub(super) type Served = ConnectionBytes<Connection, ServedCaller>;

/// The caller of an accepted connection.
#[derive(Default)]
pub(super) struct ServedCaller {
    /// `None` without TLS.
    caller: Option<Arc<Caller>>,
    /// Place among the connections of callers outside the cluster.
    _place: Option<OutsidePlace>,
}

/// The connection itself ends when it must.
impl ReadObserver for ServedCaller {}

/// A connection in plaintext.
pub(super) fn plain(connection: Connection) -> Served {
    ConnectionBytes::plain(connection, ServedCaller::default())
}

/// A connection after the handshake, which proved the caller.
pub(super) fn secure(
    stream: TlsStream<Connection>,
    caller: Arc<Caller>,
    place: Option<OutsidePlace>,
) -> Served {
    let caller = ServedCaller {
        caller: Some(caller),
        _place: place,
    };
    ConnectionBytes::secure(stream, caller)
}

impl Connected for Served {
    type ConnectInfo = CallerConnection;

    fn connect_info(&self) -> Self::ConnectInfo {
        CallerConnection {
            caller: self.observer.caller.clone(),
            ..self.inner().connect_info()
        }
    }
}
