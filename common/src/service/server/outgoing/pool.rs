//! A pool of bytes: grants room, queues calls, and closes connections to make room.
//!
//! Callers outside the cluster have at most half of the pool together, and one of their connections an eighth of this half.
//! Calls that wait for this half hold up no call of an acceptor, proposer or learner.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::super::connections::Usage;

/// A reader may be disconnected after taking nothing for this long. A link of 256 kbit/s takes a slice in this time.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Room that stays unused for this long may be cut off: the reader takes nothing of an earlier part, so the next part
/// is not built. Longer than a disk needs for a page.
pub(super) const PATIENCE_UNUSED: Duration = Duration::from_secs(10);
/// Interval of the search for stalled readers while calls wait.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// A connection of a caller outside the cluster has at most one in N of the bytes of these callers.
const CONNECTION_PART: usize = 8;

/// The bytes of one purpose.
pub(super) struct Pool {
    bytes_max: usize,
    pub(super) state: Mutex<PoolState>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pool").finish_non_exhaustive()
    }
}

#[derive(Default)]
pub(super) struct PoolState {
    pub(super) bytes: usize,
    /// Of callers outside the cluster.
    outside_bytes: usize,
    of_connections: HashMap<ConnectionKey, usize>,
    next_key: u64,
    pub(super) held: BTreeMap<u64, HeldAnswer>,
    waiting: VecDeque<WaitingCall>,
    /// A waiting call is not held back by the share of its connection: the call waits for the pool.
    is_scarce: bool,
    /// A waiting call waits for the half of the callers outside the cluster.
    is_outside_scarce: bool,
    /// Connections of callers outside the cluster with a call that waits for the share of its connection. Later calls of
    /// these connections wait behind it, so that a large answer gets its turn.
    held_back: HashSet<ConnectionKey>,
    /// Time of the last search for stalled readers.
    pub(super) looked_at: Option<Instant>,
}

/// A connection, identified by the memory address of its usage; `None` for calls without a connection of ours.
type ConnectionKey = Option<usize>;

fn connection_of(usage: Option<&Arc<Usage>>) -> ConnectionKey {
    usage.map(|usage| Arc::as_ptr(usage) as usize)
}

/// The bytes of an answer.
pub(super) struct HeldAnswer {
    bytes: usize,
    usage: Option<Arc<Usage>>,
    stage: Stage,
    /// When the stage began, or when the reader last took bytes.
    pub(super) since: Instant,
}

/// The progress of an answer.
enum Stage {
    /// Granted, and not yet handed over to HTTP/2.
    Unused,
    /// Handed over. The reader has not taken this many bytes; with 0 the room only waits for the next part.
    HandedOver { unread: usize },
}

impl HeldAnswer {
    /// Whether the reader has taken nothing for too long.
    fn is_still(&self) -> bool {
        let patience = match self.stage {
            Stage::Unused => PATIENCE_UNUSED,
            Stage::HandedOver { unread: 0 } => return false,
            Stage::HandedOver { .. } => PATIENCE,
        };
        self.since.elapsed() >= patience
    }
}

/// A call waiting for room.
pub(super) struct WaitingCall {
    bytes: usize,
    usage: Option<Arc<Usage>>,
    granted: oneshot::Sender<Charge>,
}

/// Why a call gets no room now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RoomObstacle {
    /// The connection has its share.
    Share,
    /// Callers outside the cluster have their half.
    OutsideHalf,
    /// The pool is full.
    Pool,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct PoolFull;

fn is_outside(usage: Option<&Arc<Usage>>) -> bool {
    usage.is_some_and(|usage| usage.is_outside())
}

impl Pool {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room now, or a place in the queue.
    pub(super) fn take(
        self: &Arc<Self>,
        bytes: usize,
        usage: Option<&Arc<Usage>>,
    ) -> Result<Charge, oneshot::Receiver<Charge>> {
        let bytes = bytes.min(self.most_of(usage));
        let mut state = self.lock();
        if let Some(charge) = self.take_free(&mut state, bytes, usage) {
            return Ok(charge);
        }
        let obstacle = self.obstacle(&state, bytes, usage);
        state.note(obstacle, usage);
        let (granted, receiver) = oneshot::channel();
        let usage = usage.cloned();
        state.waiting.push_back(WaitingCall {
            bytes,
            usage,
            granted,
        });
        Err(receiver)
    }

