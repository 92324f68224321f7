//! A store that trims: content after every end of a process, pages beside a trim, and power cuts between the writes.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use paxos_acceptor::store::{
    PAGE_ROWS_MAX, Reader as _, Store, StoreError, Swept,
    memory::MemoryDisk,
    snapshots::{KeptSnapshot, KeptSnapshots},
};
use paxos_common::paxos::{identity::AcceptorUuid, slot::Slot};
use sqlx::{Connection as _, SqliteConnection};
use support::{
    accept,
    run::{AcceptorRun, TestDisk, snapshot},
    slot,
    story::{COMMITS, DATABASE, Files, LOG, Story, StoryEnd, assert_refused, change_by_sql, judge},
    value,
};

/// The slots of all rows on a disk, and the first slot of the log.
async fn shown(run: &AcceptorRun<impl Store>, from: u64) -> (Vec<u64>, u64) {
    let (rows, page) = run.read(from).await;
    assert!(rows.iter().all(|row| row.accepted.is_some()), "{rows:?}");
    assert!(page.chosen_to >= page.trimmed_to && page.voted_to >= page.trimmed_to);
    let slots = rows.iter().map(|row| row.slot.get()).collect();
    (slots, page.trimmed_to.get())
}

/// A trim, and a lift above the known watermark, survive every end of a process.
async fn reopening_keeps_every_trim(disk: &impl TestDisk) {
    let mut run = AcceptorRun::begin(disk, 1).await;
    run.form().await;
    run.prepare(3).await;
    let rows = |slots: std::ops::Range<u64>| slots.map(|at| (at, value(&format!("value {at}"))));
    run.accept(accept(3, 0, rows(0..20))).await;
    run.accept(accept(3, 16, [])).await;
    let counter = run.core.stamp().commit_counter;
    let first = run.keep(10).await;
    assert_eq!(run.core.stamp().commit_counter, counter, "a record is no commit");
    assert_eq!(shown(&run, 0).await, ((0..20).collect(), 0));
    run.store.close().await;

    let mut run = AcceptorRun::begin(disk, 2).await;
    let kept = |bottom: Option<KeptSnapshot>, waiting| KeptSnapshots { bottom, waiting };
    assert_eq!(run.opened.snapshots, kept(None, Some(first)));
    run.accept(accept(3, 16, [(20, value("value 20"))])).await;
    run.trim().await;
    assert_eq!(shown(&run, 0).await, ((10..21).collect(), 10));
    assert_eq!(shown(&run, 12).await, ((12..21).collect(), 10));
    // A newer snapshot replaces a waiting snapshot.
    run.keep(12).await;
    let second = run.keep(14).await;
    run.store.close().await;

    let mut run = AcceptorRun::begin(disk, 3).await;
    let recovered = &run.opened.recovered;
    assert_eq!((recovered.trimmed_to, recovered.known_to), (slot(10), slot(16)));
    assert_eq!(run.opened.snapshots, kept(Some(first), Some(second)));
    assert_eq!(shown(&run, 0).await, ((10..21).collect(), 10));
    // A leader with a higher ballot claims more, and the rows from slot 16 on may be wrong.
    run.accept(accept(4, 40, [(45, value("value 45"))])).await;
    let third = run.keep(40).await;
    run.trim().await;
    assert_eq!(shown(&run, 0).await, (vec![45], 40));
    run.store.close().await;

    let mut run = AcceptorRun::begin(disk, 4).await;
    let recovered = &run.opened.recovered;
    assert_eq!(
        (recovered.trimmed_to, recovered.known_to, recovered.voted_to),
        (slot(40), slot(40), slot(46))
    );
    assert_eq!(recovered.rows.keys().collect::<Vec<_>>(), [&slot(45)]);
    assert_eq!(run.opened.snapshots, kept(Some(third), None));
    assert_eq!(shown(&run, 0).await, (vec![45], 40));
    let counter = run.core.stamp().commit_counter;
    run.keep(41).await;
    run.store.forget().await.unwrap();
    assert_eq!(run.core.stamp().commit_counter, counter);
    assert_eq!(run.store.snapshots(), kept(Some(third), None));
    run.store.close().await;

    let run = AcceptorRun::begin(disk, 5).await;
    assert_eq!(run.opened.snapshots, kept(Some(third), None), "forgotten");
    run.store.close().await;
}

