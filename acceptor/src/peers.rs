//! The only reader of the disk for peers: no page leaves before memory shows the page's commit.
//!
//! A reader of the disk sees a commit before the commit call has returned to the worker: the hop from the database's
//! thread lies between, and at times a whole checkpoint with syncs. A page is an answer. If a page left in that time, a
//! learner could count votes missing in the next `Tail` of this acceptor, and a linearizable read at another learner
//! would miss values already read. So a page waits until memory shows the commit of the page.
//!
//! The worker and the scrub read the disk directly: the worker must not wait for the worker's own commit, and the scrub
//! sends nothing.

use std::sync::Arc;

use paxos_common::{
    paxos::slot::Slot,
    service::{failure::Failure, shutdown::Shutdown},
};

use crate::{
    damage::damaged,
    shared::Shared,
    store::{DiskPage, PastPromise, Reader, StoreError},
};

/// Reads the disk for peers. Not a [`Reader`]: no call of the service can bypass this type.
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

    /// A page from slot `from` on, once memory shows the page's commit. The page's damaged rows are reported to the
    /// worker.
    ///
    /// Waits for as long as the commit hangs.
    ///
    /// # Errors
    /// As [`Reader::page`].
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn page(&self, from: Slot) -> Result<DiskPage, StoreError> {
        let page = self.judge(self.reader.page(from).await)?;
        if let Some(slots) = damaged(&page) {
            // Without room the report is dropped, and the next reader finds the rows again.
            drop(self.shared.damage.try_send(slots));
        }
        self.shared.released(page.commit_counter).await;
        Ok(page)
    }

    /// The latest promises, newest first, at most `limit`. A promise not yet shown by memory is left out, so a hanging
    /// disk does not delay operators' queries.
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

    /// Size of the write-ahead log in bytes; 0 without a log.
    pub(crate) async fn wal_bytes(&self) -> u64 {
        self.reader.wal_bytes().await
    }
}

#[cfg(test)]
mod tests;
