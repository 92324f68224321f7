//! Mutual TLS in containers: certificates by a service of the project, and each role with the key of its role alone.

use libtest_mimic::Completion;

use super::{
    engine::{Engine, docker, text},
    members::ADDED,
    topology::{Topology, until},
};

/// The roles, and the directories of certificates of their containers.
const ROLES: [(&str, &str); 3] = [
    ("acceptor-1", "acceptor"),
    ("proposer", "proposer"),
    ("learner", "learner"),
];

/// The first commands of `docker-compose.tls.yml`, a backup and two more acceptors by an operator, the loss of the leader,
/// and the files that containers see.
pub(crate) fn answers(engine: Engine) -> Completion {
    let mut topology = Topology::up_secure(engine);
    let decided = topology.client(&["decide", "leader-2026", "alice"]);
    assert_eq!(text(&decided), "alice");
    topology.finds_nothing_wrong();
    sees_own_key_alone(&topology);

    let refused = topology.client(&["backup", "/tmp/backup"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("Learner/Backup is for operators; this certificate says client"),
        "{said}"
    );
    text(&topology.compose(&["--profile", "backup", "run", "--rm", "-T", "backup"]));
    operator_adds_two(&mut topology);

    let leader = topology.leader();
    text(&docker(&["kill", &leader]));
    until("another proposer leads and takes writes", || {
        let put = topology.client(&["put", "colour", "blue", "--timeout", "5s"]);
        put.status.success().then_some(())
    });
    assert_eq!(text(&topology.client(&["get", "colour"])), "blue");
    Completion::Completed
}

/// An operator adds two acceptors, and a client may not.
fn operator_adds_two(topology: &mut Topology) {
    topology.start_two_more();
    let [fourth, fifth] = ADDED.map(|url| url.replace("http:", "https:"));
    let add = ["paxos", "member", "add", &fourth, &fifth];
    let refused = topology.client(&add[1..]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("Proposer/ChangeMembers is for operators; this certificate says client"),
        "{said}"
    );
    let added = text(&topology.compose(&[&["run", "--rm", "-T", "backup"], &add[..]].concat()));
    assert!(
        added.contains("done       era 1, 5 members, 2 may be lost"),
        "{added}"
    );
    topology.expect_members(5);
    topology.finds_nothing_wrong();
    topology.every_member_votes();
}

/// No role sees the key of another role, or of the CA.
fn sees_own_key_alone(topology: &Topology) {
    for (service, role) in ROLES {
        let container = &topology.containers(service)[0];
        let listed = text(&docker(&["exec", container, "find", "/tls", "-name", "*key*"]));
        assert_eq!(listed, format!("/tls/{role}/key.pem"), "{service}");
    }
}
