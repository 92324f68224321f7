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
//!
//! Callers outside the cluster, known by their certificates, have half of the calls of a kind. All rules above apply to
//! them within this half, so the other half is left to acceptors, proposers and learners. One connection has at most an
//! eighth of this half, and half of this eighth are streams: so that single calls go on beside many streams.

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
    /// The caller is outside the cluster.
    is_outside: bool,
    is_stream: bool,
}

impl CallPlace {
    /// Opens a call of `kind` on the connection with this usage. `is_stream`: the call can last.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: too many calls are open.
    pub(super) fn take(
        all: &Arc<OpenCalls>,
        kind: CallKind,
        is_stream: bool,
        usage: Option<Arc<Usage>>,
    ) -> Result<Self, Status> {
        let is_outside = usage.as_ref().is_some_and(|usage| usage.is_outside());
        // Counts from here on, until dropped.
        let place = Self {
            kind,
            all: Arc::clone(all),
            usage,
            is_outside,
            is_stream,
        };
        let (most_of_all, _) = kind.most();
        let (most, most_of_connection) = if is_outside {
            kind.most_outside()
        } else {
            kind.most()
        };
        let (open_of_all, open) = place.enter(&place.all);
        let free = most
            .saturating_sub(open)
            .min(most_of_all.saturating_sub(open_of_all));
        let has_share = place.usage.as_ref().is_none_or(|usage| {
            let (of_connection, _) = place.enter(&usage.open);
            let (_, of_address) = place.enter(&usage.address.open);
            let beside_reserve = free.saturating_sub(most / 8);
            of_connection < most_of_connection.min((beside_reserve / 8 * 5).max(FEW))
                && may_take(most, most - free, of_address)
        });
        let streams = place.enter_streams();
        if is_outside && is_stream && streams >= most_of_connection / 2 {
            return Err(status::overloaded("the connection's list of open streams"));
        }
        match (free > 0 && has_share, is_outside) {
            (true, _) => Ok(place),
            (false, false) => Err(status::overloaded(kind.name())),
            (false, true) => Err(status::overloaded(&format!(
                "the clients' half of {}",
                kind.name()
            ))),
        }
    }

    /// Counts the call in; returns the open calls before: of all callers, and of callers of the same side.
    fn enter(&self, calls: &OpenCalls) -> (usize, usize) {
        let of_all = calls.of(self.kind).fetch_add(1, Ordering::Relaxed);
        let of_side = if self.is_outside {
            calls.of_outside(self.kind).fetch_add(1, Ordering::Relaxed)
        } else {
            of_all
        };
        (of_all, of_side)
    }

