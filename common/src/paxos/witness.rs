//! Witness: the remembered runs of other acceptors, by which a lost or rolled-back disk is noticed.
//!
//! An acceptor counts its commits and numbers its runs at random. A process that hears of an acceptor remembers the
//! highest counter heard for each run. When a connection to an acceptor opens, the acceptor shows its list of runs. If
//! the list lacks a remembered earlier run, or shows a lower end of this run, the disk behind the list is not the disk
//! that had answered: the acceptor is not counted. A counter alone would not suffice, because a restarting refused
//! acceptor climbs past the remembered counter.
//!
//! Within the present run a lower counter is merely late. For counters not stored by any other acceptor before a crash,
//! the check is best effort.
//!
//! # A new run counts after the other acceptors were asked
//!
//! A process that counts acceptors can lack news of one for a long time: a leader was frozen, a learner was not
//! connected. The memory of such a process then says nothing about the commits in between. So a process does not count
//! a new run of an acceptor at once. The process first asks the other acceptors for their tables, *after* the acceptor
//! has shown the run, and compares the list with all of the tables. The acceptor and the others that answered must form
//! a phase-1 quorum. A rolled-back disk is therefore noticed if every phase-1 quorum with this acceptor has a member
//! whose disk proves the rollback. The process asks all other acceptors, and uses late answers too. Within one run an
//! acceptor only gains commits, so a counted run needs no second question.
//!
//! The price: a proposer or a learner counts no acceptor before a phase-1 quorum answers. With a phase-1 quorum larger
//! than the phase-2 quorum, a restarted acceptor counts only while a whole phase-1 quorum is up.
//!
//! # Bounds, and why they are sound
//!
//! An acceptor keeps and shows the last [`RUNS_MAX`] runs. A shorter list is complete. A longer list comes from an
//! earlier release, and is complete too. A list of exactly this length may be *cut*: the acceptor may have had runs
//! before the oldest shown run. [`RunList::judge`] compares a remembered run, with counter c, with a list:
//!
//! - The list shows the run. The list agrees if the run ended at c or higher. If the run ended lower, the disk went
//!   back.
//! - The run is missing from a complete list: the disk went back. The same is true of a cut list if c is not below the
//!   final counter of the oldest listed run, because every run before the oldest listed run ended below this counter.
//! - Otherwise the memory is *too old to prove* anything. The list agrees only if the stored table of another acceptor
//!   vouches for the list. A table vouches if it holds a run of this acceptor that the list shows and agrees with.
//!   Counters heard by the judging process do not vouch. A leader passes on nothing about an untrusted acceptor, so no
//!   table learns of the runs of a refused acceptor. Such an acceptor may crash and start any number of times: once the
//!   proof has left the list, nothing vouches for the list.
//!
//! An acceptor stores at most [`WITNESSED_RUNS_MAX`] runs of each other acceptor. The run with the lowest counter is
//! dropped first. Dropping the run loses no proof. The run is dropped only after leaders have passed on that many later
//! runs. Before a leader passes anything on to an acceptor, the leader has read the table of this acceptor (when the
//! connection opened, and with the promise). The leader trusted the later runs in spite of the table. So the disk
//! behind the later runs descends from the dropped run. [`Guard`] compares all given tables with all lists before
//! dropping anything.
//!
//! A process takes nothing from an agreeing list. A process remembers only counters heard with an answer, for the
//! answering run. A disk that holds this commit holds all earlier runs.
//!
//! # Unnoticed cases
//!
//! - A rolled-back disk, while a phase-1 quorum answers and every acceptor with a proof is out of reach. The acceptor
//!   is counted until an acceptor with a proof is back, and votes can be lost meanwhile.
//! - The same permanently, if the acceptor started [`RUNS_MAX`] times meanwhile, and leaders without a proof counted
//!   the acceptor and passed the new runs on.
//! - The reverse: a sound acceptor is refused after [`RUNS_MAX`] starts without any leader counting the acceptor once.
//!   The refusal lasts until an operator makes the other acceptors forget (`paxos repair forget-witness`).
//! - A leader reads the table of an acceptor when a connection opens and with each promise. Between this reading and
//!   the leader's own first message to the acceptor, a second leader may pass runs on. These runs may be dropped
//!   unseen.
//! - A process may count an older copy before any proof arrives. The process then holds the copy's commits against the
//!   right disk, until the process starts again.
//! - A machine resumed from a live snapshot. The process keeps its run number, and a lower counter in the present run
//!   passes for a late answer. The next start of the process shows the rollback if the run ended below the remembered
//!   counter. If the counter passed the remembered counter first, the rollback stays unnoticed. Never resume an
//!   acceptor from a live snapshot without ending the process first. A copy of the data directory is noticed once a new
//!   process starts on the copy.

