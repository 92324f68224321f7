//! Faults of acceptors' disks (slow, stuck, failing, full, lost, rolled back, damaged rows) and of clocks. Damage that
//! ends the process is in `torn_disks.rs`.
//!
//! A lost or rolled-back disk is no longer the acceptor's disk: no process may ever count it again. When the right disk
//! is put back, every process started afterwards must count the acceptor. Only a minority may lose disks. A disk goes
//! back only if the memories on the other acceptors' disks prove the rollback, whichever quorum is asked: the cores
//! promise nothing about commits that no other process had heard of before a crash.

use paxos_common::paxos::{
    ballot::Ballot,
    identity::{CommitCounter, RunNumber},
    quorum::Electorate,
    slot::Slot,
    witness::{RUNS_MAX, Run, RunJudgement, RunList, WentBack},
};
use rand::RngExt as _;

use super::{
    acceptors::Lost,
    changes::ACCEPTORS_EVER,
    disks::Disk,
    knobs::MILLISECOND,
    network::Node,
    statistics::Counted,
    world::{Happening, Time, World, uuid},
};

/// Factor on the duration of a commit on a slow disk.
const SLOWNESS: Time = 20;
/// Factor on the duration of a stuck commit.
const STUCK: Time = 100;
/// Longest delay between a commit on the disk and the same commit in memory, in simulated milliseconds.
const READABLE_FIRST_MAX: Time = 200;

