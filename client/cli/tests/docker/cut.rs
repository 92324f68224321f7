//! Cut: containers lose the network, wholly, to some peers, or in one direction, or are paused for a while.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use libtest_mimic::Completion;
use nix::unistd::Uid;

use super::{
    engine::{Engine, docker, run, text},
    load::DockerLoad,
    topology::{PATIENCE, Topology, until},
};

/// Shortest duration of a cut.
const CUT: Duration = Duration::from_secs(8);
/// Duration of a pause.
const PAUSED: Duration = Duration::from_secs(10);

/// Disconnects an acceptor, and then the leader, from the network.
pub(crate) fn disconnected(engine: Engine) -> Completion {
    let topology = Topology::up(engine);
    let mut load = DockerLoad::start(&topology, PATIENCE);
    let network = topology.network();

    let acceptor = topology.container("acceptor-3");
    text(&docker(&["network", "disconnect", &network, &acceptor]));
    sleep(CUT);
    let tally = load.goes_on(200);
    println!("acceptor disconnected: {}", tally.gaps());
    assert_eq!(tally.failed, 0, "{tally:?}");
    // A reconnect does not restore Compose's alias for the container.
    text(&docker(&[
        "network",
        "connect",
        "--alias",
        "acceptor-3",
        &network,
        &acceptor,
    ]));
    topology.finds_nothing_wrong();

    let leader = topology.leader();
    text(&docker(&["network", "disconnect", &network, &leader]));
    topology.leader_other_than(&leader);
    let tally = load.goes_on(200);
    println!("leader disconnected: {}", tally.gaps());
    assert_eq!(tally.failed, 0, "{tally:?}");
    text(&docker(&["network", "connect", &network, &leader]));
    until("it is attached again", || {
        let proposers = topology.attached("proposer");
        proposers
            .iter()
            .any(|address| address.contains(&leader))
            .then_some(())
    });
    topology.finds_nothing_wrong();
    load.stop();
    Completion::Completed
}

/// Direction of the blocked packets, seen from the container with the rule.
#[derive(Clone, Copy, Debug)]
enum CutWay {
    In,
    Out,
    Both,
}

/// A rule in a container's network namespace; removed by [`heal`](Self::heal), or together with the container.
struct DockerCut {
    process: String,
}

impl DockerCut {
    /// Blocks all packets between a container and these addresses, in this direction.
    fn between(container: &str, others: &[String], way: CutWay) -> Self {
        let process = text(&docker(&["inspect", "--format", "{{.State.Pid}}", container]));
        let cut = Self { process };
        let others = others.join(", ");
        let chain = |name: &str, field: &str| {
            format!(
                "add chain inet cut {name} {{ type filter hook {name} priority 0; }}; \
                 add rule inet cut {name} ip {field} {{ {others} }} drop; "
            )
        };
        let mut rules = "add table inet cut; ".to_owned();
        if matches!(way, CutWay::In | CutWay::Both) {
            rules += &chain("input", "saddr");
        }
        if matches!(way, CutWay::Out | CutWay::Both) {
            rules += &chain("output", "daddr");
        }
        cut.nft(&rules);
        cut
    }

    fn heal(self) {
        self.nft("delete table inet cut");
    }

    fn nft(&self, rules: &str) {
        let words = ["nsenter", "--target", &self.process, "--net", "nft", rules];
        text(&run(Duration::from_secs(10), &words, &[]));
    }

    /// The reason why this machine cannot make such a rule; `None` if possible.
    fn obstacle() -> Option<&'static str> {
        let has_nft = run(
            Duration::from_secs(10),
            &["sh", "-c", "command -v nft nsenter"],
            &[],
        );
        if !Uid::effective().is_root() {
            Some("only root may enter a container's network")
        } else if !has_nft.status.success() {
            Some("nft or nsenter is not installed")
        } else {
            None
        }
    }
}

fn address(container: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    text(&docker(&["inspect", "--format", format, container]))
}

/// The leader loses a minority of the acceptors, then a majority, then all acceptors in one direction.
pub(crate) fn leader_cut_off(engine: Engine) -> Completion {
    if let Some(reason) = DockerCut::obstacle() {
        return Completion::ignored_with(reason);
    }
    let topology = Topology::up(engine);
    let mut load = DockerLoad::start(&topology, PATIENCE);
    let acceptors = ["acceptor-1", "acceptor-2", "acceptor-3"];
    let acceptors = acceptors.map(|service| address(&topology.container(service)));

    for (count, way) in [
        (1, CutWay::Both),
        (2, CutWay::Both),
        (2, CutWay::In),
        (2, CutWay::Out),
        (3, CutWay::In),
        (3, CutWay::Out),
    ] {
        let leader = topology.leader();
        load.look();
        let cut = DockerCut::between(&leader, &acceptors[..count], way);
        if count > 1 {
            topology.leader_other_than(&leader);
        }
        sleep(CUT / 2);
        let mut tally = load.goes_on(200);
        cut.heal();
        tally.add(load.goes_on(200));
        println!("leader cut off from {count} acceptors, {way:?}: {}", tally.gaps());
        assert_eq!(tally.failed, 0, "{tally:?}");
        topology.finds_nothing_wrong();
    }
    load.stop();
    Completion::Completed
}

/// The leader is paused for longer than the leader timeout, and then resumes under a new leader. A learner is paused
/// too.
pub(crate) fn paused(engine: Engine) -> Completion {
    let topology = Topology::up(engine);
    let mut load = DockerLoad::start(&topology, PATIENCE);
    for what in ["leader", "learner"] {
        let container = match what {
            "leader" => topology.leader(),
            _ => topology.container("learner"),
        };
        let begun = Instant::now();
        load.look();
        text(&docker(&["pause", &container]));
        if what == "leader" {
            topology.leader_other_than(&container);
        }
        let mut tally = load.goes_on(200);
        sleep(PAUSED.saturating_sub(begun.elapsed()));
        text(&docker(&["unpause", &container]));
        tally.add(load.goes_on(200));
        println!("{what} paused for {PAUSED:?}: {}", tally.gaps());
        assert_eq!(tally.failed, 0, "{tally:?}");
        topology.is_healthy();
        topology.finds_nothing_wrong();
    }
    load.stop();
    Completion::Completed
}
