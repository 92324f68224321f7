//! Calls to other processes: addresses, lazy connections, and waits between attempts.

use std::{error::Error as _, fmt, net::Ipv6Addr, str::FromStr, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tonic::{ConnectError, Status, transport::Uri};

#[cfg(feature = "service")]
pub mod acceptor;
#[cfg(feature = "service")]
mod address_book;
#[cfg(feature = "service")]
mod arrivals;
mod connector;
#[cfg(feature = "service")]
mod dedicated;
mod dialer;
mod limits;
mod stream;
#[cfg(feature = "service")]
pub mod waiting;

#[cfg(feature = "service")]
pub use address_book::AddressBook;
#[cfg(feature = "service")]
pub use arrivals::{Arrivals, Watched};
pub use connector::NoTlsConnection;
#[cfg(feature = "service")]
pub use dedicated::Socket;
pub use dialer::Dialer;
pub use limits::MessageLimits;
pub use stream::SpeaksTls;

pub use crate::paxos::forming::without_scheme;

/// The largest message of all our services and clients, in bytes, sent or received. Every generated client and server
/// needs this limit: see [`MessageLimits`].
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long a connection attempt may take: after this time the other side is as good as absent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Scheme of processes without TLS.
const HTTP: &str = "http://";
/// Scheme of processes with TLS.
const HTTPS: &str = "https://";

/// Longest address in bytes (inclusive).
pub const ADDRESS_BYTES_MAX: usize = 256;

/// Address of a process: `http://HOST:PORT`, or `https://HOST:PORT` of a process with TLS. At most
/// [`ADDRESS_BYTES_MAX`] bytes. Compared as text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(String);

/// The text is not a valid address of a process.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is not an address: {fault}; give http://HOST:PORT, for example http://127.0.0.1:7001, or https:// with TLS"
)]
pub struct AddressError {
    text: String,
    fault: &'static str,
}

impl Address {
    /// The URL, without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Host and port, as in `p1:7001`.
    pub fn host_and_port(&self) -> &str {
        without_scheme(&self.0)
    }

    /// Whether the address is that of a process with TLS: `https://`.
    pub fn is_tls(&self) -> bool {
        self.0.starts_with(HTTPS)
    }
}

impl AsRef<str> for Address {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |fault| {
            Err(AddressError {
                text: text.to_owned(),
                fault,
            })
        };
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(AddressError {
                text: text.chars().take(32).chain("...".chars()).collect(),
                fault: "the text has more than 256 bytes",
            });
        }
        if lacks_brackets(text) {
            return refuse("an IPv6 address needs brackets, as in http://[fd00::5]:7201");
        }
        let Ok(uri) = text.parse::<Uri>() else {
            return refuse("the text is not a URL");
        };
        let scheme = match uri.scheme_str() {
            Some("http") => HTTP,
            Some("https") => HTTPS,
            Some(_) | None => return refuse("the text does not start with http:// or https://"),
        };
        let Some(authority) = uri
            .authority()
            .filter(|authority| !authority.as_str().contains('@'))
        else {
            return refuse("the host is missing or invalid");
        };
        if authority.host().is_empty() || authority.port_u16().is_none_or(|port| port == 0) {
            return refuse("the host or the port is missing");
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return refuse("text follows the port");
        }
        Ok(Self(format!("{scheme}{authority}")))
    }
}

