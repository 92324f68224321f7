//! How long an acceptor's commit takes, by the number of slots in the commit: the core and the store, with the real disk.
//!
//! `cargo bench -p paxos-acceptor`

#![expect(
    clippy::unwrap_used,
    reason = "a bench is no part of the product: as in tests, a fault ends it"
)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use paxos_acceptor::store::{Store as _, sqlite::SqliteStore};
use paxos_common::{
    paxos::{
        acceptor::{Acceptor, Group},
        identity::RunNumber,
        message::{Accept, AcceptAnswer, Prepare, PrepareAnswer},
        slot::Slot,
        value::Value,
    },
    sqlite::DataDir,
};
use paxos_test_values::{ballot, cluster_of_one, slot};
use tokio::runtime::Runtime;

/// Numbers of slots in a commit: a leader alone with one command, and what a leader under load sends.
const SLOTS: [u64; 5] = [1, 8, 64, 256, 1_024];
const VALUE_BYTES: usize = 256;
const ADDRESS: &str = "http://p:1";

/// A formed acceptor that promised ballot 1.
struct Voter {
    core: Acceptor,
    store: SqliteStore,
    /// The first slot without a vote.
    next: u64,
    value: Value,
}

impl Voter {
    async fn start(directory: &std::path::Path) -> Self {
        let run = RunNumber::from_random(1);
        let directory = DataDir::open(directory).unwrap();
        let (store, opened) = SqliteStore::open(directory, "a1", run).await.unwrap();
        let configuration = cluster_of_one(opened.recovered.uuid);
        let mut voter = Self {
            core: Acceptor::recover(opened.recovered, run),
            store,
            next: 0,
            value: Value::from_stored(Bytes::from(vec![b'x'; VALUE_BYTES]), Bytes::new()),
        };
        let mut group = voter.core.group();
        voter
            .core
            .store_configuration(&mut group, &configuration)
            .unwrap();
        voter
            .core
            .complete_configuration(&mut group, &configuration)
            .unwrap();
        voter.commit(group).await;
        let prepare = Prepare {
            ballot: ballot(1),
            from: Slot::ZERO,
            address: ADDRESS.into(),
        };
        let mut group = voter.core.group();
        assert_eq!(voter.core.prepare(&mut group, &prepare), PrepareAnswer::Promised);
        voter.commit(group).await;
        voter
    }

    async fn commit(&mut self, group: Group) {
        if let Some(write) = self.core.write(&group) {
            self.store.commit(write).await.unwrap();
        }
        self.core.committed(group);
    }

    /// Votes in the next `slots` slots, in one commit. All slots below are chosen.
    async fn vote(&mut self, slots: u64) {
        let from = self.next;
        self.next += slots;
        let proposals = (from..self.next).map(|at| (slot(at), self.value.clone()));
        let accept = Accept {
            ballot: ballot(1),
            sequence: 1,
            chosen_to: slot(from),
            proposals: proposals.collect(),
            address: ADDRESS.into(),
            resign: false,
        };
        let mut group = self.core.group();
        let answer = self.core.accept(&mut group, &accept, &BTreeMap::new()).unwrap();
        assert!(matches!(answer, AcceptAnswer::Accepted { .. }), "{answer:?}");
        self.commit(group).await;
    }
}

fn commits(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("commit");
    for slots in SLOTS {
        // Each with an empty file of its own.
        let directory = tempfile::tempdir().unwrap();
        let mut voter = runtime.block_on(Voter::start(directory.path()));
        group.throughput(Throughput::Elements(slots));
        group.bench_with_input(BenchmarkId::new("slots", slots), &slots, |bencher, slots| {
            bencher.iter_custom(|times| {
                runtime.block_on(async {
                    let mut elapsed = Duration::ZERO;
                    for _ in 0..times {
                        let begun = Instant::now();
                        voter.vote(*slots).await;
                        elapsed += begun.elapsed();
                        // As the worker does after a commit: bounds the write-ahead log.
                        voter.store.keep_wal_short().await.unwrap();
                    }
                    elapsed
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, commits);
criterion_main!(benches);
