//! When a leader pauses new batches for a change: a change waits for nothing but the joiners.

use super::{super::lead::accepted, *};

/// Whether new batches are paused; proposes a command.
fn is_paused(bench: &mut Bench, number: u64) -> bool {
    bench.propose(number, "more");
    bench.sent_to(1).is_empty()
}

#[test]
fn change_without_joiners_pauses_and_is_proposed_without_a_tick() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    let configuration = next(&bench, &[1, 2, 3], 3, 1);
    let change = change_to(&configuration);
    bench.handle(Event::ChangeMembers(ChangeRequest { change }));
    assert!(is_paused(&mut bench, 2));
    for number in [1, 2] {
        bench.answer(number, 0, marked(&[(0, 1)], 1, 1));
    }
    assert_eq!(bench.sent_to(1), [(1, value("change"))]);
}

/// Leads with 200 slots chosen, and copies them to joiner 4.
fn copying() -> Bench {
    let mut bench = Bench::with_batches_in_flight(32);
    bench.lead();
    for slot in 0..200 {
        bench.propose(slot, "a");
        let ballot = bench.core.ballot().unwrap();
        for (acceptor, accept) in bench.accepts() {
            bench.handle(Event::Answered {
                acceptor,
                ballot,
                sequence: accept.sequence,
                answer: accepted(&[(slot, slot + 1)], slot + 1),
            });
        }
    }
    assert_eq!(bench.chosen_to(), 200);
    let configuration = next(&bench, &[1, 2, 4], 2, 2);
    let change = change_to(&configuration);
    bench.handle(Event::ChangeMembers(ChangeRequest { change }));
    bench.handle(Event::Opened(uuid(4)));
    bench.joiner_has(0);
    bench
}

impl Bench {
    /// The joiner reports its watermark.
    fn joiner_has(&mut self, chosen_to: u64) {
        self.answer(4, 0, marked(&[], chosen_to, chosen_to));
    }

    /// A leader timeout passes.
    fn tick(&mut self) {
        self.pass(200);
        let ballot = self.core.ballot().unwrap();
        for number in [1, 2, 3] {
            self.handle(alive(uuid(number), ballot, 0));
        }
        self.fire(Timer::Check);
    }
}

#[test]
fn first_pause_begins_once_the_joiner_is_close_and_the_next_after_a_leader_timeout() {
    let mut bench = copying();
    assert!(!is_paused(&mut bench, 200));
    bench.joiner_has(180);
    assert!(!is_paused(&mut bench, 201));
    bench.joiner_has(183);
    assert!(is_paused(&mut bench, 202));
    // No quorum of the new members reaches the tip within a leader timeout: commands go on, for a leader timeout at least.
    bench.pass(199);
    bench.joiner_has(183);
    assert!(is_paused(&mut bench, 206));
    bench.pass(1);
    bench.joiner_has(183);
    assert!(!is_paused(&mut bench, 203), "without a check");
    bench.joiner_has(190);
    bench.pass(199);
    bench.joiner_has(190);
    assert!(!is_paused(&mut bench, 204));
    bench.pass(1);
    bench.joiner_has(190);
    assert!(is_paused(&mut bench, 205));
}

#[test]
fn pause_also_begins_for_a_joiner_that_is_fast_or_too_slow_for_the_load() {
    for (before, after, is_soon) in [(0, 130, false), (0, 140, true), (120, 150, false)] {
        let mut bench = copying();
        bench.joiner_has(before);
        bench.tick();
        bench.joiner_has(after);
        bench.tick();
        assert_eq!(is_paused(&mut bench, 200), is_soon, "{before} {after}");
        if is_soon {
            continue;
        }
        for _ in 0..47 {
            bench.joiner_has(after);
            bench.tick();
        }
        assert!(!is_paused(&mut bench, 201), "{before} {after}");
        bench.joiner_has(after);
        bench.tick();
        assert!(is_paused(&mut bench, 202), "{before} {after}");
    }
}
