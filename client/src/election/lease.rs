//! The arithmetic of an election: how long a candidate holds, and when other candidates may take over.

use std::time::Duration;

use tokio::time::Instant;

use super::Holder;
use crate::{Condition, Version};

/// Why a tenure is over: the variants of [`ElectionError`](super::ElectionError) with the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Lapsed,
    Overtaken,
    Resigned,
}

/// The share of the time to live by which a holder stops early: 1 / this. Clocks may drift apart by this share.
const MARGIN: u32 = 10;
/// Number of renewals in a time to live.
const RENEWALS: u32 = 3;

/// End of a holder's time, for a last successful write sent at `sent_at`. The end comes before any candidate that saw
/// this write may take over, even if the holder's clock is a tenth slower.
pub(crate) fn held_until(sent_at: Instant, ttl: Duration) -> Instant {
    sent_at + (ttl - ttl / MARGIN)
}

/// Sending time of a holder's next renewal.
pub(crate) fn renew_at(sent_at: Instant, ttl: Duration) -> Instant {
    sent_at + ttl / RENEWALS
}

/// A holder's time. Once over, the time stays over, even after late news.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    until: Instant,
    lost: Option<Lost>,
}

impl Lease {
    pub(crate) fn new(sent_at: Instant, ttl: Duration) -> Self {
        Self {
            until: held_until(sent_at, ttl),
            lost: None,
        }
    }

    /// End of the time, exclusive, as far as known.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Whether the lease is held at `now`.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Lost> {
        match self.lost {
            Some(lost) => Err(lost),
            None if now >= self.until => Err(Lost::Lapsed),
            None => Ok(()),
        }
    }

    /// A renewal sent at `sent_at` has succeeded, as known at `now`. A late success changes nothing.
    pub(crate) fn extend(&mut self, now: Instant, sent_at: Instant, ttl: Duration) {
        if self.check(now).is_ok() {
            self.until = self.until.max(held_until(sent_at, ttl));
        }
    }

    /// Ends the lease for this reason, unless already over for another reason.
    pub(crate) fn end(&mut self, now: Instant, lost: Lost) {
        self.lost = Some(self.check(now).err().unwrap_or(lost));
    }
}

/// A candidate's view of the register, with times by the candidate's own clock.
#[derive(Debug)]
pub(crate) struct Vigil {
    /// The version of the last write, the holder, and when this version was first seen; `None`: no value.
    holder: Option<(Version, Holder, Instant)>,
    /// Everything before this version has been seen.
    next: Version,
}

impl Vigil {
    pub(crate) fn new() -> Self {
        Self {
            holder: None,
            next: Version::default(),
        }
    }

    pub(crate) fn next(&self) -> Version {
        self.next
    }

    /// The register was seen, in a state that includes everything before `next`. An already seen version keeps its
    /// time.
    pub(crate) fn saw(&mut self, now: Instant, holder: Option<(Version, Holder)>, next: Version) {
        if next < self.next {
            return;
        }
        self.next = next;
        self.holder = holder.map(|(version, holder)| match self.holder.take() {
            Some((seen, holder, at)) if seen == version => (seen, holder, at),
            Some(_) | None => (version, holder, now),
        });
    }

    /// When this candidate may try; `None`: there is no holder, so now.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.holder
            .as_ref()
            .map(|(_, holder, seen_at)| *seen_at + holder.ttl)
    }

    /// The condition for the try.
    pub(crate) fn condition(&self) -> Condition {
        match &self.holder {
            Some((version, ..)) => Condition::Version(*version),
            None => Condition::Absent,
        }
    }

    /// The version of the register's last write.
    pub(crate) fn version(&self) -> Option<Version> {
        self.holder.as_ref().map(|(version, ..)| *version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Slot;

    const TTL: Duration = Duration::from_secs(10);

    fn version(slot: u64) -> Version {
        Version {
            slot: Slot::new(slot).unwrap(),
            offset: 0,
        }
    }

    fn held(slot: u64) -> Option<(Version, Holder)> {
        let holder = Holder {
            candidate: "rival".into(),
            token: version(slot),
            ttl: TTL,
        };
        Some((version(slot), holder))
    }

    #[test]
    fn holder_stops_before_a_takeover_even_with_a_slow_clock() {
        let begun = Instant::now();
        let mut vigil = Vigil::new();
        // Seen at the moment of sending: as early as possible.
        vigil.saw(begun, held(1), version(2));
        let own = held_until(begun, TTL) - begun;
        let others = vigil.due().unwrap() - begun;
        assert!(own.mul_f64(1.1) < others, "{own:?} {others:?}");
        assert!(renew_at(begun, TTL) < held_until(begun, TTL));
    }

    #[test]
    fn lease_that_was_over_is_never_revived() {
        let begun = Instant::now();
        let mut lease = Lease::new(begun, TTL);
        let late = held_until(begun, TTL);
        assert!(lease.check(late - Duration::from_nanos(1)).is_ok());
        assert_eq!(lease.check(late), Err(Lost::Lapsed));
        // The renewal was sent in time, and the answer came late.
        lease.extend(late, begun + TTL / 2, TTL);
        assert_eq!(lease.check(late), Err(Lost::Lapsed));

        let mut lease = Lease::new(begun, TTL);
        lease.extend(begun + TTL / 2, begun + TTL / 3, TTL);
        assert!(lease.check(late).is_ok());
        lease.end(late, Lost::Resigned);
        lease.extend(late, late, TTL);
        lease.end(late + TTL, Lost::Overtaken);
        assert_eq!(lease.check(begun), Err(Lost::Resigned));
    }

    #[test]
    fn renewal_counts_from_before_it_was_sent() {
        let begun = Instant::now();
        let mut lease = Lease::new(begun, TTL);
        let (sent_at, answered_at) = (begun + TTL / 3, begun + TTL / 2);
        lease.extend(answered_at, sent_at, TTL);
        assert_eq!(lease.until(), held_until(sent_at, TTL));
    }

    #[test]
    fn time_restarts_only_with_a_new_version() {
        let begun = Instant::now();
        let (second, third) = (begun + TTL / 4, begun + TTL / 2);
        let mut vigil = Vigil::new();
        assert_eq!((vigil.due(), vigil.condition()), (None, Condition::Absent));
        vigil.saw(begun, held(1), version(2));
        vigil.saw(second, held(1), version(9));
        assert_eq!(vigil.due(), Some(begun + TTL));
        vigil.saw(third, held(12), version(13));
        assert_eq!(vigil.due(), Some(third + TTL));
        assert_eq!(vigil.condition(), Condition::Version(version(12)));
        // News from a lagging learner.
        vigil.saw(third + TTL, None, version(5));
        assert_eq!(vigil.version(), Some(version(12)));
        vigil.saw(third + TTL, None, version(14));
        assert_eq!((vigil.due(), vigil.condition()), (None, Condition::Absent));
    }
}
