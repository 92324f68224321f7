//! Simulated snapshots and trims: uploads to acceptors, trims, sweeps, and installations at learners.
//!
//! All draws come from a source of their own, so clusters without trims run as if trims did not exist. An upload is the
//! learner's state at one moment. A power cut may fall between any two of: the end of the upload, the record of the
//! waiting snapshot, the commit of the trim, and each sweep.

use paxos_common::paxos::{
    acceptor::{Acceptor, Group},
    learner::Learner,
    slot::Slot,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    disks::{Disk, Snapshot},
    knobs::{Knobs, MILLISECOND},
    sessions::State,
    statistics::Counted,
    world::{Happening, World},
};
use crate::bug::Bug;

/// Separates the draws about trims from all other draws of a seed.
const TRIMS: u64 = 0x7472_696d;

/// Least and most new slots between two snapshots of an acceptor.
const STEP: std::ops::RangeInclusive<u64> = 3..=8;

/// How often a full acceptor has space for an upload: uploads leave less free space than votes.
const FULL_TAKES: f64 = 0.5;

/// The source of draws about trims, if the acceptors of this run trim: in a third of the runs without lost disks.
pub(crate) fn draw(seed: u64, knobs: &Knobs, bug: Option<Bug>) -> Option<StdRng> {
    let mut rng = StdRng::seed_from_u64(seed ^ TRIMS);
    let wanted = match bug {
        None => rng.random_bool(0.33),
        Some(bug) => Bug::OF_TRIMS.contains(&bug),
    };
    (wanted && knobs.disks_lost_max == 0).then_some(rng)
}

/// Decides a trim to the waiting snapshot. A later leader may have claimed less: then the snapshot waits on, unless the
/// disk is full.
pub(crate) fn trim(core: &Acceptor, disk: &Disk, group: &mut Group, is_full: bool) {
    if let Some(waiting) = &disk.waiting {
        let trim = if is_full {
            Acceptor::trim_to_recorded
        } else {
            Acceptor::trim
        };
        let _ = trim(core, group, waiting.to);
    }
}

