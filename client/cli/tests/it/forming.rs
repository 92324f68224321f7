//! How blank acceptors become one cluster, in spite of faults, and the refusals afterwards.

use std::{fs, path::Path};

use crate::harness::{BackgroundLoad, Cluster, LoadOutcome, Process, channel, free_ports, until};
use nix::sys::signal::Signal;
use paxos_common::{
    paxos::{identity::AcceptorUuid, quorum::Configuration},
    wire,
};
use paxos_proto::v1::{
    self as pb, FormRequest, FormResponse, Membership, acceptor_client::AcceptorClient, form_request::Step,
    proposer_client::ProposerClient,
};

impl Cluster {
    /// The calls of a forming proposer, made by the test: the acceptors end up as after a proposer killed midway.
    pub(crate) async fn form(&self, acceptor: usize, step: Option<Step>) -> FormResponse {
        let channel = channel(&self.acceptors[acceptor].address);
        until("the acceptor answers", async || {
            let request = FormRequest {
                caller: Some(wire::caller(None)),
                step: step.clone(),
            };
            let mut client = AcceptorClient::new(channel.clone());
            Some(client.form(request).await.ok()?.into_inner())
        })
        .await
    }

    /// The configuration with these acceptors as members.
    pub(crate) async fn configuration(&self, acceptors: &[usize]) -> pb::Configuration {
        let mut members = Vec::new();
        for &acceptor in acceptors {
            let stamp = self.form(acceptor, None).await.stamp;
            let uuid: AcceptorUuid = wire::read_stamp(stamp.as_ref()).unwrap().acceptor;
            members.push((uuid, self.acceptors[acceptor].address.as_str().into()));
        }
        let quorum = acceptors.len() / 2 + 1;
        pb::Configuration::from(&Configuration::new(members, quorum, quorum).unwrap())
    }

    fn urls_of(&self, acceptors: &[usize]) -> String {
        let urls = acceptors
            .iter()
            .map(|&acceptor| self.acceptors[acceptor].address.to_string());
        urls.collect::<Vec<_>>().join(",")
    }

    /// Waits until every acceptor is a member. Returns the cluster's id.
    async fn is_formed(&self) -> Vec<u8> {
        let mut clusters = Vec::new();
        for acceptor in 0..self.acceptors.len() {
            let id = until("the acceptor is a member", async || {
                let form = self.form(acceptor, None).await;
                (form.membership() == Membership::Formed).then(|| form.stamp.unwrap().cluster_id)
            });
            clusters.push(id.await.to_vec());
        }
        clusters.dedup();
        assert_eq!(clusters.len(), 1, "one cluster");
        clusters.remove(0)
    }

    /// Waits until `paxos status` reports such a problem with this exit code. Returns the advice.
    async fn finds(&self, problem: &str, exit: i32) -> String {
        until(&format!("status finds: {problem}"), async || {
            let (status, code) = self.status().await;
            let findings = status["findings"].as_array()?;
            let found = findings.iter().find(|finding| {
                finding["problem"]
                    .as_str()
                    .is_some_and(|text| text.contains(problem))
            })?;
            (code == Some(exit)).then(|| found["advice"].as_str().unwrap().to_owned())
        })
        .await
    }

    async fn serves(&self, name: &'static str) -> LoadOutcome {
        let outcome = BackgroundLoad::named(self, name, 1, 100, 16).finish().await;
        assert!(outcome.acknowledged.len() > 50, "{name}: values are ordered");
        outcome
    }
}

/// Waits until a process has logged this text.
pub(crate) async fn logs(process: &Process, text: &str) {
    until(&format!("{} logs: {text}", process.name), async || {
        process.log().contains(text).then_some(())
    })
    .await;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn proposers_that_start_together_form_one_cluster() {
    for _ in 0..3 {
        let mut cluster = Cluster::blank_and_calm(3).await;
        // Each proposer lists the acceptors in a different order.
        for acceptors in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            cluster.add_proposer(&cluster.urls_of(&acceptors), &[]);
        }
        cluster.is_formed().await;
        cluster.leader().await;
        cluster.serves("together").await;
    }
}

