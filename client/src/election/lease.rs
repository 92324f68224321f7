//! The arithmetic of an election: how long one holds, and from when on others may take over.

use std::time::Duration;

use tokio::time::Instant;

use super::Holding;
use crate::{Condition, Version};

/// Why a tenure is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// No renewal succeeded in time: another candidate may hold soon, or does.
    #[error("the time to live passed without a successful renewal")]
    Lapsed,
    /// Another candidate has taken over, or somebody else wrote or deleted the register.
    #[error("another candidate took over, or the register was changed")]
    Overtaken,
    /// The holder resigned, or dropped its tenure.
    #[error("resigned")]
    Resigned,
}

/// The share of the time to live by which a holder stops early: 1 / this. Clocks may run apart by so much.
const MARGIN: u32 = 10;
/// How often in a time to live the holder renews.
const RENEWALS: u32 = 3;

/// When a holder's time ends that sent its last successful write at `sent_at`: before anybody who saw that write may
/// take over, even if this clock is a tenth slower.
pub(crate) fn held_until(sent_at: Instant, ttl: Duration) -> Instant {
    sent_at + (ttl - ttl / MARGIN)
}

/// When a holder sends its next renewal.
pub(crate) fn renew_at(sent_at: Instant, ttl: Duration) -> Instant {
    sent_at + ttl / RENEWALS
}

/// A holder's time: once it is over it stays so, whatever news come late.
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

    /// Until when it holds, exclusive, as far as is known.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Whether it holds at `now`.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Lost> {
        match self.lost {
            Some(lost) => Err(lost),
            None if now >= self.until => Err(Lost::Lapsed),
            None => Ok(()),
        }
    }

    /// A renewal that was sent at `sent_at` has succeeded, as is known at `now`; too late, it changes nothing.
    pub(crate) fn extend(&mut self, now: Instant, sent_at: Instant, ttl: Duration) {
        if self.check(now).is_ok() {
            self.until = self.until.max(held_until(sent_at, ttl));
        }
    }

    /// It is over for the reason given, unless it was for another before.
    pub(crate) fn end(&mut self, now: Instant, lost: Lost) {
        self.lost = Some(self.check(now).err().unwrap_or(lost));
    }
}

/// What a candidate has seen of the register, and since when by its own clock.
#[derive(Debug)]
pub(crate) struct Vigil {
    /// The version that wrote it, who holds, and when this was first seen; `None`: it holds nothing.
    holder: Option<(Version, Holding, Instant)>,
    /// Everything before it has been seen.
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

    /// The register was seen, in a state that includes everything before `next`. A version seen before keeps its time.
    pub(crate) fn saw(&mut self, now: Instant, holder: Option<(Version, Holding)>, next: Version) {
        if next < self.next {
            return;
        }
        self.next = next;
        self.holder = holder.map(|(version, holding)| match self.holder.take() {
            Some((seen, holding, at)) if seen == version => (seen, holding, at),
            Some(_) | None => (version, holding, now),
        });
    }

    /// From when on this candidate may try; `None`: nobody holds, so now.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.holder
            .as_ref()
            .map(|(_, holding, seen_at)| *seen_at + holding.ttl)
    }

    /// What must still be true when it tries.
    pub(crate) fn condition(&self) -> Condition {
        match &self.holder {
            Some((version, ..)) => Condition::Version(*version),
            None => Condition::Absent,
        }
    }

    /// The version that wrote what the register holds.
    pub(crate) fn version(&self) -> Option<Version> {
        self.holder.as_ref().map(|(version, ..)| *version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Slot, election::Token};

    const TTL: Duration = Duration::from_secs(10);

    fn version(slot: u64) -> Version {
        Version {
            slot: Slot::new(slot).unwrap(),
            offset: 0,
        }
    }

    fn held(slot: u64) -> Option<(Version, Holding)> {
        let holding = Holding {
            candidate: "rival".into(),
            token: Token(version(slot)),
            ttl: TTL,
        };
        Some((version(slot), holding))
    }

    #[test]
    fn holder_stops_before_anybody_may_take_over_even_with_a_clock_a_tenth_slow() {
        let begun = Instant::now();
        let mut vigil = Vigil::new();
        // Seen the very moment it was sent, which is as early as can be.
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
        // A renewal was sent in time, and its answer came late.
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
    fn time_starts_anew_with_each_version_and_only_then() {
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
        // News from a learner that lags.
        vigil.saw(third + TTL, None, version(5));
        assert_eq!(vigil.version(), Some(version(12)));
        vigil.saw(third + TTL, None, version(14));
        assert_eq!((vigil.due(), vigil.condition()), (None, Condition::Absent));
    }
}
