//! Which acceptor gets the next snapshot, and when: decisions without a network or a clock.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use paxos_common::paxos::{identity::AcceptorUuid, slot::Slot};

/// Pause after a failed upload to an acceptor: see `Acceptor.Keep`.
const FAILED_PAUSE: Duration = Duration::from_secs(30);
/// First pause after a refusal for lack of room: the acceptor's cap rises with the leader's next message.
const REFUSED_PAUSE_MIN: Duration = Duration::from_secs(1);

/// The acceptors that want snapshots.
#[derive(Debug, Default)]
pub(super) struct WishList(BTreeMap<AcceptorUuid, AskingAcceptor>);

#[derive(Debug, Default)]
struct AskingAcceptor {
    /// The snapshot ends above this slot; `None` while the acceptor wants none.
    above: Option<Slot>,
    /// No upload before this time.
    pause: Option<Instant>,
    /// Length of the next pause after a refusal.
    refused_pause: Option<Duration>,
    /// The end of the latest attempt.
    attempted: Option<Instant>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextGift {
    /// Send this acceptor a snapshot that ends above the slot.
    Now(AcceptorUuid, Slot),
    /// Look again at this time.
    At(Instant),
    /// Look again when an acceptor asks.
    Nothing,
}

impl WishList {
    /// Takes an acceptor's latest wish. Returns whether the wish is news.
    pub(super) fn asks(&mut self, acceptor: AcceptorUuid, above: Option<Slot>) -> bool {
        let asking = self.0.entry(acceptor).or_default();
        std::mem::replace(&mut asking.above, above) != above
    }

    /// The wish of an acceptor.
    pub(super) fn wanted_above(&self, acceptor: AcceptorUuid) -> Option<Slot> {
        self.0.get(&acceptor)?.above
    }

    /// The acceptor that waits longest since its latest attempt comes first.
    pub(super) fn next(&self, now: Instant) -> NextGift {
        let asking = self
            .0
            .iter()
            .filter_map(|(&acceptor, asking)| Some((acceptor, asking.above?, asking)));
        let (mut paused, mut due): (Vec<_>, Vec<_>) =
            asking.partition(|(_, _, asking)| asking.pause.is_some_and(|until| now < until));
        due.sort_by_key(|(_, _, asking)| asking.attempted);
        paused.sort_by_key(|(_, _, asking)| asking.pause);
        if let Some(&(acceptor, above, _)) = due.first() {
            return NextGift::Now(acceptor, above);
        }
        let earliest = paused.first().and_then(|(_, _, asking)| asking.pause);
        earliest.map_or(NextGift::Nothing, NextGift::At)
    }

    /// The acceptor keeps the snapshot.
    pub(super) fn kept(&mut self, acceptor: AcceptorUuid, now: Instant) {
        let asking = self.0.entry(acceptor).or_default();
        *asking = AskingAcceptor {
            attempted: Some(now),
            ..AskingAcceptor::default()
        };
    }

    /// The acceptor has no room for the snapshot now, and has received nothing.
    pub(super) fn refused(&mut self, acceptor: AcceptorUuid, now: Instant) {
        let asking = self.0.entry(acceptor).or_default();
        let pause = asking.refused_pause.unwrap_or(REFUSED_PAUSE_MIN);
        asking.refused_pause = Some((pause * 2).min(FAILED_PAUSE));
        asking.pause = Some(now + pause);
        asking.attempted = Some(now);
    }

    /// The upload failed.
    pub(super) fn failed(&mut self, acceptor: AcceptorUuid, now: Instant) {
        let asking = self.0.entry(acceptor).or_default();
        asking.pause = Some(now + FAILED_PAUSE);
        asking.attempted = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use paxos_test_values::{acceptor, slot};

    use super::*;

    #[test]
    fn acceptors_take_turns_while_they_ask() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut list = WishList::default();
        assert_eq!(list.next(begin), NextGift::Nothing);
        assert!(list.asks(acceptor(1), Some(slot(5))));
        assert!(!list.asks(acceptor(1), Some(slot(5))));
        assert!(list.asks(acceptor(2), Some(slot(7))));
        assert_eq!(list.next(begin), NextGift::Now(acceptor(1), slot(5)));
        // The answer to the upload comes before the acceptor's next report.
        list.kept(acceptor(1), after(1));
        assert_eq!(list.wanted_above(acceptor(1)), None);
        assert!(list.asks(acceptor(1), Some(slot(50))));
        assert_eq!(list.next(after(1)), NextGift::Now(acceptor(2), slot(7)));
        list.failed(acceptor(2), after(2));
        assert_eq!(list.next(after(2)), NextGift::Now(acceptor(1), slot(50)));
        assert!(list.asks(acceptor(1), None));
        assert_eq!(list.next(after(2)), NextGift::At(after(32)));
        // The pause holds however often the acceptor asks.
        list.asks(acceptor(2), None);
        assert_eq!(list.next(after(2)), NextGift::Nothing);
        list.asks(acceptor(2), Some(slot(8)));
        assert_eq!(list.next(after(31)), NextGift::At(after(32)));
        assert_eq!(list.next(after(32)), NextGift::Now(acceptor(2), slot(8)));
    }

    #[test]
    fn refused_snapshot_is_offered_again_soon_and_then_less_often() {
        let mut now = Instant::now();
        let mut list = WishList::default();
        list.asks(acceptor(1), Some(slot(5)));
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            list.refused(acceptor(1), now);
            let at = now + Duration::from_secs(seconds);
            assert_eq!(list.next(now), NextGift::At(at));
            now = at;
            assert_eq!(list.next(now), NextGift::Now(acceptor(1), slot(5)));
        }
        list.kept(acceptor(1), now);
        list.asks(acceptor(1), Some(slot(9)));
        list.refused(acceptor(1), now);
        assert_eq!(list.next(now), NextGift::At(now + REFUSED_PAUSE_MIN));
    }

    #[test]
    fn acceptor_that_always_fails_keeps_no_other_waiting() {
        let begin = Instant::now();
        let mut list = WishList::default();
        let mut given = [0; 3];
        for second in 0..300 {
            let now = begin + Duration::from_secs(second);
            for number in 1..=3 {
                list.asks(acceptor(number), Some(slot(second)));
            }
            match list.next(now) {
                NextGift::Now(next, _) if next == acceptor(1) => {
                    given[0] += 1;
                    list.failed(next, now);
                }
                NextGift::Now(next, _) => {
                    given[if next == acceptor(2) { 1 } else { 2 }] += 1;
                    list.kept(next, now);
                }
                other @ (NextGift::At(_) | NextGift::Nothing) => panic!("{other:?}"),
            }
        }
        assert_eq!(given[0], 10);
        assert!(given[1] >= 140 && given[2] >= 140, "{given:?}");
    }
}
