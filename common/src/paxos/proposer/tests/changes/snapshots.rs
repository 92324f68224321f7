//! Snapshots for members of the next configuration: rows alone bring some members no further.

use super::*;

impl Bench {
    fn brings(&self) -> Vec<(AcceptorUuid, AcceptorUuid)> {
        let brings = self.effects.iter().filter_map(|effect| {
            let Effect::BringSnapshot { joiner, source } = effect else {
                return None;
            };
            Some((*joiner, *source))
        });
        brings.collect()
    }

    /// Acceptor `number` reports a trim.
    fn trims(&mut self, number: u128, to: u64) {
        let mut trimmed = word(self.core.ballot().unwrap(), 0);
        trimmed.trimmed_to = slot(to);
        self.say(number, trimmed);
    }
}

/// A leader whose campaign found the slots below 10 chosen, and a change to acceptors 1, 2 and 4 in slot 10: no caller has
/// asked this proposer for the change.
fn found() -> Bench {
    let mut bench = Bench::new();
    let configuration = next(&bench, &[1, 2, 4], 2, 2);
    let own = bench.campaign();
    let page = PromisePage {
        from: slot(0),
        next: slot(11),
        known_to: slot(10),
        voted_to: slot(11),
        rows: vec![Row {
            slot: slot(10),
            accepted: Some((ballot(0, 3), change_to(&configuration))),
        }],
        ..empty_promise()
    };
    for number in [1, 2] {
        bench.promise_page(number, own, page.clone());
    }
    assert!(bench.leads());
    assert!(bench.core.change_stage().is_none());
    bench.handle(Event::Opened(uuid(4)));
    bench
}

#[test]
fn joiner_of_a_found_change_is_brought_the_highest_snapshot_once_rows_are_gone() {
    let mut bench = found();
    bench.answer(4, 0, marked(&[(10, 11)], 11, 3));
    for (number, to) in [(1, 5), (2, 3)] {
        bench.trims(number, to);
    }
    bench.fire(Timer::Check);
    assert_eq!(bench.brings(), [], "acceptors 2 and 3 have the row");
    for (number, to) in [(2, 7), (3, 4)] {
        bench.trims(number, to);
    }
    bench.fire(Timer::Check);
    assert_eq!(bench.brings(), [(uuid(4), uuid(2))]);
    bench.fire(Timer::Check);
    assert_eq!(bench.brings(), [], "an upload is under way");
    bench.handle(Event::SnapshotBrought(uuid(4)));
    bench.fire(Timer::Check);
    assert_eq!(bench.brings(), [(uuid(4), uuid(2))], "the joiner is where it was");
    bench.handle(Event::SnapshotBrought(uuid(4)));
    bench.answer(4, 0, marked(&[], 11, 7));
    bench.fire(Timer::Check);
    assert_eq!(bench.brings(), [], "rows bring the joiner further");
}

#[test]
fn member_with_a_damaged_row_below_the_trims_of_the_others_is_brought_a_snapshot() {
    let mut bench = found();
    bench.answer(1, 0, marked(&[(10, 11)], 11, 6));
    bench.answer(4, 0, marked(&[(10, 11)], 11, 10));
    for (number, to) in [(1, 2), (2, 7), (3, 8)] {
        bench.trims(number, to);
    }
    bench.fire(Timer::Check);
    assert_eq!(bench.brings(), [(uuid(1), uuid(3))]);
    // A removed member is needed for nothing.
    bench.answer(3, 0, marked(&[(10, 11)], 11, 5));
    bench.trims(1, 9);
    bench.fire(Timer::Check);
    assert_eq!(bench.brings(), []);
}
