//! Opens connections to the processes of a cluster: in plaintext, or with mutual TLS.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};

use super::{Address, CONNECT_TIMEOUT, connector::Connector};
use crate::tls::{RoleName, RoleSet, Tls};

/// Interval of probes on an open connection, even an idle one, so that a vanished machine is noticed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// A connection is closed when a probe stays unanswered for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of addresses of the other scheme that are remembered, so that each is warned of once.
const WARNED_MAX: usize = 64;

/// Opens connections to the processes of a cluster: in plaintext, or with the TLS identity of this process. Cheap to
/// clone.
///
/// With TLS only `https://` addresses are dialled, and without TLS only `http://` addresses. A connection to an address
/// of the other scheme fails, and is never attempted.
#[derive(Clone, Debug, Default)]
pub struct Dialer {
    tls: Option<Tls>,
    warned: Arc<Mutex<HashSet<Address>>>,
}

impl Dialer {
    /// Connections with this TLS identity; `None`: in plaintext.
    pub fn new(tls: Option<Tls>) -> Self {
        Self {
            tls,
            warned: Arc::default(),
        }
    }

    /// Whether connections use TLS.
    pub fn uses_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What the certificate of this process proves; `None` without TLS.
    pub fn own_roles(&self) -> Option<RoleSet> {
        self.tls.as_ref().map(Tls::own_roles)
    }

    /// Whether addresses of this scheme are dialled. Warns of each other address once.
    pub fn accepts(&self, address: &Address) -> bool {
        let refusal = self.refusal(address);
        if let Some(refusal) = &refusal {
            self.warn_once(address, refusal);
        }
        refusal.is_none()
    }

    /// Why an address of the other scheme is not dialled.
    pub fn refusal(&self, address: &Address) -> Option<String> {
        match (self.uses_tls(), address.is_tls()) {
            (true, true) | (false, false) => None,
            (true, false) => Some(format!(
                "{address} is not https://, and this process speaks only TLS"
            )),
            (false, true) => Some(format!(
                "{address} needs TLS: give --tls-cert, --tls-key and --tls-ca"
            )),
        }
    }

    /// A channel to an acceptor. See [`connect_lazy`](Self::connect_lazy).
    pub fn to_acceptor(&self, address: &Address) -> Channel {
        self.connect_lazy(address, Some(RoleName::Acceptor))
    }

    /// A channel to a proposer. See [`connect_lazy`](Self::connect_lazy).
    pub fn to_proposer(&self, address: &Address) -> Channel {
        self.connect_lazy(address, Some(RoleName::Proposer))
    }

    /// A channel to a learner. See [`connect_lazy`](Self::connect_lazy).
    pub fn to_learner(&self, address: &Address) -> Channel {
        self.connect_lazy(address, Some(RoleName::Learner))
    }

    /// A channel that connects at its first use, and again whenever necessary. The channel never gives up: while the
    /// peer is unreachable, each call fails fast with UNAVAILABLE. With TLS the certificate of the peer must name
    /// `role`; `None`: any role that accepts connections.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn connect_lazy(&self, address: &Address, role: Option<RoleName>) -> Channel {
        endpoint(address).connect_with_connector_lazy(self.connector(address, role))
    }

    /// A channel that is connected already, and connects again whenever necessary.
    ///
    /// # Errors
    /// The address cannot be resolved or reached, or the peer has another role. The status is that of a call on a
    /// channel of [`connect_lazy`](Self::connect_lazy).
    pub async fn connect(&self, address: &Address, role: Option<RoleName>) -> Result<Channel, Status> {
        let connector = self.connector(address, role);
        let connected = endpoint(address).connect_with_connector(connector).await;
        connected.map_err(|error| Status::from_error(error.into()))
    }

    /// A channel to an acceptor that connects at its first use, and only once: the next call after the end of the
    /// connection fails. Dropping the [`Socket`](super::Socket) ends the connection at the latest.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[cfg(feature = "service")]
    pub fn dedicated(&self, address: &Address) -> (Channel, super::Socket) {
        super::dedicated::dedicated(
            &endpoint(address),
            self.connector(address, Some(RoleName::Acceptor)),
        )
    }

    fn connector(&self, address: &Address, role: Option<RoleName>) -> Connector {
        let refusal = self.refusal(address);
        if let Some(refusal) = &refusal {
            self.warn_once(address, refusal);
        }
        Connector::new(self.tls.clone(), role, refusal)
    }

    fn warn_once(&self, address: &Address, refusal: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() < WARNED_MAX && warned.insert(address.clone()) {
            tracing::warn!(
                %address, refusal,
                "an address of the other scheme is ignored: check --advertise and --tls-… of the process there"
            );
        }
    }
}

