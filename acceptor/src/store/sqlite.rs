//! The acceptor's file: `schema.sql`, a single statement text and a single fsync per commit. `recovery.rs` lists the
//! cases at start, with the outcome of each.
//!
//! - After each commit, and before the answers, the commit counter goes into a second file (`counter_file.rs`).
//! - Every record and row is read as possibly damaged. A column that does not decode makes a row unknown, and a damaged
//!   record ends the process.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use paxos_common::{
    paxos::{
        acceptor::{HeldRow, Membership, Write},
        ballot::Ballot,
        identity::{AcceptorUuid, ClusterId, CommitCounter, RunNumber},
        message::Row as Voted,
        quorum::Configuration,
        slot::Slot,
        value::Value,
        witness::{WITNESSED_RUNS_MAX, Witnesses},
    },
    sqlite::{
        DataDir, Readers, checksum,
        foreign_lock::failed_before_the_transaction,
        migrate_by_steps, open_writer,
        wal_limit::{WalLimit, wal_bytes, wal_path},
    },
};
use paxos_proto::v1 as pb;
use prost::Message as _;
use sqlx::{
    AssertSqlSafe, Connection as _, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteQueryResult, SqliteRow},
};
use tracing::{debug, warn};

use super::{
    DiskPage, FileBytes, PAGE_ROWS_MAX, PROMISES_KEPT, PageFill, PastPromise, Reader, RecoveredRun,
    SpaceLevel, Store, StoreError, Swept,
    snapshots::{KeptSnapshot, KeptSnapshots},
    space::Space,
    wall_time_ms,
};

mod counter_file;
mod proof;
mod recovery;
pub mod repair;
mod snapshots;
mod state;
mod sweep;
mod upgrade;
mod wal;

pub use counter_file::CounterFile;
use recovery::begin_run;
use state::{
    OpenSlots, STATE, STATE_COLUMNS, StateRecord, bytes, column, read_ballot, read_slot, text, weight,
};

const SCHEMA: &str = include_str!("../../schema.sql");
const SCHEMA_VERSION: i32 = 3;
/// “paxA”.
const APPLICATION_ID: i32 = 0x7061_7841;
const FILE: &str = "acceptor.db";

/// Maximum number of concurrent page reads. Each holds a page of at most a megabyte; more reads would only wait for the
/// same disk.
const READERS: u32 = 4;

/// Maximum number of rows of an INSERT: six parameters a row stay below SQLite's limit of 32,766. Larger groups use
/// several INSERTs in the same transaction. A power of two, like all row counts, so that few texts stay prepared.
const INSERT_ROWS_MAX: usize = 1024;

/// Lengths of the write-ahead log, in pages, at which the log is copied back. All acceptors hold the same log: with
/// equal lengths all would copy at once, and the quorum would wait.
const CHECKPOINT_PAGES: [u32; 3] = [700, 1000, 1300];

/// Columns of a vote, in the order of [`read_vote`].
const VOTE: &str = "vote.slot, vote.round, vote.proposer, vote.value, vote.traceparent, vote.checksum";

/// Sole writer of an acceptor's file.
#[derive(Debug)]
pub struct SqliteStore {
    connection: SqliteConnection,
    reader: SqliteReader,
    open: OpenSlots,
    trimmed_to: Slot,
    snapshots: KeptSnapshots,
    counter: Arc<CounterFile>,
    /// Texts of the commits, by shape.
    texts: HashMap<Shape, Arc<str>>,
    space: Space,
    wal_limit: WalLimit,
    file: PathBuf,
    /// Kept to the end: holds the lock.
    _directory: DataDir,
}

/// Reads the file beside the writer.
#[derive(Clone, Debug)]
pub struct SqliteReader {
    readers: Readers,
    /// A connection for the worker alone, so that page reads never delay the worker.
    held: Readers,
    file: Arc<PathBuf>,
    wal: Arc<PathBuf>,
    identity: Identity,
}

