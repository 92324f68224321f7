//! A cluster with live processes and a broken network between processes.

use std::time::Duration;

use crate::harness::{
    BackgroundLoad, Cluster, Cut, LoadOutcome, PATIENCE, Process, Proxy, free_ports, until,
};
use paxos_client::{Client, ClientConfig, ProposeError};
use paxos_common::peer::connect_lazy;
use paxos_proto::v1::{
    LearnerStatusRequest, ProposerPhase, ProposerStatusRequest, ProposerStatusResponse,
    learner_client::LearnerClient, proposer_client::ProposerClient,
};

/// Time without an answer: long for a leader, because a leader gives up after 200 ms without a quorum.
const UNANSWERED: Duration = Duration::from_secs(2);

/// A cluster with a separate proxy for each connection of a proposer or learner to an acceptor.
struct CutNetwork {
    cluster: Cluster,
    /// For each proposer: a proxy in front of each acceptor.
    proposers: Vec<Vec<Proxy>>,
    learners: Vec<Vec<Proxy>>,
}

impl CutNetwork {
    async fn start(proposers: usize, learners: usize) -> Self {
        Self::with(proposers, learners, &[]).await
    }

    async fn with(proposers: usize, learners: usize, proposer_flags: &[&str]) -> Self {
        let mut network = Self {
            cluster: Cluster::blank_and_calm(3).await,
            proposers: Vec::new(),
            learners: Vec::new(),
        };
        for _ in 0..proposers {
            network.add_proposer(proposer_flags);
        }
        for _ in 0..learners {
            network.add_learner();
        }
        network.cluster.leader().await;
        network
    }

    fn proxies(&self) -> (Vec<Proxy>, String) {
        let acceptors = self.cluster.acceptors.iter();
        let proxies: Vec<_> = acceptors
            .map(|acceptor| Proxy::before(&acceptor.address))
            .collect();
        let urls: Vec<_> = proxies.iter().map(|proxy| proxy.address.to_string()).collect();
        (proxies, urls.join(","))
    }

    fn add_proposer(&mut self, flags: &[&str]) {
        let (proxies, urls) = self.proxies();
        self.cluster.add_proposer(&urls, flags);
        self.proposers.push(proxies);
    }

    fn add_learner(&mut self) {
        let (proxies, urls) = self.proxies();
        let name = format!("learner-{}", self.cluster.learners.len() + 1);
        let data_dir = self.cluster.path(&name);
        let flags = ["--acceptors", &urls, "--data-dir", &data_dir];
        let dir = self.cluster.dir.path();
        let learner = Process::role(dir, "learner", name, free_ports(1), &flags);
        self.cluster.learners.push(learner);
        self.learners.push(proxies);
    }

    fn cut_proposer(&self, proposer: usize, acceptors: &[usize], cut: Cut) {
        for &acceptor in acceptors {
            self.proposers[proposer][acceptor].set(cut);
        }
    }

    /// A client that knows only this proposer.
    fn client_of(&self, proposer: usize) -> Client {
        let acceptors = &self.cluster.acceptors;
        let mut config = ClientConfig::new(acceptors.iter().map(|process| &process.address)).unwrap();
        config.proposers = vec![self.cluster.proposers[proposer].address.clone()];
        config.timeout = PATIENCE;
        Client::new(config).unwrap()
    }

    /// Waits for the answer of a proposer that has just started.
    async fn proposer_status(&self, proposer: usize) -> ProposerStatusResponse {
        let channel = connect_lazy(&self.cluster.proposers[proposer].address);
        until("the proposer answers", async || {
            let mut client = ProposerClient::new(channel.clone());
            let status = client.status(ProposerStatusRequest {});
            Some(status.await.ok()?.into_inner())
        })
        .await
    }

    /// Number of campaigns of each proposer.
    fn campaigns(&self) -> Vec<usize> {
        let proposers = self.cluster.proposers.iter();
        proposers
            .map(|proposer| proposer.log().matches(" campaigning ").count())
            .collect()
    }