/// Whether the host of a text with or without port, and with or without a scheme, is an IPv6 address without brackets.
pub fn lacks_brackets(text: &str) -> bool {
    let text = without_scheme(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    let host = text.rsplit_once(':').map_or("", |(host, _port)| host);
    [text, host].iter().any(|host| host.parse::<Ipv6Addr>().is_ok())
}

/// A plaintext channel, for tests: processes of a cluster use the [`Dialer`] of their role.
///
/// # Panics
/// Outside a Tokio runtime.
#[doc(hidden)]
pub fn connect_lazy(address: &Address) -> tonic::transport::Channel {
    Dialer::default().connect_lazy(address, None)
}

/// Why a call failed, in words for a log: the peer's own answer, or the fate of the connection.
pub fn reason(status: &Status) -> String {
    let Some(mut error) = status.source() else {
        return format!("{}: {}", status.code().description(), status.message());
    };
    // Transport errors have a source. The cause is at the bottom of the chain.
    let mut connecting = false;
    loop {
        connecting |= error.is::<ConnectError>();
        match error.source() {
            Some(source) => error = source,
            None if connecting => return format!("no connection: {error}"),
            None => return "the connection was lost".to_owned(),
        }
    }
}

/// How long to wait before each next attempt. The delays double, with jitter, so that processes which failed together
/// try at different times.
#[derive(Debug)]
pub struct Backoff {
    builder: ExponentialBuilder,
    delays: ExponentialBackoff,
}

impl Backoff {
    /// Delays that start at `min` and double up to `max`; jitter adds at most the same again to each delay.
    pub fn new(min: Duration, max: Duration) -> Self {
        let builder = ExponentialBuilder::new()
            .with_min_delay(min)
            .with_max_delay(max)
            .without_max_times()
            .with_jitter();
        Self {
            builder,
            delays: builder.build(),
        }
    }

    /// How long to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        self.delays
            .next()
            .expect("neither the number of attempts nor the total delay is limited")
    }

    /// An attempt succeeded: the next failure starts at the shortest delay again.
    pub fn reset(&mut self) {
        self.delays = self.builder.build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_keeps_host_and_port_and_drops_a_last_slash() {
        for (text, expected) in [
            ("http://127.0.0.1:7001", "http://127.0.0.1:7001"),
            ("http://a1.example:7001/", "http://a1.example:7001"),
            ("http://[::1]:7001", "http://[::1]:7001"),
            ("https://a1.example:7001/", "https://a1.example:7001"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().as_str(), expected);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for text in [
            "",
            "127.0.0.1:7001",
            "localhost",
            "ftp://a:1",
            "https://a",
            "http://a",
            "http://:7001",
            "http://a:0",
            "http://a:1/path",
            "http://user@a:1",
            "http://a:99999",
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains("http://HOST:PORT"), "{error}");
            assert!(!error.contains("brackets"), "{error}");
        }
    }

    #[test]
    fn ipv6_address_without_brackets_is_refused_with_the_brackets() {
        for text in ["http://fd00::5:7201", "http://::1:7001/", "http://fd00::5"] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(
                error.contains("an IPv6 address needs brackets, as in http://[fd00::5]:7201"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn reason_names_what_became_of_the_connection_or_what_the_peer_says() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address: Address = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let call = async || {
            let mut client = paxos_proto::v1::proposer_client::ProposerClient::new(
                Dialer::default().to_proposer(&address),
            );
            let called = client.status(paxos_proto::v1::ProposerStatusRequest {}).await;
            reason(&called.unwrap_err())
        };
        let listener = std::thread::spawn(move || {
            // A peer that dies in the middle of a call.
            drop(listener.accept().unwrap());
        });
        let lost = call().await;
        assert_eq!(lost, "the connection was lost");
        listener.join().unwrap();
        let refused = call().await;
        assert!(
            refused.starts_with("no connection: ") && refused.contains("refused"),
            "{refused}"
        );
        let answered = reason(&Status::failed_precondition("another cluster"));
        assert!(answered.ends_with(": another cluster"), "{answered}");
    }

    #[test]
    fn backoff_grows_to_its_bound_and_starts_again_after_a_reset() {
        let (min, max) = (Duration::from_millis(10), Duration::from_millis(100));
        let mut backoff = Backoff::new(min, max);
        let first = backoff.next_delay();
        assert!(first >= min && first <= 2 * min, "{first:?}");
        let late = (0..20).map(|_| backoff.next_delay()).last().unwrap();
        assert!(late >= max && late <= 2 * max, "{late:?}");
        backoff.reset();
        assert!(backoff.next_delay() <= 2 * min);
    }
}
