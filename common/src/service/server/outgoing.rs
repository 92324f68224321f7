//! The budget of outgoing bytes: this process holds answers until their readers have taken all bytes.
//!
//! A service takes room before building a large answer: see [`Room`]. The room is given back when HTTP/2 has written
//! the last byte of the answer, or when the call ends. Answers of up to [`FREE_BYTES`] take no room.
//!
//! Each [`Purpose`] has its own [`Pool`], so that readers of one kind never delay answers of another kind. A call waits
//! while the pool is full. Waiting calls are served in order, except calls of a connection with a full share. A share
//! is at most the free part of the pool, so a single connection has at most half of a pool, and newcomers find room.
//! While a call waits, the process closes connections whose readers have taken nothing for 2 s, or have not used
//! granted room for 10 s.
//!
//! tonic's encoder keeps the buffer of a large message until the next message. The room of a page is therefore held
//! until the stream's next message, even after the page is read. So a stream must not wait for room right after a large
//! page: when [`Room::take_now`] finds no room, the stream first sends a message without content, and then calls
//! [`Room::take`]. Otherwise streams with fully read pages would block each other.
//!
//! Callers outside the cluster, known by their certificates, have at most half of each pool, and one connection of such a
//! caller an eighth of this half: see [`Pool`].
//!
//! Limits: the pools have 112 MiB together. While a pool is full, answers built without room are refused, except
//! answers of [`Purpose::Deciding`]. The commands in flight bound these answers, and a refusal would hide outcomes.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::timeout;
use tonic::{Extensions, Status};

use super::connections::Usage;
use crate::wire::status;
use pool::{Charge, LOOK, Pool, PoolFull};

mod pool;

/// Answers up to this size, in bytes, are not counted. Every open call has a buffer of this size anyway, and HTTP/2
/// holds at most two such answers for each call.
pub(super) const FREE_BYTES: usize = 8 * 1024;
/// Size in bytes of the slices of a large answer on the way to HTTP/2. After each slice a reader counts as active.
const SLICE_BYTES: usize = 64 * 1024;
/// How long a single answer waits for room. A stream waits as long as the caller.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The purpose of an answer: each purpose has a separate budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Proposing and voting. Only promise pages are large. Answers in a stream are joined to parts of about 32 KiB.
    Deciding,
    /// Long streams of the log and of changes.
    Following,
    /// Single answers of all other kinds.
    Asking,
}

impl Purpose {
    /// Limit in bytes of all answers of this purpose. A page of a stream has about 1 MiB, the largest answer 4 MiB.
    const fn bytes_max(self) -> usize {
        match self {
            Self::Deciding => 16 * 1024 * 1024,
            Self::Following => 64 * 1024 * 1024,
            Self::Asking => 32 * 1024 * 1024,
        }
    }

    /// Whether an answer built without room is refused while the pool is full.
    const fn is_refusable(self) -> bool {
        !matches!(self, Self::Deciding)
    }

    /// The purpose of a call of this path.
    fn of_path(path: &str) -> Self {
        match path {
            "/paxos.v1.Acceptor/Observe"
            | "/paxos.v1.Acceptor/Snapshot"
            | "/paxos.v1.Learner/Subscribe"
            | "/paxos.v1.Learner/Watch"
            | "/paxos.v1.Learner/Outcomes"
            | "/paxos.v1.Learner/Backup" => Self::Following,
            "/paxos.v1.Acceptor/Prepare"
            | "/paxos.v1.Acceptor/Accept"
            | "/paxos.v1.Acceptor/Attach"
            | "/paxos.v1.Acceptor/Tail"
            | "/paxos.v1.Acceptor/Form"
            | "/paxos.v1.Proposer/Propose"
            | "/paxos.v1.Proposer/ProposeStream" => Self::Deciding,
            _ => Self::Asking,
        }
    }
}

