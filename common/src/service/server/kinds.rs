//! Kinds of calls, their limits, and the number of open calls of each kind.
//!
//! Callers outside the cluster are clients and operators, known by their certificates. Together they may open half of the
//! calls of each kind, and a single connection an eighth of this half. Without TLS there are no such callers.

use std::{sync::atomic::AtomicUsize, time::Duration};

use crate::peer::MESSAGE_BYTES_MAX;

/// Messages up to this size, in bytes, are not counted: all open calls together hold little in such parts.
pub(super) const FREE_BYTES: usize = 16 * 1024;

/// Number of kinds.
pub(super) const KINDS: usize = 6;

/// A connection of a caller outside the cluster may have one in N of the calls of all these callers.
const CONNECTION_PART: usize = 8;

/// Limit of concurrent calls on one connection of a caller outside the cluster, announced by HTTP/2: more calls wait in
/// the caller. The largest limit of all kinds.
pub(super) const OUTSIDE_STREAMS_MAX: u32 = 192;

/// The caller of a call, as far as the method shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallKind {
    /// Roles: the acceptor's methods, and a learner's Fill request to a proposer.
    Peers,
    /// Applications: commands and reads. Standbys forward commands by the same methods.
    Clients,
    /// Operators: status, and unknown methods. Clients find the leader by the acceptors' status.
    Probes,
    /// Operators: reflection. A reflection stream can last.
    Reflection,
    /// `grpc.health.v1.Health/Check`.
    Checks,
    /// `grpc.health.v1.Health/Watch`.
    Watches,
}

impl CallKind {
    pub(super) fn of_path(path: &str) -> Self {
        match path {
            "/grpc.health.v1.Health/Check" => return Self::Checks,
            "/grpc.health.v1.Health/Watch" => return Self::Watches,
            "/paxos.v1.Proposer/Fill" => return Self::Peers,
            _ => {}
        }
        let mut parts = path.split('/').skip(1);
        match (parts.next(), parts.next()) {
            (_, Some("Status")) => Self::Probes,
            (Some("paxos.v1.Acceptor"), _) => Self::Peers,
            (Some(service), _) if service.starts_with("grpc.reflection.") => Self::Reflection,
            (Some("paxos.v1.Proposer" | "paxos.v1.Learner"), _) => Self::Clients,
            _ => Self::Probes,
        }
    }

    /// Limits of open calls of this kind: in the process, and on one connection.
    pub(super) const fn most(self) -> (usize, usize) {
        match self {
            // Hundreds of learners with three streams each.
            Self::Peers => (3_072, usize::MAX),
            // Thousands of single calls and streams, of some 30 KiB each while they only wait.
            Self::Clients => (3_072, usize::MAX),
            Self::Probes => (256, 64),
            // A person has one stream open.
            Self::Reflection => (64, 4),
            // With 768 connections: 1,536. A probe has one check open at a time.
            Self::Checks => (usize::MAX, 2),
            // A client watches each connection once.
            Self::Watches => (256, 4),
        }
    }

    /// The same limits for callers outside the cluster: of all together, and of one connection.
    pub(super) fn most_outside(self) -> (usize, usize) {
        let (most, most_of_connection) = self.most();
        let half = match self {
            // A probe has one check open at a time, and comes from a few addresses.
            Self::Checks => 256,
            Self::Peers | Self::Clients | Self::Probes | Self::Reflection | Self::Watches => most / 2,
        };
        (half, most_of_connection.min(half / CONNECTION_PART))
    }

    /// Limit in bytes of a message of the caller.
    pub(super) const fn message_bytes_max(self) -> usize {
        match self {
            Self::Peers | Self::Clients => MESSAGE_BYTES_MAX,
            // Names, and no more. Such messages hold no room for partly received messages.
            Self::Probes | Self::Reflection | Self::Checks | Self::Watches => FREE_BYTES,
        }
    }

    /// How long a call may wait for the next message of the caller; `None`: without limit.
    pub(super) const fn patience(self) -> Option<Duration> {
        match self {
            // A single small request. The caller has begun to send the request.
            Self::Probes | Self::Checks | Self::Watches => Some(Duration::from_secs(10)),
            // A program asks without pauses, and begins a new stream later.
            Self::Reflection => Some(Duration::from_secs(30)),
            Self::Peers | Self::Clients => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Peers => "the list of open calls of peers",
            Self::Clients => "the list of open calls of clients",
            Self::Probes => "the list of open calls for status",
            Self::Reflection => "the list of open calls for reflection",
            Self::Checks => "the connection's list of open health checks",
            Self::Watches => "the list of open health watches",
        }
    }
}

/// Whether the method has a stream of messages, so that a call can last. Of the methods for applications.
pub(super) fn is_stream(path: &str) -> bool {
    matches!(
        path,
        "/paxos.v1.Proposer/ProposeStream"
            | "/paxos.v1.Proposer/ChangeMembers"
            | "/paxos.v1.Learner/Outcomes"
            | "/paxos.v1.Learner/Watch"
            | "/paxos.v1.Learner/Subscribe"
            | "/paxos.v1.Learner/Backup"
    )
}

/// Open calls by kind.
#[derive(Debug, Default)]
pub(super) struct OpenCalls {
    of_all: [AtomicUsize; KINDS],
    of_outside: [AtomicUsize; KINDS],
    /// Streams of applications.
    pub(super) streams: AtomicUsize,
}

impl OpenCalls {
    /// Of all callers.
    pub(super) fn of(&self, kind: CallKind) -> &AtomicUsize {
        &self.of_all[kind as usize]
    }

    /// Of callers outside the cluster.
    pub(super) fn of_outside(&self, kind: CallKind) -> &AtomicUsize {
        &self.of_outside[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    #[test]
    fn every_stream_of_applications_is_known() {
        let set = FileDescriptorSet::decode(paxos_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut seen = 0;
        for service in set.file.iter().flat_map(|file| &file.service) {
            for method in &service.method {
                let path = format!("/paxos.v1.{}/{}", service.name(), method.name());
                if CallKind::of_path(&path) == CallKind::Clients {
                    let expected = method.client_streaming() || method.server_streaming();
                    assert_eq!(is_stream(&path), expected, "{path}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 5, "{seen}");
    }

    #[test]
    fn only_messages_of_peers_and_clients_may_be_large() {
        for (path, bytes) in [
            ("/paxos.v1.Acceptor/Accept", MESSAGE_BYTES_MAX),
            ("/paxos.v1.Learner/Read", MESSAGE_BYTES_MAX),
            ("/paxos.v1.Learner/Status", 16_384),
            ("/grpc.health.v1.Health/Check", 16_384),
            ("/grpc.health.v1.Health/Watch", 16_384),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                16_384,
            ),
            ("/", 16_384),
        ] {
            assert_eq!(CallKind::of_path(path).message_bytes_max(), bytes, "{path}");
        }
    }

    #[test]
    fn http_2_announces_the_calls_of_one_connection() {
        let (_, of_connection) = CallKind::Clients.most_outside();
        assert_eq!(of_connection, OUTSIDE_STREAMS_MAX as usize);
    }
}
