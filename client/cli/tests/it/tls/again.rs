//! Tests of clusters a second time, with TLS: failover, forming, bootstrap of learners, changes of members, backup and
//! restore.

use std::process::Command;

use crate::harness::{room, tls};

/// Tests of this program that run with TLS too, in their short form.
const TESTS: [&str; 11] = [
    "backup::backup_has_every_acknowledged_write_and_can_be_checked",
    "cluster::acknowledged_values_survive_the_kill_of_all_acceptors",
    "cluster::learner_continues_after_a_kill_and_a_new_one_catches_up",
    "failover::leader_that_is_killed_is_replaced",
    "forming::cluster_forms_though_starting_proposers_are_killed",
    "forming::proposers_that_start_together_form_one_cluster",
    "installs::new_learner_on_an_empty_disk_installs_a_snapshot_and_agrees",
    "linearizability::history_is_linearizable_while_processes_are_killed_and_paused",
    "members::lost_member_is_replaced_by_a_blank_acceptor_at_its_address",
    "members::reads_stay_linearizable_while_three_members_become_five_and_three",
    "restore::backup_is_restored_into_other_numbers_of_acceptors_and_versions_only_grow",
];

#[tokio::test]
async fn cluster_tests_pass_with_tls_too() {
    // One of these tests at a time: as a single cluster beside the others.
    let _room = room().await;
    let dir = tempfile::TempDir::new().unwrap();
    tls::make_certificates_of_tests(dir.path());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--test-threads", "1"])
        .args(TESTS)
        .env("PAXOS_TEST_TLS", dir.path());
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = running.await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    println!("{printed}");
    let all = format!("test result: ok. {} passed", TESTS.len());
    assert!(
        output.status.success() && printed.contains(&all),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
