//! Sessions: numbering commands so that a retry takes effect once.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use paxos_common::{paxos::command::Opener, wire::command::SEQUENCES_MAX};
use paxos_proto::v1::SessionStamp;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use crate::Version;

/// Longest idle time of a session before a new session replaces it. On a busy cluster 1,048,576 slots may have passed
/// by then, and the session may have expired.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// The session in use; none before the first command that needs a session, and none after an expiry.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    current: Mutex<Option<Arc<Session>>>,
    /// Held while a caller opens a session; the other callers wait for the session.
    opening: tokio::sync::Mutex<()>,
}

impl Sessions {
    /// The session to use now. Without a session certain to be alive, a new session is opened with `open`. `open` gets
    /// the opener of the new session.
    ///
    /// # Errors
    /// The error of `open`.
    ///
    /// # Cancel safety
    /// Safe: an abandoned opening leaves an unused session, and this session expires.
    pub(crate) async fn current<E>(
        &self,
        open: impl AsyncFnOnce(Bytes) -> Result<(Version, Instant), E>,
    ) -> Result<Arc<Session>, E> {
        if let Some(session) = self.fresh() {
            return Ok(session);
        }
        let _turn = self.opening.lock().await;
        if let Some(session) = self.fresh() {
            return Ok(session);
        }
        let opener = draw_opener();
        let (name, sent_at) = open(opener.clone()).await?;
        let session = Arc::new(Session::new(name, opener, sent_at));
        *self.lock() = Some(session.clone());
        Ok(session)
    }

    /// Leaves an expired session. Commands in this session still end as usual.
    pub(crate) fn leave(&self, expired: &Arc<Session>) {
        self.lock().take_if(|session| Arc::ptr_eq(session, expired));
    }

