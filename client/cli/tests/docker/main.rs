//! A cluster in containers, as in docker-compose.yml: scaled, changed, killed, cut off, paused and restarted under load.
//!
//! Run by `cargo docker`. Needs a Docker engine and Compose; otherwise the tests are skipped. Jaeger, Prometheus and
//! Grafana are left out: these are third-party images, and downloading them needs a network.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "in tests, helpers included, which tell what they measured"
)]

mod cut;
mod engine;
mod kill;
mod load;
mod members;
mod scale;
mod secure;
mod start;
mod topology;
mod worker;

use std::{process::ExitCode, time::Instant};

use engine::Engine;
use libtest_mimic::{Arguments, Completion, Trial};

/// The body of a test.
type Test = fn(Engine) -> Completion;

const TESTS: [(&str, Test); 12] = [
    ("cluster_is_healthy_within_a_minute_and_answers", start::answers),
    ("roles_start_in_any_order", start::any_order),
    (
        "acceptor_without_its_volume_is_refused_until_it_replaces_the_member_under_load",
        members::volume_is_lost,
    ),
    (
        "three_acceptors_become_five_and_three_again_under_load",
        members::three_to_five_and_back,
    ),
    (
        "nothing_fails_while_proposers_and_learners_are_scaled",
        scale::up_and_down,
    ),
    (
        "nothing_fails_while_every_container_is_restarted_in_turn",
        scale::rolling_restart,
    ),
    (
        "nothing_acknowledged_is_lost_when_containers_are_killed",
        kill::one_after_the_other,
    ),
    (
        "nothing_acknowledged_is_lost_when_all_are_killed_at_once",
        kill::all_at_once,
    ),
    ("cluster_goes_on_while_one_is_disconnected", cut::disconnected),
    (
        "leader_that_is_cut_off_is_replaced_where_a_quorum_is_connected",
        cut::leader_cut_off,
    ),
    (
        "paused_leader_and_learner_answer_nothing_that_is_old",
        cut::paused,
    ),
    (
        "cluster_with_tls_answers_grows_to_five_and_no_role_sees_the_key_of_another",
        secure::answers,
    ),
];

fn main() -> ExitCode {
    // In a container of the network, the same program is the load.
    if let Some(patience) = worker::asked_for() {
        return worker::run(patience);
    }
    let mut arguments = Arguments::from_args();
    // One cluster at a time: clusters share few cores, and a starved cluster would prove nothing.
    arguments.test_threads = Some(1);
    let trials = TESTS.map(|(name, test)| {
        let run = move || {
            let begun = Instant::now();
            let completion = match Engine::find() {
                Ok(engine) => test(engine),
                Err(reason) => Completion::ignored_with(reason),
            };
            println!("{name}: over after {:.0?}", begun.elapsed());
            Ok(completion)
        };
        Trial::ignorable_test(name, run).with_ignored_flag(true)
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}