#[tokio::test]
async fn memory_store_keeps_every_trim() {
    reopening_keeps_every_trim(&MemoryDisk::new(AcceptorUuid::from_u128(5))).await;
}

#[tokio::test]
async fn sqlite_store_keeps_every_trim() {
    let directory = tempfile::tempdir().unwrap();
    reopening_keeps_every_trim(&directory.path().to_owned()).await;
}

#[tokio::test]
#[should_panic(expected = "a trim to 5 needs a waiting snapshot to 5")]
async fn trim_without_a_whole_snapshot_is_never_written() {
    let mut story = Story::begin().await;
    story.vote(12).await;
    story.run.keep(6).await;
    let mut group = story.run.core.group();
    story.run.core.trim(&mut group, slot(5)).unwrap();
    story.run.commit(group).await;
}

#[tokio::test]
async fn log_that_does_not_begin_at_its_bottom_is_refused() {
    let story = Story::trimmed().await;
    let (closed, answered) = story.closed().await;
    let scratch = tempfile::tempdir().unwrap();
    closed.put_into(scratch.path());
    change_by_sql(scratch.path(), "DELETE FROM snapshot WHERE place = 0").await;
    let end = judge(scratch.path(), &Files::of(scratch.path()), &answered, "no bottom").await;
    assert_refused(&end, &["(snapshot)"]);
    // Without a waiting snapshot, the acceptor asks for the next.
    closed.put_into(scratch.path());
    change_by_sql(scratch.path(), "DELETE FROM snapshot WHERE place = 1").await;
    let mut without = answered;
    without.snapshots.waiting = None;
    let end = judge(scratch.path(), &Files::of(scratch.path()), &without, "none waits").await;
    assert_eq!(end, StoryEnd::Sound(0));
}

/// Swept rows go a few at a time. Nothing shown changes, and a later run continues the sweep.
async fn sweeping_changes_nothing_that_is_shown(disk: &impl TestDisk) {
    let mut run = AcceptorRun::begin(disk, 1).await;
    run.form().await;
    run.prepare(3).await;
    let rows = (0..600).map(|at| (at, value(&format!("value {at}"))));
    run.accept(accept(3, 0, rows)).await;
    run.accept(accept(3, 600, [])).await;
    assert_eq!(
        run.store.sweep().await.unwrap(),
        Swept::default(),
        "nothing is trimmed"
    );
    run.keep(520).await;
    run.trim().await;
    let counter = run.core.stamp().commit_counter;
    let left = |rows, next: Option<u64>| Swept {
        rows,
        next: next.map(slot),
    };
    assert_eq!(run.store.sweep().await.unwrap(), left(256, Some(256)));
    assert_eq!(shown(&run, 0).await, ((520..600).collect(), 520));
    assert_eq!(
        run.read(0).await.1.commit_counter,
        counter,
        "a sweep is no commit"
    );
    run.store.close().await;

    let mut run = AcceptorRun::begin(disk, 2).await;
    assert_eq!(shown(&run, 0).await, ((520..600).collect(), 520));
    assert_eq!(run.store.sweep().await.unwrap(), left(256, Some(512)));
    assert_eq!(run.store.sweep().await.unwrap(), left(8, None));
    assert_eq!(run.store.sweep().await.unwrap(), left(0, None));
    let slots: Vec<Slot> = (0..600).map(slot).collect();
    let held = run.store.reader().held(&slots).await.unwrap();
    let left: Vec<u64> = held.keys().map(|slot| slot.get()).collect();
    assert_eq!(left, (520..600).collect::<Vec<_>>());
    run.accept(accept(3, 600, [(600, value("later"))])).await;
    assert_eq!(shown(&run, 0).await, ((520..601).collect(), 520));
    run.store.close().await;
}

#[tokio::test]
async fn memory_store_shows_no_unswept_row() {
    sweeping_changes_nothing_that_is_shown(&MemoryDisk::new(AcceptorUuid::from_u128(5))).await;
}

