//! Reads the file beside the writing connection: pages of votes for readers, single rows for the worker.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::TryStreamExt as _;
use paxos_common::{
    paxos::{acceptor::HeldRow, slot::Slot},
    sqlite::{
        Readers,
        wal_limit::{wal_bytes, wal_path},
    },
};
use sqlx::{AssertSqlSafe, sqlite::SqliteRow};

use super::{
    super::{DiskPage, FileBytes, PAGE_ROWS_MAX, PageFill, PastPromise, Reader, StoreError},
    columns::{column, read_ballot, text},
    identity::Identity,
    state::{STATE, STATE_COLUMNS, StateRecord, weight},
    votes::{VOTE, into_held},
};

/// Maximum number of concurrent page reads. Each holds a page of at most a megabyte; more reads would only wait for the
/// same disk.
pub(super) const READERS: u32 = 4;

/// Reads the file beside the writing connection.
#[derive(Clone, Debug)]
pub struct SqliteReader {
    readers: Readers,
    /// A connection for the worker alone, so that page reads never delay the worker.
    held: Readers,
    file: Arc<PathBuf>,
    wal: Arc<PathBuf>,
    identity: Identity,
}

impl SqliteReader {
    /// `held`: a connection for the worker alone.
    pub(super) fn new(file: &Path, readers: Readers, held: Readers, identity: Identity) -> Self {
        Self {
            readers,
            held,
            file: Arc::new(file.to_owned()),
            wal: Arc::new(wal_path(file)),
            identity,
        }
    }

    /// Closes the connections.
    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.held.close().await;
    }

    async fn read_page(&self, from: Slot) -> Result<DiskPage, StoreError> {
        // A statement shows a single moment, and needs one hop. Dropping the stream early ends the statement.
        let sql = format!(
            "SELECT {STATE}, {VOTE} FROM state LEFT JOIN vote ON vote.slot >= max(?1, state.trimmed_to)
             WHERE state.only = 0 ORDER BY vote.slot LIMIT ?2"
        );
        let limit = i64::try_from(PAGE_ROWS_MAX).unwrap_or(i64::MAX) + 1;
        let mut read = self.readers.read().await?;
        let mut rows = sqlx::query(AssertSqlSafe(sql))
            .bind(from.get().cast_signed())
            .bind(limit)
            .fetch(&mut *read);
        let mut page: Option<(PageFill, StateRecord)> = None;
        let mut last = true;
        let (mut open, mut seen) = (0, 0);
        while let Some(row) = rows.try_next().await? {
            seen += 1;
            let (page, state) = match &mut page {
                Some(page) => page,
                None => {
                    let state = self.identity.read_state(&row)?;
                    page.insert((PageFill::new(from, state.moment.clone()), state))
                }
            };
            let Some(voted) = self.identity.read_vote(&row, STATE_COLUMNS)? else {
                continue;
            };
            if voted.slot >= state.moment.voted_to {
                return Err(StoreError::Damaged("vote"));
            }
            if voted.slot >= state.moment.known_to {
                open = weight(voted.slot).wrapping_add(open);
            }
            if !page.take(voted) {
                last = false;
                break;
            }
        }
        let (page, state) = page.ok_or(StoreError::Damaged("state"))?;
        // A page with all votes from the watermark on shows the loss of any of these votes.
        if last && seen < limit && from <= state.moment.known_to && open != state.open_slots {
            return Err(StoreError::Damaged("vote"));
        }
        // Rows left out of the page may have used up the limit.
        let page = page.finish(last && seen < limit);
        if !page.last && page.next <= from {
            return Err(StoreError::Damaged("vote"));
        }
        Ok(page)
    }

    async fn read_file_bytes(&self) -> Result<FileBytes, StoreError> {
        // Three numbers of the file's header.
        let sql = "SELECT page_size, page_count, freelist_count
            FROM pragma_page_size, pragma_page_count, pragma_freelist_count";
        let mut read = self.held.read().await?;
        let row = sqlx::query(sql).fetch_one(&mut *read).await?;
        let number = |at| column::<i64>(&row, at).map_or(0, i64::unsigned_abs);
        let (page, count, free) = (number(0), number(1), number(2));
        Ok(FileBytes {
            used: page.saturating_mul(count.saturating_sub(free)),
            free: page.saturating_mul(free),
        })
    }

    async fn read_held(&self, slots: &[Slot]) -> Result<BTreeMap<Slot, HeldRow>, StoreError> {
        let mut held = BTreeMap::new();
        if slots.is_empty() {
            return Ok(held);
        }
        let list: Vec<_> = slots.iter().map(Slot::to_string).collect();
        let sql = format!("SELECT {VOTE} FROM vote WHERE slot IN (SELECT value FROM json_each(?1))");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(format!("[{}]", list.join(",")));
        let mut read = self.held.read().await?;
        let mut rows = query.fetch(&mut *read);
        while let Some(row) = rows.try_next().await? {
            held.extend(self.identity.read_vote(&row, 0)?.map(into_held));
        }
        Ok(held)
    }
}

impl Reader for SqliteReader {
    async fn page(&self, from: Slot) -> Result<DiskPage, StoreError> {
        let page = self.read_page(from).await;
        page.map_err(|error| error.of_file(&self.file))
    }

    async fn held(&self, slots: &[Slot]) -> Result<BTreeMap<Slot, HeldRow>, StoreError> {
        let held = self.read_held(slots).await;
        held.map_err(|error| error.of_file(&self.file))
    }

    async fn promises(&self, limit: u32) -> Result<Vec<PastPromise>, StoreError> {
        let sql =
            "SELECT era, round, proposer, address, wall_time_ms FROM promise ORDER BY position DESC LIMIT ?1";
        let mut read = self.readers.read().await?;
        let rows = sqlx::query(sql).bind(limit).fetch_all(&mut *read).await;
        let rows = rows.map_err(|error| StoreError::from(error).of_file(&self.file))?;
        // For people alone: unreadable promises are left out.
        let read = |row: &SqliteRow| {
            Some(PastPromise {
                ballot: read_ballot(row, 0)?,
                address: text(row, 3)?,
                wall_time_ms: column::<i64>(row, 4)?.unsigned_abs(),
            })
        };
        Ok(rows.iter().filter_map(read).collect())
    }

    async fn file_bytes(&self) -> Result<FileBytes, StoreError> {
        let bytes = self.read_file_bytes().await;
        bytes.map_err(|error| error.of_file(&self.file))
    }

    async fn wal_bytes(&self) -> u64 {
        wal_bytes(&self.wal)
    }
}
