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
fn pause_without_success_counts_if_it_was_longer_than_the_last() {
    let mut bench = copying();
    bench.joiner_has(190);
    bench.pass(200);
    bench.joiner_has(190);
    assert!(!is_paused(&mut bench, 200));
    for number in [1, 2] {
        bench.answer(number, 0, marked(&[(200, 201)], 201, 200));
    }
    bench.pass(200);
    bench.joiner_has(200);
    bench.pass(3);
    for number in [1, 4] {
        bench.answer(number, 0, marked(&[], 201, 201));
    }
    for number in [1, 2] {
        bench.answer(number, 0, marked(&[(201, 202)], 202, 201));
    }
    assert_eq!(bench.adopted(), Some(1));
    let made = Arc::clone(bench.core.configuration());
    bench.handle(Event::LaterConfiguration(Arc::new(next_of(&made))));
    assert_eq!(bench.stages(), [done(&made, 200)]);
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

impl Bench {
    /// Acceptor 4 has the slots below `chosen_to`, and knows that 200 are chosen.
    fn joiner_lacks(&mut self, chosen_to: u64) {
        let answer = AcceptAnswer::Accepted {
            slots: Vec::new(),
            voted_to: slot(chosen_to),
            chosen_to: slot(chosen_to),
            known_to: slot(200),
        };
        self.answer(4, 0, answer);
    }

    /// The question for the next stretch of the copy, if a stretch has just begun.
    fn begun_stretch(&self) -> Option<(u64, Slot)> {
        self.effects.iter().find_map(|effect| {
            let &Effect::FetchChosen { number, from, .. } = effect else {
                return None;
            };
            Some((number, from))
        })
    }
}

#[test]
fn copy_rests_after_a_stretch_while_a_command_is_under_way() {
    for is_busy in [false, true] {
        let mut bench = copying();
        bench.pass(2_000);
        for number in [1, 2, 3] {
            bench.answer(number, 0, marked(&[], 200, 200));
        }
        bench.joiner_lacks(0);
        let (number, from) = bench.begun_stretch().expect("the first stretch begins at once");
        assert_eq!(from, slot(0));
        if is_busy {
            bench.propose(200, "b");
        }
        bench.pass(20);
        // So large that their bytes do not bound the rest.
        let large = Value::from_stored(vec![b'a'; 32 * 1024].into(), Bytes::new());
        let values = (0..100).map(|at| (slot(at), large.clone())).collect();
        bench.handle(Event::Fetched { number, from, values });
        assert_eq!(bench.sent_to(4).len(), 100);
        bench.joiner_lacks(100);
        assert_eq!(bench.begun_stretch().is_some(), !is_busy, "busy: {is_busy}");
        if is_busy {
            bench.pass(299);
            bench.joiner_lacks(100);
            assert_eq!(
                bench.begun_stretch(),
                None,
                "15 times as long as the stretch took"
            );
            bench.pass(1);
            bench.joiner_lacks(100);
            assert!(bench.begun_stretch().is_some());
        }
    }
}