/// Part of every checksum: a row of another acceptor or cluster is no row of ours.
#[derive(Clone, Debug)]
struct Identity {
    uuid: AcceptorUuid,
    /// Set once, with the configuration; votes come after.
    cluster: Arc<OnceLock<ClusterId>>,
}

/// The parts of a commit beside the state; each shape has a separate text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    promise: bool,
    witnesses: bool,
    membership: bool,
    trim: bool,
    /// Row capacity of the text: 0, or whole INSERTs plus a power of two.
    rows: usize,
}

impl SqliteStore {
    /// Opens the acceptor `name` in a directory, creates the acceptor in a blank directory, and begins a run. Returns
    /// once the run is durable.
    ///
    /// # Errors
    /// See the table in `recovery.rs`.
    pub async fn open(
        directory: DataDir,
        name: &str,
        run: RunNumber,
    ) -> Result<(Self, RecoveredRun), StoreError> {
        let file = directory.file(FILE);
        let opened = Self::open_file(directory, &file, name, run).await;
        opened.map_err(|error| match error.of_file(&file) {
            StoreError::Sqlite(source) => StoreError::Unusable { file, source },
            error @ (StoreError::Damaged(_)
            | StoreError::File { .. }
            | StoreError::Malformed { .. }
            | StoreError::Unusable { .. }
            | StoreError::LockedByOther(_)
            | StoreError::OtherAcceptor { .. }) => error,
        })
    }

    async fn open_file(
        directory: DataDir,
        file: &Path,
        name: &str,
        run: RunNumber,
    ) -> Result<(Self, RecoveredRun), StoreError> {
        // First of all: this step may make the space for beginning a run. Up to the open counter file, the start creates
        // no file: the directory may be refused.
        let space = Space::watch(directory.path()).await;
        proof::refuse_foreign(&directory).await?;
        proof::examine(&directory, Some(name)).await?;
        let counter = CounterFile::open(&directory)?;
        let mut connection = open_writer(file, CHECKPOINT_PAGES[0]).await?;
        // Before all other writes: a commit behind a torn commit of an earlier process would look like damage if torn
        // as well.
        proof::empty_log(&mut connection, file).await?;
        let upgrades = upgrade::Upgrades;
        migrate_by_steps(&mut connection, SCHEMA, SCHEMA_VERSION, APPLICATION_ID, &upgrades).await?;
        // The database is ours.
        directory.tighten(FILE, &[counter_file::FILE]);
        // Before the run begins: a failed start leaves no run.
        let readers = Readers::open(file, READERS).await?;
        let held = Readers::open(file, 1).await?;
        let (uuid, opened, open) = begin_run(&mut connection, name, run).await?;
        counter.write(uuid, opened.recovered.commit_counter)?;
        counter.sync()?;
        let identity = Identity::new(uuid);
        let membership = &opened.recovered.membership;
        identity.learn(membership);
        set_checkpoint_pages(
            &mut connection,
            checkpoint_pages(uuid, membership.configuration()),
        )
        .await?;
        let reader = SqliteReader {
            readers,
            held,
            file: Arc::new(file.to_owned()),
            wal: Arc::new(wal_path(file)),
            identity,
        };
        Ok((
            Self {
                connection,
                wal_limit: WalLimit::new(file, reader.readers.clone()),
                reader,
                open,
                trimmed_to: opened.recovered.trimmed_to,
                snapshots: opened.snapshots,
                counter,
                texts: HashMap::new(),
                space,
                file: file.to_owned(),
                _directory: directory,
            },
            opened,
        ))
    }

    /// The second place of the commit counter: sync it in the background for the lifetime of the store.
    pub fn counter_file(&self) -> Arc<CounterFile> {
        Arc::clone(&self.counter)
    }
}

impl Store for SqliteStore {
    type Reader = SqliteReader;

