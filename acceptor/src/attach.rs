//! Who is attached, and what they last reported: discovery and failure detection, nothing that safety rests on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use paxos_common::wire::heard::millis;
use paxos_proto::v1 as pb;

/// Attach streams at once: hundreds of learners, each with a place left for a stream that has not yet been noticed to
/// be dead. With the largest reports they fill less than half an answer to Status.
pub(crate) const ATTACHED_MAX: usize = 1024;

/// Everybody with an open Attach stream.
#[derive(Debug, Default)]
pub(crate) struct Roster(Mutex<Content>);

#[derive(Debug, Default)]
struct Content {
    next_key: u64,
    peers: HashMap<u64, Option<Attached>>,
}

#[derive(Debug)]
struct Attached {
    report: pb::AttachRequest,
    at: Instant,
}

/// There are too many already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// One stream's place in the roster; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Attachment {
    roster: Arc<Roster>,
    key: u64,
}

impl Roster {
    /// Takes a place.
    pub(crate) fn attach(self: &Arc<Self>) -> Result<Attachment, Full> {
        let mut content = self.lock();
        if content.peers.len() >= ATTACHED_MAX {
            return Err(Full);
        }
        let key = content.next_key;
        content.next_key += 1;
        content.peers.insert(key, None);
        Ok(Attachment {
            roster: Arc::clone(self),
            key,
        })
    }

    /// The latest report of each peer that has made one, by role and number. A peer that has come back while its old
    /// stream is not yet known to be dead is there once.
    pub(crate) fn peers(&self) -> Vec<pb::AttachedPeer> {
        let content = self.lock();
        let mut latest: HashMap<(i32, u64), &Attached> = HashMap::new();
        for attached in content.peers.values().flatten() {
            let peer = latest
                .entry((attached.report.role, attached.report.peer))
                .or_insert(attached);
            if attached.at > peer.at {
                *peer = attached;
            }
        }
        let mut peers: Vec<_> = latest
            .into_values()
            .map(|attached| pb::AttachedPeer {
                report: Some(attached.report.clone()),
                age_ms: millis(attached.at.elapsed()),
            })
            .collect();
        peers.sort_by_key(|peer| peer.report.as_ref().map(|report| (report.role, report.peer)));
        peers
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attachment {
    /// Takes the peer's latest report.
    pub(crate) fn report(&self, report: pb::AttachRequest) {
        self.roster.lock().peers.insert(
            self.key,
            Some(Attached {
                report,
                at: Instant::now(),
            }),
        );
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.roster.lock().peers.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(peer: u64, address: &str) -> pb::AttachRequest {
        pb::AttachRequest {
            role: pb::Role::Learner.into(),
            peer,
            address: address.into(),
            ..Default::default()
        }
    }

    #[test]
    fn roster_tells_the_latest_report_of_each_peer_and_forgets_who_leaves() {
        let roster = Arc::new(Roster::default());
        let (old, new, other) = (
            roster.attach().unwrap(),
            roster.attach().unwrap(),
            roster.attach().unwrap(),
        );
        old.report(report(1, "http://old:1"));
        new.report(report(1, "http://new:1"));
        other.report(report(2, "http://b:1"));
        let addresses = || -> Vec<String> {
            roster
                .peers()
                .into_iter()
                .map(|peer| peer.report.unwrap().address)
                .collect()
        };
        assert_eq!(addresses(), ["http://new:1", "http://b:1"]);
        drop(new);
        drop(other);
        assert_eq!(addresses(), ["http://old:1"]);
    }

    #[test]
    fn roster_is_bounded() {
        let roster = Arc::new(Roster::default());
        let mut places: Vec<_> = (0..ATTACHED_MAX).map(|_| roster.attach().unwrap()).collect();
        assert_eq!(roster.attach().unwrap_err(), Full);
        places.pop();
        assert!(roster.attach().is_ok());
    }
}