    /// Checks every learner's log against the answers to clients.
    async fn check(&self, outcome: &LoadOutcome) {
        let end = self.cluster.client().chosen_to().await.unwrap();
        let end = end.max(outcome.end());
        for learner in &self.cluster.learners {
            outcome.check(&self.cluster.log_of(learner, end).await);
        }
        self.cluster.digests_are_equal(end).await;
    }
}

/// A leader loses two of three acceptors, by this cut.
async fn minority(cut: Cut) {
    let mut network = CutNetwork::start(1, 2).await;
    let mut outcome = BackgroundLoad::start(&network.cluster, 1, 200, 16).finish().await;
    assert!(outcome.acknowledged.len() > 100, "served at first");

    network.cut_proposer(0, &[1, 2], cut);
    let alone = network
        .client_of(0)
        .with_timeout(UNANSWERED)
        .append_at_most_once("alone")
        .await;
    match alone {
        Err(ProposeError::OutcomeUnknown(_)) => _ = outcome.unknown.insert(b"alone".to_vec()),
        Err(ProposeError::NotProposed(_)) => _ = outcome.not_proposed.insert(b"alone".to_vec()),
        Ok(_) | Err(_) => panic!("{alone:?}"),
    }
    until("the leader without a quorum steps down", async || {
        let phase = network.proposer_status(0).await.phase();
        (phase != ProposerPhase::Leading).then_some(())
    })
    .await;

    // A second proposer with a quorum serves all clients. Clients of the first proposer are served too, because the
    // first proposer can forward.
    network.add_proposer(&[]);
    until("the proposer with a quorum leads", async || {
        let phase = network.proposer_status(1).await.phase();
        (phase == ProposerPhase::Leading).then_some(())
    })
    .await;
    outcome.merge(
        BackgroundLoad::named(&network.cluster, "during", 2, 1_500, 16)
            .finish()
            .await,
    );
    let through_the_first = BackgroundLoad::of(vec![network.client_of(0)], "forwarded", 200, 16);
    outcome.merge(through_the_first.finish().await);
    assert!(outcome.acknowledged.len() > 3_000, "served by the second");
    let campaigns = network.campaigns();
    eprintln!("campaigns after {cut:?}: {campaigns:?}");
    assert!(campaigns.iter().sum::<usize>() <= 6, "a storm: {campaigns:?}");

    // Messages held by the cut arrive now, too late to do harm.
    network.cut_proposer(0, &[1, 2], Cut::Whole);
    outcome.merge(
        BackgroundLoad::named(&network.cluster, "healed", 2, 500, 16)
            .finish()
            .await,
    );
    network.cluster.proposers[1].kill();
    outcome.merge(
        BackgroundLoad::named(&network.cluster, "replaced", 1, 100, 16)
            .finish()
            .await,
    );
    assert_eq!(network.cluster.leader().await, 0);
    network.check(&outcome).await;
}

#[tokio::test]
async fn leader_cut_off_from_most_acceptors_acknowledges_nothing_and_gives_way() {
    minority(Cut::Both).await;
}

#[tokio::test]
async fn leader_that_most_acceptors_do_not_hear_gives_way() {
    minority(Cut::Requests).await;
}

#[tokio::test]
async fn leader_that_does_not_hear_most_acceptors_gives_way() {
    minority(Cut::Answers).await;
}

