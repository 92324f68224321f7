//! The budget of outgoing bytes: the answers that this process holds until their readers have taken them.
//!
//! A service that builds a large answer takes room before it builds: see [`Room`]. The room is given back when HTTP/2 has
//! written the last byte of the answer, or when the call ends. Answers of up to [`FREE_BYTES`] take no room.
//!
//! There is one [`Pool`] for each [`Purpose`], so that readers of one kind never delay answers of another kind. A call
//! waits while its pool is full. Calls that wait are served in order, except those of a connection that has its share
//! already: at most as much as is still free, so one connection has at most half of a pool, and a newcomer finds room.
//! While a call waits, the connections are closed whose readers have taken nothing for [`PATIENCE`].
//!
//! Bounds: the pools have 112 MiB together. An answer that was built without room is refused while its pool is full.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{sync::oneshot, time::timeout};
use tonic::{Extensions, Status};

use super::connections::Usage;
use crate::status;

/// Answers up to this size, in bytes, are not counted. Every open call has a buffer of this size anyway, and HTTP/2 holds
/// at most two such answers for each call.
pub(super) const FREE_BYTES: usize = 8 * 1024;
/// Bytes in which a large answer is handed to HTTP/2: after each of them a reader counts as one that reads.
const SLICE_BYTES: usize = 64 * 1024;
/// A reader that takes nothing for this long may be cut off. Over this time a link of 256 kbit/s takes a slice.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often readers that stand still are looked for while calls wait.
const LOOK: Duration = Duration::from_millis(250);
/// How long a single answer waits for room. A stream waits as long as its caller does.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What answers are for: each purpose has a budget of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Proposing and voting. Only pages of promises are large.
    Deciding,
    /// Long streams of the log and of changes.
    Following,
    /// Single answers of all other kinds.
    Asking,
}

impl Purpose {
    /// Bytes that all answers of this purpose may hold. A page of a stream has about 1 MiB, the largest answer 4 MiB.
    const fn bytes_max(self) -> usize {
        match self {
            Self::Deciding => 16 * 1024 * 1024,
            Self::Following => 64 * 1024 * 1024,
            Self::Asking => 32 * 1024 * 1024,
        }
    }