/// The pools of a process.
#[derive(Debug)]
pub(super) struct Pools([Arc<Pool>; 3]);

impl Default for Pools {
    fn default() -> Self {
        let pool = |purpose: Purpose| Arc::new(Pool::new(purpose.bytes_max()));
        Self([Purpose::Deciding, Purpose::Following, Purpose::Asking].map(pool))
    }
}

impl Pools {
    /// The account of a call of this path, on a connection with this usage.
    pub(super) fn account(&self, path: &str, usage: Option<Arc<Usage>>) -> Account {
        let purpose = Purpose::of_path(path);
        Account {
            pool: Arc::clone(&self.0[purpose as usize]),
            is_refusable: purpose.is_refusable(),
            usage,
            reserved: Mutex::default(),
        }
    }
}

/// The bytes of a call.
pub(super) struct Account {
    pool: Arc<Pool>,
    is_refusable: bool,
    usage: Option<Arc<Usage>>,
    /// For an answer under construction, or complete and not yet handed over.
    reserved: Mutex<Option<Charge>>,
}

impl fmt::Debug for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Account").finish_non_exhaustive()
    }
}

impl Account {
    fn reserved(&self) -> MutexGuard<'_, Option<Charge>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over an encoded part of the answer: takes the part's bytes out of the reserved bytes.
    ///
    /// # Errors
    /// Nothing is reserved, there is no room, and the answer may be refused.
    pub(super) fn hand_over(&self, part: Bytes) -> Result<Parts, PoolFull> {
        let bytes = part.len();
        let mut reserved = self.reserved();
        let charge = match reserved.take() {
            Some(charge) => {
                // The reservation is larger when the next part is already under construction.
                *reserved = charge.split_off(bytes);
                charge
            }
            None => {
                drop(reserved);
                match self.pool.take_now(bytes, self.usage.as_ref()) {
                    Ok(charge) => charge,
                    Err(full) => {
                        self.pool.cut_off(bytes, self.usage.as_ref());
                        if self.is_refusable {
                            return Err(full);
                        }
                        self.pool.take_beyond(bytes, self.usage.as_ref())
                    }
                }
            }
        };
        charge.handed_over(bytes);
        Ok(Parts {
            rest: part.clone(),
            _whole: part,
            charge: Arc::new(charge),
        })
    }
}

/// A large part of an answer on the way to HTTP/2, in slices.
pub(super) struct Parts {
    rest: Bytes,
    /// Keeps the encoder from writing the next message behind this message: the encoder then begins another, smaller
    /// buffer.
    _whole: Bytes,
    charge: Arc<Charge>,
}

impl Parts {
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next slice. The last slice gives the room back.
    pub(super) fn next(&mut self) -> Bytes {
        let bytes = self.rest.split_to(self.rest.len().min(SLICE_BYTES));
        Bytes::from_owner(Slice {
            bytes,
            charge: Arc::clone(&self.charge),
        })
    }
}

struct Slice {
    bytes: Bytes,
    charge: Arc<Charge>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        self.charge.taken(self.bytes.len());
    }
}

/// Room for the answer of a call: taken before a large part of the answer is built. Clones share the room.
///
/// Unlimited for calls that did not come through a [`Server`](super::Server).
#[derive(Clone, Debug, Default)]
pub struct Room(Option<Arc<Account>>);

impl Room {
    pub(super) fn of(account: Arc<Account>) -> Self {
        Self(Some(account))
    }

    /// Rooms of calls without a connection, in a pool of this many bytes: for tests of services.
    #[doc(hidden)]
    pub fn of_pool<const N: usize>(bytes_max: usize) -> [Self; N] {
        Self::in_pool(bytes_max, None)
    }

    /// The same on a single connection.
    #[cfg(test)]
    pub(super) fn of_one_connection<const N: usize>(bytes_max: usize) -> [Self; N] {
        Self::in_pool(bytes_max, Some(&Arc::new(Usage::new())))
    }