    async fn commit(&mut self, write: Write<'_>) -> Result<(), StoreError> {
        let identity = &self.reader.identity;
        if let Some(membership) = write.membership {
            identity.learn(membership);
        }
        let shape = Shape {
            promise: write.promise_is_new,
            witnesses: !write.witnesses.is_empty(),
            membership: write.membership.is_some(),
            trim: write.trimmed_to > self.trimmed_to,
            rows: padded(write.rows.len()),
        };
        let text = Arc::clone(self.texts.entry(shape).or_insert_with(|| shape.text().into()));
        let mut query = sqlx::query(AssertSqlSafe(text)).persistent(shape.rows <= INSERT_ROWS_MAX);
        self.open.take(&write);
        query = identity.bind_state(query, &Identity::state_after(&write, &self.open));
        if write.promise_is_new {
            query = bind_ballot(query, write.promised)
                .bind(write.leader_address.to_string())
                .bind(wall_time_ms().cast_signed())
                .bind(PROMISES_KEPT);
        }
        if !write.witnesses.is_empty() {
            query = query.bind(identity.witnesses_json(write.witnesses));
        }
        if let Some(membership) = write.membership {
            query = identity.bind_membership(query, membership);
        }
        let mut snapshots = self.snapshots;
        if shape.trim {
            snapshots = snapshots.after_trim(write.trimmed_to);
            let bottom = snapshots.bottom.as_ref();
            query = identity.bind_bottom(query, bottom.expect("a trim makes a snapshot the bottom"));
        }
        // Last, because unbound parameters are NULL: these rows are skipped.
        for (slot, (ballot, value)) in write.rows {
            query = identity.bind_vote(query, *slot, *ballot, value)?;
        }
        execute(&mut self.connection, query, &self.file).await?;
        self.counter.write(identity.uuid, write.commit_counter)?;
        self.trimmed_to = write.trimmed_to;
        self.snapshots = snapshots;
        if let Some(configuration) = write.membership.and_then(Membership::configuration) {
            set_checkpoint_pages(
                &mut self.connection,
                checkpoint_pages(identity.uuid, Some(configuration)),
            )
            .await?;
        }
        Ok(())
    }

    async fn keep(&mut self, snapshot: KeptSnapshot) -> Result<(), StoreError> {
        let query = sqlx::query(snapshots::KEEP);
        let query = self.reader.identity.bind_waiting(query, &snapshot);
        execute(&mut self.connection, query, &self.file).await?;
        self.snapshots.waiting = Some(snapshot);
        Ok(())
    }

    async fn forget(&mut self) -> Result<(), StoreError> {
        let query = sqlx::query(snapshots::FORGET);
        execute(&mut self.connection, query, &self.file).await?;
        self.snapshots.waiting = None;
        Ok(())
    }

    fn snapshots(&self) -> KeptSnapshots {
        self.snapshots
    }

    async fn sweep(&mut self) -> Result<Swept, StoreError> {
        sweep::sweep(&mut self.connection, self.trimmed_to, &self.file).await
    }

    async fn space(&mut self) -> SpaceLevel {
        let reader = &self.reader;
        let file_free = async || match reader.file_bytes().await {
            Ok(bytes) => bytes.free,
            Err(error) => {
                debug!(%error, "cannot read the number of free pages");
                0
            }
        };
        self.space.level(file_free).await
    }

    async fn keep_wal_short(&mut self) -> Result<(), StoreError> {
        Ok(self.wal_limit.keep(&mut self.connection).await?)
    }

    fn file(&self) -> &Path {
        &self.file
    }

    fn reader(&self) -> SqliteReader {
        self.reader.clone()
    }

    async fn close(self) {
        if let Err(error) = self.counter.sync() {
            warn!(%error, "syncing the commit counter failed; all commits are safe");
        }
        // The writer's connection is the last to close: closing copies the write-ahead log back and removes the log.
        self.reader.readers.close().await;
        self.reader.held.close().await;
        if let Err(error) = self.connection.close().await {
            warn!(%error, "closing the store failed; all commits are safe");
        }
    }
}

