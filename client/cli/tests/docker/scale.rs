//! Scale: replicas are added and removed, and every container restarts, while clients notice only delays.

use std::time::{Duration, Instant};

use libtest_mimic::Completion;

use super::{
    engine::{Engine, docker, text},
    load::DockerLoad,
    topology::{Topology, until},
    worker::WorkTally,
};

/// Default time limit of a call in the client library; no call may fail within this limit.
pub(crate) const CALL: Duration = Duration::from_secs(10);
/// Upper bound for a gap in service in milliseconds, on the slowest machines.
const GAP_MAX_MS: u128 = 10_000;

/// No call failed, and no gap in service was too long.
pub(crate) fn nothing_failed(what: &str, tally: &WorkTally) {
    println!("{what}: {} calls, {}", tally.succeeded, tally.gaps());
    assert_eq!(tally.failed, 0, "{what}: {tally:?}");
    assert!(
        tally.write_gap_ms < GAP_MAX_MS && tally.read_gap_ms < GAP_MAX_MS,
        "{what}: {tally:?}"
    );
}

/// Waits until `paxos status` lists these numbers of proposers and learners.
fn are_attached(topology: &Topology, proposers: usize, learners: usize) {
    until("status lists them all", || {
        let attached = (
            topology.attached("proposer").len(),
            topology.attached("learner").len(),
        );
        (attached == (proposers, learners)).then_some(())
    });
}

/// Scales to four proposers and six learners, to one of each, and back to the original numbers.
pub(crate) fn up_and_down(engine: Engine) -> Completion {
    let topology = Topology::up(engine);
    text(&topology.client(&["put", "colour", "blue"]));
    let mut load = DockerLoad::start(&topology, CALL);
    for (proposers, learners) in [(4, 6), (1, 1), (2, 3)] {
        let begun = Instant::now();
        topology.scale(proposers, learners);
        are_attached(&topology, proposers, learners);
        let mut tally = load.look();
        tally.add(load.goes_on(200));
        let what = format!(
            "{proposers} proposers and {learners} learners after {:.1?}",
            begun.elapsed()
        );
        nothing_failed(&what, &tally);
        for learner in topology.containers("learner") {
            // The learner serves writes from before its start, and sees every acknowledged write.
            let own = "http://127.0.0.1:7201";
            let read = docker(&["exec", &learner, "paxos", "get", "colour", "--learners", own]);
            assert_eq!(text(&read), "blue");
        }
    }
    topology.finds_nothing_wrong();
    let summary = load.stop();
    assert_eq!(summary.unknown, 0);
    Completion::Completed
}

/// Restarts each container once; the next only after the last is healthy again.
pub(crate) fn rolling_restart(engine: Engine) -> Completion {
    let topology = Topology::up(engine);
    let mut load = DockerLoad::start(&topology, CALL);
    let mut sum = WorkTally::default();
    for container in topology.all() {
        text(&docker(&["restart", "--time", "15", &container]));
        topology.is_healthy();
        let tally = load.goes_on(100);
        let name = text(&docker(&["inspect", "--format", "{{.Name}}", &container]));
        nothing_failed(&format!("{name} restarted"), &tally);
        sum.add(tally);
    }
    nothing_failed("all restarted", &sum);
    println!("longest gap while every container was restarted: {}", sum.gaps());
    until("all are attached again", || {
        let attached = (
            topology.attached("proposer").len(),
            topology.attached("learner").len(),
        );
        (attached == (2, 3)).then_some(())
    });
    topology.finds_nothing_wrong();
    let summary = load.stop();
    assert_eq!(summary.unknown, 0);
    Completion::Completed
}