    /// Takes room now, or no place in the queue.
    pub(super) fn take_unless_waiting(
        self: &Arc<Self>,
        bytes: usize,
        usage: Option<&Arc<Usage>>,
    ) -> Option<Charge> {
        self.take_free(&mut self.lock(), bytes.min(self.most_of(usage)), usage)
    }

    fn take_free(
        self: &Arc<Self>,
        state: &mut PoolState,
        bytes: usize,
        usage: Option<&Arc<Usage>>,
    ) -> Option<Charge> {
        let is_behind = state.is_scarce || state.is_behind_outside(usage);
        let is_free = !is_behind && self.obstacle(state, bytes, usage).is_none();
        is_free.then(|| self.charge(state, bytes, usage.cloned()))
    }

    /// Takes room for a finished answer that must not be refused: beyond the limit, if necessary.
    pub(super) fn take_beyond(self: &Arc<Self>, bytes: usize, usage: Option<&Arc<Usage>>) -> Charge {
        self.charge(&mut self.lock(), bytes, usage.cloned())
    }

    /// Takes room for a finished answer.
    pub(super) fn take_now(
        self: &Arc<Self>,
        bytes: usize,
        usage: Option<&Arc<Usage>>,
    ) -> Result<Charge, PoolFull> {
        let mut state = self.lock();
        if bytes > self.free_for(&state, usage) {
            return Err(PoolFull);
        }
        Ok(self.charge(&mut state, bytes, usage.cloned()))
    }

    fn charge(self: &Arc<Self>, state: &mut PoolState, bytes: usize, usage: Option<Arc<Usage>>) -> Charge {
        let key = state.next_key;
        state.next_key += 1;
        state.grow(usage.as_ref(), bytes);
        let held = HeldAnswer {
            bytes,
            usage,
            stage: Stage::Unused,
            since: Instant::now(),
        };
        state.held.insert(key, held);
        let pool = Arc::clone(self);
        Charge { pool, key }
    }

    /// Limit in bytes of all answers of callers of this side.
    fn most_of(&self, usage: Option<&Arc<Usage>>) -> usize {
        if is_outside(usage) {
            self.bytes_max / 2
        } else {
            self.bytes_max
        }
    }

    /// Free bytes for callers of this side.
    fn free_for(&self, state: &PoolState, usage: Option<&Arc<Usage>>) -> usize {
        let free = self.bytes_max.saturating_sub(state.bytes);
        if is_outside(usage) {
            free.min((self.bytes_max / 2).saturating_sub(state.outside_bytes))
        } else {
            free
        }
    }

    /// Why there is no room for this call, if so.
    fn obstacle(&self, state: &PoolState, bytes: usize, usage: Option<&Arc<Usage>>) -> Option<RoomObstacle> {
        let connection = connection_of(usage);
        let of_connection = state.of_connections.get(&connection).copied().unwrap_or_default();
        let free = self.free_for(state, usage);
        let share = if is_outside(usage) {
            free.min(self.bytes_max / 2 / CONNECTION_PART)
        } else {
            free
        };
        // A connection without other answers may have an answer of any size.
        if connection.is_some() && of_connection > 0 && of_connection + bytes > share {
            Some(RoomObstacle::Share)
        } else if is_outside(usage) && state.outside_bytes + bytes > self.bytes_max / 2 {
            Some(RoomObstacle::OutsideHalf)
        } else if state.bytes + bytes > self.bytes_max {
            Some(RoomObstacle::Pool)
        } else {
            None
        }
    }

