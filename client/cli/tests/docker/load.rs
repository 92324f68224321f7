//! Load: the clients in a container of the network, as seen by the test on the machine.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

use super::{
    engine::docker,
    topology::{PATIENCE, Topology},
    worker::{FLAG, STOP, WorkSummary, WorkTally},
};

/// Clients that read, write and append until stopped. Dropping the load removes the container.
pub(crate) struct DockerLoad {
    name: String,
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl DockerLoad {
    /// Starts the load, with `patience` for each call, and waits until calls succeed.
    pub(crate) fn start(topology: &Topology, patience: Duration) -> Self {
        let name = topology.name("load");
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new("docker")
            .args(["run", "--rm", "--interactive", "--init", "--name", &name])
            .args(["--network", &topology.network()])
            .args(["--env", &format!("PAXOS_ACCEPTORS={}", topology.acceptors())])
            .args(["--volume", &format!("{}:/load:ro", program.display())])
            .args([topology.image(), "/load", FLAG, &patience.as_secs().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut load = Self {
            name,
            child,
            orders,
            answers,
        };
        load.goes_on(50);
        load.look();
        load
    }

    /// The tally since the last call of this function.
    pub(crate) fn look(&mut self) -> WorkTally {
        self.ask("look")
    }

    /// Waits until this many further calls have succeeded. Returns the tally since the last look.
    pub(crate) fn goes_on(&mut self, count: u64) -> WorkTally {
        let begun = Instant::now();
        let mut sum = WorkTally::default();
        while sum.succeeded < count {
            assert!(begun.elapsed() < PATIENCE, "the load does not go on: {sum:?}");
            std::thread::sleep(Duration::from_millis(100));
            sum.add(self.look());
        }
        sum
    }

    /// Stops the clients, and checks their answers against the log and against each other.
    pub(crate) fn stop(mut self) -> WorkSummary {
        let summary = self.ask(STOP);
        assert!(
            self.child.wait().unwrap().success(),
            "the load found something wrong"
        );
        println!("{summary:?}");
        summary
    }

    fn ask<T: DeserializeOwned>(&mut self, order: &str) -> T {
        let asked = writeln!(self.orders, "{order}");
        let answer = asked.ok().and_then(|()| self.answers.next()).and_then(Result::ok);
        let answer = answer.expect("the load has ended, and says above why");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}

impl Drop for DockerLoad {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            docker(&["rm", "--force", &self.name]);
            let _ = self.child.wait();
        }
    }
}
