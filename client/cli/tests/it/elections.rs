//! Elections as users see an election: a single holder at a time, with a growing token.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use crate::harness::{Cluster, paxos, run, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const TTL: Duration = Duration::from_secs(2);

/// A process that campaigns. While holding, the process appends a line with name and token to `file`, ten times a
/// second.
struct Candidate {
    name: String,
    child: Child,
}

impl Candidate {
    fn start(cluster: &Cluster, name: &str, file: &Path) -> Self {
        let work = format!(
            "while true; do echo {name} $PAXOS_FENCING_TOKEN >> {}; sleep 0.1; done",
            file.display()
        );
        let urls = cluster.urls();
        let ttl = format!("{}s", TTL.as_secs());
        let args = [
            "elect",
            "job",
            "--as",
            name,
            "--ttl",
            &ttl,
            "--acceptors",
            &urls,
            "--",
            "sh",
            "-c",
            &work,
        ];
        let child = paxos(&args).spawn().unwrap();
        let name = name.to_owned();
        Self { name, child }
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(id, signal).unwrap();
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines so far: worker and token.
fn lines(file: &Path) -> Vec<(String, u64)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = |line: &str| {
        let (name, token) = line.split_once(' ')?;
        Some((name.to_owned(), token.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Waits until a candidate other than `before` works. Returns its name and token.
async fn holder(file: &Path, before: &str) -> (String, u64) {
    until("somebody else works", async || {
        lines(file).last().filter(|(name, _)| name != before).cloned()
    })
    .await
}

#[tokio::test]
async fn another_takes_over_from_a_killed_holder_and_the_token_grows() {
    let cluster = Cluster::start(3, 2, 2).await;
    let file = cluster.dir.path().join("work");
    let mut candidates: Vec<_> = ["one", "two", "three"]
        .map(|name| Candidate::start(&cluster, name, &file))
        .into();
    let (mut name, mut token) = holder(&file, "").await;
    for _ in 0..2 {
        let place = candidates
            .iter()
            .position(|candidate| candidate.name == name)
            .unwrap();
        let killed = Instant::now();
        candidates.remove(place).signal(Signal::SIGKILL);
        let (next, greater) = holder(&file, &name).await;
        println!("{next} took over after {:?}", killed.elapsed());
        assert!(greater > token, "{greater} must be above {token}");
        (name, token) = (next, greater);
    }
    // Once the killed holder's command was gone, no command worked with a token below an earlier token.
    let tokens: Vec<_> = lines(&file).into_iter().map(|(_, token)| token).collect();
    assert!(tokens.is_sorted(), "{tokens:?}");
}

#[tokio::test]
async fn holder_paused_past_its_time_stops_its_command() {
    let cluster = Cluster::start(3, 1, 1).await;
    let file = cluster.dir.path().join("work");
    let mut paused = Candidate::start(&cluster, "paused", &file);
    let (_, token) = holder(&file, "").await;
    paused.signal(Signal::SIGSTOP);
    let other = Candidate::start(&cluster, "other", &file);
    // The paused process's command still runs: the token protects the resource of the command.
    let greater = until("the other one works", async || {
        lines(&file)
            .iter()
            .find(|(name, _)| *name == other.name)
            .map(|(_, token)| *token)
    })
    .await;
    assert!(greater > token);
    paused.signal(Signal::SIGCONT);
    let status = until("the paused one gives up", async || {
        paused.child.try_wait().unwrap()
    })
    .await;
    assert_eq!(status.code(), Some(1));
    let count = |name: &str| lines(&file).iter().filter(|(worked, _)| worked == name).count();
    let before = (count("paused"), count("other"));
    until("the other one goes on", async || {
        (count("other") > before.1 + 5).then_some(())
    })
    .await;
    assert_eq!(count("paused"), before.0, "its command is stopped");
}

#[tokio::test]
async fn command_that_ends_resigns_and_its_exit_code_is_passed_on() {
    let cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    let begun = Instant::now();
    for expected in [3, 0] {
        let script = format!("exit {expected}");
        let args = [
            "elect",
            "job",
            "--ttl",
            "60s",
            "--acceptors",
            &urls,
            "--",
            "sh",
            "-c",
            &script,
        ];
        let output = run(&args).await;
        assert_eq!(output.status.code(), Some(expected), "{output:?}");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "the second did not wait for the first one's time to be up"
    );
}

#[tokio::test]
async fn candidate_that_leaves_while_it_wins_holds_nothing() {
    let cluster = Cluster::start(3, 1, 1).await;
    let (urls, client) = (cluster.urls(), cluster.client());
    for round in 0..20_u64 {
        let name = format!("job-{round}");
        let args = ["elect", &name, "--ttl", "1h", "--acceptors", &urls];
        let mut child = paxos(&args).stdout(Stdio::piped()).spawn().unwrap();
        if round % 2 == 0 {
            // The first line is printed while the candidate tries to win.
            let mut line = String::new();
            let mut printed = BufReader::new(child.stdout.take().unwrap());
            printed.read_line(&mut line).unwrap();
        } else {
            tokio::time::sleep(Duration::from_millis(5 + 3 * round)).await;
            kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        }
        until("the candidate ends", async || child.try_wait().unwrap()).await;
        assert_eq!(client.get(name).await.unwrap(), None, "round {round}");
    }
}