    /// Gives room to the waiting calls, as far as there is room.
    fn grant(self: &Arc<Self>, mut state: MutexGuard<'_, PoolState>) {
        (state.is_scarce, state.is_outside_scarce) = (false, false);
        state.held_back.clear();
        if state.waiting.is_empty() {
            return;
        }
        let mut grants = Vec::new();
        let mut passed = VecDeque::new();
        // The connection that was held back last: often all waiting calls are of the same connection.
        let mut held_back = None;
        while let Some(next) = state.waiting.pop_front() {
            let connection = connection_of(next.usage.as_ref());
            if next.granted.is_closed() {
                continue;
            }
            let usage = next.usage.as_ref();
            if state.is_behind_outside(usage) || (connection.is_some() && connection == held_back) {
                passed.push_back(next);
                continue;
            }
            let obstacle = self.obstacle(&state, next.bytes, usage);
            state.note(obstacle, usage);
            match obstacle {
                None => {
                    let charge = self.charge(&mut state, next.bytes, next.usage);
                    grants.push((next.granted, charge));
                }
                Some(RoomObstacle::Share) => {
                    held_back = connection;
                    passed.push_back(next);
                }
                // No later call of these callers goes first.
                Some(RoomObstacle::OutsideHalf) => passed.push_back(next),
                // The call waits for the pool itself: no later call goes first.
                Some(RoomObstacle::Pool) => {
                    passed.push_back(next);
                    break;
                }
            }
        }
        passed.append(&mut state.waiting);
        state.waiting = passed;
        drop(state);
        for (granted, charge) in grants {
            // A call that has stopped waiting gives the room back at once.
            drop(granted.send(charge));
        }
    }

    /// Closes connections whose readers take nothing, the longest stalled first, until the first waiting call has room
    /// and `wanted` bytes are free for callers of the side of `usage`. For room in the half of the callers outside the
    /// cluster, only connections of such callers are closed.
    pub(super) fn cut_off(self: &Arc<Self>, wanted: usize, usage: Option<&Arc<Usage>>) {
        let mut state = self.lock();
        let is_recent = |at: Instant| at.elapsed() < LOOK;
        let is_scarce = state.is_scarce || state.is_outside_scarce || wanted > 0;
        if !is_scarce || state.looked_at.is_some_and(is_recent) {
            return;
        }
        state.looked_at = Some(Instant::now());
        let (mut missing, mut outside_missing) = self.missing(&state, wanted, usage);
        let mut still: Vec<_> = state
            .held
            .values()
            .filter(|held| held.is_still())
            .filter_map(|held| Some((held.since, held.usage.as_ref()?)))
            .collect();
        still.sort_by_key(|&(since, _)| since);
        let mut seen = HashSet::new();
        for (_, usage) in still {
            let is_outside = usage.is_outside();
            let helps = missing > 0 || (outside_missing > 0 && is_outside);
            let connection = connection_of(Some(usage));
            if helps && seen.insert(connection) {
                usage.close_because(
                    "the peer reads nothing of a large answer, and other answers wait for room",
                );
                let freed = state.of_connections.get(&connection).copied().unwrap_or_default();
                missing = missing.saturating_sub(freed);
                if is_outside {
                    outside_missing = outside_missing.saturating_sub(freed);
                }
            }
        }
        // A call that has stopped waiting may have blocked the next.
        self.grant(state);
    }

    /// Missing bytes of the pool, and of the half of the callers outside the cluster: for the first call that waits for
    /// each, and for `wanted` bytes of an answer.
    fn missing(&self, state: &PoolState, wanted: usize, usage: Option<&Arc<Usage>>) -> (usize, usize) {
        let first = |obstacle: RoomObstacle| {
            let waits = |next: &&WaitingCall| {
                let is_there = !next.granted.is_closed();
                is_there && self.obstacle(state, next.bytes, next.usage.as_ref()) == Some(obstacle)
            };
            state.waiting.iter().find(waits).map_or(0, |first| first.bytes)
        };
        let of_pool = first(RoomObstacle::Pool).max(wanted);
        let free = self.bytes_max.saturating_sub(state.bytes);
        let wanted_outside = if is_outside(usage) { wanted } else { 0 };
        let of_outside = first(RoomObstacle::OutsideHalf).max(wanted_outside);
        let free_outside = (self.bytes_max / 2).saturating_sub(state.outside_bytes);
        (
            of_pool.saturating_sub(free),
            of_outside.saturating_sub(free_outside),
        )
    }
}