/// The settings of every connection to a peer. The endpoint itself is `http://` also with TLS, so that the connector
/// alone decides about TLS: tonic's own TLS may be switched on by another crate of the program.
fn endpoint(address: &Address) -> Endpoint {
    let plain = format!("http://{}", address.host_and_port());
    let endpoint = Endpoint::from_shared(plain).expect("an Address has been parsed as a URI");
    let origin: Uri = address
        .as_str()
        .parse()
        .expect("an Address has been parsed as a URI");
    endpoint
        .origin(origin)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use paxos_proto::v1::{ProposerStatusRequest, proposer_client::ProposerClient};
    use tonic::ConnectError;

    use super::*;
    use crate::tls::testing::{TestCa, load};

    /// The text of a failed call to a listener, and whether a connection arrived.
    async fn call(dialer: &Dialer, scheme: &str) -> (String, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address: Address = format!("{scheme}://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let mut client = ProposerClient::new(dialer.to_proposer(&address));
        let calling = client.status(ProposerStatusRequest {});
        // A listener that answers nothing: the call of a wrong scheme fails at once.
        let called = tokio::time::timeout(Duration::from_secs(1), calling).await;
        let text = match called {
            Ok(called) => {
                let status = called.unwrap_err();
                let mut source = std::error::Error::source(&status);
                let mut is_connect = false;
                while let Some(error) = source {
                    is_connect |= error.is::<ConnectError>();
                    source = error.source();
                }
                assert!(is_connect, "{status}: nothing was sent");
                crate::peer::reason(&status)
            }
            Err(_) => "no answer".to_owned(),
        };
        (text, listener.accept().is_ok())
    }

    #[tokio::test]
    async fn address_of_the_other_scheme_is_never_dialled() {
        let (dir, ca) = (tempfile::TempDir::new().unwrap(), TestCa::new());
        let files = ca.issue(dir.path(), &["learner.paxos.internal"], 3_600);
        let secure = Dialer::new(Some(load(&files, RoleName::Learner)));
        let plain = Dialer::default();
        assert_eq!(call(&secure, "https").await, ("no answer".to_owned(), true));
        assert_eq!(call(&plain, "http").await, ("no answer".to_owned(), true));
        let (text, arrived) = call(&secure, "http").await;
        assert!(
            text.contains("this process speaks only TLS") && !arrived,
            "{text}"
        );
        let (text, arrived) = call(&plain, "https").await;
        assert!(
            text.contains("give --tls-cert, --tls-key and --tls-ca") && !arrived,
            "{text}"
        );
    }

    #[test]
    fn only_the_wrong_scheme_is_warned_of_and_only_once() {
        let dialer = Dialer::default();
        let wrong: Address = "https://a:1".parse().unwrap();
        assert!(dialer.accepts(&"http://a:1".parse().unwrap()));
        assert!(dialer.warned.lock().unwrap().is_empty());
        for _ in 0..3 {
            assert!(!dialer.accepts(&wrong));
            drop(dialer.connector(&wrong, None));
            assert_eq!(dialer.warned.lock().unwrap().len(), 1);
        }
        let other: Address = "https://b:1".parse().unwrap();
        drop(dialer.connector(&other, None));
        assert_eq!(
            dialer.warned.lock().unwrap().len(),
            2,
            "a connection is refused too"
        );
    }
}