#[tokio::test]
async fn half_cut_standby_does_not_disturb_a_leader_that_has_a_quorum() {
    let network = CutNetwork::with(2, 2, &["--leader-timeout", "500ms"]).await;
    let leader = network.cluster.leader().await;
    let ballot = network.proposer_status(leader).await.ballot;
    // The acceptor cut off from the leader sees no leader, and reports this to the standby.
    network.cut_proposer(leader, &[2], Cut::Both);
    network.cut_proposer(1 - leader, &[0], Cut::Both);
    let load = BackgroundLoad::start(&network.cluster, 2, 3_000, 16);
    until("one acceptor misses the leader", async || {
        let leadership = network.cluster.acceptor_status(2).await?.leadership?;
        (leadership.silent_ms > 2_000).then_some(())
    })
    .await;
    let outcome = load.finish().await;
    assert_eq!(outcome.acknowledged.len(), 6_000);
    assert_eq!(
        network.proposer_status(leader).await.ballot,
        ballot,
        "it leads on"
    );
    network.cut_proposer(leader, &[2], Cut::Whole);
    network.cut_proposer(1 - leader, &[0], Cut::Whole);
    // Healthy: the third acceptor hears the leader again, and has caught up.
    network.check(&outcome).await;
    assert_eq!(network.proposer_status(leader).await.ballot, ballot);
}

#[tokio::test]
async fn proposer_that_hears_no_acceptor_does_not_keep_the_others_from_leading() {
    let mut network = CutNetwork::start(3, 2).await;
    let mut outcome = BackgroundLoad::start(&network.cluster, 1, 200, 16).finish().await;
    let first = network.cluster.leader().await;
    let (deaf, second) = ((first + 1) % 3, (first + 2) % 3);
    // The acceptors hear the questions of this proposer, but the proposer hears no answer. To this proposer, the leader
    // looks dead.
    network.cut_proposer(deaf, &[0, 1, 2], Cut::Answers);
    outcome.merge(
        BackgroundLoad::named(&network.cluster, "deaf", 2, 1_000, 16)
            .finish()
            .await,
    );
    network.cluster.proposers[first].kill();
    until("the one that hears a quorum leads", async || {
        let phase = network.proposer_status(second).await.phase();
        (phase == ProposerPhase::Leading).then_some(())
    })
    .await;
    let ballot = network.proposer_status(second).await.ballot;
    outcome.merge(
        BackgroundLoad::named(&network.cluster, "led by the second", 2, 3_000, 16)
            .finish()
            .await,
    );
    let campaigns = network.campaigns();
    eprintln!("campaigns beside one that hears nobody: {campaigns:?}");
    assert!(campaigns.iter().sum::<usize>() <= 6, "a storm: {campaigns:?}");
    network.cut_proposer(deaf, &[0, 1, 2], Cut::Whole);
    outcome.merge(
        BackgroundLoad::named(&network.cluster, "healed", 2, 500, 16)
            .finish()
            .await,
    );
    assert_eq!(
        network.proposer_status(second).await.ballot,
        ballot,
        "it leads on"
    );
    assert!(outcome.acknowledged.len() > 8_000);
    network.cluster.proposers[first].start();
    network.check(&outcome).await;
}

#[tokio::test]
async fn cluster_goes_on_after_every_proposer_was_cut_off_from_every_acceptor() {
    let network = CutNetwork::start(2, 2).await;
    let load = BackgroundLoad::start(&network.cluster, 2, 2_000, 16);
    load.reached(1_000).await;
    for proposer in 0..2 {
        network.cut_proposer(proposer, &[0, 1, 2], Cut::Both);
    }
    until("nobody leads", async || {
        for proposer in 0..2 {
            if network.proposer_status(proposer).await.phase() == ProposerPhase::Leading {
                return None;
            }
        }
        Some(())
    })
    .await;
    let before = load.done();
    let nothing = network
        .client_of(0)
        .with_timeout(UNANSWERED)
        .append_at_most_once("nothing")
        .await;
    assert!(nothing.is_err(), "{nothing:?}");
    for proposer in 0..2 {
        network.cut_proposer(proposer, &[0, 1, 2], Cut::Whole);
    }
    load.goes_on(500).await;
    let mut outcome = load.finish().await;
    if let Err(ProposeError::OutcomeUnknown(_)) = nothing {
        outcome.unknown.insert(b"nothing".to_vec());
    }
    assert!(before < 4_000 && outcome.acknowledged.len() > 3_500);
    let campaigns = network.campaigns();
    eprintln!("campaigns after nobody reached anybody: {campaigns:?}");
    assert!(campaigns.iter().sum::<usize>() <= 8, "a storm: {campaigns:?}");
    network.check(&outcome).await;
}

