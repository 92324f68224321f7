//! Asking a quorum for slots no longer held by the leader.

use super::*;
use crate::paxos::message::Row;

impl Bench {
    /// The scan just begun, with the number of asked acceptors.
    fn scan(&self) -> Option<(Scan, usize)> {
        let mut scans = self.effects.iter().filter_map(|effect| {
            let Effect::Prepare(_, _, scan) = effect else {
                return None;
            };
            *scan
        });
        let first = scans.next()?;
        Some((first, 1 + scans.filter(|other| *other == first).count()))
    }

    /// Acceptors 1 and 2 answer without moving any watermark, until the leader asks a quorum.
    fn scan_at_last(&mut self, slot: u64) -> Option<(Scan, usize)> {
        (0..5).find_map(|_| {
            self.vote(1, slot);
            self.vote(2, slot);
            self.fire(Timer::Check);
            self.scan()
        })
    }

    /// Acceptor `number` answers a scan with all rows held from slot 0 on.
    fn handle_page(&mut self, number: u128, scan: Scan, texts: &[&'static str]) -> &[Effect] {
        let ballot = self.core.ballot().expect("it leads");
        let rows: Vec<Row> = (0..)
            .zip(texts)
            .map(|(at, &text)| Row {
                slot: slot(at),
                accepted: Some((ballot, value(text))),
            })
            .collect();
        let next = slot(rows.len() as u64);
        self.handle(Event::Promised {
            acceptor: uuid(number),
            ballot,
            scan: Some(scan),
            page: PromisePage {
                next,
                voted_to: next,
                rows,
                ..empty_promise()
            },
        })
    }
}

/// A leader that keeps no chosen slot.
fn forgetful() -> Bench {
    let limits = Limits {
        retained_slots_max: 0,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits, (3, 2, 2));
    bench.lead();
    bench
}

#[test]
fn a_page_of_an_earlier_scan_does_not_speak_for_the_present_one() {
    let mut bench = forgetful();
    bench.propose(1, "a");
    let (first, asked) = bench
        .scan_at_last(0)
        .expect("no acceptor vouches for slot 0, and the leader has forgotten the slot");
    assert_eq!((first.to, asked), (slot(1), 3));
    // The pages are late, and a second slot is chosen and forgotten meanwhile.
    bench.propose(2, "b");
    let (second, _) = bench.scan_at_last(1).expect("the leader asks again");
    assert_eq!(second.to, slot(2));
    assert_ne!(first.number, second.number);
    // These pages were read before the vote on slot 1: the missing slot means nothing.
    for number in [1, 2] {
        bench.handle_page(number, first, &["a"]);
        assert_eq!(bench.effects, []);
    }
    bench.handle_page(1, second, &["a", "b"]);
    bench.handle_page(3, second, &[]);
    let repaired: Vec<_> = bench
        .accepts()
        .into_iter()
        .flat_map(|(_, accept)| accept.proposals)
        .collect();
    assert_eq!(repaired, [(slot(0), value("a")), (slot(1), value("b"))]);
}

#[test]
fn chosen_slot_lost_by_a_quorum_halts_the_leader() {
    let mut bench = forgetful();
    bench.propose(1, "a");
    let (scan, _) = bench.scan_at_last(0).unwrap();
    bench.handle_page(1, scan, &[]);
    bench.handle_page(2, scan, &[]);
    assert!(
        bench
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Halt(_)))
    );
    assert_eq!(bench.accepts(), []);
}

#[test]
fn scan_waits_for_pages_until_the_next_scan_or_the_end_of_the_reign() {
    let mut bench = forgetful();
    assert!(
        bench.core.awaits_pages(None),
        "a leader may raise acceptors to its ballot"
    );
    bench.propose(1, "a");
    let (first, _) = bench.scan_at_last(0).unwrap();
    assert!(bench.core.awaits_pages(Some(first.number)));
    let (second, _) = bench.scan_at_last(0).unwrap();
    assert!(
        !bench.core.awaits_pages(Some(first.number)),
        "without a page, the scan is over"
    );
    assert!(bench.core.awaits_pages(Some(second.number)));
    let ballot = bench.core.ballot().unwrap();
    let promised = ballot.next_of(ProposerId::from_random(9));
    bench.handle(Event::PrepareRejected {
        acceptor: uuid(1),
        ballot,
        promised,
    });
    assert!(!bench.core.awaits_pages(Some(second.number)));
    assert!(!bench.core.awaits_pages(None));
}
