//! Witness: what is remembered of other acceptors' runs, so that a disk that was lost or went back is noticed.
//!
//! An acceptor counts its commits and numbers its runs at random. A process that hears of it remembers, for each run, the
//! highest counter heard. When a connection to an acceptor opens, it shows its list of runs; if the list lacks an earlier
//! run that is remembered, or ended it lower, the disk behind it is not the one that had answered: it is not counted. A
//! counter alone would not do, because a refused acceptor that restarts climbs past it.
//!
//! Within the present run a lower counter is merely late. For what no other acceptor had stored before a crash, the check
//! is best effort.
//!
//! # A new run counts after the other acceptors were asked
//!
//! A process that counts acceptors can lack news of one of them for a long time: a leader was frozen, a learner was not
//! connected. Its own memory then says nothing about the commits in between. So a process does not count a new run of an
//! acceptor at once. It first asks the other acceptors for their tables, *after* the acceptor has shown the run, and holds
//! the list against all of them. The acceptor and the others that answered must form a phase-1 quorum. A disk that went
//! back is therefore noticed if every phase-1 quorum with this acceptor has a member whose disk proves it. All others are
//! asked, and late answers are used too. Within one run an acceptor only gains commits, so a counted run needs no second
//! question.
//!
//! The price: a proposer or a learner counts no acceptor before a phase-1 quorum answers. With a phase-1 quorum larger than
//! the phase-2 quorum, a restarted acceptor counts only while a whole phase-1 quorum is up.
//!
//! # What is bounded, and why that is sound
//!
//! An acceptor keeps and shows its last [`RUNS_MAX`] runs. A shorter list is complete. A longer one comes from an earlier
//! release, and is complete too. A list of exactly that length may be *cut*: runs before the oldest one shown may have
//! existed. [`History::judge`] holds a remembered run, with counter c, against a list:
//!
//! - The run is listed and ended at c or higher: the list agrees. It ended lower: the disk went back.
//! - The run is missing from a complete list: the disk went back. The same holds for a cut list if c is not below the
//!   counter at which the oldest listed run ended, because a run before that one ended below it.
//! - Otherwise the memory is *too old to prove* anything. The list agrees only if the stored table of another acceptor
//!   vouches for it: the table holds a run of this acceptor that the list shows and agrees with. What the judging process
//!   heard itself does not vouch. A leader passes on nothing about an acceptor that it does not trust, so no table learns
//!   of the runs of a refused acceptor. Such an acceptor may crash and start as often as it likes: when the proof has left
//!   its list, nothing vouches for the list.
//!
//! An acceptor stores at most [`WITNESSED_RUNS_MAX`] runs of each other acceptor. The run with the lowest counter is
//! dropped first. So a run is dropped only when that many later runs were passed on by leaders. A leader has read the
//! table of an acceptor (when its connection opened, and with the promise) before it passes anything on to that acceptor,
//! and trusted the runs in spite of the table. So the disk behind those runs descends from the run that is dropped.
//! [`Guard`] holds all that it is given against all lists before it drops anything.
//!
//! Of a list that agrees nothing is taken up: what is remembered is what was heard with an answer, in the run that answers.
//! A disk that holds this commit holds all runs before it.
//!
//! # What remains unnoticed
//!
//! - A disk that went back, while a phase-1 quorum answers and every acceptor with a proof is out of reach. The acceptor is
//!   counted until one of these acceptors is back, and votes can be lost meanwhile.
//! - The same permanently, if the acceptor started [`RUNS_MAX`] times meanwhile, and leaders without a proof counted the
//!   acceptor and passed its new runs on.
//! - The reverse: a sound acceptor that started [`RUNS_MAX`] times without any leader counting it once is refused, until an
//!   operator has the others forget (`paxos repair forget-witness`).
//! - A leader reads a table when a connection opens and with each promise. What another leader passes on between that and
//!   its own first message to that acceptor may be dropped unseen.
//! - A process that counted an older copy, before it knew better, holds that against the right disk until it starts again.
//! - A machine that is resumed from a live snapshot: its process keeps its run number, and a lower counter in the present
//!   run is taken for a late answer. It is noticed when the process starts again: then the run has ended below what is
//!   remembered, unless the counter has climbed past that by then. An acceptor is never resumed from a live snapshot
//!   without ending its process first. A copy of the data directory that is started anew is noticed.

use std::collections::BTreeMap;

use super::{
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    quorum::Electorate,
};

mod guard;

pub use guard::{Found, Guard};

/// How many runs an acceptor keeps on disk and shows, the present one among them. Enough for some hours of a crash loop
/// with a restart every ten seconds, and a list of that length (some 20 KiB) is far below the limit of a message.
pub const RUNS_MAX: usize = 1_024;