#[tokio::test]
async fn learner_follows_the_log_past_any_cut_off_acceptor() {
    let network = CutNetwork::start(1, 1).await;
    let mut outcome = LoadOutcome::default();
    let channel = connect_lazy(&network.cluster.learners[0].address);
    let applied = async || {
        until("the learner answers", async || {
            let mut client = LearnerClient::new(channel.clone());
            let status = client.status(LearnerStatusRequest {});
            Some(status.await.ok()?.into_inner().applied_to)
        })
        .await
    };
    for (acceptor, (cut, name)) in [
        (Cut::Answers, "one"),
        (Cut::Requests, "two"),
        (Cut::Both, "three"),
    ]
    .into_iter()
    .enumerate()
    {
        network.learners[0][acceptor].set(cut);
        let load = BackgroundLoad::named(&network.cluster, name, 1, 300, 16)
            .finish()
            .await;
        until("the learner follows two of three", async || {
            (applied().await >= load.end().get()).then_some(())
        })
        .await;
        outcome.merge(load);
        network.learners[0][acceptor].set(Cut::Whole);
    }
    // With a single acceptor, the learner learns nothing more, and does no harm.
    network.learners[0][0].set(Cut::Both);
    network.learners[0][1].set(Cut::Answers);
    let before = applied().await;
    let load = BackgroundLoad::named(&network.cluster, "unseen", 1, 2_000, 16)
        .finish()
        .await;
    assert_eq!(load.acknowledged.len(), 2_000);
    let end = load.end().get();
    outcome.merge(load);
    let seen = applied().await;
    assert!(seen < end, "{before} to {seen} of {end}");
    network.learners[0][0].set(Cut::Whole);
    network.learners[0][1].set(Cut::Whole);
    let log = network
        .cluster
        .log_of(&network.cluster.learners[0], outcome.end())
        .await;
    outcome.check(&log);
}

#[tokio::test]
async fn standby_whose_clients_cannot_reach_the_leader_takes_over_from_it() {
    let mut cluster = Cluster::blank_and_calm(3).await;
    let mut doors = Vec::new();
    for number in 1..=2 {
        let port = free_ports(1);
        let door = Proxy::before(&format!("http://127.0.0.1:{port}").parse().unwrap());
        let flags = [
            "--acceptors",
            &cluster.urls(),
            "--advertise",
            door.address.as_str(),
        ];
        let name = format!("proposer-{number}");
        let mut proposer = Process::role(cluster.dir.path(), "proposer", name, port, &flags);
        proposer.address = door.address.clone();
        cluster.proposers.push(proposer);
        doors.push(door);
    }
    for number in 1..=2 {
        cluster.add_learner(format!("learner-{number}"), &[]);
    }
    let mut network = CutNetwork {
        cluster,
        proposers: Vec::new(),
        learners: Vec::new(),
    };
    let leader = network.cluster.leader().await;
    let standby = 1 - leader;
    // The acceptors still hear the leader; no client and no proposer does.
    doors[leader].set(Cut::Both);
    let client = network.client_of(standby);
    let outcome = BackgroundLoad::of(vec![client], "through the standby", 500, 16)
        .finish()
        .await;
    assert!(outcome.acknowledged.len() > 400);
    assert_eq!(network.cluster.leader().await, standby);
    let campaigns = network.campaigns();
    eprintln!("campaigns after clients and standby lost the leader: {campaigns:?}");
    assert!(campaigns.iter().sum::<usize>() <= 6, "a storm: {campaigns:?}");
    doors[leader].set(Cut::Whole);
    network.check(&outcome).await;
    network.cluster.proposers[standby].kill();
    network.cluster.leader().await;
}