impl World<'_> {
    /// A random delay of trims, up to `most` milliseconds.
    fn trims_delay(&mut self, most: u64) -> u64 {
        let rng = self.trims.as_mut().expect("this cluster trims");
        rng.random_range(1..=most) * MILLISECOND
    }

    /// Whether a trim is decided before the other requests of its group.
    pub(crate) fn trims_first(&mut self) -> bool {
        self.trims.as_mut().is_some_and(|rng| rng.random_bool(0.5))
    }

    pub(crate) fn start_trims(&mut self) {
        if self.trims.is_none() {
            return;
        }
        for acceptor in 0..self.acceptors.len() {
            let at = self.now + self.trims_delay(400);
            self.plan(at, Happening::SnapshotDue { acceptor });
        }
    }

    pub(crate) fn snapshot_due(&mut self, acceptor: usize) {
        let next = self.now + self.trims_delay(300);
        self.plan(next, Happening::SnapshotDue { acceptor });
        let learners = self.learners.len();
        let rng = self.trims.as_mut().expect("this cluster trims");
        let (learner, step, sweeps, takes_full) = (
            rng.random_range(0..learners),
            rng.random_range(STEP),
            rng.random_range(0..=4),
            rng.random_bool(FULL_TAKES),
        );
        let process = &mut self.acceptors[acceptor];
        let Some(core) = &process.core else { return };
        process.disk.sweep(sweeps);
        let learner = &self.learners[learner];
        let Some(giver) = &learner.core else { return };
        let to = giver.next();
        let waiting = process.disk.waiting.as_ref().map(|waiting| waiting.to);
        let newest = process.disk.trimmed_to.max(waiting.unwrap_or_default());
        // Behind its leader, an acceptor takes any snapshot above its own watermark.
        let is_wanted = to >= newest.plus(step) || (core.known_to() < to && to > newest);
        let is_full = process.full_until > self.now && !takes_full;
        if process.incoming.is_some() || !is_wanted || to > core.trim_cap() || is_full {
            return;
        }
        process.incoming = Some(Snapshot {
            to,
            state: learner.state.clone(),
        });
        let run = process.run;
        let at = self.now + self.trims_delay(200);
        self.plan(at, Happening::UploadEnds { acceptor, run });
    }

    /// A whole snapshot is recorded as waiting. A broken upload leaves nothing.
    pub(crate) fn upload_ends(&mut self, acceptor: usize, run: u64) {
        let rng = self.trims.as_mut().expect("this cluster trims");
        let (breaks, takes_full) = (rng.random_bool(0.1), rng.random_bool(FULL_TAKES));
        let process = &mut self.acceptors[acceptor];
        if process.run != run || process.core.is_none() {
            return;
        }
        let Some(mut snapshot) = process.incoming.take() else {
            return;
        };
        if breaks || (process.full_until > self.now && !takes_full) {
            self.statistics.count(Counted::UploadsLost);
            return;
        }
        // The commit of a group on its way may trim to the snapshot that waits now.
        if process.is_busy() || process.trim_is_due {
            process.incoming = Some(snapshot);
            let at = self.now + self.trims_delay(20);
            self.plan(at, Happening::UploadEnds { acceptor, run });
            return;
        }
        if self.tampering.has(Bug::StateOfAnotherMoment) {
            snapshot.to = snapshot.to.next();
        }
        if self.tampering.has(Bug::OldFileUnlinkedBeforeTheCommit) {
            process.disk.bottom = None;
        }
        if process.full_until > self.now {
            self.statistics.count(Counted::SnapshotsKeptFull);
        }
        let to = snapshot.to;
        process.disk.waiting = Some(snapshot);
        self.statistics.count(Counted::SnapshotsKept);
        self.note(|| format!("acceptor {acceptor} keeps a snapshot to {to}"));
        let at = self.now + self.trims_delay(200);
        self.plan(at, Happening::TrimDue { acceptor, run });
    }

    pub(crate) fn trim_due(&mut self, acceptor: usize, run: u64) {
        let process = &mut self.acceptors[acceptor];
        if process.run == run && process.core.is_some() {
            process.trim_is_due = true;
            self.write_group(acceptor);
        }
    }

    /// A trim is on the disk: invariants 12 to 14.
    pub(crate) fn has_trimmed(&mut self, acceptor: usize, lifts: bool) {
        self.statistics.count(Counted::TrimsDone);
        if lifts {
            self.statistics.count(Counted::LiftsDone);
        }
        let to = self.acceptors[acceptor].disk.trimmed_to;
        self.note(|| format!("acceptor {acceptor} trims to {to}"));
        assert!(
            to <= self.invariants.chosen.prefix(),
            "acceptor {acceptor} trims to {to}, and not all slots below are chosen"
        );
        for slot in Slot::ZERO.to(to) {
            let chosen_at = self.invariants.chosen.ballot(slot).expect("below the prefix");
            let covers = |disk: &Disk| {
                let has_row = || disk.rows.get(&slot).is_some_and(|(held, _)| *held >= chosen_at);
                slot < disk.trimmed_to || has_row()
            };
            let covering = self.acceptors.iter().filter(|process| covers(&process.disk));
            assert!(
                covering.count() >= self.knobs.quorums.phase2(),
                "no phase-2 quorum covers slot {slot} after acceptor {acceptor} trims to {to}"
            );
        }
        self.check_bottom(acceptor);
    }

    /// The bottom of an acceptor is whole, ends at the first slot, and holds the result of a full replay.
    fn check_bottom(&mut self, acceptor: usize) {
        let disk = &self.acceptors[acceptor].disk;
        if disk.trimmed_to == Slot::ZERO {
            return;
        }
        let bottom = disk.bottom.clone();
        let bottom = bottom.unwrap_or_else(|| panic!("acceptor {acceptor} has trimmed, and has no bottom"));
        assert_eq!(
            bottom.to, disk.trimmed_to,
            "the bottom of acceptor {acceptor} ends elsewhere"
        );
        let replayed = self.replay(bottom.to);
        assert!(
            bottom.state == replayed,
            "the snapshot of acceptor {acceptor} to {} is not the result of the slots below",
            bottom.to
        );
    }

    /// The state after the slots below `to`.
    pub(crate) fn replay(&mut self, to: Slot) -> State {
        let mut state = State::default();
        for slot in Slot::ZERO.to(to) {
            let value = self
                .invariants
                .chosen
                .value(slot)
                .expect("it was learned")
                .clone();
            let (book, tampering) = (&self.clients.book, &self.tampering);
            state.apply(slot, &value, book, tampering, &mut self.invariants);
        }
        state
    }

    /// Whether an acceptor has trimmed slots that a learner still lacks.
    pub(crate) fn is_cut_off(&self, learner: usize) -> bool {
        self.trims.is_some()
            && !self.tampering.has(Bug::LearnerWaitsForUnprovableRows)
            && self.source(learner).is_some()
    }

    /// The acceptor with the lowest first slot above a learner's position.
    fn source(&self, learner: usize) -> Option<usize> {
        let position = self.learners[learner].core.as_ref().map(Learner::learned_to)?;
        let acceptors = self.acceptors.iter().enumerate();
        let above = acceptors.filter(|(_, process)| process.is_up() && process.disk.trimmed_to > position);
        let lowest = above.min_by_key(|(_, process)| process.disk.trimmed_to);
        lowest.map(|(acceptor, _)| acceptor)
    }

    /// A learner restarts from the bottom of an acceptor.
    pub(crate) fn install(&mut self, learner: usize) {
        let Some(acceptor) = self.source(learner) else {
            return;
        };
        self.check_bottom(acceptor);
        let to = self.acceptors[acceptor].disk.trimmed_to;
        let next = self.learners[learner]
            .core
            .as_ref()
            .map_or(Slot::ZERO, Learner::next);
        for slot in next.to(to) {
            let value = self
                .invariants
                .chosen
                .value(slot)
                .expect("a trim covers chosen slots")
                .clone();
            self.invariants
                .learners
                .learned(&self.invariants.chosen, learner, slot, &value);
            self.invariants.reads.applied(learner, &value);
        }
        self.statistics.count(Counted::SnapshotsInstalled);
        self.note(|| format!("learner {learner} installs the snapshot of acceptor {acceptor}, to {to}"));
        self.crash_learner(learner);
        self.learners[learner].stored = to;
        self.start_learner(learner);
        if self.healed_at.is_some() {
            self.expect_reads_again(learner);
        }
    }
}
