//! Members: a lost volume is replaced, and three acceptors become five and three again, by the documented commands.

use libtest_mimic::Completion;

use super::{
    engine::{Engine, docker, text},
    load::DockerLoad,
    scale::{CALL, nothing_failed},
    topology::{Topology, until},
};

/// The acceptors that are added.
pub(crate) const ADDED: [&str; 2] = ["http://acceptor-4:7001", "http://acceptor-5:7001"];

/// An acceptor returns without its volume, is refused, and is replaced while clients write.
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
    // On this machine and in the network, the list has the same command.
    for list in [
        topology.on_host(&["member", "list"]),
        topology.in_acceptor(&["member", "list"]),
    ] {
        let list = text(&list);
        assert!(
            list.contains("lost its disk\n    what to do: paxos member replace acceptor-3"),
            "{list}"
        );
    }
    assert_eq!(
        text(&topology.client(&["get", "colour", "--at-least", &version])),
        "blue"
    );
    // A proposer started now does not count the acceptor either.
    topology.scale_beside(1, 1, Some("acceptor-3"));
    topology.scale_beside(2, 1, Some("acceptor-3"));
    text(&topology.client(&["put", "colour", "red"]));
    // The remaining quorum is exactly large enough.
    let spare = topology.container("acceptor-2");
    docker(&["kill", &spare]);
    let refused = topology.client(&["put", "colour", "lost", "--timeout", "3s"]);
    assert_eq!(refused.status.code(), Some(69), "{refused:?}");
    text(&docker(&["start", &spare]));

    let mut load = DockerLoad::start(&topology, CALL);
    let replaced = text(&topology.in_acceptor(&["member", "replace", "http://acceptor-3:7001"]));
    println!("{replaced}");
    assert!(
        replaced.contains("done       era 1, 3 members, one may be lost"),
        "{replaced}"
    );
    nothing_failed("acceptor-3 replaced", &load.goes_on(200));
    topology.finds_nothing_wrong();
    topology.every_member_votes();
    docker(&["kill", &spare]);
    nothing_failed("acceptor-2 killed", &load.goes_on(200));
    assert_eq!(load.stop().unknown, 0);
    Completion::Completed
}

/// Three acceptors become five, processes get the longer list, two acceptors die, and five become three.
pub(crate) fn three_to_five_and_back(engine: Engine) -> Completion {
    let mut topology = Topology::up(engine);
    let mut load = DockerLoad::start(&topology, CALL);
    let running = topology.all();
    topology.start_two_more();
    assert_eq!(topology.all(), running, "no running container is touched");

    let added = text(&topology.in_acceptor(&[&["member", "add"], &ADDED[..]].concat()));
    println!("{added}");
    assert!(
        added.contains("done       era 1, 5 members, 2 may be lost"),
        "{added}"
    );
    nothing_failed("three to five", &load.goes_on(200));
    topology.expect_members(5);
    topology.is_healthy();
    topology.every_member_votes();

    for role in ["proposer", "learner"] {
        topology.recreate(role);
        topology.is_healthy();
        nothing_failed(&format!("the longer list for each {role}"), &load.goes_on(200));
    }
    let proposer = &topology.containers("proposer")[0];
    let list = text(&docker(&["exec", proposer, "sh", "-c", "echo $PAXOS_ACCEPTORS"]));
    assert!(list.ends_with(ADDED[1]), "{list}");
    let dead = ["acceptor-2", "acceptor-3"].map(|service| topology.container(service));
    for container in &dead {
        docker(&["kill", container]);
    }
    nothing_failed("two of five killed", &load.goes_on(200));
    for container in &dead {
        text(&docker(&["start", container]));
    }
    topology.is_healthy();
    topology.every_member_votes();

    let removed = text(&topology.in_acceptor(&[&["member", "remove"], &ADDED[..]].concat()));
    println!("{removed}");
    assert!(
        removed.contains("done       era 2, 3 members, one may be lost"),
        "{removed}"
    );
    text(&topology.compose(&["stop", "acceptor-4", "acceptor-5"]));
    nothing_failed("five to three", &load.goes_on(200));
    topology.expect_members(3);
    topology.every_member_votes();
    let log = text(&topology.in_acceptor(&["log"]));
    let changes: Vec<_> = log
        .lines()
        .filter(|line| line.contains(".-  members of era "))
        .collect();
    println!("{}", changes.join("\n"));
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert_eq!(load.stop().unknown, 0);
    Completion::Completed
}
