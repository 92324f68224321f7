//! A store on a directory whose files are damaged, cut, lost or of different times: refused, or right in every row.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::{collections::BTreeMap, fs, path::Path};

use paxos_acceptor::store::{Opened, Page, Reader as _, Store as _, StoreError, sqlite::SqliteStore};
use paxos_common::{
    exit::{Exit, Failure},
    paxos::{
        acceptor::Held,
        identity::{AcceptorUuid, CommitCounter, RunNumber},
        message::Row,
        quorum::Configuration,
        slot::Slot,
    },
    sqlite::checksum,
};
use paxos_proto::v1 as pb;
use prost::Message as _;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use support::{
    accept, ballot,
    run::{Run, open},
    slot, value,
};

const DATABASE: &str = "acceptor.db";
const LOG: &str = "acceptor.db-wal";
const COMMITS: &str = "COMMITS";
const FILES: [&str; 3] = [DATABASE, LOG, COMMITS];

/// The files of a directory at one moment, as the end of a process leaves them.
#[derive(Clone)]
struct Files(BTreeMap<&'static str, Vec<u8>>);

impl Files {
    fn of(directory: &Path) -> Self {
        let read = |name| Some((name, fs::read(directory.join(name)).ok()?));
        Self(FILES.into_iter().filter_map(read).collect())
    }

    fn put_into(&self, directory: &Path) {
        for name in FILES.into_iter().chain(["acceptor.db-shm"]) {
            let _ = fs::remove_file(directory.join(name));
        }
        for (name, bytes) in &self.0 {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }

    fn with(&self, name: &'static str, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut changed = self.clone();
        change(changed.0.get_mut(name).unwrap());
        changed
    }

    fn without(&self, name: &'static str) -> Self {
        let mut changed = self.clone();
        changed.0.remove(name).unwrap();
        changed
    }

    /// This database and `COMMITS` with another file of another time.
    fn with_that_of(&self, name: &'static str, other: &Self) -> Self {
        let mut changed = self.clone();
        changed.0.insert(name, other.0[name].clone());
        changed
    }
}

/// What was answered at one moment.
#[derive(Clone)]
struct Answered {
    rows: Vec<Row>,
    counter: CommitCounter,
    promised: u64,
    voted_to: Slot,
    chosen_to: Slot,
}

/// Votes as a leader asks for them, with a promise and a witness among them.
struct Story {
    directory: tempfile::TempDir,
    run: Run<SqliteStore>,
    votes: u64,
}

impl Story {
    async fn begin() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut run = Run::begin(&directory.path().to_owned(), 1).await;
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

    /// Some commits: each a vote, with a watermark three slots behind. The first writes a witness too.
    async fn vote(&mut self, votes: u64) {
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

    /// As a process that is killed now leaves it.
    async fn killed(&self) -> (Files, Answered) {
        let (rows, page) = self.run.read(0).await;
        let answered = Answered {
            rows,
            counter: self.run.core.stamp().commit_counter,
            promised: page.promised.round(),
            voted_to: page.voted_to,
            chosen_to: page.chosen_to,
        };
        (Files::of(self.directory.path()), answered)
    }

    async fn closed(self) -> (Files, Answered) {
        let (files, answered, _) = self.stopped().await;
        (files, answered)
    }
}

/// How a start ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With a text.
    Refused(String),
    /// With so many rows unknown.
    Sound(usize),
}

async fn all_pages(store: &SqliteStore) -> Result<(Vec<Row>, Page), StoreError> {
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

/// Starts on these files and reads everything: refused with 74 or 78 and a text, or everything answered is there or
/// unknown, and nothing is older.
async fn judge(scratch: &Path, files: &Files, answered: &Answered, what: &str) -> End {
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
        End::Refused(text)
    };
    let (store, opened) = match open(scratch, 2).await {
        Ok(opened) => opened,
        Err(error) => return refused(error),
    };
    let recovered = &opened.recovered;
    assert!(recovered.commit_counter > answered.counter, "{what}: older");
    assert_eq!(recovered.promised.round(), answered.promised, "{what}");
    assert_eq!(
        (recovered.voted_to, recovered.chosen_to),
        (answered.voted_to, answered.chosen_to),
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
    End::Sound(unknown)
}

/// The rows that recovery hands to the core; returns how many are unknown.
fn held_is_sound(opened: &Opened, answered: &Answered, what: &str) -> usize {
    let held = &opened.recovered.rows;
    let open = answered.rows.iter().filter(|row| row.slot >= answered.chosen_to);
    let mut unknown = 0;
    for row in open {
        let (ballot, value) = row.accepted.as_ref().unwrap();
        match held.get(&row.slot) {
            Some(Held::Unknown) => unknown += 1,
            found => assert_eq!(
                found,
                Some(&Held::Accepted(*ballot, value.fingerprint())),
                "{what}"
            ),
        }
    }
    unknown
}

fn assert_refused(end: &End, parts: &[&str]) {
    let End::Refused(text) = end else {
        panic!("not refused: {parts:?}")
    };
    for part in parts
        .iter()
        .chain(&["must not vote any more", "put all files of the directory back"])
    {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn end_of_a_process_at_any_commit_loses_nothing() {
    let mut story = Story::begin().await;
    let scratch = tempfile::tempdir().unwrap();
    for _ in 0..6 {
        story.vote(3).await;
        let (files, answered) = story.killed().await;
        assert_eq!(
            judge(scratch.path(), &files, &answered, "killed").await,
            End::Sound(0)
        );
    }
    let (files, answered) = story.closed().await;
    assert_eq!(
        judge(scratch.path(), &files, &answered, "closed").await,
        End::Sound(0)
    );
}

#[tokio::test]
async fn flipped_bit_anywhere_is_found_or_harmless() {
    const FLIPS: usize = 300;
    let mut story = Story::begin().await;
    story.vote(40).await;
    let (log_full, answered_log) = story.killed().await;
    let (closed, answered_closed) = story.closed().await;
    let scratch = tempfile::tempdir().unwrap();
    let mut refused = BTreeMap::new();
    for (files, name, answered) in [
        (&log_full, LOG, &answered_log),
        (&closed, DATABASE, &answered_closed),
    ] {
        let length = files.0[name].len();
        for flip in 0..FLIPS / 2 {
            // Spread over the file, at odd places, each bit in turn.
            let at = (flip * length / (FLIPS / 2) + flip * 131) % length;
            let what = format!("bit {} of byte {at} of {name} ({length} bytes)", flip % 8);
            let flipped = files.with(name, |bytes| bytes[at] ^= 1 << (flip % 8));
            let end = judge(scratch.path(), &flipped, answered, &what).await;
            *refused.entry((name, matches!(end, End::Refused(_)))).or_insert(0) += 1;
        }
    }
    println!("refused: {refused:?}");
    assert_eq!(
        refused.get(&(LOG, false)),
        None,
        "every bit of a log counts: {refused:?}"
    );
}

#[tokio::test]
async fn every_byte_of_the_databases_header_may_flip() {
    let mut story = Story::begin().await;
    story.vote(5).await;
    let (closed, answered) = story.closed().await;
    let scratch = tempfile::tempdir().unwrap();
    for at in 0..100 {
        let flipped = closed.with(DATABASE, |bytes| bytes[at] ^= 1 << (at % 8));
        judge(
            scratch.path(),
            &flipped,
            &answered,
            &format!("byte {at} of the header"),
        )
        .await;
    }
}

#[tokio::test]
async fn log_that_is_cut_lost_or_of_another_time_is_refused() {
    let mut story = Story::begin().await;
    story.vote(4).await;
    let (old, _) = story.killed().await;
    story.vote(4).await;
    let (new, answered) = story.killed().await;
    let scratch = tempfile::tempdir().unwrap();
    let frame = 4096 + 24;
    let lost = ["holds the commits up to", "COMMITS", "lost commits"];
    for frames in 1..6 {
        let cut = new.with(LOG, |bytes| bytes.truncate(bytes.len() - frames * frame));
        assert_refused(&judge(scratch.path(), &cut, &answered, "cut").await, &lost);
        let cut = new.with(LOG, |bytes| bytes.truncate(bytes.len() - frames * frame + 999));
        assert_refused(&judge(scratch.path(), &cut, &answered, "cut").await, &lost);
    }
    let nothing = ["holds nothing", "COMMITS"];
    let end = judge(scratch.path(), &new.without(LOG), &answered, "no log").await;
    assert_refused(&end, &nothing);
    let end = judge(scratch.path(), &new.without(DATABASE), &answered, "no database").await;
    assert_refused(&end, &nothing);
    let end = judge(
        scratch.path(),
        &new.with(DATABASE, Vec::clear),
        &answered,
        "empty",
    )
    .await;
    assert_refused(&end, &nothing);
    let end = judge(scratch.path(), &new.with_that_of(LOG, &old), &answered, "old log").await;
    assert_refused(&end, &lost);
    let end = judge(scratch.path(), &new.without(COMMITS), &answered, "no counter").await;
    assert_refused(&end, &["COMMITS is missing"]);
    let end = judge(
        scratch.path(),
        &new.with(COMMITS, |bytes| bytes.fill(7)),
        &answered,
        "bad counter",
    )
    .await;
    assert_refused(&end, &["COMMITS is damaged"]);
    // One of three records is not all of them.
    let one = new.with(COMMITS, |bytes| bytes[..4096].fill(7));
    judge(scratch.path(), &one, &answered, "one record").await;
    // An older counter proves less, and nothing wrong.
    let end = judge(
        scratch.path(),
        &new.with_that_of(COMMITS, &old),
        &answered,
        "old counter",
    )
    .await;
    assert_eq!(end, End::Sound(0));
}

#[tokio::test]
async fn files_of_different_times_are_refused_without_the_counter_and_stay_as_they_were() {
    let mut story = Story::begin().await;
    story.vote(4).await;
    let (old, old_answered, directory) = story.stopped().await;
    let mut story = Story::on(directory).await;
    story.vote(4).await;
    let (_, _, directory) = story.stopped().await;
    let mut story = Story::on(directory).await;
    story.vote(4).await;
    let (new, answered) = story.killed().await;
    let scratch = tempfile::tempdir().unwrap();
    // With the older counter, only the two files themselves can show it.
    let mixed = new.with_that_of(DATABASE, &old).with_that_of(COMMITS, &old);
    let end = judge(
        scratch.path(),
        &mixed,
        &old_answered,
        "an old database beside a new log",
    )
    .await;
    assert_refused(&end, &["one of the two is of another time"]);
    for (name, bytes) in &mixed.0 {
        assert!(
            fs::read(scratch.path().join(name)).unwrap() == *bytes,
            "{name} has changed"
        );
    }
    // A whole older copy is what the other acceptors refuse.
    let end = judge(scratch.path(), &old, &old_answered, "an older copy").await;
    assert_eq!(end, End::Sound(0));
    let end = judge(scratch.path(), &new, &answered, "the right files").await;
    assert_eq!(end, End::Sound(0));
}

#[tokio::test]
async fn start_leaves_no_frame_of_an_earlier_process_in_the_log() {
    let mut story = Story::begin().await;
    story.vote(30).await;
    let (killed, answered) = story.killed().await;
    let scratch = tempfile::tempdir().unwrap();
    killed.put_into(scratch.path());
    let (store, opened) = open(scratch.path(), 2).await.unwrap();
    let started = Files::of(scratch.path());
    let (before, now) = (&killed.0[LOG], &started.0[LOG]);
    assert_ne!(before[16..24], now[16..24], "the log has begun again");
    assert!(
        now.len() < 20 * 4096 && now.len() < before.len() / 2,
        "{}",
        now.len()
    );
    assert_eq!(opened.recovered.commit_counter, answered.counter.next());
    drop(store);
    // What is in the database by now does not need the log.
    let (store, _) = open(scratch.path(), 3).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn start_waits_for_no_reader_that_keeps_the_log_and_says_which_file() {
    let mut story = Story::begin().await;
    story.vote(3).await;
    let (files, answered) = story.killed().await;
    let scratch = tempfile::tempdir().unwrap();
    files.put_into(scratch.path());
    let readers = paxos_common::sqlite::Readers::open(&scratch.path().join(DATABASE), 1)
        .await
        .unwrap();
    let mut read = readers.read().await.unwrap();
    let mut reading = read.begin().await.unwrap();
    sqlx::query("SELECT * FROM state")
        .fetch_all(&mut *reading)
        .await
        .unwrap();
    let start = tokio::spawn({
        let scratch = scratch.path().to_owned();
        async move { open(&scratch, 2).await }
    });
    tokio::task::yield_now().await;
    reading.rollback().await.unwrap();
    drop(read);
    readers.close().await;
    let (_, opened) = start.await.unwrap().unwrap();
    assert_eq!(opened.recovered.commit_counter, answered.counter.next());
}

impl Story {
    /// Its files after an orderly stop, and the directory to go on in.
    async fn stopped(self) -> (Files, Answered, tempfile::TempDir) {
        let (_, answered) = self.killed().await;
        let Self { directory, run, .. } = self;
        run.store.close().await;
        (Files::of(directory.path()), answered, directory)
    }

    async fn on(directory: tempfile::TempDir) -> Self {
        let run = Run::begin(&directory.path().to_owned(), 2).await;
        let votes = run.core.voted_to().get();
        Self {
            directory,
            run,
            votes,
        }
    }
}

/// Every column with contents that are wrong in one way each; `{}` stands for the table.
const COLUMNS: [(&str, &[&str]); 7] = [
    (
        "state",
        &[
            "commit_counter = commit_counter + 1",
            "commit_counter = -1",
            "promised_round = promised_round + 1",
            "promised_round = -5",
            "promised_proposer = 8",
            "promised_proposer = -1",
            "leader_address = 'http://p:2'",
            "leader_address = CAST(x'ff' AS TEXT)",
            "chosen_to = chosen_to + 1",
            "chosen_to = -1",
            "trimmed_to = 1",
            "voted_to = voted_to + 1",
            "voted_to = 3",
            "open_slots = open_slots + 1",
            "checksum = 0",
        ],
    ),
    (
        "identity",
        &[
            "uuid = zeroblob(16)",
            "uuid = x''",
            "name = 'a2'",
            "name = CAST(x'ff' AS TEXT)",
            "checksum = 0",
        ],
    ),
    (
        "membership",
        &[
            "formed = 0",
            "formed = 2",
            "configuration = x''",
            "configuration = x'ff'",
            "checksum = 0",
        ],
    ),
    ("run", &["number = 1 - number", "ended = 7"]),
    (
        "witness",
        &[
            "acceptor = x'00'",
            "acceptor = zeroblob(16)",
            "run = 5",
            "commit_counter = 0",
            "commit_counter = -1",
            "checksum = 0",
        ],
    ),
    (
        "vote",
        &[
            "round = round + 1",
            "round = -1",
            "proposer = 0",
            "proposer = -1",
            "value = x''",
            "value = x'ff'",
            "traceparent = CAST(x'ff' AS TEXT)",
            "traceparent = 'none'",
            "traceparent = hex(zeroblob(100000))",
            "checksum = 0",
            "slot = 4611686018427387904",
            "slot = -3",
            "slot = 20",
        ],
    ),
    (
        "promise",
        &[
            "position = -1",
            "position = 4611686018427387904",
            "round = -1",
            "proposer = -1",
            "address = CAST(x'ff' AS TEXT)",
            "wall_time_ms = -1",
        ],
    ),
];

#[tokio::test]
async fn every_column_may_hold_something_else() {
    let mut story = Story::begin().await;
    story.vote(12).await;
    let (closed, answered) = story.closed().await;
    let scratch = tempfile::tempdir().unwrap();
    for (table, changes) in COLUMNS {
        for change in changes {
            // A row below the watermark, and one above it.
            for slot in if table == "vote" { &[4, 11][..] } else { &[0][..] } {
                let condition = if table == "vote" {
                    format!(" WHERE slot = {slot}")
                } else {
                    String::new()
                };
                let what = format!("UPDATE {table} SET {change}{condition}");
                closed.put_into(scratch.path());
                change_by_sql(scratch.path(), &what).await;
                let changed = Files::of(scratch.path());
                let end = judge(scratch.path(), &changed, &answered, &what).await;
                let is_trace = change.starts_with("traceparent");
                match (table, &end) {
                    ("promise", End::Sound(0)) => {}
                    // Without its trace context a row is as sound as before.
                    ("vote", End::Sound(unknown)) if *unknown == usize::from(!is_trace) => {}
                    ("vote", End::Refused(text)) if change.starts_with("slot") => {
                        assert!(text.contains("(vote)"), "{what}: {text}");
                    }
                    ("promise" | "vote", end) => panic!("{what}: {end:?}"),
                    // The other acceptors judge the list of runs.
                    ("run", end) => assert!(matches!(end, End::Sound(0)), "{what}: {end:?}"),
                    (_, end) => assert_refused(end, &[&format!("({table})")]),
                }
            }
        }
    }
}

async fn change_by_sql(directory: &Path, sql: &str) {
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

#[tokio::test]
async fn page_never_shows_a_state_record_that_fails_its_checksum() {
    for change in [
        "chosen_to = chosen_to + 1",
        "trimmed_to = 2",
        "promised_round = 9",
        "leader_address = CAST(x'ff' AS TEXT)",
    ] {
        let mut story = Story::begin().await;
        story.vote(6).await;
        let mut connection =
            SqliteConnection::connect(story.directory.path().join(DATABASE).to_str().unwrap())
                .await
                .unwrap();
        let sql = format!("UPDATE state SET {change}");
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
        let error = story.run.store.reader().page(Slot::ZERO).await.unwrap_err();
        assert_eq!(Failure::from(error).code, Exit::Storage, "{change}");
    }
}

/// A file as the first release wrote it: schema version 1, with checksums of its own.
async fn write_version_1(directory: &Path) -> Answered {
    let uuid = AcceptorUuid::from_u128(41);
    let configuration = Configuration::new([(uuid, "http://a:1".into())], 1, 1).unwrap();
    let rows: Vec<Row> = [(0, 3), (1, 3), (2, 3), (4, 3)]
        .map(|(at, round)| Row {
            slot: slot(at),
            accepted: Some((ballot(round), value(&format!("value {at}")))),
        })
        .to_vec();
    let mut connection = paxos_common::sqlite::open_writer(&directory.join(DATABASE), 700)
        .await
        .unwrap();
    let schema = format!(
        "{}; PRAGMA application_id = {}; PRAGMA user_version = 1;",
        include_str!("schema-1.sql"),
        0x7061_7841
    );
    sqlx::raw_sql(AssertSqlSafe(schema))
        .execute(&mut connection)
        .await
        .unwrap();
    let bytes = uuid.to_bytes();
    let number = |number: u64| number.to_le_bytes();
    sqlx::query("INSERT INTO identity VALUES (0, ?, 'a1', ?)")
        .bind(bytes.to_vec())
        .bind(checksum(&[&bytes, b"a1"]))
        .execute(&mut connection)
        .await
        .unwrap();
    let promised = ballot(3);
    let sum = checksum(&[
        &bytes,
        &number(9),
        &number(3),
        &number(promised.proposer().get()),
        b"http://p:1",
        &number(2),
        &number(0),
    ]);
    sqlx::query("INSERT INTO state VALUES (0, 9, 3, ?, 'http://p:1', 2, 0, ?)")
        .bind(promised.proposer().get().cast_signed())
        .bind(sum)
        .execute(&mut connection)
        .await
        .unwrap();
    let encoded = pb::Configuration::from(&configuration).encode_to_vec();
    sqlx::query("INSERT INTO membership VALUES (0, 1, ?, ?)")
        .bind(encoded.clone())
        .bind(checksum(&[&bytes, &1i64.to_le_bytes(), &encoded]))
        .execute(&mut connection)
        .await
        .unwrap();
    for sql in [
        "INSERT INTO run (number, ended) VALUES (51, 4), (52, NULL)",
        "INSERT INTO witness VALUES (zeroblob(16), 6, 7)",
        "INSERT INTO promise (round, proposer, address, wall_time_ms) VALUES (3, 7, 'http://p:1', 5)",
    ] {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    let cluster = configuration.cluster_id();
    for row in &rows {
        let (ballot, value) = row.accepted.as_ref().unwrap();
        let parts: [&[u8]; 6] = [
            cluster.as_bytes(),
            &bytes,
            &number(row.slot.get()),
            &number(ballot.round()),
            &number(ballot.proposer().get()),
            value.as_bytes(),
        ];
        sqlx::query("INSERT INTO vote VALUES (?, ?, ?, ?, ?, ?)")
            .bind(row.slot.get().cast_signed())
            .bind(ballot.round().cast_signed())
            .bind(ballot.proposer().get().cast_signed())
            .bind(value.as_bytes().to_vec())
            .bind(String::from_utf8(value.traceparent().to_vec()).unwrap())
            .bind(checksum(&parts))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    connection.close().await.unwrap();
    Answered {
        rows,
        counter: CommitCounter::new(9),
        promised: 3,
        voted_to: slot(5),
        chosen_to: slot(2),
    }
}

#[tokio::test]
async fn file_of_version_1_is_upgraded_and_protected_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    let answered = write_version_1(directory.path()).await;
    let old = Files::of(directory.path());
    assert!(!old.0.contains_key(COMMITS));
    assert_eq!(
        judge(directory.path(), &old, &answered, "version 1").await,
        End::Sound(0)
    );
    let (store, opened) = open(directory.path(), 3).await.unwrap();
    assert_eq!(
        opened
            .past_runs
            .iter()
            .map(|(run, ended)| (run.get(), ended.get()))
            .collect::<Vec<_>>(),
        [(51, 4), (52, 9), (2, 10)]
    );
    let heard = opened
        .witnesses
        .heard(AcceptorUuid::from_u128(0), RunNumber::from_random(6));
    assert_eq!(heard, Some(CommitCounter::new(7)));
    assert_eq!(store.reader().promises(9).await.unwrap().len(), 1);
    store.close().await;
    let answered = Answered {
        counter: CommitCounter::new(11),
        ..answered
    };
    let new = Files::of(directory.path());
    let end = judge(directory.path(), &new.without(COMMITS), &answered, "no counter").await;
    assert_refused(&end, &["COMMITS is missing"]);
    // A crash before the first commit of the new version: the counter knows of none yet.
    let between = old.with_that_of(DATABASE, &new);
    let end = judge(directory.path(), &between, &answered, "no counter").await;
    assert_refused(&end, &["COMMITS is missing"]);

    // What version 1 could verify is verified before, and a refused file stays as it was.
    old.put_into(directory.path());
    change_by_sql(directory.path(), "UPDATE state SET promised_round = 2").await;
    let garbled = Files::of(directory.path());
    let end = judge(directory.path(), &garbled, &answered, "garbled").await;
    assert_refused(&end, &["(state)"]);
    assert!(fs::read(directory.path().join(DATABASE)).unwrap() == garbled.0[DATABASE]);
}
