//! The upgrade of a file of schema version 3 with damaged votes and promises: only the damaged rows are unknown.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::path::Path;

use paxos_acceptor::store::{Reader as _, Store as _};
use support::{
    accept, ballot,
    run::{AcceptorRun, open},
    slot,
    story::{DATABASE, Files, StoryEnd, judge, version_3},
    value,
};

/// The header of a vote of the fixture, for a value of 7 bytes: the length of the header, then the type of each column
/// from the slot on: in the key, 1 byte, 1 byte, a blob of 7 bytes, a text of 55 bytes, 8 bytes.
const VOTE_HEADER: [u8; 7] = [7, 0, 1, 1, 26, 123, 6];
/// The header of the promise of the fixture: the position in the key, 1 byte, 1 byte, a text of 10 bytes, 6 bytes.
const PROMISE_HEADER: [u8; 6] = [6, 0, 1, 1, 33, 5];

/// A damaged header of a vote, for a row of the same length, what is damaged, and the number of unknown rows. The bytes
/// of a value and of a trace context are read whatever their type is.
const DAMAGES: [([u8; 7], &str, usize); 4] = [
    ([7, 0, 1, 1, 27, 123, 6], "the value is a text", 0),
    ([7, 0, 1, 1, 26, 122, 6], "the trace context is a blob", 0),
    ([7, 0, 1, 1, 26, 123, 7], "the checksum is a real", 1),
    ([7, 0, 0, 2, 26, 123, 6], "the round is NULL", 1),
];

/// The files with another header of the only row with this header and this content.
fn with_header(files: &Files, old: &[u8], content: &[u8], new: &[u8]) -> Files {
    let row = [old, content].concat();
    files.with(DATABASE, |bytes| {
        let found = |at: &usize| bytes[*at..].starts_with(&row);
        let places: Vec<_> = (0..bytes.len()).filter(found).collect();
        let [at] = places[..] else {
            panic!("the row is at {places:?}")
        };
        bytes[at..at + new.len()].copy_from_slice(new);
    })
}

fn with_damaged_vote(files: &Files, at: u64, header: &[u8]) -> Files {
    let content = [&[3, 7], format!("value {at}").as_bytes()].concat();
    with_header(files, &VOTE_HEADER, &content, header)
}

/// The first column of each row.
async fn texts(directory: &Path, sql: &'static str) -> Vec<String> {
    let mut connection = paxos_common::sqlite::open_writer(&directory.join(DATABASE), 700)
        .await
        .unwrap();
    let rows = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    rows
}

#[tokio::test]
async fn damaged_vote_does_not_hinder_the_upgrade_and_is_accepted_again() {
    const FINDINGS: &str = "SELECT * FROM pragma_integrity_check";
    let (files, answered) = version_3();
    let scratch = tempfile::tempdir().unwrap();
    // Below and above the watermark, slot 8.
    for at in [5, 9] {
        for (header, what, unknown) in DAMAGES {
            let what = format!("{what} in slot {at}");
            let damaged = with_damaged_vote(&files, at, &header);
            damaged.put_into(scratch.path());
            let findings = texts(scratch.path(), FINDINGS).await;
            assert_ne!(findings, ["ok"], "{what}: no damage for SQLite");

            let end = judge(scratch.path(), &damaged, &answered, &what).await;
            assert_eq!(end, StoryEnd::Sound(unknown), "{what}");

            let mut run = AcceptorRun::begin(&scratch.path().to_owned(), 3).await;
            run.prepare(4).await;
            let again = (5..12).map(|at| (at, value(&format!("value {at}"))));
            run.accept(accept(4, 8, again)).await;
            let (rows, _) = run.read(0).await;
            assert!(rows.iter().all(|row| row.accepted.is_some()), "{what}: {rows:?}");
            assert_eq!(run.store.reader().promises(9).await.unwrap().len(), 2);
            run.store.close().await;
            assert_eq!(texts(scratch.path(), FINDINGS).await, ["ok"], "{what}");
        }
    }
}

#[tokio::test]
async fn many_damaged_votes_do_not_hinder_the_upgrade() {
    let (files, answered) = version_3();
    let damaged = [3, 5, 7, 8, 9].into_iter().fold(files, |files, at| {
        with_damaged_vote(&files, at, &[7, 0, 0, 2, 26, 123, 6])
    });
    let scratch = tempfile::tempdir().unwrap();
    let end = judge(scratch.path(), &damaged, &answered, "five rows").await;
    assert_eq!(end, StoryEnd::Sound(5));
}

#[tokio::test]
async fn damaged_promise_does_not_hinder_the_upgrade() {
    let (files, answered) = version_3();
    let scratch = tempfile::tempdir().unwrap();
    for (header, what, promises) in [
        ([6, 0, 1, 1, 32, 5], "the address is a blob", 1),
        ([6, 0, 0, 2, 33, 5], "the round is NULL", 0),
        ([6, 0, 1, 1, 45, 0], "the time is NULL", 0),
    ] {
        let damaged = with_header(&files, &PROMISE_HEADER, b"\x03\x07http://p:1", &header);
        let end = judge(scratch.path(), &damaged, &answered, what).await;
        assert_eq!(end, StoryEnd::Sound(0), "{what}");
        let (store, opened) = open(scratch.path(), 3).await.unwrap();
        assert_eq!(opened.recovered.promised, ballot(3), "{what}");
        assert_eq!(opened.recovered.trimmed_to, slot(3), "{what}");
        let read = store.reader().promises(9).await.unwrap();
        assert_eq!(read.len(), promises, "{what}");
        store.close().await;
    }
}

#[tokio::test]
async fn upgraded_tables_end_with_the_era_and_are_sound() {
    let (files, _) = version_3();
    let scratch = tempfile::tempdir().unwrap();
    files.put_into(scratch.path());
    open(scratch.path(), 2).await.unwrap().0.close().await;
    let tables = "SELECT sql FROM sqlite_schema WHERE name IN ('vote', 'promise')";
    for sql in texts(scratch.path(), tables).await {
        assert!(sql.ends_with(", era INTEGER NOT NULL DEFAULT 0) STRICT"), "{sql}");
    }
    let findings = texts(scratch.path(), "SELECT * FROM pragma_integrity_check").await;
    assert_eq!(findings, ["ok"]);
}
