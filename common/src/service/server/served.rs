//! An accepted connection as the HTTP/2 server sees it: in plaintext, or decrypted, with the caller.

use std::{io, net::IpAddr, sync::Arc};

use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{
    address_log::AddressLog,
    connections::{CallerConnection, Connection},
    outside::OutsidePlace,
};
use crate::tls::{Caller, ConnectionBytes, ReadObserver};

/// The first byte of a ClientHello: RFC 8446, section 5.1. No connection of HTTP/2 begins with this byte.
const TLS_HANDSHAKE: u8 = 0x16;

/// An accepted connection, ready for HTTP/2.
pub(super) type Served = ConnectionBytes<Connection, ServedCaller>;

/// The caller of an accepted connection.
#[derive(Default)]
pub(super) struct ServedCaller {
    /// `None` without TLS.
    caller: Option<Arc<Caller>>,
    /// Place among the connections of callers outside the cluster.
    _place: Option<OutsidePlace>,
    /// Without TLS, and before the first byte: where a ClientHello is logged, and from which address.
    unread: Option<(AddressLog, IpAddr)>,
}

/// The connection itself ends when it must.
impl ReadObserver for ServedCaller {
    fn arrived(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some((log, peer)) = self.unread.take()
            && bytes.first() == Some(&TLS_HANDSHAKE)
            && log.is_due(peer)
        {
            tracing::warn!(%peer, "a caller speaks TLS, and this port does not: give the caller http://");
        }
        // HTTP/2 refuses such bytes.
        Ok(())
    }
}

/// A connection in plaintext. `log` is for callers that speak TLS.
pub(super) fn plain(connection: Connection, log: &AddressLog) -> Served {
    let unread = Some((log.clone(), connection.peer()));
    let caller = ServedCaller {
        unread,
        ..ServedCaller::default()
    };
    ConnectionBytes::plain(connection, caller)
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
        unread: None,
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
