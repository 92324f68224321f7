//! A recorded file that is removed or damaged, and attempts that fail: never served again, and made again without an order.

use paxos_common::snapshot::SnapshotError;
use tokio::time::timeout;

use super::*;

#[tokio::test]
async fn file_that_was_removed_or_damaged_is_never_served_again() {
    for is_removed in [true, false] {
        let (mut disk, mut maker) = Disk::new().await;
        disk.write(100, 10).await;
        let first = maker.make(None).await.unwrap();
        let path = disk.path().join(name_of(&first));
        let sound = fs::read(&path).unwrap();
        if is_removed {
            fs::remove_file(&path).unwrap();
        } else {
            let mut bytes = sound.clone();
            bytes[200] ^= 1;
            fs::write(&path, bytes).unwrap();
            // Long after the last look.
            maker.trusted_at -= TRUST_MAX;
        }
        disk.run(maker);
        let second = disk.orders.snapshot(slot(100), Duration::MAX).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        // The same state has the same file and the same name.
        assert_eq!(content(&second).await, sound);
        assert_eq!(disk.files(), [name_of(&first)]);
        let expected = disk.knowledge.machine(Machine::clone);
        let (disk, _maker) = disk.restart().await;
        assert_eq!(disk.knowledge.machine(Machine::clone), expected);
    }
}

#[tokio::test]
async fn removed_file_is_made_again_without_an_order_also_after_a_failed_attempt() {
    for is_ordered in [false, true] {
        let (mut disk, mut maker) = Disk::new().await;
        disk.write(100, 10).await;
        let first = maker.make(None).await.unwrap();
        maker.look();
        assert!(Arc::ptr_eq(&first, maker.inputs.last.as_ref().unwrap()));
        fs::remove_file(first.path()).unwrap();
        // No file can be made.
        let directory = std::mem::replace(&mut maker.inputs.directory, disk.path().join("none"));
        if is_ordered {
            let (answer, made) = oneshot::channel();
            let to = slot(100);
            maker
                .serve(SnapshotOrder {
                    to,
                    age_max: Duration::MAX,
                    end: WantedEnd::Present,
                    answer,
                })
                .await
                .unwrap();
            assert!(matches!(made.await.unwrap(), Err(NoSnapshot::NotMade(_))));
        } else {
            maker.look();
            maker.make_due().await.unwrap();
        }
        assert!(maker.inputs.last.is_none() && maker.paused_until.is_some());
        let trouble = disk.orders.trouble().expect("operators learn the reason");
        assert!(trouble.reason.contains("none"), "{trouble:?}");
        maker.inputs.directory = directory;
        // The pause has passed.
        maker.paused_until = Some(Instant::now());
        disk.run(maker);
        let name = [name_of(&first)];
        let made = async {
            while disk.files() != name {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), made).await.unwrap();
        let ended = async {
            while disk.orders.trouble().is_some() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), ended).await.unwrap();
    }
}

#[tokio::test]
async fn state_that_is_too_large_for_a_snapshot_is_shown_since_the_first_attempt() {
    let (disk, mut maker) = Disk::new().await;
    let mut fails = || {
        maker
            .failed(NotWritten::TooLarge(SnapshotError::TooLarge))
            .unwrap()
    };
    fails();
    let first = disk.orders.trouble().unwrap();
    assert_eq!(first.reason, SnapshotError::TooLarge.to_string());
    fails();
    assert_eq!(disk.orders.trouble().unwrap().since, first.since);
}

#[tokio::test]
async fn file_that_the_writer_cannot_record_is_removed() {
    let (mut disk, mut maker) = Disk::new().await;
    disk.write(100, 10).await;
    maker.inputs.records = mpsc::channel(1).0;
    let made = maker.make(None).await;
    assert!(matches!(made, Err(NotWritten::Stopping)), "{made:?}");
    assert_eq!(disk.files(), [] as [String; 0]);
}

#[tokio::test]
async fn whole_file_is_read_once_in_a_while() {
    let (mut disk, mut maker) = Disk::new().await;
    disk.write(100, 10).await;
    let first = maker.make(None).await.unwrap();
    maker.trusted_at -= TRUST_MAX;
    let found = maker
        .usable(slot(100), Duration::MAX, WantedEnd::Present)
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&first, &found));
    assert!(maker.trusted_at.elapsed() < TRUST_MAX, "read for every caller");
}

#[tokio::test]
async fn file_that_cannot_get_its_name_leaves_nothing() {
    let (mut disk, mut maker) = Disk::new().await;
    disk.write(100, 10).await;
    let file = maker.make(None).await.unwrap();
    fs::remove_file(file.path()).unwrap();
    fs::create_dir(file.path()).unwrap();
    let failed = maker.make(None).await;
    assert!(matches!(failed, Err(NotWritten::File(_))), "{failed:?}");
    assert_eq!(disk.files(), [name_of(&file)]);
    assert!(file.path().is_dir());
}

#[tokio::test]
async fn maker_ends_with_the_applier() {
    let (mut disk, mut maker) = Disk::new().await;
    disk.write(110, 10_000).await;
    let mut due = disk.growth.follow_due();
    due.wait_for(|due| *due).await.unwrap();
    maker.inputs.views = mpsc::channel(1).0;
    let ended = timeout(Duration::from_secs(20), disk.run(maker)).await;
    ended.unwrap().unwrap().unwrap();
}
