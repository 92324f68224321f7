//! The configuration of a client: the addresses of the cluster, and the timeout of the calls.

use std::time::Duration;

use paxos_common::{
    peer::{Address, Dialer},
    tls::{OwnRole, Tls, TlsSettings},
};

use crate::error::ConfigError;

/// Default of [`ClientConfig::timeout`]: longer than a change of the cluster's leader.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The acceptors of the cluster that `paxos dev` runs on this machine.
pub const DEV_ACCEPTORS: [&str; 3] = [
    "http://127.0.0.1:7001",
    "http://127.0.0.1:7002",
    "http://127.0.0.1:7003",
];

/// Upper bound of every timeout, so that adding a timeout to `Instant::now()` cannot overflow.
pub(crate) const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

/// The addresses of a cluster's processes, and the timeout of the calls.
///
/// ```
/// # use std::time::Duration;
/// # use paxos_client::ClientConfig;
/// let mut config = ClientConfig::new(["http://127.0.0.1:7001", "http://127.0.0.1:7002"])?;
/// config.timeout = Duration::from_secs(2);
/// # Ok::<_, paxos_client::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Acceptors, at least one. With more addresses, more acceptors may be down.
    pub acceptors: Vec<Address>,
    /// Proposers to use: the leader, if it is listed and known, and the others in order of preference. If empty, the
    /// client uses the proposers named by the acceptors, the leader first.
    pub proposers: Vec<Address>,
    /// Learners to use. Subscriptions and watches use the learners in order of preference, reads use all learners. If
    /// empty, the client uses the learners named by the acceptors.
    pub learners: Vec<Address>,
    /// Longest duration of a call, with all attempts; at most thirty days. For subscriptions, watches and elections:
    /// longest time without an answer of the cluster. Default: 10 seconds.
    pub timeout: Duration,
    /// The TLS identity of the client: the certificate must name the role `client` or `operator` of the cluster's domain.
    /// `None`: plaintext.
    pub tls: Option<TlsSettings>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            acceptors: Vec::new(),
            proposers: Vec::new(),
            learners: Vec::new(),
            timeout: TIMEOUT,
            tls: None,
        }
    }
}

impl ClientConfig {
    /// A configuration with these acceptors, each a URL `http://HOST:PORT`, or `https://HOST:PORT` with TLS, and the
    /// defaults.
    ///
    /// # Errors
    /// A text is not such a URL, or no acceptor is given.
    pub fn new(acceptors: impl IntoIterator<Item: AsRef<str>>) -> Result<Self, ConfigError> {
        let acceptors = acceptors.into_iter().map(|url| {
            let parsed = url.as_ref().parse::<Address>();
            parsed.map_err(|error| ConfigError::Address(error.to_string()))
        });
        let config = Self {
            acceptors: acceptors.collect::<Result<_, _>>()?,
            ..Self::default()
        };
        config.check()?;
        Ok(config)
    }

    /// Checks the configuration, and reads the files of the TLS identity.
    ///
    /// # Errors
    /// No client can be made of the configuration.
    pub(crate) fn dialer(&self) -> Result<Dialer, ConfigError> {
        self.check()?;
        let tls = self.tls.clone().map(|settings| Tls::load(settings, OwnRole::Any));
        let tls = tls
            .transpose()
            .map_err(|error| ConfigError::Tls(error.to_string()))?;
        if let Some(tls) = &tls {
            tls.keep_reloaded();
        }
        let dialer = Dialer::new(tls);
        let addresses = [&self.acceptors, &self.proposers, &self.learners];
        let refusal = addresses
            .into_iter()
            .flatten()
            .find_map(|address| dialer.refusal(address));
        refusal.map_or(Ok(dialer), |refusal| Err(ConfigError::Address(refusal)))
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.acceptors.is_empty() {
            return Err(ConfigError::NoAcceptors);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_url_of_a_process_is_refused_with_an_example() {
        let error = ClientConfig::new(["http://a1:7001", "a2:7001"]).unwrap_err();
        assert!(error.to_string().contains("http://127.0.0.1:7001"), "{error}");
        let none: [&str; 0] = [];
        assert_eq!(ClientConfig::new(none).unwrap_err(), ConfigError::NoAcceptors);
    }
}
