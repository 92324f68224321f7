//! Simulated snapshots and trims: uploads to acceptors, trims, sweeps, and installations at learners.
//!
//! All draws come from a source of their own, so clusters without trims run as if trims did not exist. An upload is the
//! learner's state at one moment. A power cut may fall between any two of: the end of the upload, the record of the
//! waiting snapshot, the commit of the trim, and each sweep.

use paxos_common::paxos::{
    acceptor::{Acceptor, Group},
    learner::Learner,
    proposer::Event,
    quorum::Electorate,
    slot::Slot,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    disks::{Disk, Snapshot},
    knobs::{Knobs, MILLISECOND},
    sessions::State,
    statistics::Counted,
    world::{Happening, World, uuid},
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

/// The electorate of the later era.
fn latest(one: Option<Electorate>, other: Option<Electorate>) -> Option<Electorate> {
    let both = one.into_iter().chain(other);
    both.max_by_key(Electorate::era)
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
            self.start_trims_of(acceptor);
        }
    }

    pub(crate) fn start_trims_of(&mut self, acceptor: usize) {
        if self.trims.is_some() {
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
        let is_attached = giver.electorate().includes(uuid(acceptor));
        if process.incoming.is_some() || !is_wanted || to > core.trim_cap() || is_full || !is_attached {
            return;
        }
        process.incoming = Some(Snapshot {
            to,
            state: learner.state.clone(),
            electorate: giver.electorate().clone(),
        });
        let run = process.run;
        let at = self.now + self.trims_delay(200);
        self.plan(at, Happening::UploadEnds { acceptor, run });
    }

    /// The upload of a snapshot to a joiner has ended.
    pub(crate) fn snapshot_brought(&mut self, proposer: usize, run: u64, joiner: usize) {
        if self.proposers[proposer].run == run {
            self.handle(proposer, Event::SnapshotBrought(uuid(joiner)));
        }
    }

    /// A joiner is brought the snapshot that an acceptor's log stands on.
    pub(crate) fn bring_snapshot(&mut self, proposer: usize, joiner: usize, source: usize) {
        self.note(|| {
            format!("proposer {proposer} brings acceptor {joiner} the snapshot of acceptor {source}")
        });
        let run = self.proposers[proposer].run;
        let brought = Happening::SnapshotBrought {
            proposer,
            run,
            joiner,
        };
        self.plan_within(400 * MILLISECOND, brought);
        if self.trims.is_none() || self.skips_snapshot(proposer, joiner) {
            return;
        }
        let at = self.now + self.trims_delay(200);
        let bottom = self.acceptors[source].disk.bottom.clone();
        let bottom = bottom.filter(|_| self.acceptors[source].is_up());
        let process = &mut self.acceptors[joiner];
        let (Some(core), Some(snapshot)) = (&process.core, bottom) else {
            return;
        };
        let waiting = process.disk.waiting.as_ref().map(|waiting| waiting.to);
        let newest = process.disk.trimmed_to.max(waiting.unwrap_or_default());
        if process.incoming.is_some() || snapshot.to > core.trim_cap() || snapshot.to <= newest {
            return;
        }
        self.statistics.count(Counted::SnapshotsBrought);
        process.incoming = Some(snapshot);
        let run = process.run;
        self.plan(
            at,
            Happening::UploadEnds {
                acceptor: joiner,
                run,
            },
        );
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
        let latest = self.invariants.eras.latest();
        for slot in Slot::ZERO.to(to) {
            let chosen_at = self.invariants.chosen.ballot(slot).expect("below the prefix");
            let members = latest.members().keys().map(|&member| self.place(member));
            let covering = members.filter(|&member| self.acceptors[member].covers(slot, chosen_at));
            assert!(
                covering.count() >= latest.quorums().phase2(),
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
        let members = self.members_of(learner).into_iter();
        let acceptors = members.map(|member| (member, &self.acceptors[member]));
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
        let bottom = self.acceptors[acceptor].disk.bottom.as_ref();
        let electorate = bottom.map(|bottom| bottom.electorate.clone());
        let process = &mut self.learners[learner];
        process.stored = to;
        process.stored_electorate = latest(process.stored_electorate.take(), electorate);
        self.start_learner(learner);
        if self.healed_at.is_some() {
            self.expect_reads_again(learner);
        }
    }
}
