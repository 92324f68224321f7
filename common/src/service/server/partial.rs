//! Incomplete large messages: a limit on their total memory. Messages of callers outside the cluster are cut off first.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::peer::MESSAGE_BYTES_MAX;

/// Size in bytes of all incomplete messages above which the most stalled messages are cut off: the size of 16 largest
/// messages, which a busy server completes in a moment.
const BYTES_MAX: usize = 16 * MESSAGE_BYTES_MAX;
/// Size in bytes above which no incomplete message may grow: memory of a cut-off message is not free at once.
const BYTES_NEVER: usize = 2 * BYTES_MAX;

/// All incomplete messages.
#[derive(Debug, Default)]
pub(super) struct Partials(Mutex<PartialState>);

#[derive(Debug, Default)]
struct PartialState {
    bytes: usize,
    next_key: u64,
    open: BTreeMap<u64, Partial>,
}

#[derive(Debug)]
struct Partial {
    is_outside: bool,
    bytes: usize,
    grown_at: Instant,
    cut_off: CancellationToken,
}

/// There is no room for more bytes of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// The bytes of an incomplete message; dropping this value gives the bytes back.
pub(super) struct Share {
    partials: Arc<Partials>,
    key: u64,
    cut_off: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Partials {
    /// The share of a message, before the first byte. `is_outside`: the caller is outside the cluster.
    pub(super) fn share(self: &Arc<Self>, is_outside: bool) -> Share {
        let cut_off = CancellationToken::new();
        let mut state = self.lock();
        let key = state.next_key;
        state.next_key += 1;
        state.open.insert(
            key,
            Partial {
                is_outside,
                bytes: 0,
                grown_at: Instant::now(),
                cut_off: cut_off.clone(),
            },
        );
        Share {
            partials: Arc::clone(self),
            key,
            cut_off: Box::pin(cut_off.cancelled_owned()),
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, PartialState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialState {
    /// Cuts off the longest stalled messages, of outside callers first, until `excess` bytes will be free.
    fn free(&mut self, excess: usize) {
        let already = self
            .open
            .values()
            .filter(|partial| partial.cut_off.is_cancelled());
        let mut freed: usize = already.map(|partial| partial.bytes).sum();
        while freed < excess {
            let stalest = self
                .open
                .values()
                .filter(|partial| !partial.cut_off.is_cancelled())
                .min_by_key(|partial| (!partial.is_outside, partial.grown_at));
            let Some(stalest) = stalest else { return };
            stalest.cut_off.cancel();
            freed += stalest.bytes;
        }
    }
}

impl Share {
    /// This many bytes of the message have arrived.
    ///
    /// # Errors There is no room for this many bytes.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let mut state = self.partials.lock();
        let Some(partial) = state.open.get_mut(&self.key) else {
            return Err(NoRoom);
        };
        let more = bytes.saturating_sub(partial.bytes);
        partial.bytes += more;
        partial.grown_at = Instant::now();
        state.bytes += more;
        if state.bytes > BYTES_MAX {
            let excess = state.bytes - BYTES_MAX;
            state.free(excess);
        }
        if state.bytes > BYTES_NEVER {
            Err(NoRoom)
        } else {
            Ok(())
        }
    }

    /// Ready when the message must be given up.
    pub(super) fn poll_cut_off(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.cut_off.as_mut().poll(context)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.partials.lock();
        if let Some(partial) = state.open.remove(&self.key) {
            state.bytes -= partial.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_cut_off(share: &mut Share) -> bool {
        share
            .poll_cut_off(&mut Context::from_waker(std::task::Waker::noop()))
            .is_ready()
    }

    #[test]
    fn longest_stalled_messages_are_cut_off_above_the_limit() {
        let partials = Arc::<Partials>::default();
        let mut shares: Vec<_> = (0..4).map(|_| partials.share(false)).collect();
        for share in &mut shares {
            share.grow_to(BYTES_MAX / 4).unwrap();
        }
        shares[0].grow_to(BYTES_MAX / 4).unwrap();
        let mut last = partials.share(false);
        last.grow_to(BYTES_MAX / 4 + 1).unwrap();
        let cut_off: Vec<_> = shares.iter_mut().map(is_cut_off).collect();
        assert_eq!(cut_off, [false, true, true, false]);
        assert!(!is_cut_off(&mut last));
        shares.clear();
        assert_eq!(partials.bytes(), BYTES_MAX / 4 + 1);
        drop(last);
        assert_eq!(partials.bytes(), 0);
    }

    #[test]
    fn nothing_grows_while_those_cut_off_are_still_there() {
        let partials = Arc::<Partials>::default();
        let mut stuck: Vec<_> = (0..8).map(|_| partials.share(false)).collect();
        let grown: Vec<_> = stuck
            .iter_mut()
            .map(|share| share.grow_to(BYTES_NEVER / 8))
            .collect();
        assert!(grown.iter().all(Result::is_ok));
        let mut late = partials.share(false);
        assert_eq!(late.grow_to(1), Err(NoRoom));
        stuck.pop();
        assert_eq!(late.grow_to(2), Ok(()));
    }

    #[test]
    fn messages_of_outside_callers_are_cut_off_before_those_of_the_cluster() {
        let partials = Arc::<Partials>::default();
        // The message of a leader pauses, and messages of clients grow.
        let mut leader = partials.share(false);
        leader.grow_to(BYTES_MAX / 4).unwrap();
        let mut clients: Vec<_> = (0..4).map(|_| partials.share(true)).collect();
        for client in &mut clients {
            client.grow_to(BYTES_MAX / 4).unwrap();
        }
        assert!(!is_cut_off(&mut leader));
        assert!(is_cut_off(&mut clients[0]) && !is_cut_off(&mut clients[3]));
    }
}
