//! The upgrade of files of older schema versions, and the refusal of newer files.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    path::Path,
};

use paxos_acceptor::store::{
    Reader as _, Store as _, StoreError,
    snapshots::KeptSnapshots,
    sqlite::{SqliteStore, repair::Stopped},
};
use paxos_common::{
    paxos::{
        identity::{AcceptorUuid, CommitCounter, RunNumber},
        message::Row,
        quorum::Configuration,
        witness::{RUNS_MAX, WITNESSED_RUNS_MAX},
    },
    service::failure::{Exit, Failure},
    sqlite::{DataDir, checksum},
};
use paxos_proto::v1 as pb;
use prost::Message as _;
use sqlx::{AssertSqlSafe, Connection as _};
use support::{
    ballot,
    run::open,
    slot,
    story::{
        Answered, COMMITS, DATABASE, Files, LOG, Story, StoryEnd, assert_refused, change_by_sql, judge,
        version_3,
    },
    value,
};

/// A file as written by the first release: schema version 1, with checksums of that version.
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
        snapshots: KeptSnapshots::default(),
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
        StoryEnd::Sound(0)
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
    // A crash before the first commit of the new version: the counter contains no commit yet.
    let between = old.with_that_of(DATABASE, &new);
    let end = judge(directory.path(), &between, &answered, "no counter").await;
    assert_refused(&end, &["COMMITS is missing"]);

    // Data with a checksum in version 1 is verified before the upgrade, and a refused file stays unchanged.
    old.put_into(directory.path());
    change_by_sql(directory.path(), "UPDATE state SET promised_round = 2").await;
    let garbled = Files::of(directory.path());
    let end = judge(directory.path(), &garbled, &answered, "garbled").await;
    assert_refused(&end, &["(state)"]);
    assert!(fs::read(directory.path().join(DATABASE)).unwrap() == garbled.0[DATABASE]);
}

#[tokio::test]
async fn upgrade_keeps_the_latest_runs_and_witnesses_of_any_number() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    write_version_1(directory).await;
    change_by_sql(
        directory,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 130000)
            INSERT INTO run (position, number, ended) SELECT -i, 1000000 + i, 0 FROM n;
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 130000)
            INSERT INTO witness (acceptor, run, commit_counter)
            SELECT CASE i % 2 WHEN 0 THEN zeroblob(16) ELSE x'00000000000000000000000000000001' END,
                100 + i, 100 + i FROM n",
    )
    .await;
    let (store, opened) = open(directory, 2).await.unwrap();
    store.close().await;
    assert_eq!(
        opened.past_runs.len(),
        RUNS_MAX - 1,
        "the present run is one of them"
    );
    for (number, first) in [(0, 130_100), (1, 130_099)] {
        let kept: Vec<_> = opened.witnesses.of(AcceptorUuid::from_u128(number)).collect();
        assert_eq!(kept.len(), WITNESSED_RUNS_MAX);
        let highest = (RunNumber::from_random(first), CommitCounter::new(first));
        assert!(kept.contains(&highest), "those with the highest counters");
    }
}

/// The directory of an acceptor after an orderly stop, written by the last release with schema version 2.
fn version_2() -> (Files, Answered) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schema-2");
    let row = |at| Row {
        slot: slot(at),
        accepted: Some((ballot(3), value(&format!("value {at}")))),
    };
    let answered = Answered {
        rows: (0..12).map(row).collect(),
        counter: CommitCounter::new(15),
        promised: 3,
        voted_to: slot(12),
        chosen_to: slot(8),
        snapshots: KeptSnapshots::default(),
    };
    (Files::of(&directory), answered)
}

#[tokio::test]
async fn file_of_version_2_keeps_everything() {
    let scratch = tempfile::tempdir().unwrap();
    let (files, answered) = version_2();
    let end = judge(scratch.path(), &files, &answered, "version 2").await;
    assert_eq!(end, StoryEnd::Sound(0));
    let (store, opened) = open(scratch.path(), 3).await.unwrap();
    let runs = opened
        .past_runs
        .iter()
        .map(|(run, ended)| (run.get(), ended.get()));
    assert_eq!(runs.collect::<Vec<_>>(), [(1, 15), (2, 16)]);
    let heard = opened
        .witnesses
        .heard(AcceptorUuid::from_u128(77), RunNumber::from_random(9));
    assert_eq!(heard, Some(CommitCounter::new(1)));
    assert_eq!(store.reader().promises(9).await.unwrap().len(), 1);
    store.close().await;
    let answered = Answered {
        counter: CommitCounter::new(17),
        ..answered
    };
    let new = Files::of(scratch.path());
    let end = judge(scratch.path(), &new, &answered, "version 3").await;
    assert_eq!(end, StoryEnd::Sound(0));
    // A damaged record is found before the upgrade, and the refused file stays unchanged.
    files.put_into(scratch.path());
    change_by_sql(scratch.path(), "UPDATE state SET promised_round = 2").await;
    let garbled = Files::of(scratch.path());
    let end = judge(scratch.path(), &garbled, &answered, "garbled").await;
    assert_refused(&end, &["(state)"]);
    assert!(fs::read(scratch.path().join(DATABASE)).unwrap() == garbled.0[DATABASE]);
}

