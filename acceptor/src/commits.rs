//! Durations of commits: the running commit, and the slowest commit of the last minute.

use std::time::{Duration, Instant};

/// Number of parts of the last minute. Memory: an entry for each part, for any number of commits.
const PARTS: usize = 6;
/// Length of a part.
const PART: Duration = Duration::from_secs(10);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Commits {
    started: Instant,
    under_way: Option<Instant>,
    /// The number of each part since the start, and the part's slowest commit.
    slowest: [(u64, Duration); PARTS],
}

impl Commits {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            started: now,
            under_way: None,
            slowest: [(0, Duration::ZERO); PARTS],
        }
    }

    /// A commit begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.under_way = Some(now);
    }

    /// The commit is on disk. Returns the commit's duration.
    pub(crate) fn done(&mut self, now: Instant) -> Duration {
        let Some(begun) = self.under_way.take() else {
            return Duration::ZERO;
        };
        let took = now.saturating_duration_since(begun);
        let part = self.part(now);
        let place = &mut self.slowest[usize::try_from(part % PARTS as u64).unwrap_or(0)];
        *place = match *place {
            (same, slowest) if same == part => (part, slowest.max(took)),
            _ => (part, took),
        };
        took
    }

    /// Duration of the running commit so far; zero without a running commit.
    pub(crate) fn under_way(&self, now: Instant) -> Duration {
        let begun = self.under_way.map(|begun| now.saturating_duration_since(begun));
        begun.unwrap_or_default()
    }

    /// The slowest commit of the last minute, to within ten seconds. A running commit counts with its time so far.
    pub(crate) fn slowest(&self, now: Instant) -> Duration {
        let oldest = (self.part(now) + 1).saturating_sub(PARTS as u64);
        let recent = self.slowest.iter().filter(|(part, _)| *part >= oldest);
        let slowest = recent.map(|(_, took)| *took).max().unwrap_or_default();
        slowest.max(self.under_way(now))
    }

    fn part(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / PART.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowest_commit_is_remembered_for_a_minute() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let took = Duration::from_millis;
        let mut commits = Commits::new(start);
        assert_eq!(commits.slowest(at(0)), Duration::ZERO);
        for (begun, done) in [(1_000, 1_300), (2_000, 2_100), (30_000, 30_200)] {
            commits.begin(at(begun));
            assert_eq!(commits.done(at(done)), took(done - begun));
        }
        assert_eq!(commits.slowest(at(59_000)), took(300));
        assert_eq!(commits.slowest(at(61_000)), took(200));
        assert_eq!(commits.slowest(at(95_000)), Duration::ZERO);
        commits.begin(at(100_000));
        assert_eq!(commits.slowest(at(100_700)), took(700));
        assert_eq!(commits.under_way(at(100_700)), took(700));
        commits.done(at(100_800));
        assert_eq!(commits.under_way(at(100_900)), Duration::ZERO);
        assert_eq!(commits.slowest(at(100_900)), took(800));
    }
}