#[tokio::test]
async fn proposer_that_is_killed_while_it_forms_is_succeeded_by_the_next() {
    // How many acceptors have stored the list, and how many of these have learned that all acceptors have.
    for (stored, formed) in [(1, 0), (2, 0), (3, 0), (3, 1), (3, 2)] {
        let mut cluster = Cluster::blank_and_calm(3).await;
        let configuration = cluster.configuration(&[0, 1, 2]).await;
        for acceptor in 0..stored {
            cluster
                .form(acceptor, Some(Step::Store(configuration.clone())))
                .await;
        }
        for acceptor in 0..formed {
            cluster
                .form(acceptor, Some(Step::Complete(configuration.clone())))
                .await;
        }
        if formed == 0 {
            let (status, code) = cluster.status().await;
            assert_eq!(code, Some(69));
            let problem = status["findings"][0]["problem"].as_str().unwrap();
            assert!(problem.starts_with("the cluster is not formed"), "{problem}");
        }
        cluster.add_proposer(&cluster.urls(), &[]);
        cluster.is_formed().await;
        cluster.leader().await;
    }
}

#[tokio::test]
async fn cluster_forms_though_starting_proposers_are_killed() {
    let mut cluster = Cluster::blank_and_calm(3).await;
    cluster.add_proposer(&cluster.urls(), &[]);
    // Kill the proposer once its log has this text: before, while and after the proposer forms.
    for text in [
        "",
        "proposer starts",
        "waiting for acceptors",
        "cluster is formed",
    ] {
        let proposer = &mut cluster.proposers[0];
        until("it has come so far, or further", async || {
            let log = proposer.log();
            (log.contains(text) || log.contains("cluster is formed")).then_some(())
        })
        .await;
        proposer.kill();
        proposer.start();
    }
    cluster.is_formed().await;
    cluster.serves("at last").await;
}

#[tokio::test]
async fn acceptor_absent_while_its_cluster_formed_becomes_a_member_later() {
    let mut cluster = Cluster::blank_and_calm(3).await;
    let configuration = cluster.configuration(&[0, 1, 2]).await;
    for acceptor in 0..3 {
        cluster
            .form(acceptor, Some(Step::Store(configuration.clone())))
            .await;
    }
    cluster.form(0, Some(Step::Complete(configuration))).await;
    cluster.acceptors[2].kill();
    cluster.add_proposer(&cluster.urls(), &[]);
    cluster.serves("without it").await;
    cluster.acceptors[2].start();
    cluster.is_formed().await;
    cluster.acceptors[0].kill();
    cluster.serves("with it").await;
}

#[tokio::test]
async fn conflicting_member_lists_stop_forming_before_any_vote() {
    let mut cluster = Cluster::blank_and_calm(4).await;
    let first = cluster.configuration(&[0, 1, 2]).await;
    let second = cluster.configuration(&[1, 2, 3]).await;
    // Two proposers at the same time, each a step ahead of the other somewhere.
    cluster.form(0, Some(Step::Store(first.clone()))).await;
    cluster.form(1, Some(Step::Store(first.clone()))).await;
    cluster.form(2, Some(Step::Store(second.clone()))).await;
    cluster.form(3, Some(Step::Store(second.clone()))).await;
    for acceptors in [[0, 1, 2], [1, 2, 3]] {
        cluster.add_proposer(&cluster.urls_of(&acceptors), &[]);
    }
    let uuid = |member: &pb::Member| wire::acceptor_uuid(&member.acceptor).unwrap().to_string();
    for proposer in &mut cluster.proposers {
        assert_eq!(proposer.ended().await.code(), Some(78));
        let log = proposer.log();
        assert!(log.contains("the acceptors hold different lists"), "{log}");
        assert!(log.contains("empty every listed data directory"), "{log}");
        for member in first.members.iter().chain(&second.members) {
            assert!(log.contains(&uuid(member)), "{log}");
        }
    }
    let advice = cluster.finds("the acceptors hold different lists", 69).await;
    assert!(advice.contains("empty every listed data directory"), "{advice}");

    // Follow the advice.
    for acceptor in 0..4 {
        assert_eq!(cluster.acceptors[acceptor].stop().await.code(), Some(0));
        fs::remove_dir_all(cluster.path(&cluster.acceptors[acceptor].name)).unwrap();
        cluster.acceptors[acceptor].start();
    }
    cluster.acceptors.pop();
    cluster.add_proposer(&cluster.urls(), &[]);
    cluster.is_formed().await;
    cluster.serves("after all").await;
}