/// Executes a whole transaction, in one hop to SQLite's thread. On an error the transaction stays open, and nothing more
/// is ever written. Exception: a foreign process's lock kept the transaction from opening at all.
async fn execute(
    connection: &mut SqliteConnection,
    query: Binding<'_>,
    file: &Path,
) -> Result<SqliteQueryResult, StoreError> {
    match query.execute(&mut *connection).await {
        Ok(done) => Ok(done),
        Err(error) => Err(failed(connection, error, file).await),
    }
}

/// The error of a failed statement of the writer.
async fn failed(connection: &mut SqliteConnection, error: sqlx::Error, file: &Path) -> StoreError {
    if failed_before_the_transaction(connection, &error).await {
        StoreError::LockedByOther(file.to_owned())
    } else {
        error.into()
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
            "SELECT round, proposer, address, wall_time_ms FROM promise ORDER BY position DESC LIMIT ?1";
        let mut read = self.readers.read().await?;
        let rows = sqlx::query(sql).bind(limit).fetch_all(&mut *read).await;
        let rows = rows.map_err(|error| StoreError::from(error).of_file(&self.file))?;
        // For people alone: unreadable promises are left out.
        let read = |row: &SqliteRow| {
            Some(PastPromise {
                ballot: read_ballot(row, 0)?,
                address: text(row, 2)?,
                wall_time_ms: column::<i64>(row, 3)?.unsigned_abs(),
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

impl SqliteReader {
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

type Binding<'q> = Query<'q, sqlx::Sqlite, SqliteArguments>;

impl Identity {
    fn new(uuid: AcceptorUuid) -> Self {
        Self {
            uuid,
            cluster: Arc::default(),
        }
    }

    fn learn(&self, membership: &Membership) {
        if let Some(configuration) = membership.configuration() {
            let cluster = self.cluster.get_or_init(|| configuration.cluster_id());
            assert_eq!(
                *cluster,
                configuration.cluster_id(),
                "an acceptor never changes its cluster"
            );
        }
    }

    fn bind_state<'q>(&self, query: Binding<'q>, state: &StateRecord) -> Binding<'q> {
        let moment = &state.moment;
        bind_ballot(
            query.bind(moment.commit_counter.get().cast_signed()),
            moment.promised,
        )
        .bind(moment.leader_address.to_string())
        .bind(moment.known_to.get().cast_signed())
        .bind(moment.trimmed_to.get().cast_signed())
        .bind(moment.voted_to.get().cast_signed())
        .bind(state.open_slots.cast_signed())
        .bind(self.state_checksum(state))
    }

    fn bind_membership<'q>(&self, query: Binding<'q>, membership: &Membership) -> Binding<'q> {
        let encoded = membership
            .configuration()
            .map(pb::Configuration::from)
            .unwrap_or_default()
            .encode_to_vec();
        let formed = i64::from(matches!(membership, Membership::Formed(_)));
        let sum = self.membership_checksum(formed, &encoded);
        query.bind(formed).bind(encoded).bind(sum)
    }

    fn membership_checksum(&self, formed: i64, encoded: &[u8]) -> i64 {
        checksum(&[&self.uuid.to_bytes(), &formed.to_le_bytes(), encoded])
    }

    fn bind_vote<'q>(
        &self,
        query: Binding<'q>,
        slot: Slot,
        ballot: Ballot,
        value: &Value,
    ) -> Result<Binding<'q>, StoreError> {
        let sum = self.vote_checksum(slot, ballot, value.as_bytes())?;
        let traceparent = String::from_utf8_lossy(value.traceparent()).into_owned();
        Ok(bind_ballot(query.bind(slot.get().cast_signed()), ballot)
            .bind(value.as_bytes().to_vec())
            .bind(traceparent)
            .bind(sum))
    }

    fn vote_checksum(&self, slot: Slot, ballot: Ballot, value: &[u8]) -> Result<i64, StoreError> {
        // A vote without a cluster is possible only on a disk that lost the membership record.
        let cluster = self.cluster.get().ok_or(StoreError::Damaged("membership"))?;
        Ok(checksum(&[
            cluster.as_bytes(),
            &self.uuid.to_bytes(),
            &slot.get().to_le_bytes(),
            &ballot.round().to_le_bytes(),
            &ballot.proposer().get().to_le_bytes(),
            value,
        ]))
    }

    /// Encodes all witnesses as a single parameter, so that the text is the same for any number of witnesses.
    fn witnesses_json(&self, witnesses: &Witnesses) -> String {
        let witness = |(acceptor, run, counter): (AcceptorUuid, RunNumber, CommitCounter)| {
            let sum = self.witness_checksum(acceptor, run, counter);
            let acceptor = u128::from_be_bytes(acceptor.to_bytes());
            format!("[\"{acceptor:032x}\",{},{},{sum}]", run.get(), counter.get())
        };
        let list: Vec<_> = witnesses.iter().map(witness).collect();
        format!("[{}]", list.join(","))
    }

    /// Reads the columns [`VOTE`] from column `at` on. None for a NULL or invalid slot: such a row is missing. A row
    /// that differs from the written row is unknown.
    fn read_vote(&self, row: &SqliteRow, at: usize) -> Result<Option<Voted>, StoreError> {
        let Some(slot) = read_slot(row, at) else {
            return Ok(None);
        };
        let accepted = match (read_ballot(row, at + 1), bytes(row, at + 3)) {
            (Some(ballot), Some(value)) => {
                let intact = column::<i64>(row, at + 5) == Some(self.vote_checksum(slot, ballot, &value)?);
                let traceparent = bytes(row, at + 4).unwrap_or_default();
                intact.then(|| (ballot, Value::from_stored(value.into(), sound_trace(traceparent))))
            }
            _ => None,
        };
        Ok(Some(Voted { slot, accepted }))
    }
}

