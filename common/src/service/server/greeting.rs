//! A TLS handshake: its time limit, the proven caller, and the reason of a failure.

use std::{io, sync::Arc, time::Duration};

use rustls::{Error, pki_types::CertificateDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    connections::{Connection, Usage},
    outside::OutsidePlaces,
    served::secure,
    windows::Servers,
};
use crate::tls::{ALPN, Caller, OtherSide, Tls};

/// Longest handshake.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// After a failed handshake: how long, and how many bytes of the caller, to read, so that the caller gets the reason. A
/// connection closed with unread bytes is reset, and the reason is lost.
const LINGER: (Duration, usize) = (Duration::from_millis(500), 64 * 1024);
/// Limit in bytes of encrypted data that waits for the socket, on a connection with a wide window: four records of TLS,
/// written by a single system call.
const WIDE_BUFFER_BYTES: usize = 64 * 1024;
/// The same limit on a connection with a narrow window: a single record.
const NARROW_BUFFER_BYTES: usize = 16 * 1024;

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandshakeOutcome {
    /// The connection is served.
    Complete,
    /// One of the sides refused the other.
    Refused,
    /// The caller does not speak TLS.
    Plaintext,
    /// The caller was too slow, or left.
    Unfinished,
    /// There was no time or place for the handshake.
    Dropped,
}

impl HandshakeOutcome {
    pub(super) const NAMES: [&str; 5] = ["complete", "refused", "plaintext", "unfinished", "dropped"];
}

/// A failed handshake, for the log.
#[derive(Debug)]
pub(super) struct FailedHandshake {
    pub(super) outcome: HandshakeOutcome,
    pub(super) reason: String,
}

/// What a complete handshake proved about the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProvenCaller {
    /// A role that accepts connections.
    Server,
    /// An application or a tool.
    Outside,
}

/// Makes the handshake, and passes the connection on. The usage of the connection says that a handshake runs.
///
/// # Errors
/// The handshake failed, or the connection found no place.
pub(super) async fn greet(
    tls: Tls,
    outside: OutsidePlaces,
    connection: Connection,
    servers: Servers,
) -> Result<ProvenCaller, FailedHandshake> {
    let (usage, is_wide, address) = (
        Arc::clone(connection.usage()),
        connection.is_wide(),
        connection.peer(),
    );
    let accepting = TlsAcceptor::from(tls.server_config())
        .accept(connection)
        .into_fallible();
    let mut stream = match timeout(HANDSHAKE_MAX, accepting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err((error, connection))) => {
            linger(connection).await;
            return Err(reason(&error));
        }
        Err(_) => {
            let reason = "no complete handshake within 5 s".to_owned();
            return Err(FailedHandshake {
                outcome: HandshakeOutcome::Unfinished,
                reason,
            });
        }
    };
    let (caller, chain) = match identify(&tls, &stream) {
        Ok(identified) => identified,
        Err(reason) => {
            return Err(FailedHandshake {
                outcome: HandshakeOutcome::Refused,
                reason,
            });
        }
    };
    let proven = if caller.is_outside() {
        ProvenCaller::Outside
    } else {
        ProvenCaller::Server
    };
    let place = if proven == ProvenCaller::Outside {
        usage.set_outside();
        usage.address.leave_share();
        let Some(place) = outside.take(&usage, address).await else {
            let reason =
                "clients have half of the connections, and this address its share of them, all in use"
                    .to_owned();
            return Err(FailedHandshake {
                outcome: HandshakeOutcome::Dropped,
                reason,
            });
        };
        Some(place)
    } else {
        None
    };
    usage.set_greeting(false);
    let buffer = if is_wide {
        WIDE_BUFFER_BYTES
    } else {
        NARROW_BUFFER_BYTES
    };
    stream.get_mut().1.set_buffer_limit(Some(buffer));
    tokio::spawn(close_when_distrusted(tls, chain, Arc::clone(&usage)));
    // The server has stopped when the channel is closed.
    let _ = servers
        .of(is_wide, usage.is_outside())
        .send(secure(stream, caller, place))
        .await;
    Ok(proven)
}

/// The proven caller, and its chain of certificates.
fn identify(
    tls: &Tls,
    stream: &TlsStream<Connection>,
) -> Result<(Arc<Caller>, Vec<CertificateDer<'static>>), String> {
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(ALPN) {
        return Err("the caller does not offer HTTP/2 (ALPN h2)".to_owned());
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
    let caller = tls.caller(&chain).map_err(|error| error.to_string())?;
    Ok((Arc::new(caller), chain))
}

/// Closes a connection when the caller's certificate expires, or when its CA is trusted no longer.
async fn close_when_distrusted(tls: Tls, chain: Vec<CertificateDer<'static>>, usage: Arc<Usage>) {
    tokio::select! {
        // Both arms only wait.
        () = usage.closed() => {}
        error = tls.distrusted(&chain, &OtherSide::Caller) => {
            usage.close_because(&format!("the caller's certificate is trusted no longer: {error}"));
        }
    }
}

/// Lets the caller read the reason: ends the own side, and reads the rest of the caller's bytes.
async fn linger(mut connection: Connection) {
    let (patience, bytes_max) = LINGER;
    let reading = async {
        connection.shutdown().await?;
        let (mut buffer, mut left) = ([0; 1024], bytes_max);
        while left > 0 {
            match connection.read(&mut buffer).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<_, io::Error>(())
    };
    // The caller may have left.
    let _ = timeout(patience, reading).await;
}

/// The meaning of a failed handshake.
fn reason(error: &io::Error) -> FailedHandshake {
    let tls_error = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let outcome = match tls_error {
        Some(Error::InvalidMessage(_)) => HandshakeOutcome::Plaintext,
        Some(_) => HandshakeOutcome::Refused,
        None => HandshakeOutcome::Unfinished,
    };
    FailedHandshake {
        outcome,
        reason: tls_error.map_or_else(|| error.to_string(), ToString::to_string),
    }
}
