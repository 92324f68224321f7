//! Witness: what is remembered of other acceptors' runs, so that a disk that was lost or went back is noticed.
//!
//! An acceptor counts its commits and numbers its runs at random. Whoever hears of it remembers, for each run, the
//! highest counter heard. When a way to an acceptor opens, it shows its list of runs; if the list lacks an earlier run
//! that somebody remembers, or ended it lower, the disk behind it is not the one that had answered: it is refused, for
//! good. A counter alone would not do, because a refused acceptor that restarts climbs past it.
//!
//! Within the present run a lower counter is merely late. For what was told to nobody else before a crash, the check
//! is best effort.

use std::collections::BTreeMap;

use super::identity::{AcceptorUuid, CommitCounter, RunNumber};

/// For each acceptor and run the highest commit counter heard. Nothing is ever dropped.
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
     of it. It is not counted, for good: its votes are gone. Stop it; it cannot be replaced in this release",
    .heard.get(), .run.get(),
    match .known { Some(known) => format!("that run only up to commit {}", known.get()), None => "no such run".to_owned() }
)]
pub struct WentBack {
    /// Which acceptor.
    pub acceptor: AcceptorUuid,
    /// The run that proves it.
    pub run: RunNumber,
    /// The highest counter heard of in it.
    pub heard: CommitCounter,
    /// Where the acceptor says that the run ended; `None` when it does not know it.
    pub known: Option<CommitCounter>,
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

    /// Holds an acceptor's own list of runs, the present one last, against what is remembered of it.
    ///
    /// # Errors
    /// When an earlier run is missing or ended too low.
    pub fn check(&self, acceptor: AcceptorUuid, runs: &[Run]) -> Result<(), WentBack> {
        let (present, past) = match runs.split_last() {
            Some((present, past)) => (Some(present.run), past),
            None => (None, runs),
        };
        let of_it = (acceptor, RunNumber::from_random(0))..=(acceptor, RunNumber::from_random(u64::MAX));
        for (&(_, run), &heard) in self.0.range(of_it) {
            if Some(run) == present {
                continue;
            }
            let known = past
                .iter()
                .find(|past| past.run == run)
                .map(|past| past.commit_counter);
            if known.is_none_or(|known| known < heard) {
                return Err(WentBack {
                    acceptor,
                    run,
                    heard,
                    known,
                });
            }
        }
        Ok(())
    }
}

/// How often an acceptor must contradict what is remembered of it, one opening after the other, before it is refused.
///
/// A list of runs may be older than what is remembered: the acceptor has restarted since it showed it, and others heard
/// of its new run first. Whoever keeps one way to an acceptor asks for the second list after the contradiction; the
/// third is for those who keep several.
const CONTRADICTIONS_MAX: u32 = 3;

/// What an introduction brought to light.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// What this acceptor last showed of itself contradicts what is remembered: it must not be counted until it has
    /// shown its runs anew.
    Suspected(AcceptorUuid),
    /// It must never be counted any more.
    Refused(WentBack),
}

/// Lets only those acceptors count whose runs agree with everything that is remembered of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Guard {
    witnesses: Witnesses,
    /// What each acceptor last showed of itself.
    shown: BTreeMap<AcceptorUuid, Vec<Run>>,
    /// The run that they do not know, and how often they showed that.
    suspected: BTreeMap<AcceptorUuid, (RunNumber, u32)>,
    refused: BTreeMap<AcceptorUuid, WentBack>,
}

impl Guard {
    /// An acceptor shows its runs, the present one last, and what it remembers of others. Returns what is found out by
    /// it, of this acceptor or of others.
    pub fn introduce(
        &mut self,
        acceptor: AcceptorUuid,
        runs: Vec<Run>,
        remembers: impl IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>,
    ) -> Vec<Found> {
        self.witnesses.merge(remembers);
        let mut found = Vec::new();
        if !self.refused.contains_key(&acceptor) {
            match self.witnesses.check(acceptor, &runs) {
                Ok(()) => {
                    self.suspected.remove(&acceptor);
                    // All of it is worth remembering: its disk is the one that had answered before.
                    let own = runs.iter().map(|run| (acceptor, run.run, run.commit_counter));
                    self.witnesses.merge(own);
                }
                Err(went_back) => found.push(self.contradicted(went_back)),
            }
            self.shown.insert(acceptor, runs);
        }
        found.append(&mut self.suspects());
        found
    }

