//! What goes wrong with the disks and clocks of acceptors: slow, stuck, failing, full, lost, gone back; and clocks. Damage
//! that a disk proves by itself is in `torn_disks.rs`.
//!
//! A disk that is lost or goes back is not an acceptor's any more: it must never be counted again, by anybody. When the
//! right disk is put back, the acceptor must be counted by every process that starts then. A
//! minority may lose its disk, and only so that what the others remember on their own disks proves it, whichever
//! quorum is asked: for what was told to nobody else before a crash, the cores promise nothing.

use paxos_common::paxos::{
    identity::{CommitCounter, RunNumber},
    witness::{History, Judgement, RUNS_MAX, Run, WentBack},
};
use rand::RngExt as _;

use super::{
    acceptors::Lost,
    disks::Disk,
    knobs::MILLISECOND,
    network::Node,
    statistics::Counted,
    world::{Time, World, uuid},
};

/// How many times as long a commit takes on a slow disk.
const SLOWNESS: Time = 20;
/// And when it is stuck.
const STUCK: Time = 100;
/// Most simulated milliseconds in which the disk shows a commit and memory does not.
const READABLE_FIRST_MAX: Time = 200;

impl World<'_> {
    /// One fault of a disk or a clock.
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

    /// A clock leaps ahead, or runs at another rate from now on.
    fn clock_jumps(&mut self) {
        self.statistics.count(Counted::ClocksJumped);
        let rate = self.rng.random_range(80..=125);
        let now = self.now;
        if self.rng.random_bool(0.5) {
            let ahead = self.rng.random_range(0..=2_000) * MILLISECOND;
            let acceptor = self.some_acceptor();
            self.acceptors[acceptor].clock.jump(now, rate, ahead);
            // By its clock, it has not heard the leader for a while.
            self.acceptors[acceptor].hearing.since = now;
        } else {
            let proposer = self.some_proposer();
            self.proposers[proposer].clock.jump(now, rate, 0);
        }
    }

    /// How long the next commit takes, and whether it fails.
    pub(crate) fn commit_takes(&mut self, acceptor: usize) -> (Time, bool) {
        let mut takes = self.rng.random_range(self.knobs.disk_min..=self.knobs.disk_max);
        // Never both: what is stuck when the faults stop must come free while progress is waited for.
        if self.rng.random_bool(self.knobs.disk_stuck) {
            self.statistics.count(Counted::CommitsStuck);
            takes *= STUCK;
        } else if self.acceptors[acceptor].slow_until > self.now {
            takes *= SLOWNESS;
        }
        takes = self.acceptors[acceptor].takes.unwrap_or(takes);
        // What begins in a stall ends after it.
        let stalled = self.acceptors[acceptor].stalled_until.saturating_sub(self.now);
        (takes + stalled, self.rng.random_bool(self.knobs.commit_fails))
    }

    /// How long a commit that readers of the disk see is not in memory yet, if it is not at once: a checkpoint that the
    /// commit has triggered, or a busy machine.
    pub(crate) fn release_takes(&mut self) -> Option<Time> {
        if !self.rng.random_bool(self.knobs.released_late) {
            return None;
        }
        self.statistics.count(Counted::CommitsReadableFirst);
        Some(self.rng.random_range(1..=READABLE_FIRST_MAX) * MILLISECOND)
    }

    /// A failed commit is final: nobody is answered, the process ends. What was to be written may be there or not.
    pub(crate) fn commit_failed(&mut self, acceptor: usize, run: u64) {
        if self.acceptors[acceptor].run == run {
            self.statistics.count(Counted::CommitsFailed);
            self.crash(Node::Acceptor(acceptor));
            self.leave_hole(acceptor);
        }
    }

    /// Now and then somebody's disk is copied, or lost, or replaced by its copy.
    pub(crate) fn lose_disk(&mut self) {
        let acceptor = self.some_acceptor();
        let what = self.rng.random_range(0..100);
        let lost = self
            .acceptors
            .iter()
            .filter(|process| process.is_as_good_as_lost())
            .count();
        if self.acceptors[acceptor].right.is_some() && what < 20 {
            self.put_back(acceptor);
            return;
        }
        let is_damaged = self.knobs.damage && acceptor == 0;
        let process = &mut self.acceptors[acceptor];
        if lost >= self.knobs.disks_lost_max || is_damaged || process.is_as_good_as_lost() {
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
            process.went_back = true;
            process.linked.clear();
        } else if (50..65).contains(&what) {
            self.end_log_early(acceptor);
        } else if what >= 65 {
            self.garble_state(acceptor, what % 2 == 0);
        }
    }

    /// The mistake is noticed: the right disk is put back, whole. All that count start afresh: a process that had counted
    /// the copy, while it knew no better, holds that against the right disk.
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

    /// Whether every phase-1 quorum with this acceptor has a member whose disk proves that the copy is older.
    fn would_be_noticed(&self, acceptor: usize, copy: &Disk) -> bool {
        let mut runs = copy.runs.clone();
        runs.push(Run {
            run: RunNumber::from_random(0),
            commit_counter: copy.commit_counter,
        });
        let others = self
            .acceptors
            .iter()
            .enumerate()
            .filter(|(other, process)| *other != acceptor && process.lost.is_none());
        let history = History::new(&runs, RUNS_MAX);
        let proves = |(run, heard)| matches!(history.judge(run, heard), Judgement::WentBack(_));
        let unaware = others
            .filter(|(_, other)| !other.disk.witnesses.of(uuid(acceptor)).any(proves))
            .count();
        // Others that lose their disks, now or later, prove nothing.
        unaware + self.knobs.disks_lost_max < self.knobs.quorums.phase1()
    }

    /// A proposer or a learner finds an acceptor out.
    pub(crate) fn refused(&mut self, who: &str, went_back: WentBack) {
        let acceptor = self.place(went_back.acceptor);
        assert_eq!(
            self.acceptors[acceptor].lost,
            Some(Lost::WentBack),
            "{who} refuses an acceptor that has all it ever told: {went_back}"
        );
        self.statistics.count(Counted::AcceptorsRefused);
    }

    /// Whether a message goes with a connection that ended with the process at its end, before it lost its disk or got
    /// it back.
    pub(crate) fn is_of_another_life(
        &self,
        from: Node,
        to: Node,
        stamp: Option<(RunNumber, CommitCounter)>,
    ) -> bool {
        if let Node::Acceptor(acceptor) = from
            && self.acceptors[acceptor].went_back
        {
            let present = self.stamp(from).map(|(run, _)| run);
            if present != stamp.map(|(run, _)| run) {
                return true;
            }
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

    /// The faults stop. What is lost stays lost.
    pub(crate) fn mend_disks(&mut self) {
        self.knobs.disk_stuck = 0.0;
        self.knobs.commit_fails = 0.0;
        self.knobs.released_late = 0.0;
        for process in &mut self.acceptors {
            (process.stalled_until, process.slow_until, process.full_until) = (0, 0, 0);
        }
    }

    /// What is shown to a proposer that asks a blank acceptor who it is: nothing to count.
    pub(crate) fn is_blank(&mut self, acceptor: usize) -> bool {
        let is_blank = self.acceptors[acceptor].lost == Some(Lost::Wiped);
        if is_blank {
            self.statistics.count(Counted::BlankAcceptorsMet);
        }
        is_blank
    }
}