#[tokio::test]
async fn file_of_version_3_keeps_everything_and_every_checksum() {
    let scratch = tempfile::tempdir().unwrap();
    let (files, answered) = version_3();
    let end = judge(scratch.path(), &files, &answered, "version 3").await;
    assert_eq!(end, StoryEnd::Sound(0));
    let (store, opened) = open(scratch.path(), 3).await.unwrap();
    assert_eq!(opened.recovered.promised, ballot(3));
    assert_eq!(opened.recovered.least_version, 1);
    assert_eq!(store.reader().promises(9).await.unwrap()[0].ballot, ballot(3));
    store.close().await;
    // The rows have not been written again.
    let sql = "SELECT slot, checksum FROM vote ORDER BY slot";
    let (old, new) = (tempfile::tempdir().unwrap(), scratch);
    files.put_into(old.path());
    assert_eq!(numbers(old.path(), sql).await, numbers(new.path(), sql).await);
    // A damaged record is found before the upgrade, and the refused file stays unchanged.
    files.put_into(new.path());
    change_by_sql(new.path(), "UPDATE state SET promised_round = 2").await;
    let garbled = Files::of(new.path());
    let end = judge(new.path(), &garbled, &answered, "garbled").await;
    assert_refused(&end, &["(state)"]);
    assert!(fs::read(new.path().join(DATABASE)).unwrap() == garbled.0[DATABASE]);
}

async fn numbers(directory: &Path, sql: &'static str) -> Vec<(i64, i64)> {
    let mut connection = sqlx::SqliteConnection::connect(directory.join(DATABASE).to_str().unwrap())
        .await
        .unwrap();
    let numbers = sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    numbers
}

/// The names and types of all columns, with the version of the schema.
async fn columns(directory: &Path) -> (i64, Vec<(String, String, String)>) {
    let mut connection = paxos_common::sqlite::open_writer(&directory.join(DATABASE), 700)
        .await
        .unwrap();
    let version = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut connection)
        .await;
    let sql = "SELECT tables.name, columns.name, columns.type || columns.pk || columns.\"notnull\"
        FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns ORDER BY 1, 2";
    let columns = sqlx::query_as(sql).fetch_all(&mut connection).await;
    connection.close().await.unwrap();
    (version.unwrap(), columns.unwrap())
}

#[tokio::test]
async fn upgraded_file_has_the_columns_of_a_new_file() {
    let new = tempfile::tempdir().unwrap();
    open(new.path(), 1).await.unwrap().0.close().await;
    let new = columns(new.path()).await;
    for version in [1, 2, 3] {
        let directory = tempfile::tempdir().unwrap();
        match version {
            1 => drop(write_version_1(directory.path()).await),
            2 => version_2().0.put_into(directory.path()),
            _ => version_3().0.put_into(directory.path()),
        }
        open(directory.path(), 2).await.unwrap().0.close().await;
        assert_eq!(columns(directory.path()).await, new, "version {version}");
    }
}

#[tokio::test]
async fn stopped_acceptor_of_an_older_version_is_repaired_and_starts() {
    for version in [1, 2, 3] {
        let directory = tempfile::tempdir().unwrap();
        let answered = if version == 1 {
            write_version_1(directory.path()).await
        } else {
            let (files, answered) = if version == 2 { version_2() } else { version_3() };
            files.put_into(directory.path());
            answered
        };
        let mut stopped = Stopped::open(directory.path()).await.unwrap();
        let uuid = AcceptorUuid::from_u128(if version == 1 { 0 } else { 77 });
        assert_eq!(stopped.forget(uuid).await.unwrap(), 1, "version {version}");
        stopped.close().await.unwrap();
        let files = Files::of(directory.path());
        let end = judge(directory.path(), &files, &answered, "repaired").await;
        assert_eq!(end, StoryEnd::Sound(0), "version {version}");
    }
}

/// Every file of a directory but the lock, with the content.
fn content(directory: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let files = fs::read_dir(directory).unwrap().map(Result::unwrap);
    files
        .map(|file| (file.file_name(), fs::read(file.path()).unwrap()))
        .filter(|(name, _)| name != "LOCK")
        .collect()
}

