//! The search for the leader: a standby forwards each command, which costs a second proposer's work and a further round
//! trip.
//!
//! A standby names the leader when asked, and in its answers. A name alone moves no client: the client moves to a
//! proposer that answers and says that it leads. Otherwise the client stays. Pauses between searches bound the moves.

use std::time::Duration;

use paxos_common::peer::{Address, Backoff};
use paxos_proto::v1::proposer_client::ProposerClient;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tonic::transport::Channel;

use crate::{
    address::Directory,
    stall::Suspect,
    standing::{self, client_at},
    stream::ProposeStream,
};

/// Pauses between two searches, from the shortest to the longest: a leader may be out of this client's reach.
const SEARCH_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The pauses between searches.
pub(crate) fn search_pause() -> Backoff {
    Backoff::new(SEARCH_PAUSE.0, SEARCH_PAUSE.1)
}

/// A proposer that leads, by its own answer; `None` if no such proposer is found. The proposer `current` names
/// `leader`.
pub(crate) async fn find(
    directory: &Directory,
    current: &Address,
    leader: &Address,
) -> Option<(Suspect, ProposerClient<Channel>)> {
    for address in directory.leader_candidates(leader, current) {
        let mut client = client_at(&address);
        if let Ok(standing) = standing::ask(&mut client).await
            && standing.leads
        {
            let process = standing.process;
            return Some((Suspect { address, process }, client));
        }
    }
    None
}

/// Returns a stream to the leader, once the proposer `current` names a leader that is found. No search begins before
/// `not_before`.
///
/// # Cancel safety
/// Safe: no command was handed to the stream.
pub(crate) async fn stream(
    directory: &Directory,
    current: &Address,
    mut named: watch::Receiver<Option<Address>>,
    not_before: Instant,
) -> ProposeStream {
    sleep_until(not_before).await;
    let mut pause = search_pause();
    loop {
        let leader = named.wait_for(Option::is_some).await;
        // Never without a leader: the stream outlives this search.
        let leader = leader.ok().and_then(|leader| leader.clone());
        if let Some(leader) = leader
            && let Some((found, _)) = find(directory, current, &leader).await
            && let Ok(stream) = ProposeStream::open(found.address).await
        {
            return stream;
        }
        sleep(pause.next_delay()).await;
    }
}
