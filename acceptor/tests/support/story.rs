//! Content of a directory after votes, and the judgement of a start on damaged files.

use std::{collections::BTreeMap, fs, path::Path};

use paxos_acceptor::store::{
    DiskPage, Reader as _, RecoveredRun, Store as _, StoreError, snapshots::KeptSnapshots,
    sqlite::SqliteStore,
};
use paxos_common::{
    paxos::{
        acceptor::HeldRow,
        identity::{AcceptorUuid, CommitCounter, RunNumber},
        message::Row,
        quorum::Configuration,
        slot::Slot,
    },
    service::failure::{Exit, Failure},
};
use sqlx::{AssertSqlSafe, Connection as _};

use super::{
    accept, ballot,
    run::{AcceptorRun, open, snapshot},
    slot, value,
};

pub const DATABASE: &str = "acceptor.db";
pub const LOG: &str = "acceptor.db-wal";
pub const COMMITS: &str = "COMMITS";
pub const FILES: [&str; 3] = [DATABASE, LOG, COMMITS];

/// The files of a directory at a moment, as left by the end of a process.
#[derive(Clone)]
pub struct Files(pub BTreeMap<&'static str, Vec<u8>>);

impl Files {
    pub fn of(directory: &Path) -> Self {
        let read = |name| Some((name, fs::read(directory.join(name)).ok()?));
        Self(FILES.into_iter().filter_map(read).collect())
    }

    pub fn put_into(&self, directory: &Path) {
        for name in FILES.into_iter().chain(["acceptor.db-shm"]) {
            let _ = fs::remove_file(directory.join(name));
        }
        for (name, bytes) in &self.0 {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }

    pub fn with(&self, name: &'static str, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut changed = self.clone();
        change(changed.0.get_mut(name).unwrap());
        changed
    }

    pub fn without(&self, name: &'static str) -> Self {
        let mut changed = self.clone();
        changed.0.remove(name).unwrap();
        changed
    }

    /// The database and `COMMITS` with a file of a different time in place of `name`.
    pub fn with_that_of(&self, name: &'static str, other: &Self) -> Self {
        let mut changed = self.clone();
        changed.0.insert(name, other.0[name].clone());
        changed
    }
}

/// Everything answered up to a moment.
#[derive(Clone)]
pub struct Answered {
    pub rows: Vec<Row>,
    pub counter: CommitCounter,
    pub promised: u64,
    pub voted_to: Slot,
    pub chosen_to: Slot,
    pub snapshots: KeptSnapshots,
}

/// Votes requested by a leader, with a promise and a witness.
pub struct Story {
    pub directory: tempfile::TempDir,
    pub run: AcceptorRun<SqliteStore>,
    pub votes: u64,
}

impl Story {
    pub async fn begin() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut run = AcceptorRun::begin(&directory.path().to_owned(), 1).await;
        let members = [
            run.opened.recovered.uuid,
            AcceptorUuid::from_u128(77),
            AcceptorUuid::from_u128(78),
        ];
        let members = members.map(|uuid| (uuid, format!("http://a:{uuid}").into()));
        run.form_as(&Configuration::new(members, 2, 2).unwrap()).await;
        run.prepare(3).await;
        Self {
            directory,
            run,
            votes: 0,
        }
    }

    /// Some commits: each a vote, with a watermark three slots behind. The first also writes a witness.
    pub async fn vote(&mut self, votes: u64) {
        let mut group = self.run.core.group();
        let heard = CommitCounter::new(self.votes + 1);
        let witness = (AcceptorUuid::from_u128(77), RunNumber::from_random(9), heard);
        self.run.core.witness(&mut group, [witness]);
        self.run.commit(group).await;
        for _ in 0..votes {
            let at = self.votes;
            self.votes += 1;
            let accept = accept(3, at.saturating_sub(3), [(at, value(&format!("value {at}")))]);
            self.run.accept(accept).await;
        }
    }

    /// Votes for all slots below `to`, in one commit, with a watermark three slots behind.
    pub async fn vote_up_to(&mut self, to: u64) {
        let rows = (self.votes..to).map(|at| (at, value(&format!("value {at}"))));
        self.run.accept(accept(3, to - 3, rows)).await;
        self.votes = to;
    }

    /// A story of 12 votes: trimmed to slot 3, with rows below, and with a waiting snapshot to slot 6.
    pub async fn trimmed() -> Self {
        let mut story = Self::begin().await;
        story.vote(12).await;
        story.run.keep(3).await;
        story.run.trim().await;
        story.run.keep(6).await;
        story
    }

    /// Files and answers as left by a kill at this moment.
    pub async fn killed(&self) -> (Files, Answered) {
        let (rows, page) = self.run.read(0).await;
        let answered = Answered {
            rows,
            counter: self.run.core.stamp().commit_counter,
            promised: page.promised.round(),
            voted_to: page.voted_to,
            chosen_to: page.chosen_to,
            snapshots: self.run.store.snapshots(),
        };
        (Files::of(self.directory.path()), answered)
    }

    pub async fn closed(self) -> (Files, Answered) {
        let (files, answered, _) = self.stopped().await;
        (files, answered)
    }
}

/// Outcome of a start.
#[derive(Debug, PartialEq, Eq)]
pub enum StoryEnd {
    /// With a text.
    Refused(String),
    /// With this number of unknown rows.
    Sound(usize),
}

pub async fn all_pages(store: &SqliteStore) -> Result<(Vec<Row>, DiskPage), StoreError> {
    let (reader, mut from, mut rows) = (store.reader(), Slot::ZERO, Vec::new());
    loop {
        let mut page = reader.page(from).await?;
        assert!(page.last || page.next > from, "a page that gets nowhere");
        rows.append(&mut page.rows);
        if page.last {
            return Ok((rows, page));
        }
        from = page.next;
    }
}

/// Starts on these files and reads everything: refused with 74 or 78 and a text, or everything answered is present or
/// unknown, and nothing is older.
pub async fn judge(scratch: &Path, files: &Files, answered: &Answered, what: &str) -> StoryEnd {
    files.put_into(scratch);
    let refused = |error: StoreError| {
        let failure = Failure::from(error);
        let text = failure.to_string();
        assert!(
            matches!(failure.code, Exit::Storage | Exit::Refused),
            "{what}: {text}"
        );
        assert!(
            text.contains(DATABASE) || text.contains(COMMITS),
            "{what}: {text}"
        );
        StoryEnd::Refused(text)
    };
    let (store, opened) = match open(scratch, 2).await {
        Ok(opened) => opened,
        Err(error) => return refused(error),
    };
    let recovered = &opened.recovered;
    assert!(recovered.commit_counter > answered.counter, "{what}: older");
    assert_eq!(recovered.promised.round(), answered.promised, "{what}");
    assert_eq!(
        (recovered.voted_to, recovered.known_to),
        (answered.voted_to, answered.chosen_to),
        "{what}"
    );
    assert_eq!(opened.snapshots, answered.snapshots, "{what}");
    let bottom = opened.snapshots.bottom;
    assert_eq!(
        bottom.map_or(Slot::ZERO, |bottom| bottom.id.to),
        recovered.trimmed_to,
        "{what}"
    );
    let read = all_pages(&store).await;
    let unknown_open = held_is_sound(&opened, answered, what);
    store.close().await;
    let (rows, _) = match read {
        Ok(read) => read,
        Err(error) => return refused(error),
    };
    assert_eq!(rows.len(), answered.rows.len(), "{what}: {rows:?}");
    let mut unknown = 0;
    for (row, expected) in rows.iter().zip(&answered.rows) {
        assert_eq!(row.slot, expected.slot, "{what}");
        match &row.accepted {
            Some(_) => assert_eq!(row.accepted, expected.accepted, "{what}"),
            None => unknown += 1,
        }
    }
    assert!(unknown >= unknown_open);
    StoryEnd::Sound(unknown)
}

/// Checks the rows handed by recovery to the core; returns the number of unknown rows.
pub fn held_is_sound(opened: &RecoveredRun, answered: &Answered, what: &str) -> usize {
    let held = &opened.recovered.rows;
    let open = answered.rows.iter().filter(|row| row.slot >= answered.chosen_to);
    let mut unknown = 0;
    for row in open {
        let (ballot, value) = row.accepted.as_ref().unwrap();
        match held.get(&row.slot) {
            Some(HeldRow::Unknown) => unknown += 1,
            found => assert_eq!(
                found,
                Some(&HeldRow::Accepted(*ballot, value.fingerprint())),
                "{what}"
            ),
        }
    }
    unknown
}

pub fn assert_refused(end: &StoryEnd, parts: &[&str]) {
    let StoryEnd::Refused(text) = end else {
        panic!("not refused: {parts:?}")
    };
    for part in parts
        .iter()
        .chain(&["must not vote any more", "restore all files of the directory"])
    {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

impl Story {
    /// The story's files after an orderly stop, and the directory for going on.
    pub async fn stopped(self) -> (Files, Answered, tempfile::TempDir) {
        let (_, answered) = self.killed().await;
        let Self { directory, run, .. } = self;
        run.store.close().await;
        (Files::of(directory.path()), answered, directory)
    }

    pub async fn on(directory: tempfile::TempDir) -> Self {
        let run = AcceptorRun::begin(&directory.path().to_owned(), 2).await;
        let votes = run.core.voted_to().get();
        Self {
            directory,
            run,
            votes,
        }
    }
}

pub async fn change_by_sql(directory: &Path, sql: &str) {
    let mut connection = paxos_common::sqlite::open_writer(&directory.join(DATABASE), 700)
        .await
        .unwrap();
    let done = sqlx::query(AssertSqlSafe(sql.to_owned()))
        .execute(&mut connection)
        .await
        .unwrap();
    assert!(done.rows_affected() > 0, "{sql}");
    connection.close().await.unwrap();
}

/// The directory of an acceptor after an orderly stop, written by the last release with schema version 3: trimmed, with a
/// waiting snapshot.
pub fn version_3() -> (Files, Answered) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schema-3");
    let row = |at| Row {
        slot: slot(at),
        accepted: Some((ballot(3), value(&format!("value {at}")))),
    };
    let answered = Answered {
        rows: (3..12).map(row).collect(),
        counter: CommitCounter::new(16),
        promised: 3,
        voted_to: slot(12),
        chosen_to: slot(8),
        snapshots: KeptSnapshots {
            bottom: Some(snapshot(3)),
            waiting: Some(snapshot(6)),
        },
    };
    (Files::of(&directory), answered)
}