use std::collections::BTreeMap;

use super::{
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    quorum::Electorate,
};

mod guard;

pub use guard::{Guard, GuardFinding};

/// Number of runs kept on disk and shown by an acceptor, the present run included. Enough for some hours of a crash
/// loop with a restart every ten seconds. A list of this length (some 20 KiB) is far below the limit of a message.
pub const RUNS_MAX: usize = 1_024;

/// Number of remembered runs of each other acceptor. A single run would prove as much as long as leaders agree. The
/// rest cover overlapping leaders, and news not exchanged between such leaders.
pub const WITNESSED_RUNS_MAX: usize = 8;

/// The highest commit counter heard, for each acceptor and run. Grows until [`Self::bound`] is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Witnesses(BTreeMap<(AcceptorUuid, RunNumber), CommitCounter>);

/// A run of an acceptor, as reported by the acceptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The number of the run.
    pub run: RunNumber,
    /// The counter at the end of the run; for the present run, the current counter.
    pub commit_counter: CommitCounter,
}

/// An acceptor lacks commits that it had reported: its disk was lost, or is an older copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error(
    "acceptor {acceptor} had reported commit {} in run {:x}, but now knows {}: the acceptor has lost its disk, or \
     runs on an older copy of the disk. The acceptor is not counted while running on this disk. Stop the acceptor. If \
     its right disk still exists, start the acceptor on the right disk. Otherwise empty its directory, start it \
     again, and run `paxos member replace`. If the remembered runs of this acceptor are wrong, see `paxos repair \
     forget-witness --help`",
    .heard.get(), .run.get(),
    match .known {
        ShownRun::EndedAt(known) => format!("that run only up to commit {}", known.get()),
        ShownRun::Nothing => "no such run".to_owned(),
        ShownRun::TooOld => "only later runs, unconfirmed by any other acceptor".to_owned(),
    }
)]
pub struct WentBack {
    /// The acceptor.
    pub acceptor: AcceptorUuid,
    /// The remembered run that proves the loss.
    pub run: RunNumber,
    /// The highest counter heard of in the run.
    pub heard: CommitCounter,
    /// What the acceptor's own list says of this run.
    pub known: ShownRun,
}

/// What an acceptor's own list says of a remembered run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShownRun {
    /// The run ended at this counter, below the remembered counter.
    EndedAt(CommitCounter),
    /// There was no such run.
    Nothing,
    /// The list does not reach back to the run, and no stored table vouches for the list.
    TooOld,
}

impl Witnesses {
    /// Remembers a counter. Returns whether the counter was news.
    pub fn hear(&mut self, acceptor: AcceptorUuid, run: RunNumber, counter: CommitCounter) -> bool {
        let heard = self.0.entry((acceptor, run)).or_default();
        let news = *heard < counter;
        *heard = counter.max(*heard);
        news
    }

    /// Merges another table into this table. Returns whether any entry was news.
    pub fn merge(
        &mut self,
        other: impl IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>,
    ) -> bool {
        let mut news = false;
        for (acceptor, run, counter) in other {
            news |= self.hear(acceptor, run, counter);
        }
        news
    }

    /// Keeps the `max` runs of each acceptor with the highest counters.
    pub fn bound(&mut self, max: usize) {
        let mut of_each: BTreeMap<AcceptorUuid, Vec<(CommitCounter, RunNumber)>> = BTreeMap::new();
        for (acceptor, run, counter) in self.iter() {
            of_each.entry(acceptor).or_default().push((counter, run));
        }
        for (acceptor, mut runs) in of_each.into_iter().filter(|(_, runs)| runs.len() > max) {
            runs.sort_unstable();
            for (_, run) in runs.drain(..runs.len() - max) {
                self.0.remove(&(acceptor, run));
            }
        }
    }