#[tokio::test]
async fn sqlite_store_shows_no_unswept_row() {
    let directory = tempfile::tempdir().unwrap();
    sweeping_changes_nothing_that_is_shown(&directory.path().to_owned()).await;
}

#[tokio::test]
async fn unswept_rows_take_no_room_in_a_page() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = AcceptorRun::begin(&directory.path().to_owned(), 1).await;
    run.form().await;
    let to = 2 * PAGE_ROWS_MAX as u64;
    run.accept(accept(1, 0, (0..to + 100).map(|at| (at, value("x")))))
        .await;
    run.accept(accept(1, to, [])).await;
    run.keep(to).await;
    run.trim().await;
    for from in [0, to - 1, to] {
        let page = run.store.reader().page(slot(from)).await.unwrap();
        let slots: Vec<_> = page.rows.iter().map(|row| row.slot.get()).collect();
        assert_eq!(slots, (to..to + 100).collect::<Vec<_>>());
        assert!(page.last);
    }
    run.store.close().await;
}

#[tokio::test]
async fn sweep_is_bounded_in_bytes_and_its_pages_are_used_again() {
    const ROWS: u64 = 40;
    let directory = tempfile::tempdir().unwrap();
    let mut run = AcceptorRun::begin(&directory.path().to_owned(), 1).await;
    run.form().await;
    let large = |at: u64| (at, value(&"x".repeat(300 * 1024)));
    run.accept(accept(1, 0, (0..ROWS).map(large))).await;
    run.accept(accept(1, ROWS, [])).await;
    let full = run.store.reader().file_bytes().await.unwrap();
    assert!(full.used > ROWS * 300 * 1024 && full.free == 0, "{full:?}");
    run.keep(ROWS).await;
    run.trim().await;
    let mut sweeps = 0;
    loop {
        let swept = run.store.sweep().await.unwrap();
        sweeps += 1;
        assert_eq!(swept.rows, if swept.next.is_some() { 3 } else { 1 });
        if swept.next.is_none() {
            break;
        }
    }
    assert_eq!(sweeps, 14);
    let swept = run.store.reader().file_bytes().await.unwrap();
    // The new table rows of the trim take no page of their own.
    assert_eq!(swept.used + swept.free, full.used);
    assert!(swept.used < 64 * 1024, "{swept:?}");
    run.accept(accept(1, ROWS, (ROWS..ROWS + 20).map(large))).await;
    let again = run.store.reader().file_bytes().await.unwrap();
    assert_eq!(again.used + again.free, full.used, "the file did not grow");
    run.store.close().await;
}

#[tokio::test]
async fn lock_of_another_process_delays_a_record_and_a_sweep() {
    let mut story = Story::begin().await;
    story.vote_up_to(20).await;
    story.run.keep(10).await;
    story.run.trim().await;
    let file = story.directory.path().join(DATABASE);
    let mut other = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let store = &mut story.run.store;
    let before = store.snapshots();
    let kept = store.keep(snapshot(15)).await;
    assert!(matches!(kept, Err(StoreError::LockedByOther(_))), "{kept:?}");
    assert_eq!(store.snapshots(), before);
    let swept = store.sweep().await;
    assert!(matches!(swept, Err(StoreError::LockedByOther(_))), "{swept:?}");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    store.keep(snapshot(15)).await.unwrap();
    assert_eq!(store.sweep().await.unwrap().rows, 10);
    assert_eq!(store.snapshots().waiting, Some(snapshot(15)));
}

/// The files after a power cut in a write: the log of `after` ends behind this number of the write's bytes, and the
/// commit counter was not written yet.
fn power_cut(before: &Files, after: &Files, bytes: usize) -> Files {
    let begun = before.0.get(LOG).map_or(0, Vec::len);
    after
        .with_that_of(COMMITS, before)
        .with(LOG, |log| log.truncate(begun + bytes))
}

