//! Start: a user's first commands, in any order of services.

use std::time::Instant;

use libtest_mimic::Completion;

use super::{
    engine::{Engine, docker, text},
    topology::Topology,
};

/// User id of the processes in a container, as in the Dockerfile.
const USER: &str = "10001";

/// The first commands of deploy/docker.md, from the network and from the machine; then a clean stop.
pub(crate) fn answers(engine: Engine) -> Completion {
    let topology = Topology::up(engine);
    assert_eq!(
        text(&topology.client(&["decide", "leader-2026", "alice"])),
        "alice"
    );
    let lost = topology.client(&["decide", "leader-2026", "bob"]);
    assert_eq!(lost.status.code(), Some(1), "{lost:?}");
    assert_eq!(text(&topology.client(&["get", "leader-2026"])), "alice");
    let version = text(&topology.client(&["propose", "hello"]));
    assert!(version.contains('.'), "{version}");

    let status = text(&topology.compose(&["exec", "-T", "acceptor-1", "paxos", "status"]));
    assert!(status.contains("healthy: a leader, 3 of 3 acceptors"), "{status}");
    topology.finds_nothing_wrong();
    let attached = (
        topology.attached("proposer").len(),
        topology.attached("learner").len(),
    );
    assert_eq!(attached, (2, 3));

    // Container ids do not resolve on the machine, so the published ports are given as addresses.
    let (proposers, learners) = (
        topology.published("proposer", "7101"),
        topology.published("learner", "7201"),
    );
    let on_host = |words: &[&str]| {
        let at = ["--proposers", &proposers, "--learners", &learners];
        text(&topology.on_host(&[words, &at].concat()))
    };
    on_host(&["put", "colour", "blue"]);
    assert_eq!(on_host(&["get", "colour"]), "blue");

    stops_cleanly(&topology);
    Completion::Completed
}

/// Every role is process 1 of its container, runs as an unprivileged user, and ends with 0 after a stop request.
fn stops_cleanly(topology: &Topology) {
    let containers = topology.all();
    for container in &containers {
        assert_eq!(text(&docker(&["exec", container, "id", "-u"])), USER);
    }
    let begun = Instant::now();
    text(&topology.compose(&["stop"]));
    println!("stopped in {:.1?}", begun.elapsed());
    for container in &containers {
        let code = text(&docker(&[
            "inspect",
            "--format",
            "{{.Name}} {{.State.ExitCode}}",
            container,
        ]));
        assert!(code.ends_with(" 0"), "{code}");
    }
}

/// Readers start before writers, both before a quorum exists; the last acceptor starts when all other roles wait for
/// it.
pub(crate) fn any_order(engine: Engine) -> Completion {
    let order: [&[&str]; 4] = [
        &["learner"],
        &["proposer", "acceptor-3"],
        &["acceptor-1"],
        &["acceptor-2"],
    ];
    let topology = Topology::up_in(engine, &order);
    assert_eq!(
        text(&topology.client(&["decide", "leader-2026", "alice"])),
        "alice"
    );
    topology.finds_nothing_wrong();
    Completion::Completed
}