#[tokio::test]
async fn proposers_with_different_lists_never_both_serve() {
    let mut cluster = Cluster::blank_and_calm(4).await;
    for acceptors in [[0, 1, 2], [1, 2, 3]] {
        cluster.add_proposer(&cluster.urls_of(&acceptors), &[]);
    }
    // At least one is refused. The race between both decides whether the first, the second or both are.
    let refused = until("one of them is refused", async || {
        (0..2).find(|&proposer| cluster.proposers[proposer].log().contains("error: "))
    })
    .await;
    assert_eq!(cluster.proposers[refused].ended().await.code(), Some(78));
    let log = cluster.proposers[refused].log();
    assert!(log.contains("list"), "{log}");
}

#[tokio::test]
async fn acceptor_of_another_cluster_is_refused_and_a_wrong_list_is_a_hint() {
    let mut cluster = Cluster::blank_and_calm(4).await;
    cluster.add_proposer(&cluster.urls_of(&[0, 1, 2]), &[]);
    cluster.leader().await;
    let ours = hex(&cluster.form(0, None).await.stamp.unwrap().cluster_id);
    let other = cluster.configuration(&[3]).await;
    cluster.form(3, Some(Step::Store(other.clone()))).await;
    cluster.form(3, Some(Step::Complete(other))).await;
    let (wrong, short) = (cluster.urls_of(&[0, 1, 3]), cluster.urls_of(&[1]));
    cluster.add_proposer(&wrong, &[]);
    let wrong_list = "the acceptors hold different lists";
    let refused = cluster.proposers.last_mut().unwrap();
    assert_eq!(refused.ended().await.code(), Some(78), "{}", refused.log());
    assert!(refused.log().contains(wrong_list), "{}", refused.log());
    cluster.proposers.pop();
    cluster.add_proposer(&short, &[]);
    let refused = cluster.proposers.last_mut().unwrap();
    assert_eq!(refused.ended().await.code(), Some(78), "{}", refused.log());
    cluster.proposers.pop();
    // A learner learns from the given addresses alone.
    for (urls, text) in [
        (&wrong, wrong_list),
        (
            &short,
            "1 acceptor addresses are given, but the cluster has 3 acceptors",
        ),
    ] {
        let name = format!("learner-{}", cluster.learners.len() + 1);
        let flags = ["--acceptors", urls.as_str()];
        let mut learner = Process::role(cluster.dir.path(), "learner", name, free_ports(1), &flags);
        assert_eq!(learner.ended().await.code(), Some(78), "{}", learner.log());
        assert!(learner.log().contains(text), "{}", learner.log());
    }
    // With the cluster's id, a proposer finds all members by one address, names them once, and ignores strangers.
    let members = cluster.urls_of(&[0, 1, 2]);
    cluster.add_proposer(&short, &["--cluster", &ours]);
    cluster.add_proposer(&wrong, &["--cluster", &ours]);
    cluster.proposers.remove(0).kill();
    for proposer in &cluster.proposers {
        logs(proposer, "is not the list of the members").await;
        for member in members.split(',') {
            assert!(proposer.log().contains(member), "{}", proposer.log());
        }
    }
    let leader = cluster.leader().await;
    let channel = channel(&cluster.proposers[leader].address);
    until("the leader reaches all members", async || {
        let mut client = ProposerClient::new(channel.clone());
        let status = client.status(pb::ProposerStatusRequest {}).await.ok()?;
        (status.into_inner().acceptors.len() == 3).then_some(())
    })
    .await;
    // A proposer of a cluster that no listed acceptor belongs to waits.
    let none = "0".repeat(32);
    cluster.add_proposer(&members, &["--cluster", &none]);
    logs(
        cluster.proposers.last().unwrap(),
        "waiting for an acceptor of the cluster",
    )
    .await;
    cluster.proposers.pop();
    // `paxos status` finds the stranger among the members' addresses, and the members continue.
    let advice = cluster.finds("belongs to another cluster", 0).await;
    assert!(advice.contains("correct --acceptors"), "{advice}");
    cluster.acceptors.pop();
    cluster.serves("undisturbed").await;
}

