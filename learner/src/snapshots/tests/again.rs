//! Which orders the last file serves.

use super::*;

#[tokio::test]
async fn last_file_is_used_again_if_long_enough_also_after_a_restart() {
    let (mut disk, maker) = Disk::new().await;
    disk.write(100, 10).await;
    disk.run(maker);
    let first = disk.orders.snapshot(slot(100), Duration::MAX).await.unwrap();
    disk.write(100, 10).await;
    let again = disk.orders.snapshot(slot(100), Duration::MAX).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    let longer = disk.orders.snapshot(slot(101), Duration::MAX).await.unwrap();
    assert_eq!(longer.summary.header.to, slot(200));
    // The first file is read to its end without its name.
    assert_eq!(disk.files(), [name_of(&longer)]);
    assert_eq!(read(&first).await.applied_to(), slot(100));
    let (disk, maker) = disk.restart().await;
    disk.run(maker);
    let found = disk.orders.snapshot(slot(200), Duration::MAX).await.unwrap();
    assert_eq!(found.summary, longer.summary);
    assert_eq!(disk.files(), [name_of(&longer)]);
}

#[tokio::test]
async fn file_older_than_a_caller_accepts_is_made_again() {
    const AGE_MAX: Duration = Duration::from_secs(60);
    let (mut disk, mut maker) = Disk::new().await;
    disk.write(100, 10).await;
    let first = maker.make(None).await.unwrap();
    let usable = async |maker: &mut SnapshotMaker, age_max| {
        let last = maker.usable(slot(100), age_max, WantedEnd::Present).await;
        last.is_some_and(|last| Arc::ptr_eq(&last, &first))
    };
    assert!(usable(&mut maker, AGE_MAX).await);
    maker.made_at = Some(Instant::now() - AGE_MAX - Duration::from_secs(1));
    assert!(!usable(&mut maker, AGE_MAX).await);
    assert!(usable(&mut maker, Duration::MAX).await);
    // The age of a file of an earlier run is not known.
    maker.made_at = None;
    assert!(!usable(&mut maker, AGE_MAX).await);
}

#[tokio::test]
async fn file_for_an_acceptor_serves_all_and_no_other_file_serves_acceptors() {
    let (mut disk, maker) = Disk::new().await;
    disk.write(100, 10).await;
    disk.run(maker);
    let orders = &disk.orders;
    let own = orders.snapshot(slot(100), Duration::MAX).await.unwrap();
    let given = orders.common_snapshot(slot(100), Duration::MAX).await.unwrap();
    assert!(!Arc::ptr_eq(&own, &given));
    let again = orders.common_snapshot(slot(100), Duration::MAX).await.unwrap();
    assert!(Arc::ptr_eq(&given, &again));
    let backup = orders.snapshot(slot(100), Duration::MAX).await.unwrap();
    assert!(Arc::ptr_eq(&given, &backup));
}

#[tokio::test]
async fn due_file_is_made_at_once_although_an_order_waits_for_its_end() {
    const PATIENCE: Duration = Duration::from_secs(60);
    let (mut disk, maker) = Disk::new().await;
    disk.write(100, 10).await;
    disk.waits_for_end.store(true, Ordering::Relaxed);
    disk.run(maker);
    let orders = disk.orders.clone();
    let given = tokio::spawn(async move { orders.common_snapshot(slot(100), Duration::MAX).await });
    while disk.waits_for_end.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }
    assert!(disk.files().is_empty());
    disk.write(100, 20_000).await;
    let made = tokio::time::timeout(PATIENCE, given).await;
    let given = made.expect("the due file is made first").unwrap().unwrap();
    // The due file, and then the file of the order.
    let again = disk
        .orders
        .common_snapshot(slot(100), Duration::MAX)
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&given, &again));
    assert_eq!(disk.files(), [name_of(&given)]);
}