/// How many runs of each other acceptor an acceptor remembers. One would prove as much as long as leaders agree; the
/// others cover leaders that overlap, and what they had not heard of one another.
pub const WITNESSED_RUNS_MAX: usize = 8;

/// For each acceptor and run the highest commit counter heard. It grows until [`Self::bound`] is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Witnesses(BTreeMap<(AcceptorUuid, RunNumber), CommitCounter>);

/// One run of an acceptor, as it tells it itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// Its number.
    pub run: RunNumber,
    /// Where it ended; for the present run, where it is.
    pub commit_counter: CommitCounter,
}

/// An acceptor does not know what it had told: its disk was lost, or is an older copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error(
    "acceptor {acceptor} had told of commit {} in run {:x}, and knows {}: it has lost its disk, or runs on an older copy \
     of it. It is not counted while it runs on this disk. Stop it. If its right disk is still there, start it on that. \
     Otherwise leave it stopped; it cannot be replaced in this release. If what is remembered of it is wrong, see \
     `paxos repair forget-witness --help`",
    .heard.get(), .run.get(),
    match .known {
        Known::EndedAt(known) => format!("that run only up to commit {}", known.get()),
        Known::Nothing => "no such run".to_owned(),
        Known::TooOld => "only later runs, for which no other acceptor vouches".to_owned(),
    }
)]
pub struct WentBack {
    /// Which acceptor.
    pub acceptor: AcceptorUuid,
    /// The run that proves it.
    pub run: RunNumber,
    /// The highest counter heard of in it.
    pub heard: CommitCounter,
    /// What the acceptor's own list says of that run.
    pub known: Known,
}

/// What an acceptor's own list says of a run that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Known {
    /// It ended lower than what is remembered.
    EndedAt(CommitCounter),
    /// There was no such run.
    Nothing,
    /// The list does not reach back that far, and no stored table vouches for it.
    TooOld,
}

impl Witnesses {
    /// Remembers a counter; tells whether it was news.
    pub fn hear(&mut self, acceptor: AcceptorUuid, run: RunNumber, counter: CommitCounter) -> bool {
        let heard = self.0.entry((acceptor, run)).or_default();
        let news = *heard < counter;
        *heard = counter.max(*heard);
        news
    }

    /// Remembers all that another remembers; tells whether anything was news.
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

    /// Keeps the `max` runs of each acceptor that have the highest counters.
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

    /// Whether a counter is news, and would be kept by a table that keeps `max` runs of each acceptor.
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

    /// What is remembered of one acceptor.
    pub fn of(&self, acceptor: AcceptorUuid) -> impl Iterator<Item = (RunNumber, CommitCounter)> {
        let of_it = (acceptor, RunNumber::from_random(0))..=(acceptor, RunNumber::from_random(u64::MAX));
        self.0.range(of_it).map(|(&(_, run), &counter)| (run, counter))
    }

    /// The entries of the cluster's members. Acceptors outside the cluster are ignored.
    pub fn of_members(&self, electorate: &Electorate) -> Self {
        self.iter()
            .filter(|&(acceptor, ..)| electorate.includes(acceptor))
            .collect()
    }

    /// What is remembered here and not, or lower, in another.
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
pub struct History {
    /// Where each run before the present one ended.
    ended: BTreeMap<RunNumber, CommitCounter>,
    present: Option<RunNumber>,
    /// Where the oldest run listed ended, if runs before it may have been left out.
    cut_at: Option<CommitCounter>,
}

/// What a list says of a run that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It knows of it.
    Agrees,
    /// It contradicts.
    WentBack(Known),
    /// It does not reach back that far.
    TooOld,
}

impl History {
    /// A list, the present run last, that was cut if it has exactly `runs_max` runs.
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

    /// Whether a run is the present one.
    pub fn is_present(&self, run: RunNumber) -> bool {
        self.present == Some(run)
    }

    /// Holds a remembered run against the list; see the head of this file.
    pub fn judge(&self, run: RunNumber, heard: CommitCounter) -> Judgement {
        if self.is_present(run) {
            return Judgement::Agrees;
        }
        match (self.ended.get(&run), self.cut_at) {
            (Some(&ended), _) if ended < heard => Judgement::WentBack(Known::EndedAt(ended)),
            (Some(_), _) => Judgement::Agrees,
            (None, Some(cut_at)) if heard < cut_at => Judgement::TooOld,
            (None, _) => Judgement::WentBack(Known::Nothing),
        }
    }

    /// Whether it shows a run, and agrees with what is remembered of it.
    fn shows(&self, run: RunNumber, heard: CommitCounter) -> bool {
        self.judge(run, heard) == Judgement::Agrees
    }
}

#[cfg(test)]
mod tests;
