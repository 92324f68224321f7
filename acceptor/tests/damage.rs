//! A store on a directory with files damaged, cut, lost or of different times: refused, or right in every row.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::{collections::BTreeMap, fs};

use paxos_acceptor::store::{Reader as _, Store as _};
use paxos_common::{
    paxos::slot::Slot,
    service::failure::{Exit, Failure},
};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use support::{
    run::open,
    story::{COMMITS, DATABASE, Files, LOG, Story, StoryEnd, assert_refused, change_by_sql, judge},
};

#[tokio::test]
async fn end_of_a_process_at_any_commit_loses_nothing() {
    let mut story = Story::begin().await;
    let scratch = tempfile::tempdir().unwrap();
    for _ in 0..6 {
        story.vote(3).await;
        let (files, answered) = story.killed().await;
        assert_eq!(
            judge(scratch.path(), &files, &answered, "killed").await,
            StoryEnd::Sound(0)
        );
    }
    let (files, answered) = story.closed().await;
    assert_eq!(
        judge(scratch.path(), &files, &answered, "closed").await,
        StoryEnd::Sound(0)
    );
}

#[tokio::test]
async fn flipped_bit_anywhere_is_found_or_harmless() {
    const FLIPS: usize = 300;
    let mut story = Story::begin().await;
    story.vote(40).await;
    story.run.keep(20).await;
    story.run.trim().await;
    story.run.keep(30).await;
    // The counter proves the last commit; a record of a snapshot is no commit.
    story.vote(1).await;
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
            *refused
                .entry((name, matches!(end, StoryEnd::Refused(_))))
                .or_insert(0) += 1;
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
    let lost = ["holds only the commits up to", "COMMITS", "lost commits"];
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
    // A single damaged record of three is no damaged file.
    let one = new.with(COMMITS, |bytes| bytes[..4096].fill(7));
    judge(scratch.path(), &one, &answered, "one record").await;
    // An older counter proves less, and never anything wrong.
    let end = judge(
        scratch.path(),
        &new.with_that_of(COMMITS, &old),
        &answered,
        "old counter",
    )
    .await;
    assert_eq!(end, StoryEnd::Sound(0));
}

#[tokio::test]
async fn files_of_different_times_are_refused_and_left_unchanged() {
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
    // With the older counter, only the two files themselves can show the mismatch.
    let mixed = new.with_that_of(DATABASE, &old).with_that_of(COMMITS, &old);
    let end = judge(
        scratch.path(),
        &mixed,
        &old_answered,
        "an old database beside a new log",
    )
    .await;
    assert_refused(&end, &["one of the two files is from another time"]);
    for (name, bytes) in &mixed.0 {
        assert!(
            fs::read(scratch.path().join(name)).unwrap() == *bytes,
            "{name} has changed"
        );
    }
    // A whole older copy is not refused here, but by the other acceptors.
    let end = judge(scratch.path(), &old, &old_answered, "an older copy").await;
    assert_eq!(end, StoryEnd::Sound(0));
    let end = judge(scratch.path(), &new, &answered, "the right files").await;
    assert_eq!(end, StoryEnd::Sound(0));
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
    // Commits already in the database do not need the log.
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

/// Every column with wrong contents, each wrong in its own way; `{}` stands for the table.
const COLUMNS: [(&str, &[&str]); 8] = [
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
            "trimmed_to = 0",
            "trimmed_to = 6",
            "trimmed_to = -1",
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
    (
        "snapshot",
        &[
            "until = until + 1 WHERE place = 0",
            "until = -1 WHERE place = 0",
            "until = 4 WHERE place = 1",
            "sha256 = zeroblob(32)",
            "sha256 = x'07'",
            "bytes = bytes + 1 WHERE place = 0",
            "bytes = -1 WHERE place = 1",
            "log_bytes = 0",
            "checksum = 0 WHERE place = 0",
            "checksum = 0 WHERE place = 1",
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
async fn changed_column_leads_to_a_sound_start_or_a_refusal() {
    let story = Story::trimmed().await;
    let (closed, answered) = story.closed().await;
    let scratch = tempfile::tempdir().unwrap();
    for (table, changes) in COLUMNS {
        for change in changes {
            // A row below the watermark, and a row above.
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
                    ("promise", StoryEnd::Sound(0)) => {}
                    // Without the trace context, a row is as sound as before.
                    ("vote", StoryEnd::Sound(unknown)) if *unknown == usize::from(!is_trace) => {}
                    ("vote", StoryEnd::Refused(text)) if change.starts_with("slot") => {
                        assert!(text.contains("(vote)"), "{what}: {text}");
                    }
                    ("promise" | "vote", end) => panic!("{what}: {end:?}"),
                    // The other acceptors judge the list of runs.
                    ("run", end) => assert!(matches!(end, StoryEnd::Sound(0)), "{what}: {end:?}"),
                    (_, end) => assert_refused(end, &[&format!("({table})")]),
                }
            }
        }
    }
}

#[tokio::test]
async fn missing_table_is_damage_with_advice() {
    let mut story = Story::begin().await;
    story.vote(3).await;
    let (closed, answered) = story.closed().await;
    let scratch = tempfile::tempdir().unwrap();
    for table in [
        "identity",
        "state",
        "vote",
        "run",
        "witness",
        "membership",
        "snapshot",
    ] {
        closed.put_into(scratch.path());
        let sql = format!("DROP TABLE {table}");
        let database = scratch.path().join(DATABASE);
        let mut connection = SqliteConnection::connect(database.to_str().unwrap())
            .await
            .unwrap();
        let dropped = sqlx::query(AssertSqlSafe(sql.clone()));
        dropped.execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let end = judge(scratch.path(), &Files::of(scratch.path()), &answered, &sql).await;
        assert_refused(
            &end,
            &[DATABASE, "is damaged", &format!("no such table: {table}")],
        );
    }
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
