//! Kill: one, two or all containers are killed without warning, and start again.

use libtest_mimic::Completion;

use super::{
    engine::{Engine, docker, text},
    load::DockerLoad,
    topology::{PATIENCE, Topology},
};

/// Kills the leading proposer, then an acceptor, then two acceptors.
pub(crate) fn one_after_the_other(engine: Engine) -> Completion {
    let topology = Topology::up(engine);
    let mut load = DockerLoad::start(&topology, PATIENCE);

    let leader = topology.leader();
    text(&docker(&["kill", &leader]));
    topology.leader_other_than(&leader);
    let tally = load.goes_on(200);
    println!("leader killed: {}", tally.gaps());
    assert_eq!(tally.failed, 0, "{tally:?}");
    text(&docker(&["start", &leader]));

    let first = topology.container("acceptor-1");
    text(&docker(&["kill", &first]));
    let tally = load.goes_on(200);
    println!("acceptor killed: {}", tally.gaps());
    assert_eq!(tally.failed, 0, "{tally:?}");

    let second = topology.container("acceptor-2");
    text(&docker(&["kill", &second]));
    is_unavailable(&topology);
    text(&docker(&["start", &first]));
    let tally = load.goes_on(200);
    println!("two acceptors killed, one started: {}", tally.gaps());
    assert_eq!(
        tally.failed, 0,
        "the library waits for its whole timeout: {tally:?}"
    );
    text(&docker(&["start", &second]));
    topology.is_healthy();
    topology.finds_nothing_wrong();
    load.stop();
    Completion::Completed
}

/// Without a quorum, writes, reads and the status end with an exit code and a text about the lost quorum.
fn is_unavailable(topology: &Topology) {
    for words in [["put", "colour", "blue"].as_slice(), &["get", "colour"]] {
        let refused = topology.client(&[words, &["--timeout", "3s"]].concat());
        let error = String::from_utf8_lossy(&refused.stderr);
        println!(
            "{words:?} without a quorum: {}",
            error
                .lines()
                .find(|line| line.starts_with("error"))
                .unwrap_or(&error)
        );
        assert_eq!(refused.status.code(), Some(69), "{refused:?}");
        assert!(error.contains("`paxos status` shows what is wrong"), "{error}");
    }
    let (status, code) = topology.status();
    assert_eq!(code, Some(69), "{status}");
    let problem = status["findings"][0]["problem"].as_str().unwrap();
    assert!(
        problem.contains("no quorum: 1 of 3 acceptors answer"),
        "{problem}"
    );
}

/// A power cut of the whole machine, as far as containers allow.
pub(crate) fn all_at_once(engine: Engine) -> Completion {
    let topology = Topology::up(engine);
    let mut load = DockerLoad::start(&topology, PATIENCE);
    let containers = topology.all();
    let containers: Vec<_> = containers.iter().map(String::as_str).collect();
    for round in 1..=2 {
        text(&docker(&[&["kill"], &containers[..]].concat()));
        load.look();
        text(&docker(&[&["start"], &containers[..]].concat()));
        let tally = load.goes_on(200);
        println!("all killed, round {round}: {}", tally.gaps());
        assert_eq!(tally.failed, 0, "{tally:?}");
    }
    topology.is_healthy();
    topology.finds_nothing_wrong();
    load.stop();
    Completion::Completed
}