impl World<'_> {
    /// Causes a fault of a disk or a clock.
    pub(crate) fn disk_fault(&mut self) {
        let acceptor = self.some_acceptor();
        let until = self.now + self.a_while();
        match self.rng.random_range(0..100) {
            0..=24 => {
                self.statistics.count(Counted::DisksSlow);
                self.note(|| format!("acceptor {acceptor}'s disk is slow"));
                self.acceptors[acceptor].slow_until = until;
            }
            25..=34 => {
                self.statistics.count(Counted::DisksStalled);
                let all = self.rng.random_bool(0.5);
                self.note(|| format!("acceptor {acceptor}'s disk stalls, and all others: {all}"));
                for (place, process) in self.acceptors.iter_mut().enumerate() {
                    if all || place == acceptor {
                        process.stalled_until = until;
                    }
                }
            }
            35..=54 => {
                self.statistics.count(Counted::DisksFull);
                self.note(|| format!("acceptor {acceptor}'s disk is full"));
                self.acceptors[acceptor].full_until = until;
            }
            _ => self.clock_jumps(),
        }
    }

    /// A clock leaps ahead, or runs at a different rate from now on.
    fn clock_jumps(&mut self) {
        self.statistics.count(Counted::ClocksJumped);
        let rate = self.rng.random_range(80..=125);
        let now = self.now;
        if self.rng.random_bool(0.5) {
            let ahead = self.rng.random_range(0..=2_000) * MILLISECOND;
            let acceptor = self.some_acceptor();
            self.acceptors[acceptor].clock.jump(now, rate, ahead);
            // By this clock, the acceptor has not heard the leader for a while.
            self.acceptors[acceptor].hearing.since = now;
        } else {
            let proposer = self.some_proposer();
            self.proposers[proposer].clock.jump(now, rate, 0);
        }
    }

    /// Duration of the next commit, and whether the commit fails.
    pub(crate) fn commit_takes(&mut self, acceptor: usize) -> (Time, bool) {
        let mut takes = self.rng.random_range(self.knobs.disk_min..=self.knobs.disk_max);
        // Never both: a commit stuck at the end of the faults must finish within the time allowed for progress.
        if self.rng.random_bool(self.knobs.disk_stuck) {
            self.statistics.count(Counted::CommitsStuck);
            takes *= STUCK;
        } else if self.acceptors[acceptor].slow_until > self.now {
            takes *= SLOWNESS;
        }
        takes = self.acceptors[acceptor].takes.unwrap_or(takes);
        // A commit begun in a stall ends after the stall.
        let stalled = self.acceptors[acceptor].stalled_until.saturating_sub(self.now);
        (takes + stalled, self.rng.random_bool(self.knobs.commit_fails))
    }

    /// Delay between a commit visible to readers of the disk and the same commit in memory; `None` for no delay.
    /// Reasons for a delay: a checkpoint triggered by the commit, or a busy machine.
    pub(crate) fn release_takes(&mut self) -> Option<Time> {
        if !self.rng.random_bool(self.knobs.released_late) {
            return None;
        }
        self.statistics.count(Counted::CommitsReadableFirst);
        Some(self.rng.random_range(1..=READABLE_FIRST_MAX) * MILLISECOND)
    }

    /// A failed commit is final: no caller is answered, and the process ends. The group may be on the disk or not.
    pub(crate) fn commit_failed(&mut self, acceptor: usize, run: u64) {
        if self.acceptors[acceptor].run == run {
            self.statistics.count(Counted::CommitsFailed);
            self.crash(Node::Acceptor(acceptor));
            self.leave_hole(acceptor);
        }
    }

    /// Sometimes copies an acceptor's disk, loses the disk, or replaces the disk by its copy.
    pub(crate) fn lose_disk(&mut self) {
        let acceptor = self.some_acceptor();
        let what = self.rng.random_range(0..100);
        let lost = self
            .acceptors
            .iter()
            .filter(|process| process.is_as_good_as_lost())
            .count();
        let process = &self.acceptors[acceptor];
        // In a later era, the copy may count, and its votes would be lost.
        let era = self.invariants.eras.latest().era();
        let may_return = process.lost == Some(Lost::WentBack) && process.lost_below.era() == era;
        if process.right.is_some() && what < 20 && may_return {
            self.put_back(acceptor);
            return;
        }
        let is_damaged = self.knobs.damage && acceptor == 0;
        let may_lose = match &self.changes {
            None => lost < self.knobs.disks_lost_max,
            Some(_) => self.may_lose(acceptor),
        };
        let process = &mut self.acceptors[acceptor];
        if !may_lose || is_damaged || process.is_as_good_as_lost() {
            return;
        }
        if process.copy.is_none() {
            process.copy = Some(process.disk.clone());
            return;
        }
        if what < 3 {
            self.statistics.count(Counted::DisksWiped);
            self.note(|| format!("acceptor {acceptor} loses its disk"));
            self.crash(Node::Acceptor(acceptor));
            self.acceptors[acceptor].lost = Some(Lost::Wiped);
        } else if what < 50
            && let Some(copy) = self.acceptors[acceptor].copy.clone()
            && self.would_be_noticed(acceptor, &copy)
        {
            self.statistics.count(Counted::DisksWentBack);
            self.note(|| {
                format!(
                    "acceptor {acceptor} goes back to commit {}",
                    copy.commit_counter.get()
                )
            });
            self.crash(Node::Acceptor(acceptor));
            let said = self.invariants.lost(acceptor);
            let process = &mut self.acceptors[acceptor];
            process.counter_file = copy.commit_counter;
            process.right = Some((std::mem::replace(&mut process.disk, copy), said));
            process.hole = None;
            process.lost = Some(Lost::WentBack);
            process.lost_below = process
                .right
                .as_ref()
                .map_or(Ballot::ZERO, |(disk, _)| disk.promised);
            process.went_back = true;
            process.linked.clear();
        } else if (50..65).contains(&what) {
            self.end_log_early(acceptor);
        } else if what >= 65 {
            self.garble_state(acceptor, what % 2 == 0);
        }
    }

    /// The mistake is noticed: the right disk is put back, whole. All counting processes restart: a process that had
    /// counted the copy, without a proof, holds the copy's commits against the right disk.
    fn put_back(&mut self, acceptor: usize) {
        self.statistics.count(Counted::DisksPutBack);
        self.note(|| format!("acceptor {acceptor} is put back on its right disk"));
        self.crash(Node::Acceptor(acceptor));
        let process = &mut self.acceptors[acceptor];
        if let Some((disk, said)) = process.right.take() {
            (process.counter_file, process.hole) = (disk.commit_counter, None);
            (process.disk, process.copy, process.lost) = (disk, None, None);
            self.invariants.put_back(acceptor, said);
        }
        for proposer in 0..self.proposers.len() {
            self.crash(Node::Proposer(proposer));
        }
        for learner in 0..self.learners.len() {
            self.crash(Node::Learner(learner));
        }
    }

    /// Whether every phase-1 quorum with this acceptor has a member whose disk proves the copy to be older.
    fn would_be_noticed(&self, acceptor: usize, copy: &Disk) -> bool {
        let mut runs = copy.runs.clone();
        runs.push(Run {
            run: RunNumber::from_random(0),
            commit_counter: copy.commit_counter,
        });
        let history = RunList::new(&runs, RUNS_MAX);
        let proves = |(run, heard)| matches!(history.judge(run, heard), RunJudgement::WentBack(_));
        let is_noticed = |electorate: &Electorate, lost_max: usize| {
            let members = electorate.members().iter();
            let others = members
                .map(|&member| self.place(member))
                .filter(|&other| other != acceptor && self.acceptors[other].lost.is_none());
            let unaware = others
                .filter(|&other| {
                    !self.acceptors[other]
                        .disk
                        .witnesses
                        .of(uuid(acceptor))
                        .any(proves)
                })
                .count();
            // Other acceptors may lose disks, now or later, and then prove nothing.
            unaware + lost_max < electorate.quorums().phase1()
        };
        if self.changes.is_none() {
            return is_noticed(&self.electorate, self.knobs.disks_lost_max);
        }
        let needed = self.needed();
        needed.iter().all(|configuration| {
            let lost_max = self.lost_max(configuration);
            is_noticed(&configuration.electorate(), lost_max)
        })
    }

    /// A proposer or a learner refuses a rolled-back acceptor.
    pub(crate) fn refused(&mut self, who: &str, went_back: WentBack) {
        let acceptor = self.place(went_back.acceptor);
        assert_eq!(
            self.acceptors[acceptor].lost,
            Some(Lost::WentBack),
            "{who} refuses an acceptor that has every vote that it reported: {went_back}"
        );
        self.statistics.count(Counted::AcceptorsRefused);
    }

    /// Whether a message belongs to a connection that ended with the acceptor's process, before the acceptor lost its
    /// disk or got its disk back.
    pub(crate) fn is_of_another_life(
        &self,
        from: Node,
        to: Node,
        stamp: Option<(RunNumber, CommitCounter)>,
    ) -> bool {
        if self.is_of_earlier_run(from, stamp) {
            return true;
        }
        let (acceptor, proposer) = match (from, to) {
            (Node::Acceptor(acceptor), Node::Proposer(proposer))
            | (Node::Proposer(proposer), Node::Acceptor(acceptor)) => (acceptor, proposer),
            (
                Node::Acceptor(_) | Node::Proposer(_) | Node::Learner(_) | Node::Clients,
                Node::Acceptor(_) | Node::Proposer(_) | Node::Learner(_) | Node::Clients,
            ) => return false,
        };
        let process = &self.acceptors[acceptor];
        process.lost.is_some() && !process.linked.contains(&proposer)
    }

    /// Whether a message comes from a process that ended before the acceptor went back on its disk, or got it back.
    pub(crate) fn is_of_earlier_run(&self, from: Node, stamp: Option<(RunNumber, CommitCounter)>) -> bool {
        let present = self.stamp(from).map(|(run, _)| run);
        matches!(from, Node::Acceptor(acceptor) if self.acceptors[acceptor].went_back)
            && present != stamp.map(|(run, _)| run)
    }

    /// The faults stop. Lost disks stay lost.
    pub(crate) fn mend_disks(&mut self) {
        self.knobs.disk_stuck = 0.0;
        self.knobs.commit_fails = 0.0;
        self.knobs.released_late = 0.0;
        for process in &mut self.acceptors {
            (process.stalled_until, process.slow_until, process.full_until) = (0, 0, 0);
        }
    }

    /// Whether an acceptor is blank. A blank acceptor shows a proposer nothing to count.
    pub(crate) fn is_blank(&mut self, acceptor: usize) -> bool {
        let is_blank = self.acceptors[acceptor].lost == Some(Lost::Wiped);
        if is_blank {
            self.statistics.count(Counted::BlankAcceptorsMet);
        }
        is_blank
    }

    /// Makes some rows unreadable from now on: among the latest rows, rows of slots assigned to this acceptor. Each
    /// slot is assigned to a single acceptor. A running acceptor notices a little later.
    pub(crate) fn damage_rows(&mut self, acceptor: usize) {
        let members = match &self.changes {
            None => self.acceptors.len() as u64,
            Some(_) => ACCEPTORS_EVER as u64,
        };
        let disk = &self.acceptors[acceptor].disk;
        let is_its_turn = |slot: &Slot| slot.get() % members == acceptor as u64;
        let latest = disk.rows.keys().rev().take(6 * self.acceptors.len());
        let slots: Vec<Slot> = latest.copied().filter(is_its_turn).collect();
        if slots.is_empty() {
            return;
        }
        let count = self.rng.random_range(1..=slots.len());
        let slots = &slots[..count];
        let disk = &mut self.acceptors[acceptor].disk;
        disk.damaged.extend(slots);
        self.statistics.add(Counted::RowsDamaged, count as u64);
        self.note(|| format!("acceptor {acceptor} cannot read {slots:?} any more"));
        let run = self.acceptors[acceptor].run;
        self.plan_within(500_000, Happening::DamageFound { acceptor, run });
    }

    /// An acceptor reads all its rows, between two groups.
    pub(crate) fn damage_found(&mut self, acceptor: usize, run: u64) {
        let process = &mut self.acceptors[acceptor];
        if process.run != run {
            return;
        }
        if process.committing.is_some() {
            self.plan_within(20_000, Happening::DamageFound { acceptor, run });
        } else if let Some(core) = &mut process.core {
            let found = core.found_damaged(process.disk.damaged.iter().copied());
            self.statistics.add(Counted::RowsFoundDamaged, found as u64);
        }
    }
}
