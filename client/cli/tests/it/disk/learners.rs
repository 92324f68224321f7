//! Learners with full disks, or with a damaged file.

use std::{fs, path::PathBuf};

use paxos_client::Consistency;
use paxos_common::peer::connect_lazy;
use paxos_proto::v1::{self as pb, learner_client::LearnerClient};
use tonic::Code;

use super::{MIB, SmallDisk};
use crate::harness::{BackgroundLoad, Cluster, until};
use crate::installs::{have_trimmed, trimming, write_until};
use crate::metrics::scrape;

/// A read of a learner's present state.
fn local(key: &'static str) -> pb::ReadRequest {
    pb::ReadRequest {
        target: Some(pb::read_request::Target::Key(key.into())),
        consistency: Some(pb::read_request::Consistency::Local(pb::Local {})),
        ..pb::ReadRequest::default()
    }
}

#[tokio::test]
async fn learner_with_a_full_disk_stands_aside_and_goes_on_by_itself() {
    let mut cluster = Cluster::start(3, 1, 1).await;
    let path = PathBuf::from(cluster.path("learner-full"));
    let Some(disk) = SmallDisk::mount(path.clone()) else {
        return;
    };
    cluster.environment = vec![("PAXOS_METRICS_LISTEN", "127.0.0.1:0".to_owned())];
    let flags = ["--data-dir", path.to_str().unwrap()];
    cluster.add_learner("learner-full".to_owned(), &flags);
    let full = cluster.learners.len() - 1;
    scrape::ready(&cluster.learners[full], 200, "ready").await;

    // So little space remains that the write-ahead log cannot grow much.
    disk.fill("ballast", MIB);
    let load = BackgroundLoad::start(&cluster, 2, usize::MAX, 8);
    let file = path.join("learner.db").display().to_string();
    let reason = format!("no space is left on the disk of {file}");
    scrape::ready(&cluster.learners[full], 503, &reason).await;
    let started = cluster.learners[full].id();
    load.goes_on(500).await;
    let mut asked = LearnerClient::new(connect_lazy(&cluster.learners[full].address));
    let refused = asked.read(local("key")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains(&reason), "{refused}");
    // Readers are sent to the other learner.
    let found = cluster.client().get_with("key", Consistency::Local).await;
    assert_eq!(found.unwrap(), None);

    // The learner starts on a full disk too.
    cluster.learners[full].kill();
    disk.fill("more ballast", 0);
    cluster.learners[full].start();
    until("it serves its readiness again", async || {
        let log = cluster.learners[full].log();
        (log.matches("serving /metrics").count() == 2).then_some(())
    })
    .await;
    scrape::ready(&cluster.learners[full], 503, &reason).await;
    assert_ne!(cluster.learners[full].id(), started);
    let started = cluster.learners[full].id();

    disk.remove("ballast");
    let outcome = load.stop().await;
    scrape::ready(&cluster.learners[full], 200, "ready").await;
    disk.remove("more ballast");
    assert_eq!(cluster.learners[full].id(), started, "it did not restart");
    outcome.check(&cluster.log_of(&cluster.learners[full], outcome.end()).await);
    cluster.digests_are_equal(outcome.end()).await;
    let log = cluster.learners[full].log();
    assert!(
        log.contains("64 MiB more; this learner then continues by itself"),
        "{log}"
    );
    assert!(log.contains("the disk has space again"), "{log}");
    assert!(cluster.learners[full].stop().await.success());
}

#[tokio::test]
async fn learner_sets_a_damaged_file_aside_and_learns_again() {
    let mut cluster = Cluster::start(3, 1, 2).await;
    let outcome = BackgroundLoad::start(&cluster, 4, 500, 8).finish().await;
    cluster.digests_are_equal(outcome.end()).await;
    assert!(cluster.learners[0].stop().await.success());
    let file = PathBuf::from(cluster.path("learner-1")).join("learner.db");
    let mut bytes = fs::read(&file).unwrap();
    bytes[..4_096].fill(0x55);
    fs::write(&file, &bytes).unwrap();

    cluster.learners[0].start();
    outcome.check(&cluster.log_of(&cluster.learners[0], outcome.end()).await);
    cluster.digests_are_equal(outcome.end()).await;
    let aside = file.with_extension("db.damaged");
    assert_eq!(fs::read(&aside).unwrap(), bytes);
    let log = cluster.learners[0].log();
    let warning = log
        .lines()
        .find(|line| line.contains("WARN") && line.contains("set aside"));
    let warning = warning.unwrap_or_else(|| panic!("{log}"));
    for part in [
        file.to_str().unwrap(),
        aside.to_str().unwrap(),
        "file is not a database",
    ] {
        assert!(warning.contains(part), "{part} is not in {warning}");
    }
    assert_eq!(warning.matches("file is not a database").count(), 1, "{warning}");
}

#[tokio::test]
async fn installation_waits_for_space_and_goes_on_by_itself() {
    let mut cluster = Cluster::start_with(3, 1, 1, trimming()).await;
    let client = cluster.client();
    write_until(&client, "all acceptors trim", async || {
        have_trimmed(&cluster, 3, 0).await
    })
    .await;
    let path = PathBuf::from(cluster.path("learner-full"));
    let Some(disk) = SmallDisk::mount(path.clone()) else {
        return;
    };
    disk.fill("ballast", 20 * MIB);
    cluster.environment = vec![("PAXOS_METRICS_LISTEN", "127.0.0.1:0".to_owned())];
    let flags = ["--data-dir", path.to_str().unwrap()];
    cluster.add_learner("learner-full".to_owned(), &flags);
    let full = cluster.learners.len() - 1;
    let reason = format!(
        "no space is left on the disk of {}",
        path.join("learner.db").display()
    );
    scrape::ready(&cluster.learners[full], 503, &reason).await;
    let started = cluster.learners[full].id();
    until("the log gives the reason", async || {
        let log = cluster.learners[full].log();
        log.contains("an installation leaves 32 MiB free").then_some(())
    })
    .await;
    disk.remove("ballast");
    scrape::ready(&cluster.learners[full], 200, "ready").await;
    assert_eq!(cluster.learners[full].id(), started, "it did not restart");
    let log = cluster.learners[full].log();
    assert!(log.contains("installed a snapshot"), "{log}");
    assert!(log.contains("the disk has space again"), "{log}");
    let mut asked = LearnerClient::new(connect_lazy(&cluster.learners[full].address));
    let read = asked.read(local("key 0")).await.unwrap().into_inner();
    assert_eq!(read.registers.len(), 1);
}