    /// What a call of this path is for.
    fn of_path(path: &str) -> Self {
        match path {
            "/paxos.v1.Acceptor/Observe" | "/paxos.v1.Learner/Subscribe" | "/paxos.v1.Learner/Watch" => {
                Self::Following
            }
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

/// The pools of one process.
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
        let pool = &self.0[Purpose::of_path(path) as usize];
        Account {
            pool: Arc::clone(pool),
            usage,
            reserved: Mutex::default(),
        }
    }
}

/// Bytes of one purpose.
pub(super) struct Pool {
    bytes_max: usize,
    state: Mutex<State>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pool").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    bytes: usize,
    of_connections: HashMap<Connection, usize>,
    next_key: u64,
    held: BTreeMap<u64, Held>,
    waiting: VecDeque<Waiting>,
    /// One of those that wait is not held back by its connection's share: it waits for the pool.
    is_scarce: bool,
    /// When readers that stand still were last looked for.
    looked_at: Option<Instant>,
}

/// A connection, by the place of its usage in memory; `None` for calls that came by no connection of ours.
type Connection = Option<usize>;

fn connection_of(usage: Option<&Arc<Usage>>) -> Connection {
    usage.map(|usage| Arc::as_ptr(usage) as usize)
}

/// Bytes that one answer holds.
struct Held {
    bytes: usize,
    usage: Option<Arc<Usage>>,
    /// When its reader last took something, or when it was handed over; `None` while it is built.
    moved_at: Option<Instant>,
}

/// A call that waits for room.
struct Waiting {
    bytes: usize,
    usage: Option<Arc<Usage>>,
    granted: oneshot::Sender<Charge>,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Pool {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room now, or a place in the line of those that wait.
    fn take(
        self: &Arc<Self>,
        bytes: usize,
        usage: Option<&Arc<Usage>>,
    ) -> Result<Charge, oneshot::Receiver<Charge>> {
        let bytes = bytes.min(self.bytes_max);
        let mut state = self.lock();
        if !state.is_scarce && state.is_room(self.bytes_max, bytes, usage) {
            return Ok(self.charge(&mut state, bytes, usage.cloned()));
        }
        state.is_scarce |= !state.has_share(self.bytes_max, bytes, usage);
        let (granted, receiver) = oneshot::channel();
        let usage = usage.cloned();
        state.waiting.push_back(Waiting {
            bytes,
            usage,
            granted,
        });
        Err(receiver)
    }

    /// Takes room for an answer that is built already.
    fn take_now(self: &Arc<Self>, bytes: usize, usage: Option<&Arc<Usage>>) -> Result<Charge, Full> {
        let mut state = self.lock();
        if state.bytes + bytes > self.bytes_max {
            return Err(Full);
        }
        Ok(self.charge(&mut state, bytes, usage.cloned()))
    }

    fn charge(self: &Arc<Self>, state: &mut State, bytes: usize, usage: Option<Arc<Usage>>) -> Charge {
        let key = state.next_key;
        state.next_key += 1;
        state.grow(connection_of(usage.as_ref()), bytes);
        let held = Held {
            bytes,
            usage,
            moved_at: None,
        };
        state.held.insert(key, held);
        let pool = Arc::clone(self);
        Charge { pool, key }
    }

    /// Gives room to those that wait, as far as there is any.
    fn grant(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.waiting.is_empty() {
            state.is_scarce = false;
            return;
        }
        let mut grants = Vec::new();
        let mut passed = VecDeque::new();
        // The connection that was held back last: often all that wait are of one.
        let mut held_back = None;
        state.is_scarce = false;
        while let Some(next) = state.waiting.pop_front() {
            let connection = connection_of(next.usage.as_ref());
            if next.granted.is_closed() {
                continue;
            }
            if connection.is_some() && connection == held_back {
                passed.push_back(next);
            } else if state.is_room(self.bytes_max, next.bytes, next.usage.as_ref()) {
                let charge = self.charge(&mut state, next.bytes, next.usage);
                grants.push((next.granted, charge));
            } else if state.has_share(self.bytes_max, next.bytes, next.usage.as_ref()) {
                held_back = connection;
                passed.push_back(next);
            } else {
                // It waits for the pool itself: no call behind it goes first.
                state.is_scarce = true;
                passed.push_back(next);
                break;
            }
        }
        passed.append(&mut state.waiting);
        state.waiting = passed;
        drop(state);
        for (granted, charge) in grants {
            // One that no longer waits gives its room back at once.
            drop(granted.send(charge));
        }
    }

    /// Closes the connections whose readers take nothing, those that stand still for longest first, until the first that
    /// waits has room, and `wanted` bytes are free.
    fn cut_off(self: &Arc<Self>, wanted: usize) {
        let mut state = self.lock();
        let is_recent = |at: Instant| at.elapsed() < LOOK;
        let is_scarce = state.is_scarce || wanted > 0;
        if !is_scarce || state.looked_at.is_some_and(is_recent) {
            return;
        }
        state.looked_at = Some(Instant::now());
        let mut waiting = state.waiting.iter();
        let first = waiting.find(|next| !state.has_share(self.bytes_max, next.bytes, next.usage.as_ref()));
        let free = self.bytes_max.saturating_sub(state.bytes);
        let wanted = first.map_or(0, |first| first.bytes).max(wanted);
        let mut missing = wanted.saturating_sub(free);
        let mut still: Vec<_> = state
            .held
            .values()
            .filter_map(|held| Some((held.moved_at?, held.usage.as_ref()?)))
            .filter(|(moved_at, _)| moved_at.elapsed() >= PATIENCE)
            .collect();
        still.sort_by_key(|&(moved_at, _)| moved_at);
        let mut seen = HashSet::new();
        for (_, usage) in still {
            if missing == 0 {
                break;
            }
            let connection = connection_of(Some(usage));
            if seen.insert(connection) {
                usage.close_because("its reader takes nothing of a large answer, and others wait for room");
                let freed = state.of_connections.get(&connection).copied().unwrap_or_default();
                missing = missing.saturating_sub(freed);
            }
        }
        // A call that no longer waits may have stood in the way of the next.
        self.grant(state);
    }
}

impl State {
    fn grow(&mut self, connection: Connection, bytes: usize) {
        self.bytes += bytes;
        *self.of_connections.entry(connection).or_default() += bytes;
    }

    fn shrink(&mut self, connection: Connection, bytes: usize) {
        self.bytes -= bytes;
        if let Some(of_connection) = self.of_connections.get_mut(&connection) {
            *of_connection -= bytes;
            if *of_connection == 0 {
                self.of_connections.remove(&connection);
            }
        }
    }

    fn is_room(&self, bytes_max: usize, bytes: usize, usage: Option<&Arc<Usage>>) -> bool {
        self.bytes + bytes <= bytes_max && !self.has_share(bytes_max, bytes, usage)
    }

    /// Whether the connection would have more than is free.
    fn has_share(&self, bytes_max: usize, bytes: usize, usage: Option<&Arc<Usage>>) -> bool {
        let connection = connection_of(usage);
        let of_connection = self.of_connections.get(&connection).copied().unwrap_or_default();
        let free = bytes_max.saturating_sub(self.bytes);
        connection.is_some() && of_connection > 0 && of_connection + bytes > free
    }
}

/// Room that is taken. Dropping it gives the room back.
pub(super) struct Charge {
    pool: Arc<Pool>,
    key: u64,
}

impl Charge {
    fn bytes(&self) -> usize {
        self.pool.lock().held.get(&self.key).map_or(0, |held| held.bytes)
    }