    /// Whether a counter is news, and would be kept by a table of at most `max` runs of each acceptor.
    pub fn would_keep(
        &self,
        acceptor: AcceptorUuid,
        run: RunNumber,
        counter: CommitCounter,
        max: usize,
    ) -> bool {
        match self.heard(acceptor, run) {
            Some(heard) => heard < counter,
            None => {
                self.of(acceptor)
                    .filter(|&(other, higher)| (higher, other) > (counter, run))
                    .count()
                    < max
            }
        }
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The highest counter heard of a run.
    pub fn heard(&self, acceptor: AcceptorUuid, run: RunNumber) -> Option<CommitCounter> {
        self.0.get(&(acceptor, run)).copied()
    }

    /// Everything remembered, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (AcceptorUuid, RunNumber, CommitCounter)> {
        self.0
            .iter()
            .map(|(&(acceptor, run), &counter)| (acceptor, run, counter))
    }

    /// The remembered runs of an acceptor.
    pub fn of(&self, acceptor: AcceptorUuid) -> impl Iterator<Item = (RunNumber, CommitCounter)> {
        let of_it = (acceptor, RunNumber::from_random(0))..=(acceptor, RunNumber::from_random(u64::MAX));
        self.0.range(of_it).map(|(&(_, run), &counter)| (run, counter))
    }

    /// The entries of the cluster's members. Acceptors outside the cluster are ignored.
    pub fn of_members(&self, electorate: &Electorate) -> Self {
        self.of_those(|acceptor| electorate.includes(acceptor))
    }

    /// The entries of the acceptors for which `is` holds.
    pub fn of_those(&self, is: impl Fn(AcceptorUuid) -> bool) -> Self {
        self.iter().filter(|&(acceptor, ..)| is(acceptor)).collect()
    }

    /// The acceptors with an entry, ascending; an acceptor may come several times.
    pub fn acceptors(&self) -> impl Iterator<Item = AcceptorUuid> {
        self.iter().map(|(acceptor, ..)| acceptor)
    }

    /// The entries missing from the other table, or lower there.
    pub fn beyond(&self, other: &Self) -> Self {
        let news = |&(acceptor, run, counter): &(AcceptorUuid, RunNumber, CommitCounter)| {
            other.heard(acceptor, run) < Some(counter)
        };
        self.iter().filter(news).collect()
    }
}

impl FromIterator<(AcceptorUuid, RunNumber, CommitCounter)> for Witnesses {
    fn from_iter<T: IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>>(entries: T) -> Self {
        let mut witnesses = Self::default();
        witnesses.merge(entries);
        witnesses
    }
}

/// An acceptor's own list of runs, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RunList {
    /// The final counter of each run before the present run.
    ended: BTreeMap<RunNumber, CommitCounter>,
    present: Option<RunNumber>,
    /// The final counter of the oldest listed run, if earlier runs may have been left out.
    cut_at: Option<CommitCounter>,
}

/// Verdict of a list on a remembered run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunJudgement {
    /// The list shows the run, and agrees with the remembered counter.
    Agrees,
    /// The list contradicts the memory.
    WentBack(ShownRun),
    /// The list does not reach back to the run.
    TooOld,
}

impl RunList {
    /// A list with the present run last. A list of exactly `runs_max` runs counts as cut.
    pub fn new(runs: &[Run], runs_max: usize) -> Self {
        let cut_at = runs.first().filter(|_| runs.len() == runs_max);
        let (present, past) = match runs.split_last() {
            Some((present, past)) => (Some(present.run), past),
            None => (None, runs),
        };
        Self {
            ended: past.iter().map(|run| (run.run, run.commit_counter)).collect(),
            present,
            cut_at: cut_at.map(|oldest| oldest.commit_counter),
        }
    }

    /// Whether `run` is the present run.
    pub fn is_present(&self, run: RunNumber) -> bool {
        self.present == Some(run)
    }

    /// Compares a remembered run with the list; see the head of this file.
    pub fn judge(&self, run: RunNumber, heard: CommitCounter) -> RunJudgement {
        if self.is_present(run) {
            return RunJudgement::Agrees;
        }
        match (self.ended.get(&run), self.cut_at) {
            (Some(&ended), _) if ended < heard => RunJudgement::WentBack(ShownRun::EndedAt(ended)),
            (Some(_), _) => RunJudgement::Agrees,
            (None, Some(cut_at)) if heard < cut_at => RunJudgement::TooOld,
            (None, _) => RunJudgement::WentBack(ShownRun::Nothing),
        }
    }

    /// Whether the list shows a run, and agrees with the remembered counter.
    fn shows(&self, run: RunNumber, heard: CommitCounter) -> bool {
        self.judge(run, heard) == RunJudgement::Agrees
    }
}

#[cfg(test)]
mod tests;