    /// An acceptor tells what it remembers of others, later than when it was introduced: with its promise. A promise of
    /// another that went back meanwhile must not count beside it. Returns what is found out by it.
    pub fn remember(
        &mut self,
        remembers: impl IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>,
    ) -> Vec<Found> {
        self.witnesses.merge(remembers);
        self.suspects()
    }

    /// Holds what everybody has shown against what is remembered now.
    fn suspects(&mut self) -> Vec<Found> {
        let mut found = Vec::new();
        for (&other, runs) in &self.shown {
            let known = self.refused.contains_key(&other) || self.suspected.contains_key(&other);
            if !known && let Err(went_back) = self.witnesses.check(other, runs) {
                self.suspected.insert(other, (went_back.run, 0));
                found.push(Found::Suspected(other));
            }
        }
        found
    }

    /// Counts how often an acceptor showed that it does not know a run.
    fn contradicted(&mut self, went_back: WentBack) -> Found {
        let acceptor = went_back.acceptor;
        let (run, times) = self.suspected.entry(acceptor).or_insert((went_back.run, 0));
        if *run != went_back.run {
            (*run, *times) = (went_back.run, 0);
        }
        *times += 1;
        if *times < CONTRADICTIONS_MAX {
            return Found::Suspected(acceptor);
        }
        self.refused.insert(acceptor, went_back);
        Found::Refused(went_back)
    }

    /// Whether an acceptor may be counted, as far as is known.
    pub fn trusts(&self, acceptor: AcceptorUuid) -> bool {
        !self.refused.contains_key(&acceptor) && !self.suspected.contains_key(&acceptor)
    }

    /// An acceptor answered, as of a commit.
    pub fn hear(&mut self, acceptor: AcceptorUuid, run: RunNumber, counter: CommitCounter) {
        self.witnesses.hear(acceptor, run, counter);
    }

    /// Why an acceptor must not be counted, if it must not.
    pub fn refusal(&self, acceptor: AcceptorUuid) -> Option<WentBack> {
        self.refused.get(&acceptor).copied()
    }

    /// Everything remembered.
    pub fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPTOR: AcceptorUuid = AcceptorUuid::from_u128(7);
    const OTHER: AcceptorUuid = AcceptorUuid::from_u128(8);

    fn run(number: u64, counter: u64) -> Run {
        Run {
            run: RunNumber::from_random(number),
            commit_counter: CommitCounter::new(counter),
        }
    }

    fn heard(of: &[(u64, u64)]) -> Witnesses {
        let mut witnesses = Witnesses::default();
        witnesses.merge(of.iter().map(|&(number, counter)| {
            let Run { run, commit_counter } = run(number, counter);
            (ACCEPTOR, run, commit_counter)
        }));
        witnesses
    }

    #[test]
    fn an_acceptor_that_knows_all_it_had_told_passes() {
        let witnesses = heard(&[(1, 10), (2, 25)]);
        assert_eq!(
            witnesses.check(ACCEPTOR, &[run(1, 10), run(2, 30), run(3, 31)]),
            Ok(())
        );
        assert_eq!(witnesses.check(OTHER, &[run(9, 1)]), Ok(()));
    }

    #[test]
    fn within_the_present_run_a_lower_counter_is_merely_late() {
        assert_eq!(
            heard(&[(1, 10), (2, 25)]).check(ACCEPTOR, &[run(1, 10), run(2, 24)]),
            Ok(())
        );
    }

    #[test]
    fn a_disk_that_lost_a_run_or_ended_it_lower_is_refused() {
        let witnesses = heard(&[(1, 10), (2, 25)]);
        let wiped = witnesses.check(ACCEPTOR, &[run(5, 1)]).unwrap_err();
        assert_eq!(wiped.known, None);
        let older_copy = witnesses
            .check(ACCEPTOR, &[run(1, 10), run(2, 20), run(3, 21)])
            .unwrap_err();
        assert_eq!(older_copy.known, Some(CommitCounter::new(20)));
        assert!(older_copy.to_string().contains("older copy"), "{older_copy}");
    }