/// The disk of one acceptor is not the original disk. Every process refuses this acceptor, permanently, and the rest of
/// the cluster continues.
async fn bad_disk(
    cluster: &mut Cluster,
    mut outcome: LoadOutcome,
    told_by_proposers: &str,
    told_by_learners: &str,
    found: &str,
) {
    for proposer in &cluster.proposers {
        logs(proposer, told_by_proposers).await;
    }
    for learner in &cluster.learners {
        logs(learner, told_by_learners).await;
    }
    // The finding does not make the cluster unavailable: the remaining acceptors continue.
    cluster.finds(found, 0).await;
    outcome.merge(cluster.serves("without it").await);

    // The refused acceptor does not help out for an absent acceptor, even after a restart.
    cluster.acceptors[2].kill();
    cluster.acceptors[2].start();
    cluster.acceptors[1].signal(Signal::SIGSTOP);
    let alone = cluster
        .client()
        .with_timeout(std::time::Duration::from_secs(2))
        .append_at_most_once("alone")
        .await;
    assert!(alone.is_err(), "{alone:?}");
    outcome.unknown.insert(b"alone".to_vec());
    cluster.finds("no quorum: 1 of 3", 69).await;
    cluster.acceptors[1].signal(Signal::SIGCONT);
    outcome.merge(cluster.serves("with the other again").await);

    // Processes that start now detect the bad disk too.
    cluster.add_proposer(&cluster.urls(), &[]);
    cluster.add_learner("learner-new".to_owned(), &[]);
    let proposer = cluster.proposers.last().unwrap();
    logs(proposer, told_by_proposers).await;
    let learner = cluster.learners.last().unwrap();
    let end = cluster.client().chosen_to().await.unwrap().max(outcome.end());
    outcome.check(&cluster.log_of(learner, end).await);
    outcome.check(&cluster.log_of(&cluster.learners[0], end).await);
    logs(learner, told_by_learners).await;
}

#[tokio::test]
async fn wiped_acceptor_is_refused_and_the_rest_goes_on() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    let outcome = cluster.serves("before").await;
    cluster.acceptors[2].kill();
    fs::remove_dir_all(cluster.path("acceptor-3")).unwrap();
    cluster.acceptors[2].start();
    bad_disk(
        &mut cluster,
        outcome,
        "has lost its disk",
        "has lost its disk",
        "is blank, but its cluster is formed: the member at this address has lost its disk",
    )
    .await;
}

#[tokio::test]
async fn acceptor_on_an_older_copy_of_its_disk_is_refused_and_the_rest_goes_on() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    let mut outcome = cluster.serves("before the copy").await;
    let (directory, older) = (cluster.path("acceptor-3"), cluster.path("older copy"));
    cluster.acceptors[2].kill();
    copy(Path::new(&directory), Path::new(&older));
    cluster.acceptors[2].start();
    outcome.merge(cluster.serves("after the copy").await);
    // The other acceptors have heard of a run unknown to the copy. The learner may not have heard of the run.
    let third = wire::read_stamp(cluster.acceptor_status(2).await.unwrap().stamp.as_ref()).unwrap();
    until("the others remember the run", async || {
        let form = cluster.form(0, None).await;
        let remembers = wire::read_witnesses(&form.witnesses).unwrap();
        remembers.heard(third.acceptor, third.run).map(|_| ())
    })
    .await;
    cluster.acceptors[2].kill();
    fs::remove_dir_all(&directory).unwrap();
    copy(Path::new(&older), Path::new(&directory));
    cluster.acceptors[2].start();
    let text = "the acceptor has lost its disk, or runs on an older copy";
    bad_disk(&mut cluster, outcome, text, text, text).await;
}
