//! Calling other processes: their addresses, lazy connections, and how long to wait before trying again.

use std::{error::Error as _, fmt, str::FromStr, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tonic::{
    ConnectError, Status,
    transport::{Channel, Endpoint, Uri},
};

#[cfg(feature = "service")]
mod arrivals;
#[cfg(feature = "service")]
mod dedicated;

#[cfg(feature = "service")]
pub use arrivals::{Arrivals, Watched};
#[cfg(feature = "service")]
pub use dedicated::{Socket, dedicated};

/// The largest message that any service or client of ours sends or takes, in bytes: set it on every generated client
/// and server, both ways (`max_decoding_message_size`, `max_encoding_message_size`).
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longer than this, and the other side of a connection attempt is as good as absent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often an open connection is probed, even when nothing is going on, so that a vanished machine is noticed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// A connection whose probe is unanswered for so long is dropped.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest address in bytes (inclusive).
pub const ADDRESS_BYTES_MAX: usize = 256;

/// Where a process can be reached: `http://HOST:PORT`, at most [`ADDRESS_BYTES_MAX`] bytes. Compared as text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(String);

/// The text is no address of a process of ours.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no address: {fault}; give http://HOST:PORT, for example http://127.0.0.1:7001")]
pub struct AddressError {
    text: String,
    fault: &'static str,
}

impl Address {
    /// The URL, without a slash at its end.
    pub fn as_str(&self) -> &str {
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
                fault: "it has more than 256 bytes",
            });
        }
        let Ok(uri) = text.parse::<Uri>() else {
            return refuse("it is no URL");
        };
        if uri.scheme_str() != Some("http") {
            return refuse("it does not start with http:// (there is no TLS yet)");
        }
        let Some(authority) = uri
            .authority()
            .filter(|authority| !authority.as_str().contains('@'))
        else {
            return refuse("the host is missing or odd");
        };
        if authority.host().is_empty() || authority.port_u16().is_none_or(|port| port == 0) {
            return refuse("the host or the port is missing");
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return refuse("there is something behind the port");
        }
        Ok(Self(format!("http://{authority}")))
    }
}

/// A channel that connects when it is first used and again whenever it must. It never gives up by itself: while the
/// peer cannot be reached, each call fails fast with UNAVAILABLE.
///
/// # Panics
/// Outside a Tokio runtime.
pub fn connect_lazy(address: &Address) -> Channel {
    endpoint(address).connect_lazy()
}

/// How every connection to a peer is set up.
fn endpoint(address: &Address) -> Endpoint {
    let endpoint = Endpoint::from_shared(address.0.clone()).expect("an Address has been parsed as a URI");
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// Why a call failed, in words for a log: the peer's own answer, or what became of the connection.
pub fn reason(status: &Status) -> String {
    let Some(mut error) = status.source() else {
        return format!("{}: {}", status.code().description(), status.message());
    };
    // An error of the transport has a source. What happened is at the bottom of the chain.
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

/// How long to wait before each next attempt: doubling, jittered so that many who failed together part.
#[derive(Debug)]
pub struct Backoff {
    builder: ExponentialBuilder,
    delays: ExponentialBackoff,
}

impl Backoff {
    /// Delays from `min` on, that double up to `max`; jitter adds up to as much again to each.
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
            "https://a:1",
            "http://a",
            "http://:7001",
            "http://a:0",
            "http://a:1/path",
            "http://user@a:1",
            "http://a:99999",
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains("http://HOST:PORT"), "{error}");
        }
    }

    #[tokio::test]
    async fn reason_names_what_became_of_the_connection_or_what_the_peer_says() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address: Address = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let call = async || {
            let mut client = paxos_proto::v1::proposer_client::ProposerClient::new(connect_lazy(&address));
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