#[tokio::test]
async fn power_cut_in_any_write_leaves_the_state_before_or_after() {
    const FRAME: usize = 4096 + 24;
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Vote,
        Keep(u64),
        Trim,
        Sweep,
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut story = Story::begin().await;
    story.vote_up_to(300).await;
    for step in [
        Step::Keep(280),
        Step::Vote,
        Step::Trim,
        Step::Sweep,
        Step::Vote,
        Step::Keep(290),
        Step::Sweep,
        Step::Keep(295),
        Step::Trim,
        Step::Vote,
        Step::Sweep,
    ] {
        let (before, answered_before) = story.killed().await;
        match step {
            Step::Vote => story.vote(1).await,
            Step::Keep(to) => {
                story.run.keep(to).await;
            }
            Step::Trim => story.run.trim().await,
            Step::Sweep => assert!(story.run.store.sweep().await.unwrap().rows > 0),
        }
        let (after, answered) = story.killed().await;
        let written = after.0[LOG].len() - before.0[LOG].len();
        assert!(written > 0 && written % FRAME == 0, "{step:?}: {written}");
        for cut in (0..written).step_by(FRAME).flat_map(|end| [end, end + FRAME / 2]) {
            let what = format!("{step:?}, cut at byte {cut} of {written}");
            let files = power_cut(&before, &after, cut);
            let end = judge(scratch.path(), &files, &answered_before, &what).await;
            assert_eq!(end, StoryEnd::Sound(0), "{what}");
        }
        for files in [&after, &power_cut(&before, &after, written)] {
            let end = judge(scratch.path(), files, &answered, &format!("after {step:?}")).await;
            assert_eq!(end, StoryEnd::Sound(0), "after {step:?}");
        }
    }
}

#[tokio::test]
async fn sweeps_hide_no_log_of_another_time() {
    let mut story = Story::begin().await;
    story.vote_up_to(300).await;
    story.run.keep(280).await;
    story.run.trim().await;
    let (old, old_answered, directory) = story.stopped().await;
    let mut story = Story::on(directory).await;
    story.vote(4).await;
    let (_, _, directory) = story.stopped().await;
    // Sweeps are commits of the log, and do not count as votes.
    let mut story = Story::on(directory).await;
    story.vote(1).await;
    while story.run.store.sweep().await.unwrap().next.is_some() {}
    for to in 281..290 {
        story.run.keep(to).await;
    }
    let (new, _) = story.killed().await;
    let scratch = tempfile::tempdir().unwrap();
    let mixed = new.with_that_of(DATABASE, &old).with_that_of(COMMITS, &old);
    let end = judge(
        scratch.path(),
        &mixed,
        &old_answered,
        "an old database beside a new log",
    )
    .await;
    assert_refused(&end, &["one of the two files is from another time"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_beside_trims_show_every_row_from_the_first_slot_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = AcceptorRun::begin(&directory.path().to_owned(), 1).await;
    run.form().await;
    run.accept(accept(1, 0, (0..200).map(|at| (at, value("x")))))
        .await;
    let stop = Arc::new(AtomicBool::new(false));
    let reads: Vec<_> = [0, 150]
        .map(|from| {
            let (reader, stop) = (run.store.reader(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut firsts = std::collections::BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    let page = reader.page(slot(from)).await.unwrap();
                    let first = page.trimmed_to.get().max(from);
                    let slots: Vec<_> = page.rows.iter().map(|row| row.slot.get()).collect();
                    assert!(page.last && page.rows.iter().all(|row| row.accepted.is_some()));
                    assert_eq!(slots, (first..page.voted_to.get()).collect::<Vec<_>>());
                    firsts.insert(first);
                }
                firsts.len()
            })
        })
        .into_iter()
        .collect();
    for to in (10..=600).step_by(10) {
        run.accept(accept(1, to, (to + 190..to + 200).map(|at| (at, value("x")))))
            .await;
        run.keep(to).await;
        run.trim().await;
        assert_eq!(shown(&run, 0).await, ((to..to + 200).collect(), to));
        while run.store.sweep().await.unwrap().next.is_some() {}
    }
    stop.store(true, Ordering::Relaxed);
    for read in reads {
        assert!(read.await.unwrap() > 0, "no page was read beside the trims");
    }
    run.store.close().await;
}
