//! Whether reads scale with learners: the cost in CPU time per role, and that no proposer is asked.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::harness::{Cluster, PATIENCE, Process, until};
use nix::sys::signal::Signal;
use paxos_client::Slot;
use paxos_common::peer::connect_lazy;
use paxos_proto::v1::{
    LearnerStatusRequest, Linearizable, ReadRequest, learner_client::LearnerClient, read_request,
};
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tonic::transport::Channel;

const LEARNERS: u16 = 10;
/// Load of every learner, whatever the number of learners: this many reads together, at this interval.
const TOGETHER: usize = 4;
const PACE: Duration = Duration::from_millis(100);
/// The unit of CPU time in Linux, on every machine.
const TICK: Duration = Duration::from_millis(10);
/// Allowed CPU time of proposers during reads, in addition to the time without reads. CPU time is counted in ticks of
/// 10 ms, and fluctuates.
const WANDER: Duration = Duration::from_millis(60);

/// CPU time used by these processes, in user and kernel mode.
fn cpu(processes: &[Process]) -> Duration {
    let ticks_of = |process: &Process| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
        // The name in brackets may contain anything. In the rest, the 12th and 13th fields are utime and stime.
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let fields: Vec<_> = rest.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let ticks: u64 = processes.iter().map(ticks_of).sum();
    TICK * u32::try_from(ticks).unwrap()
}

/// The cost of a stretch of time.
#[derive(Debug)]
struct Stretch {
    reads: usize,
    time: Duration,
    proposers: Duration,
    acceptors: Duration,
    learners: Duration,
}

impl Stretch {
    /// Reads served per second of a learner's CPU time.
    fn efficiency(&self) -> f64 {
        let reads = u32::try_from(self.reads).unwrap();
        f64::from(reads) / self.learners.as_secs_f64()
    }
}

async fn read(learner: &mut LearnerClient<Channel>) {
    let request = ReadRequest {
        target: Some(read_request::Target::Key("key".into())),
        consistency: Some(read_request::Consistency::Linearizable(Linearizable {})),
        ..ReadRequest::default()
    };
    let answer = tokio::time::timeout(PATIENCE, learner.read(request)).await;
    let response = answer.expect("in time").unwrap().into_inner();
    assert_eq!(response.registers[0].value.as_ref(), b"value");
}

/// Reads at a steady pace from the first `learners` learners.
async fn stretch(cluster: &Cluster, learners: usize, time: Duration) -> Stretch {
    let before = [&cluster.proposers, &cluster.acceptors, &cluster.learners].map(|of| cpu(of));
    let begun = Instant::now();
    let mut readers = JoinSet::new();
    for learner in &cluster.learners[..learners] {
        let client = LearnerClient::new(connect_lazy(&learner.address));
        readers.spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut reads = 0;
            while begun.elapsed() < time {
                pace.tick().await;
                let mut clients = vec![client.clone(); TOGETHER];
                futures::future::join_all(clients.iter_mut().map(read)).await;
                reads += TOGETHER;
            }
            reads
        });
    }
    if learners == 0 {
        tokio::time::sleep(time).await;
    }
    let reads = readers.join_all().await.into_iter().sum();
    let time = begun.elapsed();
    let after = [&cluster.proposers, &cluster.acceptors, &cluster.learners].map(|of| cpu(of));
    Stretch {
        reads,
        time,
        proposers: after[0] - before[0],
        acceptors: after[1] - before[1],
        learners: after[2] - before[2],
    }
}

/// A cluster with one register, known to all learners.
async fn cluster() -> Cluster {
    let cluster = Cluster::start_alone(3, 2, LEARNERS).await;
    let client = cluster.client();
    client.put("key", "value").await.unwrap();
    let end = client.chosen_to().await.unwrap();
    assert!(end > Slot::ZERO);
    for learner in &cluster.learners {
        let channel = connect_lazy(&learner.address);
        until("every learner has caught up", async || {
            let status = LearnerClient::new(channel.clone())
                .status(LearnerStatusRequest {})
                .await;
            (status.ok()?.into_inner().applied_to >= end.get()).then_some(())
        })
        .await;
    }
    cluster
}

#[tokio::test]
#[ignore = "half a minute long: cargo long"]
async fn ten_learners_serve_ten_times_the_reads_of_one() {
    scale(Duration::from_secs(10)).await;
}

async fn scale(time: Duration) {
    let cluster = cluster().await;
    let idle = stretch(&cluster, 0, time).await;
    let one = stretch(&cluster, 1, time).await;
    let ten = stretch(&cluster, LEARNERS.into(), time).await;
    for (what, stretch) in [("idle", &idle), ("one learner", &one), ("ten learners", &ten)] {
        eprintln!(
            "{what}: {} reads in {:.1?}; CPU of proposers {:.0?}, acceptors {:.0?}, learners {:.0?}; {:.0} reads a \
             second of learners' CPU",
            stretch.reads,
            stretch.time,
            stretch.proposers,
            stretch.acceptors,
            stretch.learners,
            stretch.efficiency(),
        );
    }
    assert!(
        ten.reads >= 9 * one.reads,
        "{} reads through one learner, {} through ten",
        one.reads,
        ten.reads
    );
    for read in [&one, &ten] {
        let scale = read.time.as_secs_f64() / idle.time.as_secs_f64();
        let allowed = idle.proposers.mul_f64(1.5 * scale) + WANDER;
        assert!(
            read.proposers <= allowed,
            "proposers used {:?}, of {allowed:?} that they may when nobody reads",
            read.proposers
        );
    }
}

#[tokio::test]
async fn reads_are_answered_while_no_proposer_runs() {
    let cluster = cluster().await;
    for proposer in &cluster.proposers {
        proposer.signal(Signal::SIGSTOP);
    }
    let stopped = stretch(&cluster, LEARNERS.into(), Duration::from_millis(500)).await;
    assert_eq!(stopped.proposers, Duration::ZERO, "they stood still");
    assert!(stopped.reads >= usize::from(LEARNERS) * TOGETHER, "{stopped:?}");
    for proposer in &cluster.proposers {
        proposer.signal(Signal::SIGCONT);
    }
}
