//! Limits of open calls: for each kind of call, for each connection, and for each peer address.
//!
//! Each kind has its own limit, so callers of different kinds do not compete. Within a kind, an eighth of all calls is
//! a reserve for connections with fewer than [`FEW`] open calls. Of the rest, a connection may have at most five eighths
//! as many open calls as are still free. One connection alone has a third of all (a client with 1,024 calls in flight
//! has one connection), and eight connections have 86 % together. Any number of connections that share the rest leave
//! the reserve to newcomers: to 48 newcomers for peers and clients. Health checks have no limit for the process, so every
//! check is answered. The limit for a connection implies a limit for the process, since connections are limited.
//!
//! All connections of one peer address together have at most half of the calls of a kind: see
//! [`addresses`](super::addresses). Therefore many connections from one address leave the other half to other addresses.

use std::sync::{Arc, atomic::Ordering};

use tonic::Status;

use super::{
    addresses::{FEW, may_take},
    connections::Usage,
    kinds::{CallKind, OpenCalls},
};
use crate::wire::status;

/// An open call, until this value is dropped.
#[derive(Debug)]
pub(super) struct CallPlace {
    kind: CallKind,
    all: Arc<OpenCalls>,
    usage: Option<Arc<Usage>>,
}

impl CallPlace {
    /// Opens a call of `kind` on the connection with this usage.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: too many calls are open.
    pub(super) fn take(
        all: &Arc<OpenCalls>,
        kind: CallKind,
        usage: Option<Arc<Usage>>,
    ) -> Result<Self, Status> {
        let (most, most_of_connection) = kind.most();
        // Counts from here on, until dropped.
        let place = Self {
            kind,
            all: Arc::clone(all),
            usage,
        };
        let open = place.all.of(kind).fetch_add(1, Ordering::Relaxed);
        let free = most.saturating_sub(open);
        let has_share = place.usage.as_ref().is_none_or(|usage| {
            let of_connection = usage.open.of(kind).fetch_add(1, Ordering::Relaxed);
            let beside_reserve = free.saturating_sub(most / 8);
            let of_address = usage.address.open.of(kind).fetch_add(1, Ordering::Relaxed);
            of_connection < most_of_connection.min((beside_reserve / 8 * 5).max(FEW))
                && may_take(most, open, of_address)
        });
        if free > 0 && has_share {
            Ok(place)
        } else {
            Err(status::overloaded(kind.name()))
        }
    }
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        self.all.of(self.kind).fetch_sub(1, Ordering::Relaxed);
        if let Some(usage) = &self.usage {
            usage.open.of(self.kind).fetch_sub(1, Ordering::Relaxed);
            usage.address.open.of(self.kind).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::server::kinds::KINDS;

    const KINDS_ALL: [CallKind; KINDS] = [
        CallKind::Peers,
        CallKind::Clients,
        CallKind::Probes,
        CallKind::Reflection,
        CallKind::Checks,
        CallKind::Watches,
    ];

    /// Opens as many calls as a connection may open now.
    fn open_all(all: &Arc<OpenCalls>, kind: CallKind) -> Vec<CallPlace> {
        let usage = Arc::new(Usage::new());
        let open = || CallPlace::take(all, kind, Some(Arc::clone(&usage))).ok();
        std::iter::from_fn(open).take(10_000).collect()
    }

    #[test]
    fn greedy_connections_leave_calls_to_a_newcomer_and_to_other_kinds() {
        for kind in KINDS_ALL {
            let all = Arc::new(OpenCalls::default());
            let (most, most_of_connection) = kind.most();
            let greedy: Vec<_> = (0..8).map(|_| open_all(&all, kind)).collect();
            let first = greedy[0].len();
            assert!(
                first >= (most / 8 * 7).div_ceil(3).min(most_of_connection) - 1,
                "{kind:?}: {first}"
            );
            let newcomer = open_all(&all, kind);
            assert!(
                newcomer.len() >= 4.min(most_of_connection),
                "{kind:?}: {}",
                newcomer.len()
            );
            for other in KINDS_ALL.into_iter().filter(|&other| other != kind) {
                assert!(
                    CallPlace::take(&all, other, None).is_ok(),
                    "{other:?} beside {kind:?}"
                );
            }
            drop((greedy, newcomer));
            assert_eq!(open_all(&all, kind).len(), first, "{kind:?}: given back");
        }
    }

    #[test]
    fn one_connection_alone_may_have_as_many_calls_as_http_2_lets_it_open() {
        let all = Arc::new(OpenCalls::default());
        let most = open_all(&all, CallKind::Clients).len();
        assert!(
            most >= super::super::STREAMS_PER_CONNECTION_MAX as usize,
            "{most}"
        );
    }

    #[test]
    fn newcomers_find_calls_beside_many_greedy_connections() {
        for kind in [CallKind::Peers, CallKind::Clients, CallKind::Probes] {
            let all = Arc::new(OpenCalls::default());
            let greedy: Vec<_> = (0..64).map(|_| Arc::new(Usage::new())).collect();
            let open = |usage: &Arc<Usage>| CallPlace::take(&all, kind, Some(Arc::clone(usage)));
            let most = kind.most().0;
            // Each connection opens as many calls as the reserve leaves.
            let mut places = Vec::new();
            for usage in &greedy {
                while all.of(kind).load(Ordering::Relaxed) < most - most / 8 {
                    let Ok(place) = open(usage) else { break };
                    places.push(place);
                }
            }
            assert_eq!(places.len(), most - most / 8, "{kind:?}");
            assert!(open(&greedy[0]).is_err(), "{kind:?}: it has many");
            let newcomers: Vec<_> = (0..most / 8 / FEW).map(|_| open_all(&all, kind)).collect();
            assert!(newcomers.iter().all(|newcomer| newcomer.len() == FEW), "{kind:?}");
            assert!(open(&Arc::new(Usage::new())).is_err(), "{kind:?}: all are open");
        }
    }

    #[test]
    fn connections_of_one_address_leave_half_to_other_addresses() {
        for kind in [
            CallKind::Peers,
            CallKind::Clients,
            CallKind::Probes,
            CallKind::Reflection,
            CallKind::Watches,
        ] {
            let all = Arc::new(OpenCalls::default());
            let address = Arc::default();
            let open = |address: &Arc<_>| {
                let usage = Arc::new(Usage::of(Arc::clone(address)));
                let places =
                    std::iter::from_fn(|| CallPlace::take(&all, kind, Some(Arc::clone(&usage))).ok());
                places.take(FEW).collect::<Vec<_>>()
            };
            let greedy: Vec<_> = (0..768).flat_map(|_| open(&address)).collect();
            let most = kind.most().0;
            assert_eq!(greedy.len(), most / 2, "{kind:?}");
            assert!(open(&address).is_empty(), "{kind:?}: it has its half");
            let other = Arc::default();
            let honest: Vec<_> = (0..768).flat_map(|_| open(&other)).collect();
            assert_eq!(honest.len(), most / 4, "{kind:?}");
            drop(greedy);
            assert!(!open(&address).is_empty(), "{kind:?}: given back");
        }
    }

    #[test]
    fn hundreds_of_connections_never_open_more_than_the_process_may_have() {
        let all = Arc::new(OpenCalls::default());
        let open: Vec<_> = (0..768).map(|_| open_all(&all, CallKind::Clients)).collect();
        let count: usize = open.iter().map(Vec::len).sum();
        assert!(count <= CallKind::Clients.most().0, "{count}");
        assert!(count >= CallKind::Clients.most().0 - 100, "{count}");
        let checks: Vec<_> = (0..768).map(|_| open_all(&all, CallKind::Checks)).collect();
        assert!(checks.iter().all(|checks| checks.len() == 2));
    }

    #[test]
    fn methods_are_of_the_kind_that_their_callers_are() {
        for (path, kind) in [
            ("/paxos.v1.Acceptor/Accept", CallKind::Peers),
            ("/paxos.v1.Acceptor/Status", CallKind::Probes),
            ("/paxos.v1.Proposer/Propose", CallKind::Clients),
            ("/paxos.v1.Proposer/Fill", CallKind::Peers),
            ("/paxos.v1.Learner/Status", CallKind::Probes),
            ("/paxos.v1.Learner/Read", CallKind::Clients),
            ("/grpc.health.v1.Health/Check", CallKind::Checks),
            ("/grpc.health.v1.Health/Watch", CallKind::Watches),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                CallKind::Reflection,
            ),
            ("/", CallKind::Probes),
            ("", CallKind::Probes),
        ] {
            assert_eq!(CallKind::of_path(path), kind, "{path}");
        }
    }
}
