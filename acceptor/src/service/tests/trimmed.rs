//! A trim between two pages of a promise.

use paxos_common::{paxos::message::Prepare, wire};
use tokio::sync::oneshot;

use super::*;
use crate::{
    snapshot_change::SnapshotChange,
    store::{
        PAGE_ROWS_MAX,
        snapshots::{SHA256_BYTES, SnapshotId},
    },
};

/// Records a snapshot and trims to its end.
async fn trim(cluster: &Cluster, to: u64) {
    let id = SnapshotId {
        to: Slot::new(to).unwrap(),
        sha256: [7; SHA256_BYTES],
        bytes: 9,
    };
    let (answer, kept) = oneshot::channel();
    let keep = SnapshotChange::Keep { id, answer };
    cluster.shared.snapshot_changes.send(keep).await.unwrap();
    kept.await.unwrap().unwrap();
    let (answer, trimmed) = oneshot::channel();
    let request = SnapshotChange::Trim { id, answer };
    cluster.shared.snapshot_changes.send(request).await.unwrap();
    trimmed.await.unwrap().unwrap();
}

fn promise_of(page: pb::PromisePage) -> pb::Promise {
    match page.answer {
        Some(pb::promise_page::Answer::Promise(promise)) => promise,
        other => panic!("no promise: {other:?}"),
    }
}

#[tokio::test]
async fn promise_forgets_an_unknown_row_once_a_trim_has_passed_the_row() {
    let rows = 2 * PAGE_ROWS_MAX as u64;
    let cluster = Cluster::start().await;
    for (slots, chosen_to) in [(0..rows, 0), (rows..rows + 1, rows)] {
        cluster.accept_all(slots, chosen_to).recv().await.unwrap();
    }
    let lost = Slot::new(3).unwrap();
    cluster.disk.lose(lost);
    let prepare = Prepare {
        ballot: ballot(2),
        from: Slot::ZERO,
        address: "http://p:1".into(),
    };
    let request = wire::prepare_request(&prepare, cluster.configuration.cluster_id());
    let pages = cluster.service.prepare(Request::new(request)).await.unwrap();
    let mut pages = pages.into_inner();
    let first = promise_of(pages.next().await.unwrap().unwrap());
    assert_eq!((first.chosen_to, first.known_chosen_to), (3, rows));
    until(|| (cluster.shared.published().chosen_to == lost).then_some(())).await;

    let to = rows - 10;
    trim(&cluster, to).await;
    let mut last = promise_of(pages.next().await.unwrap().unwrap());
    while !last.last {
        assert!(last.chosen_to >= last.trimmed_to, "{last:?}");
        last = promise_of(pages.next().await.unwrap().unwrap());
    }
    assert_eq!((last.chosen_to, last.trimmed_to), (rows, to));
    let slots: Vec<_> = last.rows.iter().map(|row| row.slot).collect();
    assert_eq!(slots, (to..rows + 1).collect::<Vec<_>>());
    let published = cluster.shared.published();
    assert_eq!(
        (published.chosen_to.get(), published.trimmed_to.get()),
        (rows, to)
    );
    let status = cluster
        .service
        .status(Request::new(pb::AcceptorStatusRequest {}))
        .await;
    let status = status.unwrap().into_inner();
    let ends: Vec<_> = status
        .snapshots
        .iter()
        .map(|kept| (kept.to, kept.bytes))
        .collect();
    assert_eq!((status.trimmed_to, ends), (to, vec![(to, 9)]));
}

#[tokio::test]
async fn trimmed_log_is_served_to_version_2_and_not_to_version_1() {
    let cluster = Cluster::start().await;
    for (slots, chosen_to) in [(0..20, 0), (20..21, 20)] {
        cluster.accept_all(slots, chosen_to).recv().await.unwrap();
    }
    let tail = async |protocol_version| {
        let caller = pb::Caller {
            protocol_version,
            ..cluster.caller()
        };
        let request = pb::TailRequest {
            caller: Some(caller),
            nonce: 1,
        };
        cluster.service.tail(Request::new(request)).await
    };
    tail(1).await.unwrap();
    trim(&cluster, 10).await;
    let refused = tail(1).await.unwrap_err();
    assert!(
        refused.message().contains("with protocol version 2 or later"),
        "{refused:?}"
    );
    // A fixed number: later versions go on to serve version 2.
    tail(2).await.unwrap();
}

#[tokio::test]
async fn missing_bottom_is_damaged_at_once() {
    let cluster = Cluster::start().await;
    for (slots, chosen_to) in [(0..20, 0), (20..21, 20)] {
        cluster.accept_all(slots, chosen_to).recv().await.unwrap();
    }
    trim(&cluster, 10).await;
    let inner = &cluster.service.inner;
    assert_eq!(inner.snapshots.files.damaged(), []);
    for reason in ["the file is missing", "the file is damaged"] {
        let error = inner.open_bottom().await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.message().contains(reason), "{error:?}");
        assert_eq!(inner.snapshots.files.damaged().len(), 1);
    }
}