    fn leave(&self, calls: &OpenCalls) {
        calls.of(self.kind).fetch_sub(1, Ordering::Relaxed);
        if self.is_outside {
            calls.of_outside(self.kind).fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a stream of the connection; returns the open streams before.
    fn enter_streams(&self) -> usize {
        match &self.usage {
            Some(usage) if self.is_stream => usage.open.streams.fetch_add(1, Ordering::Relaxed),
            Some(_) | None => 0,
        }
    }
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        self.leave(&self.all);
        if let Some(usage) = &self.usage {
            self.leave(&usage.open);
            self.leave(&usage.address.open);
            if self.is_stream {
                usage.open.streams.fetch_sub(1, Ordering::Relaxed);
            }
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
        let open = || CallPlace::take(all, kind, false, Some(Arc::clone(&usage))).ok();
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
                    CallPlace::take(&all, other, false, None).is_ok(),
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
            let open = |usage: &Arc<Usage>| CallPlace::take(&all, kind, false, Some(Arc::clone(usage)));
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
                    std::iter::from_fn(|| CallPlace::take(&all, kind, false, Some(Arc::clone(&usage))).ok());
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

    #[test]
    fn health_checks_of_clients_are_limited_together_by_address_and_by_connection() {
        let all = Arc::new(OpenCalls::default());
        // Each connection has an address of its own.
        let clients: Vec<_> = (0..384)
            .map(|_| fill(&all, CallKind::Checks, false, &outside()))
            .collect();
        assert!(clients.iter().all(|checks| checks.len() <= 2));
        assert_eq!(clients.iter().map(Vec::len).sum::<usize>(), 256);
        let refusal = CallPlace::take(&all, CallKind::Checks, false, Some(outside())).unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
        // Every check of the cluster's own processes is answered.
        let peers: Vec<_> = (0..384).map(|_| open_all(&all, CallKind::Checks)).collect();
        assert!(peers.iter().all(|checks| checks.len() == 2));
        drop((clients, peers));
        let address = Arc::default();
        let of_address = || {
            let usage = Arc::new(Usage::of(Arc::clone(&address)));
            usage.set_outside();
            fill(&all, CallKind::Checks, false, &usage)
        };
        let greedy: Vec<_> = (0..384).flat_map(|_| of_address()).collect();
        assert_eq!(greedy.len(), 128, "one address has half");
        assert_eq!(fill(&all, CallKind::Checks, false, &outside()).len(), 2);
    }

    /// A connection of a client, known by its certificate.
    fn outside() -> Arc<Usage> {
        let usage = Arc::new(Usage::new());
        usage.set_outside();
        usage
    }

    /// Opens calls on this connection until the first refusal.
    fn fill(all: &Arc<OpenCalls>, kind: CallKind, is_stream: bool, usage: &Arc<Usage>) -> Vec<CallPlace> {
        let open = || CallPlace::take(all, kind, is_stream, Some(Arc::clone(usage))).ok();
        std::iter::from_fn(open).take(10_000).collect()
    }

    #[test]
    fn clients_leave_half_of_all_calls_to_the_cluster() {
        for kind in [
            CallKind::Peers,
            CallKind::Clients,
            CallKind::Probes,
            CallKind::Reflection,
        ] {
            let all = Arc::new(OpenCalls::default());
            let (most, _) = kind.most();
            let clients: Vec<_> = (0..384)
                .flat_map(|_| fill(&all, kind, false, &outside()))
                .collect();
            assert!(clients.len() <= most / 2, "{kind:?}: {}", clients.len());
            assert!(clients.len() >= most / 2 - FEW, "{kind:?}: {}", clients.len());
            let peers: Vec<_> = (0..384).flat_map(|_| open_all(&all, kind)).collect();
            assert!(peers.len() >= most / 2 - FEW, "{kind:?}: {}", peers.len());
            drop(clients);
            assert!(
                !fill(&all, kind, false, &outside()).is_empty(),
                "{kind:?}: given back"
            );
        }
    }

    #[test]
    fn peers_leave_clients_no_more_than_is_free() {
        let all = Arc::new(OpenCalls::default());
        let kind = CallKind::Clients;
        let peers: Vec<_> = (0..768).flat_map(|_| open_all(&all, kind)).collect();
        let clients: Vec<_> = (0..768)
            .flat_map(|_| fill(&all, kind, false, &outside()))
            .collect();
        assert!(peers.len() + clients.len() <= kind.most().0);
    }

    #[test]
    fn connection_of_a_client_has_an_eighth_of_the_half_and_half_of_it_as_streams() {
        let all = Arc::new(OpenCalls::default());
        let (client, other) = (outside(), outside());
        let streams = fill(&all, CallKind::Clients, true, &client);
        assert_eq!(streams.len(), 3_072 / 2 / 8 / 2);
        let refusal = CallPlace::take(&all, CallKind::Clients, true, Some(Arc::clone(&client))).unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
        assert_eq!(status::fate_of(&refusal), Some(status::Fate::NotProposed));
        let single = fill(&all, CallKind::Clients, false, &client);
        assert_eq!(streams.len() + single.len(), 3_072 / 2 / 8);
        assert_eq!(fill(&all, CallKind::Clients, false, &other).len(), 3_072 / 2 / 8);
        assert_eq!(fill(&all, CallKind::Probes, false, &client).len(), 256 / 2 / 8);
        drop(streams);
        assert!(
            !fill(&all, CallKind::Clients, true, &client).is_empty(),
            "given back"
        );
    }
}