    #[test]
    fn a_refused_acceptor_stays_refused_however_far_it_climbs() {
        let witnesses = heard(&[(2, 25)]);
        assert!(
            witnesses
                .check(ACCEPTOR, &[run(2, 20), run(3, 500), run(4, 900)])
                .is_err()
        );
    }

    #[test]
    fn what_is_heard_late_changes_nothing() {
        let mut witnesses = heard(&[(1, 10)]);
        assert!(!witnesses.hear(ACCEPTOR, RunNumber::from_random(1), CommitCounter::new(9)));
        assert!(witnesses.hear(ACCEPTOR, RunNumber::from_random(1), CommitCounter::new(11)));
    }

    #[test]
    fn guard_finds_out_an_acceptor_by_what_a_later_one_remembers() {
        let mut guard = Guard::default();
        let older_copy = vec![run(1, 20), run(3, 21)];
        assert_eq!(guard.introduce(ACCEPTOR, older_copy.clone(), []), []);
        assert!(guard.trusts(ACCEPTOR));
        let remembers = heard(&[(1, 25)]);
        assert_eq!(
            guard.introduce(OTHER, vec![run(7, 3)], remembers.iter()),
            [Found::Suspected(ACCEPTOR)]
        );
        assert!(!guard.trusts(ACCEPTOR));
        for _ in 1..CONTRADICTIONS_MAX {
            assert_eq!(
                guard.introduce(ACCEPTOR, older_copy.clone(), []),
                [Found::Suspected(ACCEPTOR)]
            );
        }
        let found = guard.introduce(ACCEPTOR, older_copy, []);
        assert!(matches!(found[..], [Found::Refused(went_back)] if went_back.acceptor == ACCEPTOR));
        assert!(guard.refusal(ACCEPTOR).is_some());
        assert_eq!(guard.refusal(OTHER), None);
        assert!(guard.trusts(OTHER));
        // Told once, and never forgiven.
        assert_eq!(guard.introduce(ACCEPTOR, vec![run(1, 30), run(3, 900)], []), []);
        assert!(guard.refusal(ACCEPTOR).is_some());
    }

    #[test]
    fn guard_finds_out_an_acceptor_by_what_another_remembers_when_it_promises() {
        let mut guard = Guard::default();
        guard.introduce(OTHER, vec![run(7, 3)], []);
        guard.introduce(ACCEPTOR, vec![run(1, 20), run(3, 21)], []);
        assert_eq!(guard.remember(heard(&[(1, 20)]).iter()), []);
        // The other heard of it after it was introduced here, and before the disk went back.
        assert_eq!(
            guard.remember(heard(&[(1, 25)]).iter()),
            [Found::Suspected(ACCEPTOR)]
        );
        assert!(!guard.trusts(ACCEPTOR));
    }

    #[test]
    fn an_acceptor_that_restarted_since_it_showed_its_runs_is_trusted_again_when_it_shows_them_anew() {
        let mut guard = Guard::default();
        guard.introduce(ACCEPTOR, vec![run(1, 20)], []);
        // Another acceptor has heard of its new run first, by the leader.
        let remembers = heard(&[(2, 22)]);
        assert_eq!(
            guard.introduce(OTHER, vec![run(7, 3)], remembers.iter()),
            [Found::Suspected(ACCEPTOR)]
        );
        // A list that was on its way already.
        guard.introduce(ACCEPTOR, vec![run(1, 20)], []);
        assert_eq!(guard.introduce(ACCEPTOR, vec![run(1, 20), run(2, 23)], []), []);
        assert!(guard.trusts(ACCEPTOR));
        assert_eq!(guard.refusal(ACCEPTOR), None);
    }

    #[test]
    fn an_acceptor_that_restarts_often_is_not_refused_for_lists_that_come_late() {
        let mut guard = Guard::default();
        for number in 1..20 {
            // Each list is one run behind what others heard.
            let runs = (1..=number).map(|number| run(number, number * 10)).collect();
            let remembers = heard(&[(number + 1, number * 10 + 10)]);
            let found = guard.introduce(ACCEPTOR, runs, remembers.iter());
            assert_eq!(found, [Found::Suspected(ACCEPTOR)], "run {number}");
        }
    }
}
