//! The one way by which the disk is read for peers: nothing leaves that memory does not show yet.
//!
//! A reader of the disk sees a commit before the commit call has returned to the worker: the hop from the database's
//! thread lies between, and at times a whole checkpoint with its syncs. A page is an answer. If a page left in that time,
//! a learner could count votes that the next `Tail` of this acceptor does not show, and a linearizable read elsewhere
//! would miss what was read before. So a page waits until memory shows the commit that the page shows.
//!
//! The worker and the scrub read the disk directly: the worker must not wait for itself, and the scrub sends nothing.

use std::sync::Arc;

use paxos_common::{exit::Failure, paxos::slot::Slot, shutdown::Shutdown};

use crate::{
    damage::damaged,
    shared::Shared,
    store::{Page, PastPromise, Reader, StoreError},
};

/// Reads the disk for peers. Not a [`Reader`], so that no call of the service can read around it.
#[derive(Clone, Debug)]
pub(crate) struct PeerReader<R> {
    reader: R,
    shared: Arc<Shared>,
    shutdown: Shutdown,
}

impl<R: Reader> PeerReader<R> {
    pub(crate) fn new(reader: R, shared: Arc<Shared>, shutdown: Shutdown) -> Self {
        Self {
            reader,
            shared,
            shutdown,
        }
    }

    /// Ends the process on damage beyond rows. The caller still gets the error: the process may take a moment to end.
    fn judge<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result
            && error.is_damage()
        {
            self.shutdown
                .fail(Failure::storage(anyhow::anyhow!("read the store: {error}")));
        }
        result
    }

    /// A page from slot `from` on, once memory shows its commit. The worker hears of the damaged rows in it.
    ///
    /// It waits for as long as that commit hangs.
    ///
    /// # Errors
    /// As [`Reader::page`].
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn page(&self, from: Slot) -> Result<Page, StoreError> {
        let page = self.judge(self.reader.page(from).await)?;
        if let Some(slots) = damaged(&page) {
            // When there is no room they are found again by the next who reads.
            drop(self.shared.damage.try_send(slots));
        }
        self.shared.released(page.commit_counter).await;
        Ok(page)
    }

    /// The latest promises, newest first, at most `limit`; one that memory does not show yet is left out, so that a
    /// disk that hangs does not hold back what operators ask.
    ///
    /// # Errors
    /// As [`Reader::promises`].
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn promises(&self, limit: u32) -> Result<Vec<PastPromise>, StoreError> {
        let mut promises = self.judge(self.reader.promises(limit).await)?;
        let promised = self.shared.published().leadership.promised;
        promises.retain(|promise| promise.ballot <= promised);
        Ok(promises)
    }

    /// Size of the write-ahead log in bytes; 0 where there is none.
    pub(crate) async fn wal_bytes(&self) -> u64 {
        self.reader.wal_bytes().await
    }
}

#[cfg(test)]
mod tests;
