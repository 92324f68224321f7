//! How fast a learner applies commands and answers reads: the whole service over loopback, with its disk, beside
//! acceptors with scripted answers.
//!
//! `cargo bench -p paxos-learner`

#![expect(clippy::unwrap_used, reason = "as in tests: nobody relies on it")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::future::join_all;
use paxos_learner_testing::{FakeAcceptor, TestLearner, acceptors, ballot};
use paxos_proto::v1::{
    self as pb, Command, Linearizable, Local, Put, command::Operation, read_request::Consistency,
};
use prost::Message as _;
use tokio::runtime::Runtime;

/// Slots per run, each with `COMMANDS` commands: all slots together fit a single frame.
const SLOTS: u64 = 200;
const COMMANDS: u64 = 100;
const VALUE_BYTES: usize = 64;
/// Number of concurrent reads.
const READS: u64 = 64;

fn key(slot: u64, command: u64) -> Bytes {
    format!("{slot}/{command}").into()
}

/// A batch that writes a register with each command.
fn batch(slot: u64) -> Bytes {
    let command = |command| Command {
        session: None,
        operation: Some(Operation::Put(Put {
            key: key(slot, command),
            value: vec![b'x'; VALUE_BYTES].into(),
            condition: None,
        })),
    };
    let commands = (0..COMMANDS).map(command).collect();
    let configuration = None;
    pb::Value {
        commands,
        configuration,
    }
    .encode_to_vec()
    .into()
}

/// Three acceptors that have accepted every slot.
async fn voted(batches: &[Bytes]) -> [FakeAcceptor; 3] {
    let acceptors = acceptors().await;
    for acceptor in &acceptors {
        acceptor.change(|script| {
            let accepted = (0..)
                .zip(batches)
                .map(|(slot, batch)| (ballot(1), slot, batch.clone()));
            script.accepted.extend(accepted);
            script.voted_to = SLOTS;
        });
    }
    acceptors
}

/// Reads a register, as soon as the learner answers.
async fn read(learner: &TestLearner, key: Bytes, consistency: Consistency) -> pb::ReadResponse {
    let request = pb::ReadRequest {
        target: Some(pb::read_request::Target::Key(key)),
        consistency: Some(consistency),
        ..Default::default()
    };
    let mut client = learner.client.clone();
    loop {
        match client.read(request.clone()).await {
            Ok(answer) => return answer.into_inner(),
            Err(status) if status.code() == tonic::Code::Unavailable => tokio::task::yield_now().await,
            Err(status) => panic!("{status}"),
        }
    }
}

/// Returns once the learner has applied every slot.
async fn all_applied(learner: &TestLearner) {
    let last = pb::Version {
        slot: SLOTS - 1,
        offset: 0,
    };
    let answer = read(learner, key(SLOTS - 1, 0), Consistency::AtLeast(last)).await;
    assert_eq!(answer.registers.len(), 1);
}

/// From the start of a learner until a log is learned and applied, while the writer brings the log to disk.
fn apply(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let batches: Vec<_> = (0..SLOTS).map(batch).collect();
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(SLOTS * COMMANDS));
    group.sample_size(10);
    group.bench_function("commands", |bencher| {
        bencher.iter_custom(|times| {
            let run = async || {
                let acceptors = voted(&batches).await;
                let begun = Instant::now();
                let learner = TestLearner::start(&acceptors, None).await;
                all_applied(&learner).await;
                let elapsed = begun.elapsed();
                learner.stop().await.unwrap();
                elapsed
            };
            (0..times).map(|_| runtime.block_on(run())).sum::<Duration>()
        });
    });
    group.finish();
}

/// Concurrent reads, with everything applied.
fn reads(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let batches: Vec<_> = (0..SLOTS).map(batch).collect();
    let learner = runtime.block_on(async {
        let acceptors = voted(&batches).await;
        let learner = TestLearner::start(&acceptors, None).await;
        all_applied(&learner).await;
        learner
    });
    let mut group = criterion.benchmark_group("reads");
    group.throughput(Throughput::Elements(READS));
    for (name, consistency) in [
        ("local", Consistency::Local(Local {})),
        ("linearizable", Consistency::Linearizable(Linearizable {})),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let reads = (0..READS).map(|slot| read(&learner, key(slot, 0), consistency));
                black_box(runtime.block_on(join_all(reads)))
            });
        });
    }
    group.finish();
    runtime.block_on(learner.stop()).unwrap();
}

criterion_group!(benches, apply, reads);
criterion_main!(benches);
