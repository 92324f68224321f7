//! Makes one connection: TCP, then TLS if wanted. Failures of TLS have texts that say what to do.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{AlertDescription, CertificateError, Error, pki_types::CertificateDer};
use tokio::{io::AsyncBufReadExt as _, net::TcpStream};
use tokio_rustls::TlsConnector;
use tonic::{
    codegen::{Service, StdError},
    transport::Uri,
};

use super::{
    CONNECT_TIMEOUT,
    stream::{PeerObserver, PeerStream},
};
use crate::tls::{ALPN, OtherSide, RoleName, Tls};

/// Sees the TCP stream of a connection before the first byte, and may refuse it.
pub(super) type SeeTcp = Arc<dyn Fn(&TcpStream) -> io::Result<()> + Send + Sync>;

/// Opens connections to one address.
#[derive(Clone)]
pub(super) struct Connector {
    http: HttpConnector,
    tls: Option<Tls>,
    role: Option<RoleName>,
    /// Why no connection is attempted.
    refusal: Option<String>,
    see_tcp: Option<SeeTcp>,
}

/// Why TLS, or the scheme of the address, kept a connection from being made, with advice.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoTlsConnection(String);

impl Connector {
    pub(super) fn new(tls: Option<Tls>, role: Option<RoleName>, refusal: Option<String>) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self {
            http,
            tls,
            role,
            refusal,
            see_tcp: None,
        }
    }

    /// The same, with this size of the kernel's send buffer, and with `see_tcp`.
    #[cfg(feature = "service")]
    pub(super) fn seen_by(mut self, see_tcp: SeeTcp, send_buffer: usize) -> Self {
        self.http.set_send_buffer_size(Some(send_buffer));
        Self {
            see_tcp: Some(see_tcp),
            ..self
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<PeerStream>;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if let Some(refusal) = self.refusal.clone() {
            return Box::pin(async { Err(NoTlsConnection(refusal).into()) });
        }
        let (connecting, tls, role) = (self.http.call(uri), self.tls.clone(), self.role);
        let see_tcp = self.see_tcp.clone();
        Box::pin(async move {
            let tcp = connecting.await?.into_inner();
            if let Some(see_tcp) = see_tcp {
                see_tcp(&tcp)?;
            }
            let stream = match tls {
                None => PeerStream::plain(tcp, PeerObserver::plain()),
                Some(tls) => secure(tcp, tls, role).await?,
            };
            Ok(TokioIo::new(stream))
        })
    }
}

/// Makes the TLS connection, and waits for the first byte of the server. In TLS 1.3 the server checks the certificate of
/// the client after the client's last message: only the next message of the server shows whether the server agrees.
/// Servers of HTTP/2 send their settings at once.
async fn secure(tcp: TcpStream, tls: Tls, role: Option<RoleName>) -> Result<PeerStream, NoTlsConnection> {
    let name = tls.server_name(role);
    let connector = TlsConnector::from(tls.client_config());
    let connected = connector.connect(name.clone(), tcp).await;
    let mut stream = connected.map_err(|error| NoTlsConnection(explain(&error, &tls)))?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(NoTlsConnection(
            "the server does not speak HTTP/2 over TLS".to_owned(),
        ));
    }
    match stream.fill_buf().await {
        Ok([]) => {
            return Err(NoTlsConnection(format!(
                "the server closed the connection after the handshake; {}",
                tls.describe()
            )));
        }
        Ok(_) => {}
        Err(error) => return Err(NoTlsConnection(explain(&error, &tls))),
    }
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain: Vec<CertificateDer<'static>> = chain.iter().map(|one| one.clone().into_owned()).collect();
    let ended = async move {
        let error = tls.distrusted(&chain, &OtherSide::Server(name)).await;
        tracing::info!(%error, "closing a connection: the certificate of the server is trusted no longer");
    };
    Ok(PeerStream::secure(stream, PeerObserver::secure(Box::pin(ended))))
}

/// What went wrong, in the words of the TLS library, and what to do.
fn explain(error: &io::Error, tls: &Tls) -> String {
    let Some(tls_error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        let closed = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
        );
        return if closed {
            format!("the TLS handshake was cut off: {error}; does this port speak TLS?")
        } else {
            format!("the TLS handshake failed: {error}")
        };
    };
    // Another CA of the same name gives a bad signature.
    if let Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) =
        tls_error
    {
        return format!("{tls_error}; is --tls-ca this cluster's CA?");
    }
    if let Error::InvalidMessage(_) = tls_error {
        return format!("{tls_error}; does this port speak TLS?");
    }
    let Error::AlertReceived(alert) = tls_error else {
        return tls_error.to_string();
    };
    let is_about_us = matches!(
        alert,
        AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied
    );
    if is_about_us {
        format!("{tls_error}; {}", tls.describe())
    } else {
        tls_error.to_string()
    }
}
