//! TLS handshakes of accepted connections: how many at once, how often, and for whom.
//!
//! Handshakes cost time of the processor, and strangers can begin them. At most [`RUNNING_MAX`] run at once, and a new
//! one starts every [`START_INTERVAL`]. Connections wait for their [turns](turns): peers of the cluster, known clients and
//! new callers each get in beside a crowd. When all places are taken, the oldest handshake of the address with the most
//! handshakes makes room, unless the handshake began a moment ago.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_stream::StreamExt as _;

use super::{
    address_log::AddressLog,
    addresses::owner_of,
    connections::Connection,
    greeting::{FailedHandshake, HandshakeOutcome, ProvenCaller, greet},
    incoming::IncomingConnections,
    outside::OutsidePlaces,
    windows::Servers,
};
use crate::{
    service::metrics::{Counter, Metrics},
    tls::Tls,
};

mod turns;

use turns::{ProvenAddresses, WaitingTurns};

/// Number of concurrent handshakes.
const RUNNING_MAX: usize = 64;
/// Time between the starts of two handshakes: 200 a second.
const START_INTERVAL: Duration = Duration::from_millis(5);
/// Longest wait for the start of a handshake. Later the caller has given up, or soon gives up.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A handshake that began less than this time ago makes no room: honest callers need a few round trips.
const PROTECTED: Duration = Duration::from_millis(400);

/// Counts of handshakes by outcome. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct HandshakeCounts(Option<Arc<[Counter; HandshakeOutcome::NAMES.len()]>>);

impl HandshakeCounts {
    pub(super) fn by(metrics: &Metrics) -> Self {
        let counters = metrics.counters(
            "paxos.tls.handshakes",
            "TLS handshakes of callers by outcome; refused: a certificate, dropped: no place or no time",
            "outcome",
            HandshakeOutcome::NAMES,
        );
        Self(Some(Arc::new(counters)))
    }

    fn count(&self, outcome: HandshakeOutcome) {
        if let Some(counters) = &self.0 {
            counters[outcome as usize].increment();
        }
    }
}

/// A handshake that runs.
#[derive(Debug)]
struct Running {
    owner: IpAddr,
    since: Instant,
    abort: AbortHandle,
}

/// A connection that waits for its handshake.
struct Waiting {
    connection: Connection,
    since: Instant,
}

/// The handshakes of a server.
pub(super) struct Handshakes {
    tls: Tls,
    counts: HandshakeCounts,
    outside: OutsidePlaces,
    servers: Servers,
    waiting: WaitingTurns<Waiting>,
    tasks: JoinSet<Result<ProvenCaller, FailedHandshake>>,
    running: HashMap<Id, Running>,
    /// When the next handshake may start.
    next_start: Instant,
    log: AddressLog,
    proven: ProvenAddresses,
}