#[tokio::test]
async fn refused_directory_is_left_unchanged_by_a_start_and_by_a_repair() {
    for (sql, reason) in [
        ("PRAGMA user_version = 5", "newer release"),
        ("PRAGMA user_version = 0", "older release"),
        ("PRAGMA application_id = 7", "another application"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        // Without `COMMITS`, as written by the first release.
        write_version_1(directory).await;
        let mut connection = paxos_common::sqlite::open_writer(&directory.join(DATABASE), 700)
            .await
            .unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let before = content(directory);
        let started = Failure::from(open(directory, 2).await.map(drop).unwrap_err());
        let repaired = Failure::from(Stopped::open(directory).await.map(drop).unwrap_err());
        for failure in [started, repaired] {
            assert_eq!(failure.code, Exit::Refused, "{sql}: {failure}");
            assert!(failure.to_string().contains(reason), "{sql}: {failure}");
        }
        let after = content(directory);
        assert!(after == before, "{sql}: {:?}", after.keys());
    }
}

#[tokio::test]
async fn directory_of_another_acceptor_is_not_upgraded() {
    let directory = tempfile::tempdir().unwrap();
    version_2().0.put_into(directory.path());
    let before = content(directory.path());
    let data = DataDir::open(directory.path()).unwrap();
    let opened = SqliteStore::open(data, "a2", RunNumber::from_random(2)).await;
    let refused = opened.map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::OtherAcceptor { .. }), "{refused}");
    let after = content(directory.path());
    assert!(after == before, "{:?}", after.keys());
}

#[tokio::test]
async fn power_cut_in_any_write_of_an_upgrade_leaves_the_old_or_the_new_version() {
    for (old, (before, answered)) in [(2, version_2()), (3, version_3())] {
        cut_the_power_in_an_upgrade(old, &before, &answered).await;
    }
}

async fn cut_the_power_in_an_upgrade(old: i64, before: &Files, answered: &Answered) {
    /// A page and its header in the log.
    const FRAME: usize = 4096 + 24;
    let directory = tempfile::tempdir().unwrap();
    before.put_into(directory.path());
    let (store, _) = open(directory.path(), 2).await.unwrap();
    // The upgrade, and the commit that begins the run.
    let after = Files::of(directory.path());
    assert!(after.0[DATABASE] == before.0[DATABASE], "all of it is in the log");
    let frames = after.0[LOG].len() / FRAME;
    assert!(frames >= 3, "{frames} frames");
    store.close().await;
    let scratch = tempfile::tempdir().unwrap();
    let mut versions = BTreeSet::new();
    for cut in (0..=2 * frames).map(|half| 32 + half * FRAME / 2).chain([0, 20]) {
        let what = format!("cut at byte {cut}");
        let files = after.with_that_of(COMMITS, before);
        let files = files.with(LOG, |log| log.truncate(cut));
        files.put_into(scratch.path());
        versions.insert(version(scratch.path()).await);
        let end = judge(scratch.path(), &files, answered, &what).await;
        assert_eq!(end, StoryEnd::Sound(0), "{what}");
        let new = Files::of(scratch.path());
        let end = judge(scratch.path(), &new, answered, &format!("start after {what}")).await;
        assert_eq!(end, StoryEnd::Sound(0), "start after {what}");
    }
    assert_eq!(
        versions,
        BTreeSet::from([old, 4]),
        "cuts before and after the upgrade"
    );
}

/// The version of the schema.
async fn version(directory: &Path) -> i64 {
    let mut connection = sqlx::SqliteConnection::connect(directory.join(DATABASE).to_str().unwrap())
        .await
        .unwrap();
    let version = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut connection)
        .await;
    connection.close().await.unwrap();
    version.unwrap()
}

#[tokio::test]
async fn file_of_a_newer_version_is_refused_and_left_unchanged() {
    let mut story = Story::begin().await;
    story.vote(4).await;
    let (files, answered) = story.closed().await;
    let scratch = tempfile::tempdir().unwrap();
    files.put_into(scratch.path());
    let mut connection = paxos_common::sqlite::open_writer(&scratch.path().join(DATABASE), 700)
        .await
        .unwrap();
    sqlx::query("PRAGMA user_version = 5")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let newer = Files::of(scratch.path());
    let StoryEnd::Refused(text) = judge(scratch.path(), &newer, &answered, "newer").await else {
        panic!("a newer file was opened")
    };
    let reason = "written by a newer release (schema version 5; this release reads 4): use that release";
    assert!(text.contains(reason), "{text}");
    assert_eq!(
        Failure::from(open(scratch.path(), 3).await.map(drop).unwrap_err()).code,
        Exit::Refused
    );
    assert!(fs::read(scratch.path().join(DATABASE)).unwrap() == newer.0[DATABASE]);
}
