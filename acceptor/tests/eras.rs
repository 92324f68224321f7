//! Eras in the store: rows, promises and configurations of later eras, and the refusal of later protocol versions at a start.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::{collections::BTreeMap, fs, path::PathBuf};

use paxos_acceptor::store::{Reader as _, Store as _, memory::MemoryDisk, sqlite::repair::Stopped};
use paxos_common::{
    paxos::{
        acceptor::{Membership, Write},
        ballot::Ballot,
        era::Era,
        identity::AcceptorUuid,
        quorum::Configuration,
    },
    service::failure::{Exit, Failure},
    wire::PROTOCOL_VERSION,
};
use support::{
    accept, ballot,
    run::{AcceptorRun, TestDisk, open},
    slot,
    story::{DATABASE, change_by_sql},
    value,
};

fn era() -> Era {
    Era::new(3).unwrap()
}

fn later(round: u64) -> Ballot {
    ballot(round).in_era(era())
}

/// Commits what a release with changes of members writes: a configuration, a promise and votes of a later era.
async fn write_later_era<D: TestDisk>(disk: &D) -> AcceptorRun<D::Store> {
    write_with(disk, later(1), 3).await
}

/// As [`write_later_era`], with this promise and this oldest protocol version.
async fn write_with<D: TestDisk>(disk: &D, promised: Ballot, least_version: u32) -> AcceptorRun<D::Store> {
    let mut run = AcceptorRun::begin(disk, 1).await;
    run.form().await;
    run.accept(accept(3, 0, [(0, value("a")), (1, value("b"))])).await;
    let formed = run.core.membership().configuration().unwrap();
    let configuration =
        Configuration::new([(AcceptorUuid::from_u128(9), "http://b:1".into())], 1, 1).unwrap();
    let membership = Membership::Formed(configuration.in_era(era(), formed.cluster_id()));
    let (address, witnesses) = ("http://p:2".into(), Default::default());
    let rows = BTreeMap::from([
        (slot(1), (later(1), value("b"))),
        (slot(2), (later(1), value("c"))),
    ]);
    let write = Write {
        commit_counter: run.core.stamp().commit_counter.next(),
        membership: Some(&membership),
        promised,
        promise_is_new: true,
        leader_address: &address,
        known_to: slot(0),
        trimmed_to: slot(0),
        rows: &rows,
        witnesses: &witnesses,
        least_version,
    };
    run.store.commit(write).await.unwrap();
    run
}

/// The ballot of each row, and the promise.
async fn read_later_era<D: TestDisk>(disk: &D) -> (Vec<Option<Ballot>>, Ballot) {
    let run = write_later_era(disk).await;
    let (rows, page) = run.read(0).await;
    let promises = run.store.reader().promises(9).await.unwrap();
    assert_eq!(promises[0].ballot, later(1));
    run.store.close().await;
    let ballots = rows.iter().map(|row| Some(row.accepted.as_ref()?.0));
    (ballots.collect(), page.promised)
}

#[tokio::test]
async fn every_store_keeps_the_era_of_each_ballot() {
    let expected = (vec![Some(ballot(3)), Some(later(1)), Some(later(1))], later(1));
    let memory = MemoryDisk::new(AcceptorUuid::from_u128(5));
    assert_eq!(read_later_era(&memory).await, expected);
    let (_, reopened) = memory.open(paxos_common::paxos::identity::RunNumber::from_random(2));
    assert_eq!(reopened.recovered.promised, later(1));
    assert_eq!(reopened.recovered.least_version, 3);
    assert_eq!(
        reopened.recovered.membership.configuration().unwrap().era(),
        era()
    );
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(read_later_era(&directory.path().to_owned()).await, expected);
}

#[tokio::test]
async fn era_of_a_vote_is_covered_by_its_checksum() {
    let directory = tempfile::tempdir().unwrap();
    let mut run = AcceptorRun::begin(&directory.path().to_owned(), 1).await;
    run.form().await;
    run.accept(accept(3, 0, [(0, value("a"))])).await;
    run.store.close().await;
    change_by_sql(directory.path(), "UPDATE vote SET era = 1").await;
    let (store, _) = open(directory.path(), 2).await.unwrap();
    let page = store.reader().page(slot(0)).await.unwrap();
    assert_eq!(
        page.rows[0].accepted, None,
        "unknown, and not a vote of another era"
    );
    store.close().await;
    change_by_sql(directory.path(), "UPDATE state SET promised_era = 1").await;
    let refused = open(directory.path(), 3).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("(state)"), "{refused}");
}

#[tokio::test]
async fn directory_of_a_later_protocol_is_refused_and_left_unchanged() {
    for promised in [later(1), ballot(4)] {
        is_refused_and_left_unchanged(promised, PROTOCOL_VERSION + 1).await;
    }
}

#[tokio::test]
async fn directory_of_a_later_era_is_opened_with_its_promise() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().to_owned();
    write_later_era(&path).await.store.close().await;
    let (store, opened) = open(&path, 2).await.unwrap();
    assert_eq!(opened.recovered.promised, later(1));
    assert_eq!(opened.recovered.membership.configuration().unwrap().era(), era());
    store.close().await;
}

async fn is_refused_and_left_unchanged(promised: Ballot, least_version: u32) {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().to_owned();
    write_with(&path, promised, least_version)
        .await
        .store
        .close()
        .await;
    let before = fs::read(path.join(DATABASE)).unwrap();
    let started = Failure::from(open(&path, 2).await.map(drop).unwrap_err());
    let repaired = Failure::from(Stopped::open(&path).await.map(drop).unwrap_err());
    for failure in [started, repaired] {
        assert_eq!(failure.code, Exit::Refused, "{failure}");
        assert!(
            failure.to_string().contains("protocol version 4 or later"),
            "{failure}"
        );
    }
    assert!(fs::read(path.join(DATABASE)).unwrap() == before);
}

#[tokio::test]
async fn oldest_served_version_is_covered_by_the_checksum_of_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().to_owned();
    write_later_era(&path).await.store.close().await;
    for version in [1, 2, 4] {
        let sql = format!("UPDATE state SET least_version = {version}");
        change_by_sql(directory.path(), &sql).await;
        let refused = open(directory.path(), 2).await.map(drop).unwrap_err();
        assert!(refused.to_string().contains("(state)"), "{version}: {refused}");
        assert_eq!(Failure::from(refused).code, Exit::Storage, "{version}");
    }
}
