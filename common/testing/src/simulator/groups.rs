//! The worker of a simulated acceptor: groups of requests, a commit for each group, answers after the commit.

use paxos_common::paxos::{
    acceptor::{Acceptor, Group},
    ballot::Ballot,
    detector::{Claim, Settlement as Settled},
    quorum::Configuration,
    slot::Slot,
};
use rand::RngExt as _;

use super::{
    answers::{Answer, settled},
    decide::{decide, turn_away},
    hearing::is_heartbeat,
    invariants::eras_are_kept,
    requests::Request,
    statistics::Counted,
    trims,
    world::{Happening, Time, World},
};

/// A group on its way to the disk, or on the disk and not in memory yet.
pub(crate) struct Committing {
    pub(crate) group: Group,
    answers: Vec<Answer>,
    claims: Vec<(Claim, Settled)>,
    /// Arrival time of the group's oldest request.
    pub(crate) oldest: Time,
    /// The disk holds the group, and every reader of the disk sees the group.
    pub(crate) readable: bool,
}

impl World<'_> {
    /// Decides all waiting requests, unless a group is on its way to the disk.
    pub(crate) fn write_group(&mut self, acceptor: usize) {
        // A loop, because a full disk turns away a long queue group by group, without writing any group.
        while self.is_answered_at_once(acceptor) {}
    }

    /// Takes the next group. Returns whether the whole group was answered without a commit.
    fn is_answered_at_once(&mut self, acceptor: usize) -> bool {
        let take = self.rng.random_range(1..=self.knobs.group_max);
        let trims_first = self.trims_first();
        let process = &mut self.acceptors[acceptor];
        let Some(core) = &process.core else {
            return false;
        };
        let is_idle = process.queue.is_empty() && !process.trim_is_due;
        if process.committing.is_some() || is_idle || self.tampering.blocks(acceptor) {
            return false;
        }
        let take = take.min(process.queue.len());
        if take > 1 {
            self.statistics.count(Counted::GroupsOfMany);
        }
        let cap = core.trim_cap();
        let mut group = core.group();
        let trims = std::mem::take(&mut process.trim_is_due);
        let has_space = process.full_until <= self.now;
        if trims && trims_first {
            trims::trim(core, &process.disk, &mut group, !has_space);
        }
        let mut answers = Vec::new();
        let mut claims = Vec::new();
        let mut oldest = self.now;
        for request in process.queue.drain(..take) {
            let Request {
                from,
                message,
                stream,
                claim,
                came,
            } = request;
            oldest = oldest.min(came);
            let is_beat = is_heartbeat(&message);
            let decided = answers.len();
            if has_space {
                decide(core, &process.disk, &mut group, from, message, &mut answers);
            } else {
                self.statistics.count(Counted::TurnedAwayForSpace);
                turn_away(core, &mut group, from, message, &mut answers);
            }
            let outcome = answers.get(decided).map_or(Settled::NoSpace, settled);
            if let Some(Answer::Message(.., on)) = answers.get_mut(decided) {
                *on = stream;
            }
            claims.extend(claim.map(|claim| (claim, outcome)));
            // A heartbeat has no number. Only a refusal is answered, because the sender must know about a refusal.
            if is_beat && matches!(outcome, Settled::Granted | Settled::NoSpace) {
                answers.truncate(decided);
            }
        }
        if trims && !trims_first {
            trims::trim(core, &process.disk, &mut group, !has_space);
        }
        if core.write(&group).is_some() {
            self.tamper_with_waiting(acceptor, &mut answers);
            let process = &mut self.acceptors[acceptor];
            process.committing = Some(Committing {
                group,
                answers,
                claims,
                oldest,
                readable: false,
            });
            let run = process.run;
            let (takes, fails) = self.commit_takes(acceptor);
            let outcome = if fails {
                Happening::CommitFailed { acceptor, run }
            } else {
                Happening::Committed { acceptor, run }
            };
            self.plan(self.now + takes, outcome);
            return false;
        }
        self.release(acceptor, group, answers, claims);
        let core = self.acceptors[acceptor].core.as_ref();
        if !has_space && core.is_some_and(|core| core.trim_cap() > cap) {
            self.statistics.count(Counted::ClaimsHeardFull);
        }
        true
    }

    pub(crate) fn acceptor_committed(&mut self, acceptor: usize, run: u64) {
        let process = &mut self.acceptors[acceptor];
        if process.run != run || process.core.is_none() {
            return;
        }
        let Some(mut committing) = process.committing.take() else {
            return;
        };
        if !committing.readable {
            self.write(acceptor, &committing.group);
            if let Some(late) = self.release_takes() {
                committing.readable = true;
                self.acceptors[acceptor].committing = Some(committing);
                self.note(|| format!("acceptor {acceptor}'s disk shows what memory does not"));
                self.plan(self.now + late, Happening::Committed { acceptor, run });
                return;
            }
        }
        let process = &mut self.acceptors[acceptor];
        process.counter_file = process.disk.commit_counter;
        let Committing {
            group,
            answers,
            claims,
            ..
        } = committing;
        let rows = group.rows().clone();
        self.release(acceptor, group, answers, claims);
        self.show_observers(acceptor, &rows);
        self.write_group(acceptor);
    }

    /// Writes a whole group to the disk.
    pub(crate) fn write(&mut self, acceptor: usize, group: &Group) {
        let process = &mut self.acceptors[acceptor];
        let Some(write) = process.core.as_ref().and_then(|core| core.write(group)) else {
            return;
        };
        let counts = write.rows.values().map(|(ballot, _)| process.counts_at(*ballot));
        let counts: Vec<bool> = counts.collect();
        let disk = &mut process.disk;
        let promised = disk.promised;
        let stored_era = disk.membership.configuration().map(Configuration::era);
        for (&slot, (ballot, _)) in write.rows {
            self.invariants
                .promises
                .row_written(acceptor, disk.promised, *ballot, slot);
        }
        let (lifts, trims) = (
            write.trimmed_to > process.core.as_ref().map_or(Slot::ZERO, Acceptor::known_to),
            write.trimmed_to > disk.trimmed_to,
        );
        disk.commit(&write);
        if trims {
            self.invariants.trimmed(acceptor, disk.trimmed_to);
        }
        self.tampering.tamper_with_disk(disk, promised, write.rows);
        self.invariants.promises.disk(acceptor, disk.promised);
        eras_are_kept::stored(
            acceptor,
            disk.promised,
            stored_era,
            disk.membership.configuration(),
        );
        let (era, marks) = (disk.promised.era(), disk.known_to.max(disk.trimmed_to));
        self.invariants.eras.claimed("an acceptor", era, marks);
        for ((&slot, (ballot, value)), counts) in write.rows.iter().zip(counts) {
            if counts {
                self.invariants.voted(acceptor, *ballot, slot, value);
            }
            self.invariants
                .watermarks
                .written(&self.invariants.chosen, acceptor, slot, &disk.rows);
        }
        self.invariants
            .watermarks
            .acceptor(&self.invariants.chosen, acceptor, disk.known_to, &disk.rows);
        let configuration = disk.membership.configuration().cloned();
        if trims {
            self.has_trimmed(acceptor, lifts);
        }
        if let Some(installed) = configuration.filter(|installed| Some(installed.era()) > stored_era) {
            self.note(|| format!("acceptor {acceptor} installs era {}", installed.era()));
            self.statistics.count(match stored_era {
                None => Counted::AcceptorsJoined,
                Some(_) => Counted::AcceptorsInstalled,
            });
            self.takes_force(&installed);
        }
    }

    /// Takes a group into memory and releases its answers unchanged.
    fn release(
        &mut self,
        acceptor: usize,
        group: Group,
        answers: Vec<Answer>,
        claims: Vec<(Claim, Settled)>,
    ) {
        let process = &mut self.acceptors[acceptor];
        let Some(core) = &mut process.core else { return };
        let known_to = core.known_to();
        let votes = group.rows().iter().filter(|(slot, _)| **slot >= known_to);
        let voted: Vec<Ballot> = votes.map(|(_, (ballot, _))| *ballot).collect();
        core.committed(group);
        let leadership = core.leadership();
        self.detect(acceptor, |detector, now| {
            detector.promised(leadership.promised, &leadership.address, now);
            for (claim, outcome) in claims {
                detector.settled(claim, outcome);
            }
            for ballot in voted {
                detector.worked(ballot, 1);
            }
        });
        let process = &mut self.acceptors[acceptor];
        let held_back = std::mem::take(&mut process.held_back);
        for read in held_back {
            self.plan(self.now, read);
        }
        self.tamper_with_memory(acceptor);
        let process = &self.acceptors[acceptor];
        let Some(core) = &process.core else { return };
        self.invariants.watermarks.acceptor(
            &self.invariants.chosen,
            acceptor,
            core.known_to(),
            &process.disk.rows,
        );
        let era = core.era();
        self.invariants.eras.claimed("an acceptor", era, core.known_to());
        for answer in answers {
            self.answer(acceptor, answer);
        }
    }
}
