//! Limits the rate at which callers open sessions: each opening beyond the maximum expires the least recently used
//! session.
//!
//! At most 65,536 sessions are open. A client needs a session while waiting for an answer, and leaves the session after
//! 20 s without use. Openings at the full rate of the limits expire an unused session in (65,536 − 4,096) / 200 per
//! second = 5 minutes, or in 10 minutes from a single address. An honest fleet needs far less: the simultaneous start
//! of thousands of clients fits the burst, and 100 clients a second from one address may follow. The leader sees each
//! opening, so the limits apply to the cluster; commands forwarded by a standby count as the standby's.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use paxos_common::wire::status;
use paxos_proto::v1::{self as pb, command::Operation};
use tonic::Status;

/// Limits for one address: openings per second, and openings at once after a pause.
const OF_ONE: (u32, u32) = (100, 2_048);
/// Limits for all addresses together.
const OF_ALL: (u32, u32) = (200, 4_096);
/// Maximum number of remembered addresses. Beyond the maximum, addresses with a full allowance are forgotten.
const ADDRESSES_MAX: usize = 16_384;

/// The rate limits for session openings. Cheap to clone; all clones share the same state.
#[derive(Clone, Debug)]
pub(crate) struct Openings {
    of_one: Arc<DefaultKeyedRateLimiter<IpAddr>>,
    of_all: Arc<governor::DefaultDirectRateLimiter>,
}

impl Default for Openings {
    fn default() -> Self {
        Self {
            of_one: Arc::new(RateLimiter::keyed(quota(OF_ONE))),
            of_all: Arc::new(RateLimiter::direct(quota(OF_ALL))),
        }
    }
}

impl Openings {
    /// Admits a command, unless the command opens a session and the caller or all callers opened too many.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: nothing was proposed, and a retry succeeds.
    pub(crate) fn admit(&self, command: &pb::Command, caller: Option<IpAddr>) -> Result<(), Status> {
        if !matches!(command.operation, Some(Operation::OpenSession(_))) {
            return Ok(());
        }
        if self.of_one.len() > ADDRESSES_MAX {
            self.of_one.retain_recent();
        }
        let caller = network(caller.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        let full = |(each_second, at_once): (u32, u32), whose| {
            status::overloaded(&format!(
                "{whose} allowance of session openings ({at_once} at once, then {each_second} a second)"
            ))
        };
        self.of_one
            .check_key(&caller)
            .map_err(|_| full(OF_ONE, "your address's"))?;
        self.of_all.check().map_err(|_| full(OF_ALL, "the cluster's"))
    }
}

fn quota((each_second, at_once): (u32, u32)) -> Quota {
    let at_once = NonZeroU32::new(at_once).expect("a constant above 0");
    Quota::with_period(Duration::from_secs(1) / each_second)
        .expect("a constant above 0")
        .allow_burst(at_once)
}

/// An IPv6 host can use any address of a 64-bit network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use paxos_common::wire::{command::append, status::retry_delay_of};
    use tonic::Code;

    use super::*;

    fn opening() -> pb::Command {
        pb::Command {
            session: None,
            operation: Some(Operation::OpenSession(pb::OpenSession::default())),
        }
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn openings_of_one_address_and_of_all_addresses_are_limited() {
        let openings = Openings::default();
        let of_one = |of: &str| {
            (0..6_000)
                .filter(|_| openings.admit(&opening(), address(of)).is_ok())
                .count()
        };
        let first = of_one("10.0.0.1");
        // A busy machine refills a little meanwhile.
        assert!((2_048..6_000).contains(&first), "{first}");
        let refused = (0..6_000).find_map(|_| openings.admit(&opening(), address("10.0.0.1")).err());
        let refused = refused.unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(retry_delay_of(&refused).is_some());
        assert_eq!(status::fate_of(&refused), Some(status::Fate::NotProposed));
        // Other addresses are not held up, and all addresses together have a limit as well.
        assert!(openings.admit(&opening(), address("10.0.0.2")).is_ok());
        let all: usize = (0..5).map(|host| of_one(&format!("10.0.1.{host}"))).sum();
        assert!(all < 10_000, "{all}");
        // Other commands are never held up.
        let append = append(bytes::Bytes::from_static(b"x"));
        assert!(openings.admit(&append, address("10.0.0.1")).is_ok());
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), "10.0.0.1");
    }
}
