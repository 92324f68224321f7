//! Searches for the leader. Without this search a standby would forward each command, at the cost of a second proposer's work
//! and a further round trip.
//!
//! A standby names the leader when asked, and in its answers. A name alone moves no client: the client moves to a
//! proposer of the same cluster that answers and says that it leads. Otherwise the client stays. Growing pauses between
//! searches bound the moves.

use std::time::Duration;

use bytes::Bytes;
use paxos_common::peer::{Address, Backoff};
use paxos_proto::v1::proposer_client::ProposerClient;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::transport::Channel;

use crate::{
    address::Directory,
    standing::{self, ProposerStanding, client_at},
    stream::ProposeStream,
};

/// Pauses between two searches, from the shortest to the longest, each before jitter: a leader may be out of this
/// client's reach, and a proposer behind a load balancer may lead at one connection and stand by at the next.
const SEARCH_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Time since the last search after which the pauses start at the shortest again: above the longest pause with jitter.
const SEARCH_FORGOTTEN: Duration = Duration::from_secs(120);

/// When the next search may begin.
#[derive(Debug)]
pub(crate) struct SearchPace {
    /// The last search and the named leader.
    last: Option<(Instant, Address)>,
    pause: Backoff,
    next: Instant,
}

impl SearchPace {
    /// The first search may begin at once.
    pub(crate) fn new() -> Self {
        Self {
            last: None,
            pause: Backoff::new(SEARCH_PAUSE.0, SEARCH_PAUSE.1),
            next: Instant::now(),
        }
    }

    /// When a search for `leader` may begin. Another leader than in the last search waits only for the shortest pause.
    pub(crate) fn due(&self, leader: &Address) -> Instant {
        match &self.last {
            Some((at, last)) if last != leader => self.next.min(*at + SEARCH_PAUSE.0),
            Some(_) | None => self.next,
        }
    }

    /// A search for `leader` begins now.
    pub(crate) fn began(&mut self, leader: &Address) {
        let now = Instant::now();
        if let Some((at, last)) = &self.last
            && (last != leader || now.duration_since(*at) >= SEARCH_FORGOTTEN)
        {
            self.pause.reset();
        }
        self.next = now + self.pause.next_delay();
        self.last = Some((now, leader.clone()));
    }
}

/// A proposer that leads, by its own answer; `None` if no such proposer is found. The proposer `current` of this cluster
/// names `leader`.
pub(crate) async fn find(
    directory: &Directory,
    (current, cluster): (&Address, Option<&Bytes>),
    leader: &Address,
) -> Option<(Address, ProposerStanding, ProposerClient<Channel>)> {
    for address in directory.leader_candidates(leader, current) {
        let mut client = client_at(&address, &directory.dialer);
        if let Ok(standing) = standing::ask(&mut client).await
            && standing.leads_in(cluster)
        {
            return Some((address, standing, client));
        }
    }
    None
}

/// Returns a stream to the leader, once the proposer `current` of this cluster names a leader that is found.
///
/// # Cancel safety
/// Safe: no command was handed to the stream.
pub(crate) async fn stream(
    directory: &Directory,
    (current, cluster): (&Address, Option<&Bytes>),
    mut named: watch::Receiver<Option<Address>>,
    pace: &mut SearchPace,
) -> ProposeStream {
    loop {
        let leader = named.wait_for(Option::is_some).await;
        // Never an error: the stream outlives this search.
        let Some(leader) = leader.ok().and_then(|leader| leader.clone()) else {
            return std::future::pending().await;
        };
        tokio::select! {
            // Both arms only wait.
            () = sleep_until(pace.due(&leader)) => {}
            _ = named.changed() => continue,
        }
        pace.began(&leader);
        for address in directory.leader_candidates(&leader, current) {
            if let Ok(stream) = ProposeStream::open(address, &directory.dialer).await
                && stream.standing.leads_in(cluster)
            {
                return stream;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn searches_for_a_leader_pause_longer_each_time() {
        let leader = "http://leader:1".parse().unwrap();
        let mut pace = SearchPace::new();
        assert!(pace.due(&leader) <= Instant::now());
        let mut longest = Duration::ZERO;
        for search in 0..10 {
            pace.began(&leader);
            let pause = pace.due(&leader) - Instant::now();
            assert!(
                pause >= SEARCH_PAUSE.0 && pause <= SEARCH_PAUSE.1 * 2,
                "{search}: {pause:?}"
            );
            longest = longest.max(pause);
            advance(pause).await;
        }
        assert!(longest >= SEARCH_PAUSE.1, "{longest:?}");
        // The client stayed at a leader.
        advance(SEARCH_FORGOTTEN).await;
        pace.began(&leader);
        assert!(pace.due(&leader) - Instant::now() <= SEARCH_PAUSE.0 * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn search_for_another_leader_waits_for_the_shortest_pause_alone() {
        let [leader, next] = ["http://leader:1", "http://next:1"].map(|text| text.parse().unwrap());
        let mut pace = SearchPace::new();
        for _ in 0..10 {
            pace.began(&leader);
            advance(pace.due(&leader) - Instant::now()).await;
        }
        pace.began(&leader);
        assert!(pace.due(&leader) - Instant::now() >= SEARCH_PAUSE.1);
        assert_eq!(pace.due(&next) - Instant::now(), SEARCH_PAUSE.0);
        advance(SEARCH_PAUSE.0).await;
        pace.began(&next);
        assert!(pace.due(&next) - Instant::now() <= SEARCH_PAUSE.0 * 2);
    }
}