    /// Holds this many bytes from now on, room or none: what is built is built.
    fn resize(&self, bytes: usize) {
        let mut state = self.pool.lock();
        let Some(held) = state.held.get_mut(&self.key) else {
            return;
        };
        let connection = connection_of(held.usage.as_ref());
        let before = std::mem::replace(&mut held.bytes, bytes);
        state.grow(connection, bytes);
        state.shrink(connection, before);
        if bytes < before {
            self.pool.grant(state);
        }
    }

    /// Keeps at most `bytes`; returns the rest, if there is any.
    fn split_off(&self, bytes: usize) -> Option<Self> {
        let mut state = self.pool.lock();
        let held = state.held.get_mut(&self.key)?;
        let rest = held.bytes.checked_sub(bytes).filter(|&rest| rest > 0)?;
        held.bytes = bytes;
        let usage = held.usage.clone();
        state.shrink(connection_of(usage.as_ref()), rest);
        Some(self.pool.charge(&mut state, rest, usage))
    }

    /// The reader has taken something, or could from now on.
    fn moved(&self) {
        let mut state = self.pool.lock();
        if let Some(held) = state.held.get_mut(&self.key) {
            held.moved_at = Some(Instant::now());
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        if let Some(held) = state.held.remove(&self.key) {
            state.shrink(connection_of(held.usage.as_ref()), held.bytes);
        }
        self.pool.grant(state);
    }
}

/// What one call holds.
pub(super) struct Account {
    pool: Arc<Pool>,
    usage: Option<Arc<Usage>>,
    /// For what is being built, or is built and not yet handed over.
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

    /// An encoded part of the answer is handed over: takes its bytes out of what is reserved.
    ///
    /// # Errors
    /// Nothing is reserved, and there is no room.
    pub(super) fn hand_over(&self, part: Bytes) -> Result<Parts, Full> {
        let bytes = part.len();
        let mut reserved = self.reserved();
        let charge = match reserved.take() {
            Some(charge) => {
                // More is reserved when the next part is being built already.
                *reserved = charge.split_off(bytes);
                charge
            }
            None => {
                drop(reserved);
                let charge = self.pool.take_now(bytes, self.usage.as_ref());
                if charge.is_err() {
                    self.pool.cut_off(bytes);
                }
                charge?
            }
        };
        charge.moved();
        Ok(Parts {
            rest: part.clone(),
            _whole: part,
            charge: Arc::new(charge),
        })
    }
}

/// A large part of an answer on its way to HTTP/2, in slices.
pub(super) struct Parts {
    rest: Bytes,
    /// Keeps the encoder from writing the next message behind this one: it then begins another, smaller buffer.
    _whole: Bytes,
    charge: Arc<Charge>,
}

impl Parts {
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next slice. The room is given back with the last of them.
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
        self.charge.moved();
    }
}

/// Room for the answer of one call: taken before a large part of the answer is built. Clones are one.
///
/// Unlimited for calls that came by no [`Server`](super::Server).
#[derive(Clone, Debug, Default)]
pub struct Room(Option<Arc<Account>>);

impl Room {
    pub(super) fn of(account: Arc<Account>) -> Self {
        Self(Some(account))
    }

    /// Whether an answer of this many bytes needs no room, or has it.
    pub fn is_enough(&self, bytes: usize) -> bool {
        Self::is_free(bytes)
            || self.0.as_ref().is_none_or(|account| {
                let reserved = account.reserved();
                reserved.as_ref().is_some_and(|charge| charge.bytes() >= bytes)
            })
    }

    /// Takes room for a part of `bytes`, and waits until there is some. Call it before the part is built.
    ///
    /// # Cancel safety
    /// Safe: the place in the line is lost.
    pub async fn take(&self, bytes: usize) {
        let Some(account) = &self.0 else { return };
        if self.is_enough(bytes) {
            return;
        }
        let charge = match account.pool.take(bytes, account.usage.as_ref()) {
            Ok(charge) => charge,
            Err(mut granted) => loop {
                account.pool.cut_off(0);
                match timeout(LOOK, &mut granted).await {
                    Ok(Ok(charge)) => break charge,
                    // The pool grants as long as it is there.
                    Ok(Err(_)) => return,
                    Err(_) => {}
                }
            },
        };
        *account.reserved() = Some(charge);
    }

    /// The same for a single answer, which waits at most 10 s.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there was no room in that time.
    ///
    /// # Cancel safety
    /// Safe: the place in the line is lost.
    pub async fn take_soon(&self, bytes: usize) -> Result<(), Status> {
        timeout(WAIT_MAX, self.take(bytes)).await.map_err(|_| no_room())
    }

    /// This part is built: what was taken beyond its encoded size is given back.
    pub fn built(&self, part: &impl prost::Message) {
        let Some(account) = &self.0 else { return };
        let mut reserved = account.reserved();
        let Some(charge) = &*reserved else { return };
        match part.encoded_len() {
            bytes if bytes <= FREE_BYTES => *reserved = None,
            bytes => charge.resize(bytes),
        }
    }

    /// Nothing was built.
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

/// How a call ends whose answer has no room.
pub(super) fn no_room() -> Status {
    status::overloaded("the room for answers")
}

#[cfg(test)]
mod tests;