impl PoolState {
    fn grow(&mut self, usage: Option<&Arc<Usage>>, bytes: usize) {
        self.bytes += bytes;
        if is_outside(usage) {
            self.outside_bytes += bytes;
        }
        *self.of_connections.entry(connection_of(usage)).or_default() += bytes;
    }

    fn shrink(&mut self, usage: Option<&Arc<Usage>>, bytes: usize) {
        self.bytes -= bytes;
        if is_outside(usage) {
            self.outside_bytes -= bytes;
        }
        let connection = connection_of(usage);
        if let Some(of_connection) = self.of_connections.get_mut(&connection) {
            *of_connection -= bytes;
            if *of_connection == 0 {
                self.of_connections.remove(&connection);
            }
        }
    }

    /// Whether an earlier call of a caller outside the cluster is to go before this one.
    fn is_behind_outside(&self, usage: Option<&Arc<Usage>>) -> bool {
        is_outside(usage) && (self.is_outside_scarce || self.held_back.contains(&connection_of(usage)))
    }

    /// A call waits because of this obstacle.
    fn note(&mut self, obstacle: Option<RoomObstacle>, usage: Option<&Arc<Usage>>) {
        match obstacle {
            Some(RoomObstacle::Pool) => self.is_scarce = true,
            Some(RoomObstacle::OutsideHalf) => self.is_outside_scarce = true,
            Some(RoomObstacle::Share) if is_outside(usage) => {
                self.held_back.insert(connection_of(usage));
            }
            Some(RoomObstacle::Share) | None => {}
        }
    }
}

/// Taken room. Dropping this value gives the room back.
pub(super) struct Charge {
    pool: Arc<Pool>,
    key: u64,
}

impl Charge {
    pub(super) fn bytes(&self) -> usize {
        self.pool.lock().held.get(&self.key).map_or(0, |held| held.bytes)
    }

    /// Holds this many bytes from now on, with or without room: the part is built already.
    pub(super) fn resize(&self, bytes: usize) {
        let mut state = self.pool.lock();
        let Some(held) = state.held.get_mut(&self.key) else {
            return;
        };
        let usage = held.usage.clone();
        let before = std::mem::replace(&mut held.bytes, bytes);
        state.grow(usage.as_ref(), bytes);
        state.shrink(usage.as_ref(), before);
        if bytes < before {
            self.pool.grant(state);
        }
    }

    /// Keeps at most `bytes`; returns the rest, if any.
    pub(super) fn split_off(&self, bytes: usize) -> Option<Self> {
        let mut state = self.pool.lock();
        let held = state.held.get_mut(&self.key)?;
        let rest = held.bytes.checked_sub(bytes).filter(|&rest| rest > 0)?;
        held.bytes = bytes;
        let usage = held.usage.clone();
        state.shrink(usage.as_ref(), rest);
        Some(self.pool.charge(&mut state, rest, usage))
    }

    /// A part of this many bytes is handed over: from now on the reader can take the part.
    pub(super) fn handed_over(&self, bytes: usize) {
        let mut state = self.pool.lock();
        if let Some(held) = state.held.get_mut(&self.key) {
            held.stage = Stage::HandedOver { unread: bytes };
            held.since = Instant::now();
        }
    }

    /// The reader has taken this many handed-over bytes.
    pub(super) fn taken(&self, bytes: usize) {
        let mut state = self.pool.lock();
        if let Some(held) = state.held.get_mut(&self.key)
            && let Stage::HandedOver { unread } = &mut held.stage
        {
            *unread = unread.saturating_sub(bytes);
            held.since = Instant::now();
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        if let Some(held) = state.held.remove(&self.key) {
            state.shrink(held.usage.as_ref(), held.bytes);
        }
        self.pool.grant(state);
    }
}