/// No checksum covers a trace context: an invalid trace context is dropped, and the rest of the row is sound.
fn sound_trace(traceparent: Vec<u8>) -> Bytes {
    /// Length of a W3C trace context, in bytes.
    const TRACEPARENT_BYTES: usize = 55;
    let is_one = traceparent.len() == TRACEPARENT_BYTES
        && traceparent
            .iter()
            .all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    if is_one { traceparent.into() } else { Bytes::new() }
}

impl Shape {
    fn text(self) -> String {
        let mut text = String::from(
            "BEGIN IMMEDIATE;
            UPDATE state SET commit_counter = ?, promised_round = ?, promised_proposer = ?, leader_address = ?,
                chosen_to = ?, trimmed_to = ?, voted_to = ?, open_slots = ?, checksum = ? WHERE only = 0;",
        );
        if self.promise {
            text.push_str(
                "INSERT INTO promise (round, proposer, address, wall_time_ms) VALUES (?, ?, ?, ?);
                DELETE FROM promise WHERE position <= (SELECT max(position) FROM promise) - ?;",
            );
        }
        if self.witnesses {
            text.push_str(
                "INSERT OR REPLACE INTO witness (acceptor, run, commit_counter, checksum)
                    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3 FROM json_each(?);",
            );
            text.push_str(&forget_surplus_witnesses());
        }
        if self.membership {
            text.push_str(
                "INSERT OR REPLACE INTO membership (only, formed, configuration, checksum) VALUES (0, ?, ?, ?);",
            );
        }
        if self.trim {
            text.push_str(snapshots::TRIM);
        }
        let mut left = self.rows;
        while left > 0 {
            let rows = left.min(INSERT_ROWS_MAX);
            left -= rows;
            text.push_str(
                "INSERT OR REPLACE INTO vote (slot, round, proposer, value, traceparent, checksum) ",
            );
            let places = vec!["(?, ?, ?, ?, ?, ?)"; rows].join(", ");
            write!(text, "SELECT * FROM (VALUES {places}) WHERE column1 IS NOT NULL;")
                .expect("a String takes all");
        }
        text.push_str("COMMIT");
        text
    }
}