    fn fresh(&self) -> Option<Arc<Session>> {
        self.lock().clone().filter(|session| !session.is_idle())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Session>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session and the session's sequences.
#[derive(Debug)]
pub(crate) struct Session {
    name: Version,
    /// Stated by each command, so that no other client can use the session.
    opener: Bytes,
    sequences: Mutex<Sequences>,
    /// The line of callers without room: the first caller in line holds this lock until there is room.
    line: tokio::sync::Mutex<()>,
    resolved: Notify,
}

#[derive(Debug)]
struct Sequences {
    next: u64,
    /// Handed out, and the outcome is neither read nor given up.
    unresolved: BTreeSet<u64>,
    /// Sending time of the latest command known to be ordered.
    used_at: Instant,
}

impl Session {
    fn new(name: Version, opener: Bytes, sent_at: Instant) -> Self {
        Self {
            name,
            opener,
            sequences: Mutex::new(Sequences {
                next: 1,
                unresolved: BTreeSet::new(),
                used_at: sent_at,
            }),
            line: tokio::sync::Mutex::default(),
            resolved: Notify::new(),
        }
    }

    /// The next sequence; waits while too many sequences are unresolved. `None` when there is no room before the
    /// deadline.
    ///
    /// # Cancel safety
    /// Safe: a caller that gives up leaves the line.
    pub(crate) async fn ticket(self: &Arc<Self>, deadline: Instant) -> Option<Ticket> {
        let in_line = async {
            let _turn = self.line.lock().await;
            loop {
                // Registered before the check: no resolution is missed.
                let resolved = self.resolved.notified();
                if let Some(ticket) = self.try_ticket() {
                    return ticket;
                }
                resolved.await;
            }
        };
        timeout_at(deadline, in_line).await.ok()
    }

    fn try_ticket(self: &Arc<Self>) -> Option<Ticket> {
        let mut sequences = self.lock();
        let sequence = sequences.next;
        let acked_below = sequences.unresolved.first().copied().unwrap_or(sequence);
        if sequence >= acked_below + SEQUENCES_MAX {
            return None;
        }
        sequences.next += 1;
        sequences.unresolved.insert(sequence);
        drop(sequences);
        Some(Ticket {
            session: self.clone(),
            stamp: SessionStamp {
                session: Some(self.name.into()),
                sequence,
                acked_below,
                opener: self.opener.clone(),
            },
        })
    }

    fn is_idle(&self) -> bool {
        self.lock().used_at.elapsed() > IDLE_MAX
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sequences> {
        self.sequences.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name that no other client can guess.
fn draw_opener() -> Bytes {
    let bytes: [u8; Opener::BYTES] = rand::random();
    Bytes::copy_from_slice(&bytes)
}

/// A sequence in use. After the drop, the outcome is read or given up: later commands say so, and a late attempt of the
/// same command is then skipped.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) session: Arc<Session>,
    /// The same for every attempt of the command.
    pub(crate) stamp: SessionStamp,
}

impl Ticket {
    /// An attempt sent at `sent_at` was ordered: the session was alive then, or the expiry will be found out.
    pub(crate) fn ordered(&self, sent_at: Instant) {
        let mut sequences = self.session.lock();
        sequences.used_at = sequences.used_at.max(sent_at);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.lock().unresolved.remove(&self.stamp.sequence);
        // Only the first caller in line waits for a resolution.
        self.session.resolved.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slot;

    const LONG: Duration = Duration::from_secs(3_600);

    fn session() -> Arc<Session> {
        Arc::new(Session::new(name(), draw_opener(), Instant::now()))
    }

    fn name() -> Version {
        Version {
            slot: Slot::new(7).unwrap(),
            offset: 3,
        }
    }

    fn later() -> Instant {
        Instant::now() + LONG
    }

    async fn take(session: &Arc<Session>) -> Ticket {
        session.ticket(later()).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn acknowledges_below_the_lowest_sequence_with_an_open_outcome() {
        let session = session();
        let (first, second, third) = (take(&session).await, take(&session).await, take(&session).await);
        assert_eq!((first.stamp.sequence, first.stamp.acked_below), (1, 1));
        assert_eq!((third.stamp.sequence, third.stamp.acked_below), (3, 1));
        let first_opener = first.stamp.opener.clone();
        drop(second);
        assert_eq!(take(&session).await.stamp.acked_below, 1);
        drop(first);
        assert_eq!(take(&session).await.stamp.acked_below, 3);
        drop(third);
        let last = take(&session).await;
        assert_eq!((last.stamp.sequence, last.stamp.acked_below), (6, 6));
        assert_eq!(last.stamp.session, Some(name().into()));
        assert_eq!(
            (first_opener.len(), &first_opener),
            (Opener::BYTES, &last.stamp.opener)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn waits_in_line_while_as_many_are_unresolved_as_the_contract_allows() {
        let session = session();
        let mut tickets = Vec::new();
        for _ in 0..SEQUENCES_MAX {
            tickets.push(take(&session).await);
        }
        assert_eq!(tickets.last().unwrap().stamp.sequence, SEQUENCES_MAX);
        let soon = Instant::now() + Duration::from_secs(1);
        assert!(session.ticket(soon).await.is_none());
        // Only the lowest sequence holds up the line.
        drop(tickets.pop());
        assert!(session.ticket(Instant::now() + LONG / 2).await.is_none());

        let (one, two) = (session.clone(), session.clone());
        let waiting = [
            tokio::spawn(async move { one.ticket(later()).await.unwrap().stamp.clone() }),
            tokio::spawn(async move { two.ticket(later()).await.unwrap().stamp.clone() }),
        ];
        tokio::task::yield_now().await;
        drop(tickets.drain(..2));
        for waiting in waiting {
            let stamp = waiting.await.unwrap();
            assert!(stamp.sequence < stamp.acked_below + SEQUENCES_MAX, "{stamp:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn session_is_opened_once_for_all_and_left_when_idle_or_expired() {
        let sessions = Sessions::default();
        let open = || {
            sessions.current(async |_opener| {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok::<_, ()>((name(), Instant::now()))
            })
        };
        let (one, other) = tokio::join!(open(), open());
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(Arc::ptr_eq(&one, &other));

        tokio::time::advance(IDLE_MAX).await;
        take(&one).await.ordered(Instant::now());
        tokio::time::advance(IDLE_MAX).await;
        assert!(Arc::ptr_eq(&one, &open().await.unwrap()));
        tokio::time::advance(Duration::from_secs(1)).await;
        let fresh = open().await.unwrap();
        assert!(!Arc::ptr_eq(&one, &fresh));

        sessions.leave(&one);
        assert!(Arc::ptr_eq(&fresh, &open().await.unwrap()));
        sessions.leave(&fresh);
        assert!(!Arc::ptr_eq(&fresh, &open().await.unwrap()));
    }
}
