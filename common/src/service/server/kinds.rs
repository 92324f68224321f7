//! Kinds of calls, their limits, and the number of open calls of each kind.

use std::{sync::atomic::AtomicUsize, time::Duration};

/// Number of kinds.
pub(super) const KINDS: usize = 6;

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

/// Open calls by kind.
#[derive(Debug, Default)]
pub(super) struct OpenCalls([AtomicUsize; KINDS]);

impl OpenCalls {
    pub(super) fn of(&self, kind: CallKind) -> &AtomicUsize {
        &self.0[kind as usize]
    }
}
