//! Start: a user's first commands, and the report of a lost disk.

use std::time::Instant;

use libtest_mimic::Completion;

use super::{
    engine::{Engine, docker, text},
    topology::{Topology, until},
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

/// An acceptor returns without its volume.
pub(crate) fn volume_is_lost(engine: Engine) -> Completion {
    let topology = Topology::up(engine);
    let version = text(&topology.client(&["put", "colour", "blue"]));
    text(&topology.compose(&["rm", "--stop", "--force", "acceptor-3"]));
    text(&docker(&["volume", "rm", &topology.name("acceptor-3")]));
    topology.compose_up(&[]);
    let finding = until("the blank acceptor is refused", || {
        let (status, code) = topology.status();
        let findings = status["findings"].as_array().unwrap().clone();
        let finding = findings.into_iter().find(|finding| {
            let problem = finding["problem"].as_str().unwrap_or_default();
            problem.contains("acceptor-3") && problem.contains("has lost its disk")
        });
        assert!(
            code == Some(0) || finding.is_none(),
            "the other two are a quorum: {status}"
        );
        finding
    });
    println!("{finding}");
    let advice = finding["advice"].as_str().unwrap();
    assert!(
        advice.contains("replace the member: `paxos member list`"),
        "{advice}"
    );
    assert_eq!(
        text(&topology.client(&["get", "colour", "--at-least", &version])),
        "blue"
    );
    text(&topology.client(&["put", "colour", "green"]));
    // A proposer started now does not count the acceptor either.
    topology.scale_beside(1, 1, Some("acceptor-3"));
    topology.scale_beside(2, 1, Some("acceptor-3"));
    text(&topology.client(&["put", "colour", "red"]));

    // The remaining quorum is exactly large enough.
    docker(&["kill", &topology.container("acceptor-2")]);
    let refused = topology.client(&["put", "colour", "lost", "--timeout", "3s"]);
    assert_eq!(refused.status.code(), Some(69), "{refused:?}");
    Completion::Completed
}