impl Handshakes {
    /// Handshakes of connections for these servers.
    pub(super) fn new(tls: Tls, counts: HandshakeCounts, outside: OutsidePlaces, servers: Servers) -> Self {
        Self {
            tls,
            counts,
            outside,
            servers,
            waiting: WaitingTurns::new(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            next_start: Instant::now(),
            log: AddressLog::default(),
            proven: ProvenAddresses::default(),
        }
    }

    /// Takes connections, and passes each to its server after the handshake. Returns when the listener is gone. Dropping
    /// `self` ends all handshakes.
    ///
    /// # Cancel safety
    /// Safe: the next call goes on.
    pub(super) async fn run(&mut self, incoming: &mut IncomingConnections) {
        loop {
            self.start_next();
            let wake = self.wake_at();
            tokio::select! {
                // Cancel safe: a connection is either received or still in the stream.
                accepted = incoming.next() => match accepted {
                    // The listener reports its own failures and continues.
                    Some(Err(_)) => {}
                    Some(Ok(connection)) => self.wait(connection),
                    None => return,
                },
                // Cancel safe: an ended task is either received or still in the set.
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                // Only waits.
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    fn wait(&mut self, connection: Connection) {
        // The first to make room, from now to the end of the handshake.
        connection.usage().set_greeting(true);
        let owner = owner_of(connection.peer());
        let since = Instant::now();
        self.waiting.push(owner, Waiting { connection, since });
    }

    /// When to look again without other events; `None`: nothing waits.
    fn wake_at(&self) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        if self.running.len() < RUNNING_MAX {
            return Some(self.next_start);
        }
        let room = self.victim().map(|(_, running)| running.since + PROTECTED);
        Some(
            room.unwrap_or(self.next_start)
                .max(Instant::now() + START_INTERVAL),
        )
    }

    /// Starts the handshake of the next waiting connection, if a place is free and the time has come.
    fn start_next(&mut self) {
        self.drop_stale();
        let now = Instant::now();
        if self.waiting.is_empty() {
            return;
        }
        if self.running.len() >= RUNNING_MAX {
            if let Some((_, running)) = self.victim()
                && running.since.elapsed() >= PROTECTED
            {
                // The place is free when the task has ended.
                running.abort.abort();
            }
            return;
        }
        if now < self.next_start {
            return;
        }
        let Some((owner, Waiting { connection, .. })) = self.waiting.take(&self.proven) else {
            return;
        };
        self.next_start = now + START_INTERVAL;
        let greeting = greet(
            self.tls.clone(),
            self.outside.clone(),
            connection,
            self.servers.clone(),
        );
        let abort = self.tasks.spawn(greeting);
        let running = Running {
            owner,
            since: now,
            abort: abort.clone(),
        };
        self.running.insert(abort.id(), running);
    }

    /// The oldest handshake of the owner with the most handshakes. Of several such owners, one without a proof.
    fn victim(&self) -> Option<(&Id, &Running)> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for running in self.running.values() {
            *counts.entry(running.owner).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let of_most = self
            .running
            .iter()
            .filter(|(_, running)| counts[&running.owner] == most);
        of_most.min_by_key(|(_, running)| (self.proven.of(&running.owner).is_some(), running.since))
    }

    /// Closes connections that waited too long, or whose places are wanted.
    fn drop_stale(&mut self) {
        let dropped = self.waiting.retain(|waiting| {
            waiting.since.elapsed() < WAIT_MAX
                && !waiting.connection.usage().is_closing()
                && !waiting.connection.has_left()
        });
        (0..dropped).for_each(|_| self.counts.count(HandshakeOutcome::Dropped));
    }

    fn ended(&mut self, ended: Result<(Id, Result<ProvenCaller, FailedHandshake>), JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, Ok(proven))) => {
                if let Some(running) = self.running.get(&id) {
                    self.proven.add(running.owner, proven);
                }
                (id, HandshakeOutcome::Complete)
            }
            Ok((id, Err(failed))) => {
                if let Some(running) = self.running.get(&id) {
                    self.log_failure(running.owner, &failed);
                }
                (id, failed.outcome)
            }
            // Aborted to make room. A panic ends the process elsewhere.
            Err(error) => (error.id(), HandshakeOutcome::Dropped),
        };
        self.counts.count(outcome);
        self.running.remove(&id);
    }

    /// Logs a failure, at most once a minute for each address.
    fn log_failure(&self, owner: IpAddr, failed: &FailedHandshake) {
        let FailedHandshake { outcome, reason } = failed;
        match outcome {
            HandshakeOutcome::Complete | HandshakeOutcome::Dropped | HandshakeOutcome::Unfinished => {
                tracing::debug!(peer = %owner, reason, "a TLS handshake was not finished");
            }
            HandshakeOutcome::Refused if self.log.is_due(owner) => {
                tracing::warn!(peer = %owner, reason, "a TLS handshake failed");
            }
            HandshakeOutcome::Plaintext if self.log.is_due(owner) => {
                tracing::warn!(peer = %owner, reason, "plaintext came to a TLS port");
            }
            HandshakeOutcome::Refused | HandshakeOutcome::Plaintext => {}
        }
    }
}

#[cfg(test)]
mod tests;