    fn in_pool<const N: usize>(bytes_max: usize, usage: Option<&Arc<Usage>>) -> [Self; N] {
        let pool = Arc::new(Pool::new(bytes_max));
        std::array::from_fn(|_| {
            Self::of(Arc::new(Account {
                pool: Arc::clone(&pool),
                is_refusable: true,
                usage: usage.cloned(),
                reserved: Mutex::default(),
            }))
        })
    }

    #[cfg(test)]
    pub(super) fn account(&self) -> Arc<Account> {
        self.0.clone().unwrap()
    }

    /// Whether an answer of this many bytes needs no room, or has enough.
    pub fn is_enough(&self, bytes: usize) -> bool {
        Self::is_free(bytes)
            || self.0.as_ref().is_none_or(|account| {
                let reserved = account.reserved();
                reserved.as_ref().is_some_and(|charge| charge.bytes() >= bytes)
            })
    }

    /// Takes room for a part of `bytes` if there is room and no earlier call waits for room; returns the success.
    pub fn take_now(&self, bytes: usize) -> bool {
        let Some(account) = &self.0 else { return true };
        if self.is_enough(bytes) {
            return true;
        }
        let charge = account.pool.take_unless_waiting(bytes, account.usage.as_ref());
        let is_taken = charge.is_some();
        if is_taken {
            *account.reserved() = charge;
        }
        is_taken
    }

    /// Takes room for a part of `bytes`, and waits until there is room. Call this before the part is built, and not
    /// right after a large part of the same stream: send a part without content first, so that the encoder drops its
    /// buffer.
    ///
    /// # Cancel safety
    /// Safe: only the place in the queue is lost.
    pub async fn take(&self, bytes: usize) {
        let Some(account) = &self.0 else { return };
        if self.is_enough(bytes) {
            return;
        }
        let charge = match account.pool.take(bytes, account.usage.as_ref()) {
            Ok(charge) => charge,
            Err(mut granted) => loop {
                account.pool.cut_off(0, None);
                match timeout(LOOK, &mut granted).await {
                    Ok(Ok(charge)) => break charge,
                    // The pool grants room as long as the pool exists.
                    Ok(Err(_)) => return,
                    Err(_) => {}
                }
            },
        };
        *account.reserved() = Some(charge);
    }

    /// The same for a single answer; waits at most 10 s.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: no room became free in that time.
    ///
    /// # Cancel safety
    /// Safe: only the place in the queue is lost.
    pub async fn take_soon(&self, bytes: usize) -> Result<(), Status> {
        let taken = timeout(WAIT_MAX, self.take(bytes)).await;
        taken.map_err(|_| not_built())
    }

    /// The part is built: gives back the room beyond its encoded size.
    pub fn built(&self, part: &impl prost::Message) {
        let Some(account) = &self.0 else { return };
        let mut reserved = account.reserved();
        let Some(charge) = &*reserved else { return };
        match part.encoded_len() {
            bytes if bytes <= FREE_BYTES => *reserved = None,
            bytes => charge.resize(bytes),
        }
    }

    /// Gives back the room, because nothing was built.
    pub fn give_back(&self) {
        if let Some(account) = &self.0 {
            *account.reserved() = None;
        }
    }

    /// Whether an answer of this many bytes takes no room.
    pub fn is_free(bytes: usize) -> bool {
        bytes <= FREE_BYTES
    }
}

/// The room for the answer of this call.
pub fn room(extensions: &Extensions) -> Room {
    extensions.get().cloned().unwrap_or_default()
}

/// The error of a call that found no room before building the answer: nothing has been done.
fn not_built() -> Status {
    status::overloaded("the room for answers")
}

/// The error of a finished answer without room. Does not name the outcome: the requested work may have been done.
pub(super) fn no_room() -> Status {
    Status::resource_exhausted("the room for answers is full: back off and retry")
}

#[cfg(test)]
mod tests;
