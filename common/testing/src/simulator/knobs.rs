//! Knobs of a run: drawn once from the seed, so that runs differ in kind and not only in order.

use std::time::Duration;

use paxos_common::paxos::{
    ballot::{Ballot, ProposerId},
    proposer::Limits,
    quorum::Quorums,
};
use rand::{RngExt as _, rngs::StdRng};

use super::world::Time;

/// The usual leader timeout L.
pub(crate) const LEADER_TIMEOUT: Duration = Duration::from_millis(200);

pub(crate) const MILLISECOND: Time = 1_000;

pub(crate) struct Knobs {
    /// The leader timeout L.
    pub(crate) leader_timeout: Duration,
    pub(crate) quorums: Quorums,
    pub(crate) proposers: usize,
    pub(crate) learners: usize,
    pub(crate) clients: usize,
    /// Longest wait of a client between two commands, in simulated microseconds.
    pub(crate) think_max: Time,
    /// Longest wait of a client for an answer.
    pub(crate) client_patience: Time,
    /// Proposers known to clients, if not all.
    pub(crate) targets: Option<Vec<usize>>,
    /// Bytes on the wire for each byte of a value.
    pub(crate) weight: u64,
    /// Mean time between two reads at the same learner.
    pub(crate) read_every: Time,
    pub(crate) network: NetworkKnobs,
    /// Time for opening a broken stream again, the first time.
    pub(crate) first_redial_after: Time,
    /// Bounds of the duration of a group's commit.
    pub(crate) disk_min: Time,
    pub(crate) disk_max: Time,
    /// Chance of a commit taking a hundred times as long.
    pub(crate) disk_stuck: f64,
    /// Chance that readers of the disk see a commit some time before memory shows the commit.
    pub(crate) released_late: f64,
    /// Chance of a failed commit.
    pub(crate) commit_fails: f64,
    /// Limit of acceptors with a lost or rolled-back disk.
    pub(crate) disks_lost_max: usize,
    /// Limit of requests in a commit.
    pub(crate) group_max: usize,
    /// Rows in a page of a promise, and in a frame.
    pub(crate) page_rows_max: usize,
    /// Whether proposers form batches at once, or from the commands that arrive within a moment.
    pub(crate) flush_at_once: bool,
    pub(crate) limits: Limits,
    /// Mean time between two faults.
    pub(crate) fault_every: Time,
    /// End of the faults.
    pub(crate) faults_until: Time,
    /// Promise of the first acceptor at the start of the run: a process may have driven up the rounds.
    pub(crate) driven_up_to: Ballot,
    /// Whether acceptors find unreadable rows, each slot on at most one acceptor.
    pub(crate) damage: bool,
}

#[derive(Clone)]
pub(crate) struct NetworkKnobs {
    pub(crate) loss: f64,
    pub(crate) duplication: f64,
    /// Chance that a message may overtake earlier messages. Otherwise messages stay in order.
    pub(crate) reordering: f64,
    pub(crate) delay_min: Time,
    pub(crate) delay_max: Time,
    /// Chance of a delay of up to a second.
    pub(crate) long_delay: f64,
}

impl NetworkKnobs {
    /// The network after the faults.
    pub(crate) const CALM: Self = Self {
        loss: 0.0,
        duplication: 0.0,
        reordering: 0.0,
        delay_min: 100,
        delay_max: 1_000,
        long_delay: 0.0,
    };
}

impl Knobs {
    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        // Usual quorums often, unusual quorums sometimes.
        let (acceptors, phase1, phase2) = pick(
            rng,
            &[
                (3, 2, 2),
                (3, 2, 2),
                (3, 2, 2),
                (5, 3, 3),
                (5, 3, 3),
                (4, 3, 2),
                (4, 2, 3),
                (5, 4, 2),
                (3, 3, 1),
                (3, 1, 3),
                (1, 1, 1),
            ],
        );
        let quorums = Quorums::new(acceptors, phase1, phase2).expect("each of them is safe");
        let spare = acceptors - phase1.max(phase2);
        let damage = spare > 0 && rng.random_bool(0.15);
        let disk_max = pick(rng, &[300, 2_000, 20_000]);
        Self {
            leader_timeout: LEADER_TIMEOUT,
            quorums,
            proposers: rng.random_range(2..=3),
            learners: rng.random_range(1..=3),
            clients: rng.random_range(2..=6),
            think_max: pick(rng, &[2, 20, 100]) * MILLISECOND,
            client_patience: pick(rng, &[100, 1_000, 1_000]) * MILLISECOND,
            targets: None,
            weight: 1,
            read_every: pick(rng, &[15, 60, 300]) * MILLISECOND,
            network: NetworkKnobs {
                loss: pick(rng, &[0.0, 0.01, 0.05, 0.2]),
                duplication: pick(rng, &[0.0, 0.02, 0.2]),
                reordering: pick(rng, &[0.0, 0.05, 0.5]),
                delay_min: 100,
                delay_max: pick(rng, &[500, 5_000, 40_000]),
                long_delay: pick(rng, &[0.0, 0.001, 0.02]),
            },
            first_redial_after: 0,
            disk_min: 50,
            disk_max,
            disk_stuck: pick(rng, &[0.0, 0.0, 0.01]),
            commit_fails: pick(rng, &[0.0, 0.0, 0.002]),
            disks_lost_max: if rng.random_bool(0.4) {
                spare - usize::from(damage)
            } else {
                0
            },
            group_max: pick(rng, &[1, 3, 100]),
            page_rows_max: pick(rng, &[1, 2, 5]),
            flush_at_once: rng.random_bool(0.5),
            limits: Limits {
                queue_commands_max: pick(rng, &[2, 50]),
                batch_commands_max: pick(rng, &[1, 3, 100]),
                batch_bytes_max: pick(rng, &[20, 1_000]),
                batches_in_flight_max: pick(rng, &[1, 4, 16]),
                slots_in_flight_max: pick(rng, &[2, 16, 1_024]),
                bytes_in_flight_max: pick(rng, &[64, 100_000]),
                message_bytes_max: pick(rng, &[16, 10_000]),
                unanswered_max: pick(rng, &[1, 4, 24]),
                retained_slots_max: pick(rng, &[4, 1_000]),
                ..Limits::default()
            },
            fault_every: pick(rng, &[40, 150, 600]) * MILLISECOND,
            faults_until: rng.random_range(2_000..=6_000) * MILLISECOND,
            driven_up_to: if rng.random_bool(0.1) {
                let round = rng.random_range(0..5 * Ballot::ROUND_JUMP_MAX);
                Ballot::new(round, ProposerId::default()).expect("in range")
            } else {
                Ballot::ZERO
            },
            damage,
            released_late: pick(rng, &[0.0, 0.02, 0.2]),
        }
    }
}

/// A random choice; all choices are equally likely.
pub(crate) fn pick<T: Copy>(rng: &mut StdRng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}
