//! Disks with fewer or different contents than answered: a start notices the difference, and the process ends.
//!
//! Such an acceptor is lost like an acceptor without a disk, so only a minority gets such disks. Three rules are
//! tested:
//! - The state record has a checksum: no page and no start believes a garbled record.
//! - The commit counter has a second copy: a log with an early end does not pass for a whole log.
//! - A start empties the log: no commit stands behind the hole of a failed sync.

use super::{
    acceptors::{AcceptorProcess, Lost},
    network::Node,
    statistics::Counted,
    world::World,
};
use crate::bug::Bug;

impl AcceptorProcess {
    /// The acceptor is lost, or will be lost once the process reads its disk.
    pub(crate) fn is_as_good_as_lost(&self) -> bool {
        self.lost.is_some() || self.disk.garbled || self.lacks_commits()
    }

    /// The disk holds fewer commits than were answered.
    fn lacks_commits(&self) -> bool {
        self.disk.commit_counter < self.counter_file
    }
}

impl World<'_> {
    /// A bit flips in the state record: every vote seems to be chosen. The next commit writes the record again.
    pub(crate) fn garble_state(&mut self, acceptor: usize, goes_on: bool) {
        let disk = &mut self.acceptors[acceptor].disk;
        let voted_to = disk.voted_to();
        if voted_to <= disk.known_to {
            return;
        }
        disk.garbled = true;
        disk.known_to = voted_to;
        self.statistics.count(Counted::StatesGarbled);
        self.note(|| format!("acceptor {acceptor}'s state record is garbled"));
        if !goes_on {
            self.crash(Node::Acceptor(acceptor));
        }
    }

    /// A bit flips in the log: the contents of the disk end at an earlier commit.
    pub(crate) fn end_log_early(&mut self, acceptor: usize) {
        let Some(copy) = self.acceptors[acceptor].copy.clone() else {
            return;
        };
        // A commit on the disk without an answer may be lost: the loss harms no promise and proves nothing.
        if copy.commit_counter >= self.acceptors[acceptor].counter_file {
            return;
        }
        self.statistics.count(Counted::LogsEndedEarly);
        self.note(|| {
            format!(
                "acceptor {acceptor}'s log ends at commit {}",
                copy.commit_counter.get()
            )
        });
        self.crash(Node::Acceptor(acceptor));
        let process = &mut self.acceptors[acceptor];
        process.before_the_end = Some(Box::new(std::mem::replace(&mut process.disk, copy)));
    }

    /// A sync failed: from here on the disk itself has a hole, although the kernel shows the written data.
    pub(crate) fn leave_hole(&mut self, acceptor: usize) {
        let process = &mut self.acceptors[acceptor];
        process.hole = Some(Box::new(process.disk.clone()));
    }

    /// Power loss takes everything behind a hole. The syncs of the second counter may have failed as well.
    pub(crate) fn fall_into_hole(&mut self, acceptor: usize) {
        let process = &mut self.acceptors[acceptor];
        if let Some(hole) = process.hole.take() {
            process.disk = *hole;
            process.counter_file = process.disk.commit_counter;
            self.note(|| format!("acceptor {acceptor} loses what stood behind a hole"));
        }
    }

    /// The first part of a start. Returns whether the start is refused. A start empties the log and so closes every
    /// hole.
    pub(crate) fn start_is_refused(&mut self, acceptor: usize) -> bool {
        if self.finds_garbled_state(acceptor) {
            return true;
        }
        let process = &mut self.acceptors[acceptor];
        if process.lacks_commits() && !self.tampering.has(Bug::EarlyEndOfLogTakenForWhole) {
            self.stops(acceptor);
            return true;
        }
        if process.hole.is_some() && !self.tampering.has(Bug::StartDoesNotCheckpoint) {
            process.hole = None;
            self.statistics.count(Counted::HolesClosed);
        }
        false
    }

    /// Whether a reader of the disk finds a garbled state record at this moment. Then the process ends.
    pub(crate) fn finds_garbled_state(&mut self, acceptor: usize) -> bool {
        let found = self.acceptors[acceptor].disk.garbled && !self.tampering.has(Bug::GarbledStateBelieved);
        if found {
            self.stops(acceptor);
        }
        found
    }

    /// The process ends, and never starts again.
    fn stops(&mut self, acceptor: usize) {
        self.crash(Node::Acceptor(acceptor));
        self.acceptors[acceptor].lost.get_or_insert(Lost::Stopped);
        self.statistics.count(Counted::AcceptorsStopped);
        self.note(|| format!("acceptor {acceptor} finds its disk damaged, and stays stopped"));
    }
}