/// Keeps, for each acceptor, the runs with the highest counters.
fn forget_surplus_witnesses() -> String {
    format!(
        "DELETE FROM witness WHERE (acceptor, run) IN (SELECT acceptor, run FROM (SELECT acceptor, run, row_number() OVER
            (PARTITION BY acceptor ORDER BY commit_counter DESC, run DESC) AS place FROM witness)
            WHERE place > {WITNESSED_RUNS_MAX});"
    )
}

/// Row capacity of the text for this number of rows.
fn padded(rows: usize) -> usize {
    match rows % INSERT_ROWS_MAX {
        0 => rows,
        rest => rows - rest + rest.next_power_of_two(),
    }
}

fn bind_ballot(query: Binding<'_>, ballot: Ballot) -> Binding<'_> {
    query
        .bind(ballot.round().cast_signed())
        .bind(ballot.proposer().get().cast_signed())
}

fn into_held(voted: Voted) -> (Slot, HeldRow) {
    let held = voted.accepted.map_or(HeldRow::Unknown, |(ballot, value)| {
        HeldRow::Accepted(ballot, value.fingerprint())
    });
    (voted.slot, held)
}

/// Each member of a cluster gets a different length in turn; before the cluster is formed, the uuid decides.
fn checkpoint_pages(uuid: AcceptorUuid, configuration: Option<&Configuration>) -> u32 {
    let rank =
        configuration.and_then(|configuration| configuration.members().keys().position(|&key| key == uuid));
    CHECKPOINT_PAGES[rank.unwrap_or(usize::from(uuid.to_bytes()[15])) % CHECKPOINT_PAGES.len()]
}

async fn set_checkpoint_pages(connection: &mut SqliteConnection, pages: u32) -> Result<(), StoreError> {
    let sql = format!("PRAGMA wal_autocheckpoint = {pages}");
    sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_counts_are_padded_to_few_shapes_that_hold_them() {
        for rows in 0..5000 {
            let room = padded(rows);
            assert!(
                room >= rows
                    && (room.is_multiple_of(INSERT_ROWS_MAX) || (room % INSERT_ROWS_MAX).is_power_of_two())
            );
        }
        assert_eq!(
            (padded(0), padded(3), padded(1024), padded(1025)),
            (0, 4, 1024, 1025)
        );
    }

    #[test]
    fn members_of_one_cluster_do_not_checkpoint_at_the_same_length() {
        let uuids = [10, 20, 30].map(AcceptorUuid::from_u128);
        let configuration = Configuration::new(uuids.map(|uuid| (uuid, "http://a:1".into())), 2, 2).unwrap();
        let mut pages = uuids.map(|uuid| checkpoint_pages(uuid, Some(&configuration)));
        pages.sort_unstable();
        assert_eq!(pages, CHECKPOINT_PAGES);
    }

    #[test]
    fn locked_directory_is_a_refusal_and_damage_is_a_storage_failure() {
        use paxos_common::{
            service::failure::{Exit, Failure},
            sqlite::SqliteError,
        };
        let code = |error: StoreError| Failure::from(error).code;
        let other = StoreError::OtherAcceptor {
            found: "a1".into(),
            asked: "a2".into(),
        };
        assert_eq!(code(other), Exit::Refused);
        assert_eq!(code(SqliteError::Locked(PathBuf::new()).into()), Exit::Refused);
        assert_eq!(code(StoreError::Damaged("state")), Exit::Storage);
    }
}
